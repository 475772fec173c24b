//! rename with all its flags.

use rustix::fs::RenameFlags;
use rustix::io::Errno;

use super::super::failure::Outcome;
use super::super::rename::Entry;
use super::assert_changed;
use super::fixture::{Fixture, Looks, MTIME, ROOT, permissions};
use crate::merge::locate::{self, Located};
use crate::store::metadata::FileType;

const NONE: RenameFlags = RenameFlags::empty();

pub(super) fn rename(fixture: &Fixture, old: &str, new: &str, flags: RenameFlags) -> Outcome<()> {
    let split = |path: &'_ str| {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        (fixture.node(parent), name.as_bytes().to_vec())
    };
    let (old, new) = (split(old), split(new));
    let old = Entry {
        parent: &old.0,
        name: &old.1,
    };
    let new = Entry {
        parent: &new.0,
        name: &new.1,
    };
    fixture.fs.rename(old, new, flags, ROOT)
}

fn refused(fixture: &Fixture, old: &str, new: &str, flags: RenameFlags) -> Errno {
    let before = fixture.looks();
    let error = rename(fixture, old, new, flags).unwrap_err().errno();
    assert_changed(&before, &fixture.looks(), &[]);
    error
}

/// All paths at `old` and below stand at `new` afterwards and look as they did, but for the ctime of
/// the first, which is new.
fn assert_moved(before: &Looks, after: &Looks, old: &str, new: &str) {
    let mut moved = 0;
    for (path, look) in before {
        let Some(rest) = path
            .strip_prefix(old)
            .filter(|rest| rest.is_empty() || rest.starts_with('/'))
        else {
            continue;
        };
        let mut found = after[&format!("{new}{rest}")].clone();
        if rest.is_empty() {
            assert!(found.attributes.ctime > look.attributes.ctime, "{new}");
            found.attributes.ctime = look.attributes.ctime;
        }
        assert_eq!(&found, look, "{new}{rest}");
        moved += 1;
    }
    assert!(moved > 0);
}

#[test]
fn files_of_every_type_are_renamed() {
    let fixture = Fixture::new();
    for path in [
        "etc/passwd",
        "etc/empty",
        "usr/link",
        "dev/null",
        "dev/fifo",
        "dev/socket",
        "etc/shell",
    ] {
        let before = fixture.looks();
        rename(&fixture, path, "usr/new", NONE).unwrap();
        let after = fixture.looks();
        assert_moved(&before, &after, path, "usr/new");
        assert!(!after.contains_key(path));
        assert!(after["usr"].attributes.mtime > MTIME);
        rename(&fixture, "usr/new", "usr/newer", NONE).unwrap();
        assert!(!fixture.exists("usr/new"));
        rename(&fixture, "usr/newer", path, NONE).unwrap();
        assert_moved(&after, &fixture.looks(), "usr/new", path);
    }
    // A name of the file was renamed, the others were not.
    let looks = fixture.looks();
    assert_eq!(looks["etc/shell"], looks["usr/bin/sh"]);
    assert_eq!(looks["etc/shell"].attributes.links, 3);
    assert_eq!(fixture.orphans(), 0);
}

#[test]
fn directories_are_renamed_without_copying_anything() {
    let mut fixture = Fixture::new();
    let before = fixture.looks();
    rename(&fixture, "usr/deep", "etc/depth", NONE).unwrap();
    let after = fixture.looks();
    assert_moved(&before, &after, "usr/deep", "etc/depth");
    assert_eq!(fixture.private_names("etc/depth"), Vec::<String>::new());
    assert_eq!(
        after["usr"].attributes.links,
        before["usr"].attributes.links - 1
    );
    assert_eq!(
        after["etc"].attributes.links,
        before["etc"].attributes.links + 1
    );
    // Below it, names of the shared directories are made and removed.
    let a = fixture.node("etc/depth/a");
    fixture
        .fs
        .make_directory(&a, b"own", &permissions(0o755))
        .unwrap();
    fixture
        .fs
        .unlink(&fixture.node("etc/depth/a/b"), b"file")
        .unwrap();
    let before = fixture.looks();
    rename(&fixture, "etc/depth/a", "etc/depth/z", NONE).unwrap();
    assert_moved(&before, &fixture.looks(), "etc/depth/a", "etc/depth/z");
    // A directory that is made where the first one was is another one.
    fixture
        .fs
        .make_directory(&fixture.node("usr"), b"deep", &permissions(0o755))
        .unwrap();
    assert!(!fixture.exists("usr/deep/a"));
    fixture.remount();
    let before = fixture.looks();
    fixture.fs.rmdir(&fixture.node("usr"), b"deep").unwrap();
    rename(&fixture, "etc/depth", "usr/deep", NONE).unwrap();
    assert_moved(&before, &fixture.looks(), "etc/depth", "usr/deep");
}

