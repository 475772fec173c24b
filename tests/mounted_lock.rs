//! Needs root and FUSE. What `foldfs lock` locks no image alters, adds to or removes from, in whichever way
//! somebody tries; all else is as before.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on should panic"
)]

mod common;

#[path = "mounted_lock/command.rs"]
mod command;
#[path = "mounted_lock/opened.rs"]
mod opened;
#[path = "mounted_lock/places.rs"]
mod places;
#[path = "mounted_lock/ways.rs"]
mod ways;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use common::snapshot::{Fields, Snapshot};
use common::store::{Mounted, Ran, TestStore};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, lsetxattr, mknodat};
use rustix::io::Errno;
use ways::{WAYS, Way};

/// What the tests lock: of each kind one, and a file that has a name elsewhere.
fn fill(top: &Path) {
    let dir = top.join("dir");
    fs::create_dir_all(dir.join("sub/deep")).unwrap();
    fs::create_dir(dir.join("empty")).unwrap();
    fs::write(dir.join("file"), vec![b'f'; 10_000]).unwrap();
    fs::write(dir.join("sub/x"), "x").unwrap();
    fs::write(dir.join("linked"), "linked").unwrap();
    fs::hard_link(dir.join("linked"), top.join("alias")).unwrap();
    symlink("file", dir.join("symlink")).unwrap();
    let mode = Mode::from_raw_mode(0o644);
    mknodat(CWD, dir.join("fifo"), FileType::Fifo, mode, 0).unwrap();
    let flags = XattrFlags::empty();
    lsetxattr(dir.join("file"), "user.note", b"seen", flags).unwrap();
    fs::create_dir_all(top.join("other/empty")).unwrap();
    fs::write(top.join("other/file"), "other").unwrap();
}

/// A tree with `top`, of which the tests lock `top/dir`, and one that is like it for each way.
fn tree(place: &Path) {
    fs::create_dir(place).unwrap();
    fill(&place.join("top"));
    for way in WAYS {
        fill(&place.join(way.name));
    }
}

/// A store with a family of such images.
fn world(test: &str, images: &[&str]) -> Option<TestStore> {
    if !common::can_run(test, common::needs_fuse()) {
        return None;
    }
    let store = TestStore::new();
    let source = store.place.join("source");
    tree(&source);
    for image in images {
        store.import(image, &source, "family");
    }
    Some(store)
}

/// The arguments are words.
fn words(line: &str) -> Vec<&str> {
    line.split(' ').collect()
}

#[track_caller]
fn lock(store: &TestStore, line: &str) -> Ran {
    store.ok(&words(&format!("lock family {line}")))
}

/// Unmounts, and has the store checked.
fn finish(store: &TestStore, mounts: impl IntoIterator<Item = Mounted>) {
    mounts.into_iter().for_each(Mounted::unmount);
    store.wait_for_daemons();
    store.assert_sound();
}

/// Expects that no way leads to what is locked.
#[track_caller]
fn assert_locked(image: &Mounted) {
    let before = Snapshot::of(&image.join("top"));
    for Way { name, attempt } in WAYS {
        assert_eq!(attempt(&image.join("top")), Err(Errno::PERM), "{name}");
    }
    before.assert_same(
        &Snapshot::of(&image.join("top")),
        Fields::ALL,
        "something was altered",
    );
}

/// Expects that each way leads to what is not.
#[track_caller]
fn assert_free(image: &Mounted) {
    for Way { name, attempt } in WAYS {
        assert_eq!(attempt(&image.join(name)), Ok(()), "{name}");
    }
}

/// All ways, in an image that takes it all from the shared layer and in one whose files are its own.
fn no_way_leads_there(test: &str, configuration: &str) {
    let Some(store) = world(test, &["shared", "own"]) else {
        return;
    };
    store.configure(configuration);
    let (shared, own) = (store.mount("shared"), store.mount("own"));
    for path in ["file", "linked", "sub/x"] {
        fs::write(own.join("top/dir").join(path), "own content").unwrap();
    }
    fs::create_dir(own.join("top/dir/own")).unwrap();
    let refused = store.run(&words("lock family /top/dir")).exits(1);
    refused.says(&["own:/top/dir/file (altered)", "--adopt"]);
    assert_eq!(
        fs::write(shared.join("top/dir/file"), "free").ok(),
        Some(())
    );
    let differences = store
        .run(&words("lock family /top/dir --adopt --json"))
        .exits(3);
    let differences = differences.json()["differences"].to_string();
    for found in [
        r#""image":"shared","kind":"altered","path":"/top/dir/file"#,
        "/top/dir/own",
    ] {
        assert!(differences.contains(found), "{differences}");
    }
    assert_locked(&shared);
    assert_locked(&own);
    assert_eq!(fs::read(own.join("top/dir/file")).unwrap(), b"own content");
    assert_free(&shared);
    assert_free(&own);

    // It is none of the daemon's memory, nor of the images that there were.
    shared.unmount();
    own.unmount();
    store.wait_for_daemons();
    store.ok(&["fold"]);
    store.ok(&["clone", "own", "copy"]);
    store.import("later", &store.place.join("source"), "family");
    for image in ["own", "copy", "later"] {
        let mounted = store.mount(image);
        assert_locked(&mounted);
        mounted.unmount();
    }
    store.ok(&words("unlock family /top/dir"));
    let later = store.mount("later");
    assert_free(&later);
    for freed in [
        "write_only",
        "file_made",
        "xattr",
        "renamed",
        "alias_linked",
    ] {
        let way = WAYS.iter().find(|way| way.name == freed).unwrap();
        assert_eq!((way.attempt)(&later.join("top")), Ok(()), "{freed}");
    }
    finish(&store, [later]);
}

#[test]
fn what_is_locked_is_altered_in_no_way() {
    no_way_leads_there("what_is_locked_is_altered_in_no_way", "");
}

#[test]
fn what_is_locked_is_altered_in_no_way_without_passthrough() {
    let test = "what_is_locked_is_altered_in_no_way_without_passthrough";
    no_way_leads_there(test, "passthrough = false\n");
}
