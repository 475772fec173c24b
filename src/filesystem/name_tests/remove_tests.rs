//! unlink, rmdir, and what becomes of what has no name.

use rustix::io::Errno;

use super::assert_changed;
use super::fixture::{Fixture, permissions};

#[test]
fn shared_and_private_files_are_unlinked() {
    let fixture = Fixture::new();
    let before = fixture.looks();
    let etc = fixture.node("etc");
    fixture.fs.unlink(&etc, b"hostname").unwrap();
    let after = fixture.looks();
    assert_changed(&before, &after, &["etc", "etc/hostname"]);
    assert_eq!(
        fixture.fs.unlink(&etc, b"hostname").unwrap_err().errno(),
        Errno::NOENT
    );

    fixture
        .fs
        .create(&etc, b"new", &permissions(0o644))
        .unwrap();
    fixture.fs.unlink(&etc, b"new").unwrap();
    assert_changed(&after, &fixture.looks(), &["etc"]);
    assert_eq!(fixture.private_names("etc"), ["hostname"]);

    // A stub leaves a whiteout.
    let passwd = fixture.node("etc/passwd");
    let names = fixture.fs.names.write();
    fixture.fs.stub(&passwd).unwrap();
    drop(names);
    fixture.fs.unlink(&etc, b"passwd").unwrap();
    assert!(!fixture.looks().contains_key("etc/passwd"));
    assert_eq!(fixture.private_names("etc"), ["hostname", "passwd"]);
}

#[test]
fn types_are_checked() {
    let fixture = Fixture::new();
    let before = fixture.looks();
    let (root, etc, usr) = (fixture.node(""), fixture.node("etc"), fixture.node("usr"));
    let fs = &fixture.fs;
    assert_eq!(fs.unlink(&root, b"etc").unwrap_err().errno(), Errno::ISDIR);
    assert_eq!(
        fs.rmdir(&etc, b"passwd").unwrap_err().errno(),
        Errno::NOTDIR
    );
    assert_eq!(
        fs.rmdir(&root, b"etc").unwrap_err().errno(),
        Errno::NOTEMPTY
    );
    assert_eq!(fs.rmdir(&usr, b"gone").unwrap_err().errno(), Errno::NOENT);
    assert_changed(&before, &fixture.looks(), &[]);
}

#[test]
fn names_of_a_shared_file_go_one_by_one() {
    let mut fixture = Fixture::new();
    let mut before = fixture.looks();
    let node = fixture.node("usr/bin/sh");
    for (step, path) in ["usr/bin/sh", "etc/shell", "usr/bin/bash"]
        .into_iter()
        .enumerate()
    {
        let (parent, name) = path.rsplit_once('/').unwrap();
        fixture
            .fs
            .unlink(&fixture.node(parent), name.as_bytes())
            .unwrap();
        let after = fixture.looks();
        assert!(!after.contains_key(path));
        if let Some(left) = after.get("usr/bin/bash") {
            assert_eq!(left.attributes.links, 2 - step as u32);
            let old = before["usr/bin/bash"].attributes;
            assert!(left.attributes.ctime > old.ctime);
            assert_eq!(left.attributes.mtime, old.mtime);
            assert_eq!(left.attributes.number, old.number);
        }
        before = after;
    }
    assert_eq!(fixture.fs.attributes(&node).unwrap().links, 0);
    assert_eq!(fixture.orphans(), 1);
    fixture.fs.done(node);
    assert_eq!(fixture.orphans(), 0);
    fixture.remount();
    assert_changed(&before, &fixture.looks(), &[]);
}

