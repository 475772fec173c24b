//! create, mkdir, mknod, symlink, link.

use rustix::io::Errno;

use super::super::acl;
use super::super::create::Permissions;
use super::super::failure::Outcome;
use super::assert_changed;
use super::fixture::{Fixture, MTIME, ROOT, USER, permissions};
use crate::store::metadata::FileType;

fn errno<T: std::fmt::Debug>(outcome: Outcome<T>) -> Errno {
    outcome.unwrap_err().errno()
}

#[test]
fn every_type_is_made() {
    let fixture = Fixture::new();
    let before = fixture.looks();
    let usr = fixture.node("usr");
    let user = Permissions {
        mode: 0o4666,
        umask: 0o022,
        caller: USER,
    };
    let made = fixture.fs.create(&usr, b"file", &user).unwrap();
    assert_eq!(
        (made.mode, made.uid, made.gid, made.links),
        (0o4644, 1000, 1001, 1)
    );
    let made = fixture
        .fs
        .make_directory(&usr, b"directory", &permissions(0o1777))
        .unwrap();
    assert_eq!((made.mode, made.links), (0o1755, 2));
    for (name, file_type, rdev) in [
        ("whiteout", FileType::CharDevice, 0),
        (
            "block",
            FileType::BlockDevice,
            rustix::fs::makedev(259, 70_000),
        ),
        ("fifo", FileType::Fifo, 0),
        ("socket", FileType::Socket, 0),
        ("regular", FileType::Regular, 0),
    ] {
        let name = name.as_bytes();
        let made = fixture
            .fs
            .make_node(&usr, name, file_type, rdev, &user)
            .unwrap();
        assert_eq!(
            (made.file_type, made.rdev, made.mode),
            (file_type, rdev, 0o4644)
        );
    }
    let made = fixture
        .fs
        .make_symlink(&usr, b"symlink", b"a/target", USER)
        .unwrap();
    assert_eq!(
        (made.mode, made.uid, made.gid, made.size),
        (0o777, 1000, 1001, 8)
    );
    let after = fixture.looks();
    let names = "directory whiteout block fifo socket regular symlink file";
    let paths: Vec<_> = names.split(' ').map(|name| format!("usr/{name}")).collect();
    let changed: Vec<_> = paths.iter().map(String::as_str).chain(["usr"]).collect();
    assert_changed(&before, &after, &changed);
    assert_eq!(
        after["usr"].attributes.links,
        before["usr"].attributes.links + 1
    );
    assert_eq!(
        after["usr/symlink"].target.as_deref(),
        Some(&b"a/target"[..])
    );
    let usr = after["usr"].attributes;
    assert!(usr.mtime > MTIME && usr.ctime >= usr.mtime);
    assert!(
        fixture
            .fs
            .make_directory(&fixture.node("usr/directory"), b"x", &user)
            .is_ok()
    );
}

#[test]
fn what_is_there_or_cannot_be_is_refused() {
    let fixture = Fixture::new();
    let before = fixture.looks();
    let (etc, root) = (fixture.node("etc"), fixture.node(""));
    let make = |name: &[u8]| fixture.fs.create(&etc, name, &permissions(0o644));
    assert_eq!(errno(make(b"passwd")), Errno::EXIST);
    assert_eq!(errno(make(&[b'x'; 256])), Errno::NAMETOOLONG);
    for name in [&b""[..], b".", b"..", b"a/b", b"a\0"] {
        assert_eq!(errno(make(name)), Errno::INVAL);
    }
    let fs = &fixture.fs;
    assert_eq!(
        errno(fs.make_directory(&root, b"etc", &permissions(0o755))),
        Errno::EXIST
    );
    assert_eq!(
        errno(fs.make_symlink(&root, b"etc", b"x", ROOT)),
        Errno::EXIST
    );
    let passwd = fixture.node("etc/passwd");
    assert_eq!(
        errno(fs.create(&passwd, b"x", &permissions(0o644))),
        Errno::NOTDIR
    );
    assert_eq!(errno(fs.link(&passwd, &etc, b"hostname")), Errno::EXIST);
    assert_eq!(errno(fs.link(&etc, &root, b"new")), Errno::PERM);
    assert_changed(&before, &fixture.looks(), &[]);
    make(&[0xff; 255]).unwrap();
    assert_eq!(errno(make(&[0xff; 255])), Errno::EXIST);
}

