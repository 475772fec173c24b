//! What somebody hostile may write: right digests around what cannot be.

use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::archive::patch::envelope::{Footer, HEADER, Header};

/// A patch of a table and contents that nobody has looked at.
fn sealed(path: &Path, contents: &[u8], packed: &[u8], length: u64) {
    let header = Header {
        signer: None,
        is_record: false,
    };
    let mut out = header.encode();
    out.extend(contents);
    let footer = Footer {
        table: HEADER + contents.len() as u64,
        stored: packed.len() as u64,
        length,
    };
    out.extend(packed);
    out.extend(footer.encode());
    let digest = Digest::of(&out);
    out.extend(digest.as_bytes());
    std::fs::write(path, out).unwrap();
}

fn seal(path: &Path, contents: &[u8], table: &[u8]) {
    let packed = zstd::bulk::compress(table, 3).unwrap();
    sealed(path, contents, &packed, table.len() as u64);
}

#[test]
fn a_table_that_cannot_be_is_refused_as_a_whole() {
    let directory = directory();
    let path = directory.path().join("p");
    let dir = || version(Content::Directory);
    let fifo = || version(Content::Fifo);
    let long = "n".repeat(256);
    let with = |alter: fn(&mut Metadata)| {
        let mut version = version(Content::Fifo).unwrap();
        alter(&mut version.metadata);
        Some(version)
    };
    let target = |target: &[u8]| {
        version(Content::Symlink {
            target: target.into(),
        })
    };
    let leaves = "leaves the tree";
    let impossible = "a file that no tree can have";
    let cases: Vec<(Vec<PatchEntry>, &str)> = vec![
        (vec![entry("..", None, fifo())], leaves),
        (vec![entry("a/../b", None, fifo())], leaves),
        (vec![entry("/etc/passwd", None, fifo())], leaves),
        (vec![entry("a//b", None, fifo())], leaves),
        (vec![entry("a/", None, fifo())], leaves),
        (vec![entry(".", None, fifo())], leaves),
        (vec![entry("a\0b", None, fifo())], leaves),
        (vec![entry(&long, None, fifo())], leaves),
        (
            vec![entry("a", None, fifo()), entry("a", fifo(), None)],
            "has a path twice",
        ),
        (
            vec![entry("b", None, fifo()), entry("a", None, fifo())],
            "not in its place",
        ),
        (vec![entry("a", None, None)], "nothing was and nothing"),
        (vec![entry("", dir(), None)], "a root that is no directory"),
        (
            vec![entry("", dir(), fifo())],
            "a root that is no directory",
        ),
        (
            vec![entry("a", None, fifo()), entry("a/b", None, fifo())],
            "below what is no directory",
        ),
        (
            vec![entry("a", dir(), None), entry("a/b", fifo(), fifo())],
            "below what is no directory",
        ),
        (vec![entry("a", None, regular(b"x"))], "lacks a content"),
        (
            vec![entry("a", None, other_name(0, fifo()))],
            "a name of no file",
        ),
        (
            vec![
                entry("a", None, dir()),
                entry("b", None, other_name(0, dir())),
            ],
            "a name of no file",
        ),
        (
            vec![
                entry("a", fifo(), None),
                entry("b", None, other_name(0, fifo())),
            ],
            "a name of no file",
        ),
        (
            vec![entry("a", None, with(|m| m.mode = 0o10000))],
            impossible,
        ),
        (
            vec![entry("a", None, with(|m| m.uid = u32::MAX))],
            impossible,
        ),
        (
            vec![entry(
                "a",
                None,
                with(|m| m.mtime.nanoseconds = 1_000_000_000),
            )],
            impossible,
        ),
        (
            vec![entry(
                "a",
                None,
                with(|m| {
                    m.xattrs.insert(b"odd.name"[..].into(), b""[..].into());
                }),
            )],
            impossible,
        ),
        (vec![entry("a", None, target(b""))], impossible),
        (vec![entry("a", None, target(b"x\0"))], impossible),
        (vec![entry("a", None, target(&[b'x'; 4096]))], impossible),
    ];
    for (entries, cause) in cases {
        let shown = format!("{entries:?}");
        let table = PatchTable {
            entries,
            ..PatchTable::default()
        };
        seal(&path, b"", &table.encode());
        let error = refused(PatchFile::open(&path));
        assert!(error.contains(cause), "{error}: {shown}");
    }
}

#[test]
fn contents_that_are_not_what_the_table_says_are_refused() {
    let directory = directory();
    let path = directory.path().join("p");
    let frame = zstd::bulk::compress(b"new content", 3).unwrap();
    let content = PatchContent {
        id: id(b"new content"),
        base: None,
        blocks: vec![frame.len() as u32],
    };
    let table = |contents: Vec<PatchContent>| PatchTable {
        entries: vec![entry("a", None, regular(b"new content"))],
        contents,
        ..PatchTable::default()
    };
    let open = |table: PatchTable, contents: &[u8]| {
        seal(&path, contents, &table.encode());
        PatchFile::open(&path)
    };
    let good = open(table(vec![content.clone()]), &frame).unwrap();
    assert_eq!(unpacked(&good, &content.id, None).unwrap(), b"new content");

    let twice = table(vec![content.clone(), content.clone()]);
    let error = refused(open(twice, &[&frame[..], &frame].concat()));
    assert!(error.contains("a content twice"), "{error}");
    let unused = PatchContent {
        id: id(b"unused"),
        ..content.clone()
    };
    let error = refused(open(table(vec![content.clone(), unused]), &frame));
    assert!(error.contains("a content that no path has"), "{error}");
    let base = PatchContent {
        base: Some(id(b"?")),
        ..content.clone()
    };
    let error = refused(open(table(vec![base]), &frame));
    assert!(error.contains("refers to one of no old path"), "{error}");
    let error = refused(open(table(vec![content.clone()]), b"shorter"));
    assert!(error.contains("lies about the contents"), "{error}");

    // Another content, one that is longer than it says (a bomb), and no zstd at all.
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 3).unwrap();
    for frame in [
        zstd::bulk::compress(b"old content", 3).unwrap(),
        bomb,
        b"?".to_vec(),
    ] {
        let content = PatchContent {
            blocks: vec![frame.len() as u32],
            ..content.clone()
        };
        if frame.len() > 2000 {
            let error = refused(open(table(vec![content]), &frame));
            assert!(error.contains("too large"), "{error}");
            continue;
        }
        let patch = open(table(vec![content.clone()]), &frame).unwrap();
        let error = refused(unpacked(&patch, &content.id, None));
        assert!(error.contains("another content"), "{error}");
    }
}

