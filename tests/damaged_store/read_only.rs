//! A store on media that cannot be written to.

use std::io::Write;
use std::os::unix::fs::MetadataExt;

use common::snapshot::Fields;
use common::store::{Mounted, tool};

use super::*;

/// What a bind mount, made read-only, or a loop device hides; unmounted when dropped.
struct Medium(PathBuf);

impl Drop for Medium {
    fn drop(&mut self) {
        let _gone = std::process::Command::new("umount").arg(&self.0).status();
    }
}

fn bind(store: &TestStore) -> Medium {
    let place = store.place.join("medium");
    fs::create_dir(&place).unwrap();
    tool(
        "mount",
        &[
            OsStr::new("--bind"),
            store.path.as_os_str(),
            place.as_os_str(),
        ],
    );
    let medium = Medium(place);
    tool(
        "mount",
        &[
            OsStr::new("-o"),
            OsStr::new("remount,bind,ro"),
            medium.0.as_os_str(),
        ],
    );
    medium
}

fn image_of_ext4(store: &TestStore) -> Medium {
    let (file, place) = (store.place.join("ext4"), store.place.join("medium"));
    fs::create_dir(&place).unwrap();
    fs::File::create(&file).unwrap().set_len(48 << 20).unwrap();
    let blocks = ["-q", "-b", "4096"].map(OsStr::new);
    tool("mkfs.ext4", &[&blocks[..], &[file.as_os_str()]].concat());
    tool(
        "mount",
        &[
            OsStr::new("-o"),
            OsStr::new("loop"),
            file.as_os_str(),
            place.as_os_str(),
        ],
    );
    let medium = Medium(place);
    let inside = medium.0.join("store");
    tool(
        "cp",
        &[
            OsStr::new("-aT"),
            store.path.as_os_str(),
            inside.as_os_str(),
        ],
    );
    tool("umount", &[medium.0.as_os_str()]);
    tool(
        "mount",
        &[
            OsStr::new("-o"),
            OsStr::new("loop,ro"),
            file.as_os_str(),
            medium.0.as_os_str(),
        ],
    );
    medium
}

/// The same store, as the medium has it.
fn on(store: &TestStore, path: PathBuf) -> TestStore {
    TestStore::on_medium(&store.place, path)
}

#[track_caller]
fn works(store: &TestStore, medium: &TestStore, fields: Fields) {
    let view = {
        let mounted = store.mount("other");
        mounted.snapshot()
    };
    store.wait_for_daemons();
    medium.ok(&["check"]);
    medium.assert_sound();
    medium.ok(&["list"]);
    medium.ok(&["status"]);
    medium.ok(&["why", "other", "etc/hosts"]);
    let export = store.place.join("export");
    medium.ok(&["export", "other", export.to_str().unwrap()]);
    for command in [
        &["fold"][..],
        &["collect"],
        &["remove", "other"],
        &["clone", "other", "x"],
    ] {
        medium.run(command).exits(1).says(&["ead-only"]);
    }
    let place = store.place.join("mnt-writable");
    fs::create_dir(&place).unwrap();
    medium
        .run(&["mount", "other", place.to_str().unwrap()])
        .exits(1)
        .says(&["read-only", "-o ro"]);
    medium.wait_for_daemons();
    let mounted: Mounted = medium.mount_with("other", "ro,dev,suid");
    view.assert_same(&mounted.snapshot(), fields, "read-only");
    let open = fs::File::options()
        .append(true)
        .open(mounted.join("etc/hosts"));
    let errno = open
        .and_then(|mut file| file.write_all(b"x"))
        .unwrap_err()
        .raw_os_error();
    assert_eq!(errno, Some(libc::EROFS));
    medium.run(&["list"]).exits(0);
    mounted.unmount();
    medium.wait_for_daemons();
    // What the daemon leaves outside the store.
    let found = medium.path.metadata().unwrap();
    fs::remove_dir_all(format!("/run/foldfs/{}-{}", found.dev(), found.ino())).unwrap();
}

#[test]
fn a_read_only_bind_mount_mounts_and_checks() {
    let Some(store) = two_images("a_read_only_bind_mount") else {
        return;
    };
    let medium = bind(&store);
    let there = on(&store, medium.0.clone());
    works(&store, &there, Fields::ALL);
}

#[test]
fn a_read_only_ext4_mounts_and_checks() {
    let Some(store) = two_images("a_read_only_ext4") else {
        return;
    };
    let medium = image_of_ext4(&store);
    let there = on(&store, medium.0.join("store"));
    // No copy keeps the ctime of what it copies.
    works(&store, &there, Fields::ALL.without(Fields::CTIME));
}

#[test]
fn a_store_that_was_not_closed_is_refused_there() {
    let Some(store) = two_images("a_store_that_was_not_closed") else {
        return;
    };
    fs::write(store.path.join("catalog.db-wal"), "what was not closed").unwrap();
    let medium = bind(&store);
    let there = on(&store, medium.0.clone());
    for command in [&["check"][..], &["list"], &["status"]] {
        there
            .run(command)
            .exits(1)
            .says(&["not closed cleanly", "mount it writable"]);
    }
}