#[test]
fn renamed_shared_directories_are_found() {
    let fixture = Fixture::new();
    let shared = fixture.node("usr/deep/a/b").number;
    let place = |what: &str| match locate::locate(&fixture.fs.view, shared).unwrap() {
        Located::Nowhere => assert_eq!(what, "nowhere"),
        Located::Plain => assert_eq!(what, "plain"),
        Located::Private(_) => assert_eq!(what, "private"),
    };
    place("plain");
    rename(&fixture, "usr/deep", "etc/depth", NONE).unwrap();
    place("plain");
    fixture
        .fs
        .create(&fixture.node("etc/depth/a/b"), b"x", &permissions(0o644))
        .unwrap();
    place("private");
    rename(&fixture, "etc/depth/a", "a", NONE).unwrap();
    place("private");
    fixture.fs.unlink(&fixture.node("a/b"), b"x").unwrap();
    fixture.fs.unlink(&fixture.node("a/b"), b"file").unwrap();
    fixture.fs.rmdir(&fixture.node("a"), b"b").unwrap();
    place("nowhere");
}

#[test]
fn links_of_a_file_are_counted_below_a_renamed_directory() {
    let fixture = Fixture::new();
    rename(&fixture, "usr/bin", "etc/bin", NONE).unwrap();
    fixture.fs.unlink(&fixture.node("etc"), b"shell").unwrap();
    assert_eq!(fixture.look("etc/bin/sh").attributes.links, 2);
    fixture.fs.unlink(&fixture.node("etc/bin"), b"sh").unwrap();
    assert_eq!(fixture.look("etc/bin/bash").attributes.links, 1);
    fixture
        .fs
        .unlink(&fixture.node("etc/bin"), b"bash")
        .unwrap();
    fixture.fs.rmdir(&fixture.node("etc"), b"bin").unwrap();
    assert_eq!(fixture.orphans(), 0);
}

#[test]
fn files_are_renamed_over_files() {
    let fixture = Fixture::new();
    fixture
        .fs
        .create(&fixture.node("etc"), b"own", &permissions(0o600))
        .unwrap();
    for (old, new) in [
        ("etc/passwd", "etc/hostname"),
        ("etc/hostname", "etc/own"),
        ("etc/own", "etc/shell"),
        ("usr/bin/sh", "etc/shell"),
        ("usr/bin/bash", "usr/link"),
        ("usr/link", "dev/null"),
        ("dev/fifo", "dev/null"),
    ] {
        let before = fixture.looks();
        let (parent, name) = new.rsplit_once('/').unwrap();
        let gone = fixture
            .fs
            .lookup(&fixture.node(parent), name.as_bytes())
            .unwrap();
        let node = fixture.fs.node(gone.number).unwrap();
        rename(&fixture, old, new, NONE).unwrap();
        let after = fixture.looks();
        assert_eq!(after[new].attributes.number, before[old].attributes.number);
        assert_eq!(after[new].attributes.links, before[old].attributes.links);
        assert!(after[new].attributes.ctime > before[old].attributes.ctime);
        assert!(!after.contains_key(old));
        let left = fixture.fs.attributes(&node).unwrap();
        assert_eq!(left.links, gone.links - 1, "{new}");
        assert_eq!(
            (left.size, left.number, left.mtime),
            (gone.size, gone.number, gone.mtime)
        );
        drop(node);
        fixture.fs.forget(gone.number, 2);
        assert_eq!(fixture.orphans(), 0);
    }
    assert_eq!(fixture.private_names("dev"), ["fifo", "null"]);
}

#[test]
fn two_names_of_one_file_stay() {
    let fixture = Fixture::new();
    let before = fixture.looks();
    for flags in [NONE, RenameFlags::WHITEOUT, RenameFlags::EXCHANGE] {
        rename(&fixture, "etc/shell", "usr/bin/sh", flags).unwrap();
        rename(&fixture, "etc/shell", "etc/shell", flags).unwrap();
        assert_changed(&before, &fixture.looks(), &[]);
    }
}