#[test]
fn a_bomb_in_a_block_takes_no_more_than_the_block() {
    let directory = directory();
    let path = directory.path().join("p");
    let bytes = text(3, 10_000);
    let bomb = zstd::bulk::compress(&vec![0; 16 << 20], 3).unwrap();
    assert!(bomb.len() < 9_000);
    let content = PatchContent {
        id: id(&bytes),
        base: None,
        blocks: vec![bomb.len() as u32],
    };
    let table = PatchTable {
        entries: vec![entry("a", None, regular(&bytes))],
        contents: vec![content.clone()],
        ..PatchTable::default()
    };
    seal(&path, &bomb, &table.encode());
    let patch = PatchFile::open(&path).unwrap();
    let error = refused(unpacked(&patch, &content.id, None));
    assert!(error.contains("another content"), "{error}");
}

#[test]
fn a_table_that_is_a_bomb_is_refused() {
    let directory = directory();
    let path = directory.path().join("p");
    let bomb = zstd::bulk::compress(&vec![0; 300 << 20], 1).unwrap();
    sealed(&path, b"", &bomb, 300 << 20);
    let error = refused(PatchFile::open(&path));
    assert!(error.contains("too long"), "{error}");
    // It says that it is small.
    sealed(&path, b"", &bomb, 100);
    let error = refused(PatchFile::open(&path));
    assert!(error.contains("is no table"), "{error}");
    // Millions of paths in a table that has none of them.
    let mut table = PatchTable::default().encode();
    table[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    seal(&path, b"", &table);
    let error = refused(PatchFile::open(&path));
    assert!(error.contains("too many paths"), "{error}");
    table[8..12].copy_from_slice(&1000u32.to_le_bytes());
    seal(&path, b"", &table);
    let error = refused(PatchFile::open(&path));
    assert!(error.contains("a file that no tree can have"), "{error}");
}

#[test]
fn what_is_no_patch_of_this_format_is_refused() {
    let directory = directory();
    let path = directory.path().join("p");
    write(&path, None, entries());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[8] = 2;
    std::fs::write(&path, &bytes).unwrap();
    let error = refused(PatchFile::open(&path));
    assert!(
        error.contains("format 2, not 1; use a newer foldfs"),
        "{error}"
    );
    std::fs::write(&path, b"#!/bin/sh\n").unwrap();
    let error = refused(PatchFile::open(&path));
    assert!(error.contains("it is no patch"), "{error}");
    let error = refused(PatchFile::open(directory.path()));
    assert!(error.contains("no regular file"), "{error}");
    let fifo = directory.path().join("fifo");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    let at = rustix::fs::CWD;
    rustix::fs::mknodat(at, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    refused(PatchFile::open(&fifo));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Behind a right SHA-256, as somebody hostile makes it: no panic, and what is accepted says one
    /// thing in one way.
    #[test]
    fn no_table_has_a_second_meaning(
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
        shorten in any::<bool>(),
    ) {
        let table = PatchTable { entries: entries(), ..PatchTable::default() };
        let mut bytes = table.encode();
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if shorten {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(read) = PatchTable::decode(&bytes) {
            prop_assert_eq!(read.encode(), bytes);
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in any_bytes()) {
        prop_assert!(PatchTable::decode(&bytes).map(|table| table.encode() == bytes).unwrap_or(true));
    }
}

#[test]
fn names_that_repeat_what_is_told_of_a_file_do_not_fill_the_memory() {
    let directory = directory();
    let path = directory.path().join("p");
    let mut version = version(Content::Fifo).unwrap();
    for number in 0..15 {
        let name = format!("user.{number}").into_bytes();
        let xattrs = &mut version.metadata.xattrs;
        xattrs.insert(name.into(), vec![0; 1 << 16].into());
    }
    let table = |names: usize| {
        let mut entries = vec![entry("0", None, Some(version.clone()))];
        let more = (1..names).map(|name| {
            let version = PathVersion {
                metadata: metadata(0),
                ..version.clone()
            };
            entry(&format!("1-{name:04}"), None, other_name(0, Some(version)))
        });
        entries.extend(more);
        let table = PatchTable {
            entries,
            ..PatchTable::default()
        };
        table.encode()
    };
    seal(&path, b"", &table(50));
    assert_eq!(PatchFile::open(&path).unwrap().table().entries.len(), 50);
    seal(&path, b"", &table(5000));
    let error = refused(PatchFile::open(&path));
    assert!(error.contains("too many names"), "{error}");
}
