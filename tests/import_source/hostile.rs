//! Archives that lie, built byte by byte: each is refused with an error that names the entry, and
//! leaves nothing in the store.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use crate::archive::import;
use crate::describe;
use crate::fixture::Fixture;

/// An archive under construction.
#[derive(Default, Clone)]
struct Archive(Vec<u8>);

impl Archive {
    fn raw(mut self, name: &[u8], kind: u8, link: &[u8], size: &[u8], data: &[u8]) -> Self {
        let mut block = [0_u8; 512];
        block[..name.len()].copy_from_slice(name);
        block[100..107].copy_from_slice(b"0000644");
        block[108..115].copy_from_slice(b"0000000");
        block[116..123].copy_from_slice(b"0000000");
        block[124..124 + size.len()].copy_from_slice(size);
        block[136..147].copy_from_slice(b"00000001750");
        block[156] = kind;
        block[157..157 + link.len()].copy_from_slice(link);
        block[257..265].copy_from_slice(b"ustar\x0000");
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        self.0.extend_from_slice(&block);
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn entry(self, name: &str, kind: u8, link: &str, data: &[u8]) -> Self {
        let size = format!("{:011o}", data.len());
        self.raw(
            name.as_bytes(),
            kind,
            link.as_bytes(),
            size.as_bytes(),
            data,
        )
    }

    fn file(self, name: &str, data: &[u8]) -> Self {
        self.entry(name, b'0', "", data)
    }

    fn pax(self, records: &[(&str, &str)]) -> Self {
        let mut data = String::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            data += &format!("{length} {key}={value}\n");
        }
        self.entry("pax", b'x', "", data.as_bytes())
    }

    fn end(mut self) -> Self {
        self.0.resize(self.0.len() + 1024, 0);
        self
    }
}

#[track_caller]
fn refused(archive: &[u8], words: &[&str]) {
    let fixture = Fixture::new();
    let path = fixture.path("archive");
    fs::write(&path, archive).unwrap();
    let error = import(&fixture, &path).map(|_| ()).unwrap_err().to_string();
    for word in words {
        assert!(error.contains(word), "{word:?} is not in: {error}");
    }
    fixture.assert_no_trace();
}

#[track_caller]
fn accepted(archive: &Archive) -> Vec<String> {
    let fixture = Fixture::new();
    let path = fixture.path("archive");
    fs::write(&path, &archive.0).unwrap();
    let import = import(&fixture, &path).unwrap();
    describe::import(&import)
        .into_iter()
        .map(|(path, line)| {
            let fields: Vec<&str> = line.split(' ').collect();
            format!("{path} {} {}", fields[0], fields[4])
        })
        .collect()
}

#[test]
fn names_that_lead_out() {
    for name in ["../x", "a/../x", "..", "/../x", "a/.."] {
        let archive = Archive::default()
            .file("before", b"x")
            .file(name, b"y")
            .end();
        refused(&archive.0, &["archive: entry", name, "`..`"]);
    }
    let link = Archive::default()
        .entry("l", b'1', "../../etc/passwd", b"")
        .end();
    refused(&link.0, &["entry l", "../../etc/passwd", "`..`"]);
    let absolute = Archive::default()
        .file("/etc/x", b"12")
        .file("./etc//./y", b"3")
        .end();
    assert_eq!(
        accepted(&absolute)[1..],
        ["etc 4 ", "etc/x 10 2", "etc/y 10 1"]
    );
}

#[test]
fn entries_through_symlinks_and_files() {
    for kind in [b'2', b'0', b'6'] {
        let archive = Archive::default()
            .entry("way", kind, if kind == b'2' { "/etc" } else { "" }, b"")
            .file("way/passwd", b"x")
            .end();
        refused(
            &archive.0,
            &["entry way/passwd", "way in its path is not a directory"],
        );
    }
    let link = Archive::default()
        .entry("way", b'2', "/etc", b"")
        .entry("l", b'1', "way/passwd", b"")
        .end();
    refused(&link.0, &["entry l", "no directory"]);
}