#[test]
fn what_is_referred_to_stays_as_an_orphan() {
    let fixture = Fixture::new();
    let etc = fixture.node("etc");
    let made = fixture
        .fs
        .create(&etc, b"new", &permissions(0o640))
        .unwrap();
    let node = fixture.fs.node(made.number).unwrap();
    fixture.fs.unlink(&etc, b"new").unwrap();
    let left = fixture.fs.attributes(&node).unwrap();
    assert_eq!(
        (left.links, left.mode, left.number),
        (0, 0o640, made.number)
    );
    assert_eq!(
        fixture.fs.link(&node, &etc, b"again").unwrap_err().errno(),
        Errno::NOENT
    );
    assert_eq!(fixture.orphans(), 1);
    drop(node);
    fixture.fs.forget(made.number, 1);
    assert_eq!(fixture.orphans(), 0);
    assert_eq!(
        fixture.fs.node(made.number).unwrap_err().errno(),
        Errno::STALE
    );

    // A shared one needs no orphan.
    let gone = fixture.fs.lookup(&etc, b"passwd").unwrap();
    fixture.fs.unlink(&etc, b"passwd").unwrap();
    let node = fixture.fs.node(gone.number).unwrap();
    let left = fixture.fs.attributes(&node).unwrap();
    assert_eq!((left.links, left.size), (0, gone.size));
    assert_eq!(fixture.orphans(), 0);
    // Unless something of it changes.
    let names = fixture.fs.names.write();
    fixture.fs.stub(&node).unwrap();
    drop(names);
    assert_eq!(fixture.fs.attributes(&node).unwrap().size, gone.size);
    assert_eq!(fixture.orphans(), 1);
    fixture.fs.forget(gone.number, 1);
    fixture.fs.done(node);
    assert_eq!(fixture.orphans(), 0);
}

#[test]
fn directories_are_removed_when_the_view_shows_nothing_in_them() {
    let mut fixture = Fixture::new();
    let before = fixture.looks();
    let usr = fixture.node("usr");
    fixture.fs.rmdir(&usr, b"hollow").unwrap();
    let after = fixture.looks();
    assert_changed(&before, &after, &["usr", "usr/hollow"]);
    assert_eq!(
        after["usr"].attributes.links,
        before["usr"].attributes.links - 1
    );

    let b = fixture
        .fs
        .lookup(&fixture.node("usr/deep/a"), b"b")
        .unwrap();
    let node = fixture.fs.node(b.number).unwrap();
    fixture.fs.unlink(&node, b"file").unwrap();
    fixture.fs.rmdir(&fixture.node("usr/deep/a"), b"b").unwrap();
    assert_eq!(fixture.fs.attributes(&node).unwrap().links, 0);
    let permissions = permissions(0o755);
    let made = fixture.fs.create(&node, b"x", &permissions);
    assert_eq!(made.unwrap_err().errno(), Errno::NOENT);
    assert_eq!(
        fixture.fs.lookup(&node, b"file").unwrap_err().errno(),
        Errno::NOENT
    );
    assert_eq!(fixture.orphans(), 1);
    fixture.remount();
    assert_eq!(fixture.orphans(), 0);

    // Made again, it is empty.
    let made = fixture
        .fs
        .make_directory(&fixture.node("usr/deep/a"), b"b", &permissions);
    assert_ne!(made.unwrap().number, b.number);
    assert!(!fixture.looks().contains_key("usr/deep/a/b/file"));
    fixture.fs.rmdir(&fixture.node("usr/deep/a"), b"b").unwrap();
    fixture.fs.rmdir(&fixture.node("usr/deep"), b"a").unwrap();
    assert!(!fixture.looks().contains_key("usr/deep/a"));
}

#[test]
fn no_node_is_left_behind() {
    let fixture = Fixture::new();
    let before = fixture.fs.nodes();
    let etc = fixture.fs.lookup(fixture.fs.root(), b"etc").unwrap();
    let node = fixture.fs.node(etc.number).unwrap();
    for _ in 0..3 {
        let made = fixture
            .fs
            .create(&node, b"new", &permissions(0o644))
            .unwrap();
        let file = fixture.fs.node(made.number).unwrap();
        fixture.fs.link(&file, &node, b"more").unwrap();
        fixture.fs.unlink(&node, b"new").unwrap();
        fixture.fs.unlink(&node, b"more").unwrap();
        drop(file);
        fixture.fs.forget(made.number, 2);
    }
    fixture.fs.unlink(&node, b"passwd").unwrap();
    drop(node);
    fixture.fs.forget(etc.number, 1);
    assert_eq!(fixture.fs.nodes(), before);
    assert_eq!(fixture.orphans(), 0);
}