#[test]
fn directories_are_renamed_over_empty_ones() {
    let fixture = Fixture::new();
    let usr = fixture.node("usr");
    fixture
        .fs
        .make_directory(&usr, b"own", &permissions(0o700))
        .unwrap();
    // Emptied, it holds whiteouts.
    fixture
        .fs
        .unlink(&fixture.node("usr/deep/a/b"), b"file")
        .unwrap();
    for (old, new) in [
        ("usr/bin", "usr/hollow"),
        ("usr/hollow", "usr/own"),
        ("usr/own", "usr/deep/a/b"),
    ] {
        let before = fixture.looks();
        let (parent, name) = new.rsplit_once('/').unwrap();
        let gone = fixture
            .fs
            .lookup(&fixture.node(parent), name.as_bytes())
            .unwrap();
        let node = fixture.fs.node(gone.number).unwrap();
        rename(&fixture, old, new, NONE).unwrap();
        assert_moved(&before, &fixture.looks(), old, new);
        let left = fixture.fs.attributes(&node).unwrap();
        assert_eq!(
            (left.links, left.mode, left.mtime),
            (0, gone.mode, gone.mtime)
        );
        let made = fixture.fs.create(&node, b"x", &permissions(0o644));
        assert_eq!(made.unwrap_err().errno(), Errno::NOENT);
        drop(node);
        fixture.fs.forget(gone.number, 2);
        assert_eq!(fixture.orphans(), 0);
        assert!(fixture.fs.replaced.lock().is_empty());
    }
}

#[test]
fn directories_are_renamed_over_whiteouts() {
    let fixture = Fixture::new();
    let etc = fixture.node("etc");
    fixture.fs.unlink(&etc, b"hostname").unwrap();
    fixture
        .fs
        .make_directory(&etc, b"own", &permissions(0o700))
        .unwrap();
    let before = fixture.looks();
    rename(&fixture, "etc/own", "etc/hostname", NONE).unwrap();
    assert_moved(&before, &fixture.looks(), "etc/own", "etc/hostname");
    assert_eq!(fixture.private_names("etc"), ["hostname"]);
    rename(&fixture, "etc/hostname", "etc/own", NONE).unwrap();
    let before = fixture.looks();
    rename(&fixture, "usr/bin", "etc/hostname", NONE).unwrap();
    assert_moved(&before, &fixture.looks(), "usr/bin", "etc/hostname");
    assert!(!fixture.exists("usr/bin"));
    assert_eq!(fixture.private_names("usr"), ["bin"]);
}

#[test]
fn all_kinds_of_entries_are_exchanged() {
    let fixture = Fixture::new();
    fixture
        .fs
        .create(&fixture.node("etc"), b"own", &permissions(0o600))
        .unwrap();
    fixture
        .fs
        .make_directory(&fixture.node(""), b"dir", &permissions(0o600))
        .unwrap();
    let paths = [
        "etc/own",
        "dir",
        "usr/bin",
        "etc/passwd",
        "dev/null",
        "usr/link",
        "usr/deep/a",
        "dev/fifo",
    ];
    for first in paths {
        for second in paths {
            if first == second {
                continue;
            }
            let before = fixture.looks();
            rename(&fixture, first, second, RenameFlags::EXCHANGE).unwrap();
            let after = fixture.looks();
            assert_moved(&before, &after, first, second);
            assert_moved(&before, &after, second, first);
            assert_eq!(before.len(), after.len());
        }
    }
    assert_eq!(fixture.orphans(), 0);
}

#[test]
fn an_exchange_of_a_name_of_several() {
    let fixture = Fixture::new();
    let before = fixture.looks();
    rename(
        &fixture,
        "usr/bin/sh",
        "etc/hostname",
        RenameFlags::EXCHANGE,
    )
    .unwrap();
    let after = fixture.looks();
    assert_eq!(after["etc/hostname"], after["etc/shell"]);
    assert_eq!(after["etc/shell"].attributes.links, 3);
    assert_moved(&before, &after, "etc/hostname", "usr/bin/sh");
    assert_moved(&before, &after, "usr/bin/sh", "etc/hostname");
}

