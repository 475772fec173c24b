//! What is invisible: private directories, stubs, the index.

use std::sync::Arc;

use super::super::node::Node;
use super::assert_changed;
use super::fixture::{CTIME, Fixture, permissions};
use crate::store::mark::Shown;

const FILES: [&str; 8] = [
    "etc/passwd",
    "etc/empty",
    "etc/shell",
    "usr/link",
    "dev/null",
    "dev/fifo",
    "dev/socket",
    "usr/deep/a/b/file",
];

fn invisibly(fixture: &Fixture, path: &str, change: impl Fn(&Arc<Node>)) {
    let before = fixture.looks();
    {
        let node = fixture.node(path);
        let _names = fixture.fs.names.write();
        change(&node);
    }
    assert_changed(&before, &fixture.looks(), &[]);
}

#[test]
fn private_directories_do_not_show() {
    let fixture = Fixture::new();
    for path in ["", "usr/deep/a/b", "usr/deep", "shared-gid"] {
        invisibly(&fixture, path, |node| {
            fixture.fs.ensure_private_directory(node).unwrap();
        });
    }
    assert_eq!(fixture.private_names("usr/deep/a"), ["b"]);
}

#[test]
fn a_directory_of_its_own_does_not_show() {
    let fixture = Fixture::new();
    for path in ["usr/deep/a", "shared-gid", "acl", "", "usr"] {
        invisibly(&fixture, path, |node| {
            fixture.fs.own_directory(node).unwrap()
        });
    }
    // A directory below one that has times of its own.
    invisibly(&fixture, "usr/deep/a/b", |node| {
        fixture.fs.ensure_private_directory(node).unwrap();
    });
}

#[test]
fn stubs_do_not_show() {
    let fixture = Fixture::new();
    for path in FILES {
        invisibly(&fixture, path, |node| fixture.fs.stub(node).unwrap());
    }
    assert!(fixture.fs.view.is_indexed(fixture.node("etc/shell").number));
    assert_eq!(fixture.look("usr/bin/sh").attributes.links, 3);
    assert_eq!(fixture.private_names("usr/bin"), Vec::<String>::new());
}

#[test]
fn stubs_in_a_directory_with_times_of_its_own_do_not_show() {
    let fixture = Fixture::new();
    for path in ["etc", "usr", "dev"] {
        fixture
            .fs
            .create(&fixture.node(path), b"new", &permissions(0o644))
            .unwrap();
    }
    for path in FILES {
        invisibly(&fixture, path, |node| fixture.fs.stub(node).unwrap());
    }
}

#[test]
fn the_index_does_not_show() {
    let fixture = Fixture::new();
    fixture
        .fs
        .create(&fixture.node("etc"), b"new", &permissions(0o644))
        .unwrap();
    invisibly(&fixture, "etc/new", |node| fixture.fs.index(node).unwrap());
    for path in FILES {
        invisibly(&fixture, path, |node| fixture.fs.index(node).unwrap());
    }
    for path in ["etc/new", "etc/passwd"] {
        assert_eq!(fixture.look(path).attributes.links, 1);
    }
}

#[test]
fn shown_times_go_with_the_guests_first_change() {
    let fixture = Fixture::new();
    let node = fixture.node("etc/passwd");
    let names = fixture.fs.names.write();
    fixture.fs.stub(&node).unwrap();
    let (_, mark) = fixture.fs.host_inode(&node).unwrap();
    assert_eq!(
        mark.shown,
        Shown {
            ctime: Some(CTIME),
            mtime: None
        }
    );
    fixture.fs.drop_shown(&node).unwrap();
    let (_, mark) = fixture.fs.host_inode(&node).unwrap();
    assert_eq!(mark.shown, Shown::default());
    drop(names);

    let before = fixture.looks();
    let usr = fixture.node("usr");
    let names = fixture.fs.names.write();
    fixture.fs.own_directory(&usr).unwrap();
    fixture
        .fs
        .ensure_private_directory(&fixture.fs.child(&usr, b"bin").unwrap().unwrap())
        .unwrap();
    fixture.fs.change_names(&[&usr], || Ok(())).unwrap();
    drop(names);
    let after = fixture.looks();
    assert_changed(&before, &after, &["usr"]);
    assert_eq!(
        before["usr"].attributes.mtime,
        after["usr"].attributes.mtime
    );
    assert!(before["usr"].attributes.ctime < after["usr"].attributes.ctime);
}
