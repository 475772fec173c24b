//! Needs root. A clone equals its origin in everything, and neither shows what the other writes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on should panic"
)]

mod family;

use family::live::{ROOT, WRITE, node, permissions, put, read};
use family::{Fixture, assert_same, write};
use foldfs::error::ErrorKind;
use foldfs::filesystem::Filesystem;
use foldfs::filesystem::data::SetId;
use foldfs::filesystem::open::OpenFlags;
use foldfs::filesystem::rename::Entry;
use foldfs::filesystem::set_attributes::{Changes, NewTime};
use foldfs::filesystem::xattrs::SetXattr;
use foldfs::ops::report::CloneReport;
use foldfs::ops::{check, clone, fold};
use foldfs::progress::Silent;
use foldfs::store::metadata::{FileType, Time};
use rustix::fs::RenameFlags;

/// user::rwx user:7:rwx group::r-x mask::rwx other::---
const DEFAULT_ACL: &[u8] = &[
    2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 7, 0, 7, 0, 0, 0, 4, 0, 5, 0, 255, 255, 255,
    255, 16, 0, 7, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255,
];

fn fixture() -> Fixture {
    let fixture = Fixture::new();
    let source = fixture.source("source");
    for path in [
        "etc/passwd",
        "etc/group",
        "usr/bin/sh",
        "usr/lib/a/b/c",
        "usr/lib/a/d",
        "var/log/syslog",
        "opt/x/y",
        "opt/z",
        "home/user/file",
    ] {
        write(&source, path, &format!("content of {path}"));
    }
    std::fs::hard_link(source.join("usr/bin/sh"), source.join("usr/bin/bash")).unwrap();
    std::fs::hard_link(source.join("usr/bin/sh"), source.join("etc/shell")).unwrap();
    fixture.import_as("origin", &source, Some("family"), Default::default());
    // Other versions, so that there are aliases and stubs.
    let other = fixture.source("other");
    write(&other, "etc/passwd", "another");
    write(&other, "new/in/both", "the same");
    fixture.import_as("other", &other, Some("family"), Default::default());
    fixture
}

/// Everything that a guest can do to a tree.
fn work(fs: &Filesystem) {
    let empty = RenameFlags::empty();
    put(fs, "etc/own", b"closed");
    put(fs, "etc/passwd", b"altered");
    put(fs, "usr/bin/bash", b"a shell with three names");
    fs.unlink(&node(fs, "etc"), b"shell").unwrap();
    fs.link(&node(fs, "etc/own"), &node(fs, "usr"), b"linked")
        .unwrap();
    fs.unlink(&node(fs, "etc"), b"group").unwrap();
    let (usr, etc) = (node(fs, "usr"), node(fs, "etc"));
    fs.rename(
        Entry {
            parent: &node(fs, "usr/lib"),
            name: b"a",
        },
        Entry {
            parent: &etc,
            name: b"moved",
        },
        empty,
        ROOT,
    )
    .unwrap();
    put(fs, "etc/moved/b/inside", b"in a renamed one");
    fs.unlink(&node(fs, "opt/x"), b"y").unwrap();
    fs.rmdir(&node(fs, "opt"), b"x").unwrap();
    fs.make_directory(&node(fs, "opt"), b"x", &permissions(0o2750))
        .unwrap();
    let opaque = node(fs, "opt/x");
    let acl = b"system.posix_acl_default";
    fs.set_xattr(&opaque, acl, DEFAULT_ACL, SetXattr::Any, &ROOT)
        .unwrap();
    let changes = Changes {
        gid: Some(50),
        mtime: Some(NewTime::At(Time {
            seconds: -3,
            nanoseconds: 1,
        })),
        ..Changes::default()
    };
    fs.set_attributes(&opaque, &changes).unwrap();
    fs.make_directory(&opaque, b"below", &permissions(0o700))
        .unwrap();
    let plain = Changes {
        uid: Some(0),
        gid: Some(0),
        mode: Some(0o600),
        ..Changes::default()
    };
    put(fs, "opt/x/plain", b"");
    fs.set_attributes(&node(fs, "opt/x/plain"), &plain).unwrap();
    fs.make_symlink(&usr, b"link", b"bin/sh", ROOT).unwrap();
    for (name, kind, rdev) in [
        (
            &b"null"[..],
            FileType::CharDevice,
            rustix::fs::makedev(1, 3),
        ),
        (b"zero", FileType::CharDevice, 0),
        (b"fifo", FileType::Fifo, 0),
        (b"socket", FileType::Socket, 0),
    ] {
        fs.make_node(&usr, name, kind, rdev, &permissions(0o604))
            .unwrap();
    }
    let log = node(fs, "var/log/syslog");
    for (name, value) in [(&b"user.a"[..], &b"1"[..]), (b"trusted.foldfs", b"2")] {
        fs.set_xattr(&log, name, value, SetXattr::Any, &ROOT)
            .unwrap();
    }
    let chmod = Changes {
        mode: Some(0o4755),
        ..Changes::default()
    };
    fs.set_attributes(&log, &chmod).unwrap();
    fs.set_attributes(&node(fs, "home"), &chmod).unwrap();
    let sparse = put(fs, "etc/sparse", b"");
    let handle = fs.open(&sparse, WRITE).unwrap();
    fs.write(handle, 5 << 20, b"end", SetId::Keep).unwrap();
    fs.release(handle);
    let hole = put(fs, "etc/hole", b"");
    let size = Changes {
        size: Some(1 << 33),
        ..Changes::default()
    };
    fs.set_attributes(&hole, &size).unwrap();
    fs.set_attributes(
        &hole,
        &Changes {
            size: Some(3 << 20),
            ..size
        },
    )
    .unwrap();
}