#[test]
fn group_and_acl_are_inherited() {
    let fixture = Fixture::new();
    let user = Permissions {
        mode: 0o775,
        umask: 0o077,
        caller: USER,
    };
    for _ in 0..2 {
        let parent = fixture.node("shared-gid");
        fixture.fs.make_directory(&parent, b"d", &user).ok();
        let made = fixture.look("shared-gid/d").attributes;
        assert_eq!((made.mode, made.uid, made.gid), (0o2700, 1000, 50));
        let made = fixture.fs.create(&parent, b"f", &user).unwrap();
        assert_eq!((made.mode, made.uid, made.gid), (0o700, 1000, 50));
        fixture.fs.unlink(&parent, b"f").unwrap();
    }
    for name in ["one", "two"] {
        let parent = fixture.node("acl");
        fixture
            .fs
            .make_directory(&parent, name.as_bytes(), &user)
            .unwrap();
        let made = fixture.look(&format!("acl/{name}"));
        assert_eq!(made.attributes.mode, 0o770);
        assert_eq!(
            made.xattrs[acl::DEFAULT],
            fixture.look("acl").xattrs[acl::DEFAULT]
        );
        assert!(made.xattrs.contains_key(acl::ACCESS));
    }
}

#[test]
fn a_link_of_a_shared_file() {
    let fixture = Fixture::new();
    let before = fixture.looks();
    let (passwd, usr) = (fixture.node("etc/passwd"), fixture.node("usr"));
    let linked = fixture.fs.link(&passwd, &usr, b"passwd").unwrap();
    assert_eq!((linked.number, linked.links), (passwd.number, 2));
    let after = fixture.looks();
    assert_changed(&before, &after, &["usr", "usr/passwd", "etc/passwd"]);
    assert_eq!(after["usr/passwd"], after["etc/passwd"]);
    let (old, new) = (&before["etc/passwd"], &after["etc/passwd"]);
    assert_eq!((old.digest, &old.xattrs), (new.digest, &new.xattrs));
    assert_eq!(new.attributes.mtime, MTIME);
    assert!(new.attributes.ctime > old.attributes.ctime);
    // Its directory was not touched.
    assert_eq!(fixture.private_names("etc"), Vec::<String>::new());
}

#[test]
fn links_of_every_type_shared_and_private() {
    let fixture = Fixture::new();
    let usr = fixture.node("usr");
    fixture.fs.make_symlink(&usr, b"own", b"x", ROOT).unwrap();
    for path in [
        "usr/own",
        "usr/link",
        "dev/null",
        "dev/fifo",
        "dev/socket",
        "usr/bin/sh",
    ] {
        let node = fixture.node(path);
        let links = fixture.look(path).attributes.links;
        for more in 1..=2 {
            let before = fixture.looks();
            let name = format!("{}-{more}", path.replace('/', "_"));
            let linked = fixture.fs.link(&node, &usr, name.as_bytes()).unwrap();
            assert_eq!((linked.links, linked.number), (links + more, node.number));
            let after = fixture.looks();
            assert_eq!(after[path], after[&format!("usr/{name}")]);
            assert!(after[path].attributes.ctime > before[path].attributes.ctime);
            assert_eq!(after[path].target, before[path].target);
            assert_eq!(after["etc"], before["etc"]);
        }
    }
}

#[test]
fn names_are_made_over_whiteouts() {
    let fixture = Fixture::new();
    let etc = fixture.node("etc");
    let passwd = fixture.node("etc/passwd");
    let fs = &fixture.fs;
    for round in 0..6 {
        fs.unlink(&etc, b"hostname").unwrap();
        assert!(!fixture.exists("etc/hostname"));
        match round % 4 {
            0 => drop(fs.create(&etc, b"hostname", &permissions(0o600)).unwrap()),
            1 => drop(fs.make_symlink(&etc, b"hostname", b"x", ROOT).unwrap()),
            2 => drop(fs.link(&passwd, &etc, b"hostname").unwrap()),
            _ => {
                fs.make_directory(&etc, b"hostname", &permissions(0o700))
                    .unwrap();
                fs.create(&fixture.node("etc/hostname"), b"x", &permissions(0o700))
                    .unwrap();
                fixture.looks();
                fs.unlink(&fixture.node("etc/hostname"), b"x").unwrap();
                fs.rmdir(&etc, b"hostname").unwrap();
                fs.create(&etc, b"hostname", &permissions(0o600)).unwrap();
            }
        }
        assert!(fixture.looks().contains_key("etc/hostname"));
    }
    assert_eq!(fixture.look("etc/passwd").attributes.links, 1);
}