#[test]
fn hard_links_to_nothing() {
    let missing = Archive::default()
        .entry("l", b'1', "later", b"")
        .file("later", b"x")
        .end();
    refused(
        &missing.0,
        &["entry l", "later", "not in the archive before it"],
    );
    let directory = Archive::default()
        .entry("d", b'5', "", b"")
        .entry("l", b'1', "d", b"")
        .end();
    refused(&directory.0, &["entry l", "is a directory"]);
    let outside = Archive::default()
        .entry("l", b'1', "/etc/passwd", b"")
        .end();
    refused(&outside.0, &["entry l", "/etc/passwd"]);
    let itself = Archive::default()
        .file("f", b"x")
        .entry("f", b'1', "f", b"")
        .end();
    assert_eq!(accepted(&itself).len(), 2);
}

#[test]
fn later_entries_replace_earlier_ones() {
    let archive = Archive::default()
        .file("f", b"old")
        .entry("g", b'1', "f", b"")
        .file("f", b"newer")
        .entry("d", b'5', "", b"")
        .file("d/x", b"x")
        .entry("d", b'5', "", b"")
        .entry("e", b'5', "", b"")
        .file("e", b"a file now")
        .file("h", b"x")
        .entry("h", b'5', "", b"")
        .file("h/inner", b"inner")
        .end();
    assert_eq!(
        accepted(&archive)[1..],
        [
            "d 4 ",
            "d/x 10 1",
            "e 10 10",
            "f 10 5",
            "g 10 3",
            "h 4 ",
            "h/inner 10 5"
        ]
    );
    let full = Archive::default().file("d/x", b"x").file("d", b"y").end();
    refused(
        &full.0,
        &["entry d", "a directory of this name with something in it"],
    );
    let root = Archive::default()
        .file("./", b"")
        .entry(".", b'2', "x", b"")
        .end();
    refused(&root.0, &["entry .", "directory"]);
}

#[test]
fn what_was_replaced_is_not_kept() {
    let fixture = Fixture::new();
    let path = fixture.path("archive");
    let large = vec![1; 3 << 20];
    let archive = Archive::default()
        .file("f", b"old")
        .file("l", &large)
        .file("f", b"new")
        .file("l", b"")
        .end();
    fs::write(&path, &archive.0).unwrap();
    let import = import(&fixture, &path).unwrap();
    let statistics = import.statistics();
    assert_eq!(
        (
            statistics.inodes,
            statistics.new_objects,
            statistics.new_bytes
        ),
        (3, 1, 3)
    );
    let mut staged = Vec::new();
    import
        .for_each_new(|digest, size| {
            staged.push((digest, size));
            Ok(())
        })
        .unwrap();
    assert_eq!(staged.len(), 1);
    let directory = fixture
        .store
        .path()
        .join("staging")
        .join(import.name())
        .join("objects");
    assert_eq!(fs::read_dir(directory).unwrap().count(), 1);
}

#[test]
fn truncated_at_every_block() {
    let archive = Archive::default()
        .file("one", &[1; 600])
        .pax(&[("path", "two"), ("mtime", "1.5")])
        .file("x", b"two")
        .end();
    let whole = archive.0;
    for length in (0..whole.len() - 1024)
        .step_by(100)
        .chain([512, 1024, 1536, 2048])
    {
        refused(&whole[..length], &["archive"]);
    }
    refused(
        &whole[..whole.len() - 1024],
        &["after entry two", "truncated"],
    );
    for tool in [&["gzip"][..], &["xz"], &["zstd", "-q"]] {
        let packed = filter(tool, &whole);
        assert!(packed.len() < whole.len());
        for length in [12, packed.len() / 2, packed.len() - 9, packed.len() - 1] {
            refused(&packed[..length], &["archive", "truncated"]);
        }
        let mut damaged = packed.clone();
        let middle = packed.len() / 2;
        damaged[middle] ^= 0xff;
        refused(&damaged, &["archive"]);
    }
}

fn filter(tool: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(tool[0])
        .args(&tool[1..])
        .arg("-c")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap().stdout
}

#[test]
fn garbage() {
    refused(b"", &["empty"]);
    refused(b"x", &["no tar archive"]);
    refused(&[7; 5000], &["no tar archive"]);
    refused(b"BZh91AY&SY", &["bzip2", "gzip, xz or zstd"]);
    refused(
        &filter(&["gzip"], b"not a tar archive"),
        &["no tar archive"],
    );
    let mut damaged = Archive::default()
        .file("one", b"1")
        .file("two", b"2")
        .end()
        .0;
    damaged[1024] ^= 1;
    refused(&damaged, &["after entry one", "checksum"]);
    let mut lone = Archive::default().file("one", b"1").0;
    lone.resize(lone.len() + 512, 0);
    lone.extend_from_slice(&[1; 512]);
    refused(&lone, &["garbage"]);
}