fn run(fixture: &Fixture, from: &str, to: &str, frozen: bool) -> Result<CloneReport, ErrorKind> {
    let options = clone::Options {
        from: from.into(),
        to: to.into(),
        frozen,
        reset: None,
    };
    let plan = clone::plan(&fixture.context, &options).map_err(|error| error.kind)?;
    clone::apply(&fixture.context, &plan, &Silent).map_err(|error| error.kind)
}

fn assert_sound(fixture: &Fixture) {
    let options = check::Options { content: true };
    let report = check::run(&fixture.context, options, &Silent).unwrap();
    assert_eq!(report.findings, [], "{:#?}", report.findings);
}

#[test]
fn a_clone_equals_its_origin_and_neither_sees_the_other() {
    let fixture = fixture();
    let origin = fixture.filesystem("origin");
    work(&origin);
    let before = fixture.snapshot("origin");
    let report = run(&fixture, "origin", "copy", false).unwrap();
    assert_eq!(report.copied_bytes, 0, "{report:?}");
    assert_eq!(report.entries, fixture.private("origin").len() as u64);
    assert_same(&before, &fixture.snapshot("origin"), "the origin");
    assert_same(&before, &fixture.snapshot("copy"), "the clone");
    assert_eq!(fixture.private("origin"), fixture.private("copy"));
    assert_sound(&fixture);

    let copy = fixture.filesystem("copy");
    put(&copy, "etc/own", b"CLONED");
    put(&copy, "usr/bin/sh", b"ANOTHER");
    copy.unlink(&node(&copy, "etc/moved"), b"d").unwrap();
    put(&copy, "usr/lib/new", b"new");
    copy.link(&node(&copy, "etc/own"), &node(&copy, "usr"), b"third")
        .unwrap();
    assert_same(&before, &fixture.snapshot("origin"), "the origin");
    let clone = fixture.snapshot("copy");
    assert_eq!(clone["usr/linked"].content, b"CLONED");
    assert_eq!(clone["usr/linked"].links, 3);
    put(&origin, "etc/own", b"ORIGIN");
    put(&origin, "usr/bin/bash", b"ORIGIN");
    origin.unlink(&node(&origin, "usr/bin"), b"bash").unwrap();
    assert_same(&clone, &fixture.snapshot("copy"), "the clone");
    let origin_now = fixture.snapshot("origin");
    drop((origin, copy));
    let fixture = fixture.reopen();
    assert_same(&clone, &fixture.snapshot("copy"), "the clone, reopened");
    assert_same(&origin_now, &fixture.snapshot("origin"), "reopened");
    assert_sound(&fixture);
    // A fold of all of them shows nothing either.
    let plan = fold::plan(&fixture.context, &fold::Options { family: None }, &Silent).unwrap();
    fold::apply(&fixture.context, &plan, &Silent).unwrap();
    assert_same(&clone, &fixture.snapshot("copy"), "the clone, folded");
    assert_same(&origin_now, &fixture.snapshot("origin"), "folded");
    assert_sound(&fixture);
}