#[test]
fn a_guests_whiteout_is_a_device() {
    let fixture = Fixture::new();
    let flags = RenameFlags::WHITEOUT;
    fixture
        .fs
        .make_symlink(&fixture.node("etc"), b"own", b"x", ROOT)
        .unwrap();
    fixture.fs.unlink(&fixture.node("dev"), b"fifo").unwrap();
    for (old, new) in [
        ("etc/passwd", "etc/new"),
        ("etc/own", "etc/hostname"),
        ("usr/bin", "dev/fifo"),
        ("etc/shell", "shell"),
    ] {
        let before = fixture.looks();
        rename(&fixture, old, new, flags).unwrap();
        let after = fixture.looks();
        assert_moved(&before, &after, old, new);
        let left = after[old].attributes;
        let expected = (FileType::CharDevice, 0, 0, 1);
        assert_eq!((left.file_type, left.rdev, left.mode, left.links), expected);
        let (parent, name) = old.rsplit_once('/').unwrap();
        fixture
            .fs
            .unlink(&fixture.node(parent), name.as_bytes())
            .unwrap();
        assert!(!fixture.exists(old));
    }
}

#[test]
fn what_rename_refuses() {
    let fixture = Fixture::new();
    let fixture = &fixture;
    let no_replace = RenameFlags::NOREPLACE;
    let exchange = RenameFlags::EXCHANGE;
    assert_eq!(refused(fixture, "etc/gone", "etc/x", NONE), Errno::NOENT);
    assert_eq!(
        refused(fixture, "etc/passwd", "etc/x", exchange),
        Errno::NOENT
    );
    assert_eq!(
        refused(fixture, "etc/passwd", "etc/hostname", no_replace),
        Errno::EXIST
    );
    assert_eq!(
        refused(fixture, "etc/passwd", "etc/passwd", no_replace),
        Errno::EXIST
    );
    assert_eq!(refused(fixture, "etc/passwd", "usr", NONE), Errno::ISDIR);
    assert_eq!(
        refused(fixture, "usr/hollow", "etc/passwd", NONE),
        Errno::NOTDIR
    );
    assert_eq!(
        refused(fixture, "usr/hollow", "usr/bin", NONE),
        Errno::NOTEMPTY
    );
    assert_eq!(
        refused(fixture, "usr", "usr/deep/a/usr", NONE),
        Errno::INVAL
    );
    assert_eq!(
        refused(fixture, "usr", "usr/deep/a", exchange),
        Errno::INVAL
    );
    assert_eq!(
        refused(fixture, "usr/deep/a", "usr", exchange),
        Errno::INVAL
    );
    assert_eq!(refused(fixture, "usr/deep/a", "usr", NONE), Errno::NOTEMPTY);
    assert_eq!(
        refused(fixture, "etc", "usr", exchange | no_replace),
        Errno::INVAL
    );
    let long = format!("etc/{}", "x".repeat(256));
    assert_eq!(
        refused(fixture, "etc/passwd", &long, NONE),
        Errno::NAMETOOLONG
    );
    assert_eq!(
        refused(fixture, "etc/passwd", "etc/hostname/x", NONE),
        Errno::NOTDIR
    );
    rename(fixture, "etc/passwd", "etc/new", no_replace).unwrap();
}

#[test]
fn nodes_follow_their_directories() {
    let fixture = Fixture::new();
    let deep = fixture.node("usr/deep");
    let b = fixture.node("usr/deep/a/b");
    let file = fixture.node("usr/deep/a/b/file");
    fixture
        .fs
        .create(&b, b"private", &permissions(0o644))
        .unwrap();
    let private = fixture.node("usr/deep/a/b/private");
    rename(&fixture, "usr/deep/a", "etc/a", NONE).unwrap();
    rename(&fixture, "usr/deep", "etc/a/b/deep", NONE).unwrap();
    fixture.fs.create(&b, b"more", &permissions(0o644)).unwrap();
    fixture
        .fs
        .create(&deep, b"more", &permissions(0o644))
        .unwrap();
    let names = fixture.fs.names.write();
    fixture.fs.stub(&file).unwrap();
    drop(names);
    assert_eq!(fixture.fs.attributes(&private).unwrap().links, 1);
    assert_eq!(
        fixture.private_names("etc/a/b"),
        ["deep", "file", "more", "private"]
    );
    assert!(fixture.looks().contains_key("etc/a/b/deep/more"));
}