#[test]
fn sizes_and_numbers_that_cannot_be() {
    let negative = [0xff; 12];
    let archive = |size: &[u8]| Archive::default().raw(b"f", b'0', b"", size, b"").end();
    refused(&archive(&negative).0, &["entry f", "size"]);
    refused(&archive(b"9z").0, &["entry f", "size"]);
    let mut huge = [0; 12];
    huge[0] = 0x80;
    huge[4] = 0x7f;
    refused(&archive(&huge).0, &["truncated"]);
    let pax = |key, value| Archive::default().pax(&[(key, value)]).file("f", b"").end();
    for (key, value, word) in [
        ("size", "-1", "size"),
        ("size", "99999999999999999999999", "size"),
        ("uid", "-1", "owner"),
        ("gid", "4294967296", "group"),
        ("mtime", "yesterday", "mtime"),
        ("path", "a\0b", "zero byte"),
        ("GNU.sparse.size", "-3", "sparse"),
    ] {
        refused(&pax(key, value).0, &["entry", word]);
    }
    let long = Archive::default()
        .pax(&[("path", &"n".repeat(256))])
        .file("f", b"")
        .end();
    refused(&long.0, &["255 bytes"]);
    refused(
        &Archive::default()
            .raw(b"x", b'L', b"", b"77777777777", b"")
            .0,
        &["extended header"],
    );
    refused(
        &Archive::default()
            .entry("x", b'x', "", b"9999 a=b\n")
            .end()
            .0,
        &["malformed pax"],
    );
    refused(
        &Archive::default().pax(&[("path", "x")]).end().0,
        &["without a member"],
    );
    refused(
        &Archive::default().entry("m", b'M', "", b"").end().0,
        &["entry m", "'M'"],
    );
}

#[test]
fn sparse_maps_that_lie() {
    for map in [
        "0,5,3,5",
        "10,5,0,5",
        "0,20",
        "0,5",
        "0,10,x",
        "0,10,18446744073709551615,5",
        "",
    ] {
        let archive = Archive::default()
            .pax(&[("GNU.sparse.size", "15"), ("GNU.sparse.map", map)])
            .file("s", &[1; 10])
            .end();
        refused(&archive.0, &["entry s", "sparse"]);
    }
    for data in ["1\n0\n5\n", "x\n", "99999999\n", "2\n0\n1\n"] {
        let mut block = data.as_bytes().to_vec();
        block.resize(512 + 10, 0);
        let archive = Archive::default()
            .pax(&[
                ("GNU.sparse.major", "1"),
                ("GNU.sparse.minor", "0"),
                ("GNU.sparse.realsize", "15"),
            ])
            .file("s", &block)
            .end();
        refused(&archive.0, &["entry s", "sparse"]);
    }
}

#[test]
fn a_bomb_meets_the_end_of_the_disk() {
    let mounted = tempfile::tempdir().unwrap();
    let _mount =
        crate::fixture::Mount::new(&["-t", "tmpfs", "-o", "size=8m", "none"], mounted.path());
    let fixture = Fixture::below(mounted.path());
    let other = tempfile::tempdir().unwrap();
    let mut content = vec![0; 100 << 20];
    content.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
    let bomb = filter(
        &["zstd", "-q"],
        &Archive::default().file("bomb", &content).end().0,
    );
    assert!(bomb.len() < 1 << 20);
    let path = other.path().join("bomb");
    fs::write(&path, bomb).unwrap();
    let error = import(&fixture, &path).map(|_| ()).unwrap_err();
    assert_eq!(error.errno, Some(libc::ENOSPC), "{error}");
    fixture.assert_no_trace();
}

#[test]
fn parents_that_are_missing_are_made() {
    let archive = Archive::default().file("a/b/c", b"x").end();
    let fixture = Fixture::new();
    let path = fixture.path("archive");
    fs::write(&path, &archive.0).unwrap();
    let import = import(&fixture, &path).unwrap();
    let found = describe::import(&import);
    assert!(found["a/b"].starts_with("4 0755 0:0 "), "{}", found["a/b"]);
    assert_eq!(found.len(), 4);
}