#[test]
fn clones_of_clones_of_bases() {
    let fixture = fixture();
    work(&fixture.filesystem("family"));
    let before = fixture.snapshot("family");
    for (from, to) in [
        ("family", "first"),
        ("first", "second"),
        ("second", "third"),
    ] {
        run(&fixture, from, to, true).unwrap();
        assert_same(&before, &fixture.snapshot(to), to);
    }
    assert_sound(&fixture);
}

#[test]
fn names_are_checked() {
    let fixture = fixture();
    for (from, to) in [
        ("none", "a"),
        ("origin", "other"),
        ("origin", "family"),
        ("origin", "-"),
    ] {
        assert!(run(&fixture, from, to, false).is_err(), "{from} {to}");
    }
}

#[test]
fn an_open_file_is_copied_and_refused_when_frozen() {
    let fixture = fixture();
    let origin = fixture.filesystem("origin");
    let file = put(&origin, "etc/open", &[7; 100_000]);
    let shared = origin.open(&node(&origin, "etc/group"), WRITE).unwrap();
    let plan = run(&fixture, "origin", "copy", true);
    assert_eq!(plan, Err(ErrorKind::Busy));
    origin.release(shared);
    let handle = origin.open(&file, WRITE).unwrap();
    assert_eq!(run(&fixture, "origin", "copy", true), Err(ErrorKind::Busy));
    let report = run(&fixture, "origin", "copy", false).unwrap();
    let before = fixture.snapshot("origin");
    assert_same(&before, &fixture.snapshot("copy"), "the clone");
    assert!(matches!(report.copied_bytes, 0 | 100_000), "{report:?}");
    origin.write(handle, 0, b"ORIGIN", SetId::Keep).unwrap();
    origin.release(handle);
    assert_same(&before, &fixture.snapshot("copy"), "the clone");
    run(&fixture, "origin", "frozen", true).unwrap();
    let copy = fixture.filesystem("frozen");
    let handle = copy
        .open(&node(&copy, "etc/open"), OpenFlags::default())
        .unwrap();
    assert_eq!(&read(&copy, handle)[..8], b"ORIGIN\x07\x07");
    assert_sound(&fixture);
}

#[test]
fn names_stand_still_while_a_guest_is_at_work() {
    let fixture = fixture();
    let origin = fixture.filesystem("origin");
    // Each file is moved on once the next one is there: at each instant there are one or two.
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut count = 0u64;
            let home = node(&origin, "home/user");
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                put(&origin, &format!("home/user/{count}"), &count.to_le_bytes());
                if count > 0 {
                    let old = (count - 1).to_string();
                    origin.unlink(&home, old.as_bytes()).unwrap();
                }
                count += 1;
            }
        });
        for number in 0..6 {
            let name = format!("copy{number}");
            run(&fixture, "origin", &name, false).unwrap();
            let snapshot = fixture.snapshot(&name);
            let found: Vec<_> = snapshot
                .iter()
                .filter_map(|(path, seen)| {
                    let number = path.strip_prefix("home/user/")?.parse::<u64>().ok()?;
                    Some((number, seen.content.clone()))
                })
                .collect();
            assert!(found.len() <= 2, "{found:?}");
            for (number, content) in found {
                assert!(content.is_empty() || content == number.to_le_bytes());
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_sound(&fixture);
}
