//! A store that was exported while its images were at work, on a medium that nobody can write to. Needs root and FUSE.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on should panic"
)]

mod common;

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use common::device::{Device, Kind};
use common::op;
use common::snapshot::{Fields, Snapshot};
use common::store::{TestStore, run, tool};

/// A file system in a file, mounted read-only; unmounted when dropped.
struct Medium(PathBuf);

impl Drop for Medium {
    fn drop(&mut self) {
        let _gone = std::process::Command::new("umount").arg(&self.0).status();
    }
}

/// What a medium that was written once has: an ext4 made of a directory.
fn medium(place: &Path, content: &Path) -> Medium {
    let (file, mount) = (place.join("ext4"), place.join("medium"));
    fs::create_dir(&mount).unwrap();
    fs::File::create(&file).unwrap().set_len(64 << 20).unwrap();
    let (file, at) = (file.to_str().unwrap(), mount.to_str().unwrap());
    tool("mkfs.ext4", &["-q", "-b", "4096", file]);
    tool("mount", &["-o", "loop", file, at]);
    let medium = Medium(mount.clone());
    tool("cp", &["-a", content.to_str().unwrap(), at]);
    tool("umount", &[at]);
    tool("mount", &["-o", "loop,ro", file, at]);
    medium
}

fn can_run(test: &str) -> bool {
    let missing = common::needs_fuse().or_else(|| Device::missing(Kind::Ext4));
    common::can_run(test, missing)
}

/// Three images of a family, and one of another; the guest of `two` has done something.
fn store() -> TestStore {
    let store = TestStore::new();
    for (name, variant, family) in [
        ("one", 0, "f"),
        ("two", 1, "f"),
        ("three", 1, "f"),
        ("other", 0, "g"),
    ] {
        store.import(name, &store.sample(variant), family);
    }
    store
}

fn live_in(root: &Path) {
    fs::write(root.join("etc/hosts"), "its own\n").unwrap();
    fs::write(root.join("large"), op::pattern(7, 3 << 20)).unwrap();
    fs::hard_link(root.join("large"), root.join("etc/large")).unwrap();
    fs::rename(root.join("usr/lib"), root.join("lib-elsewhere")).unwrap();
    fs::remove_dir_all(root.join("etc/conf.d")).unwrap();
    fs::create_dir(root.join("etc/conf.d")).unwrap();
}

#[test]
fn what_was_exported_from_guests_at_work_mounts_from_a_read_only_medium() {
    if !can_run("what_was_exported_from_guests_at_work") {
        return;
    }
    let store = store();
    let mounted = store.mount("two");
    live_in(&mounted.path);
    let mut open = fs::File::create(mounted.join("open")).unwrap();
    open.write_all(b"not closed").unwrap();
    let exported = store.place.join("exported");
    let name = exported.to_str().unwrap();
    let said = store.ok(&["export", "f", name, "--format", "store", "--image", "two"]);
    let said = said.text();
    assert!(said.contains("store with f, two written to"), "{said}");
    drop(open);
    let expected = mounted.snapshot();
    mounted.unmount();
    store.wait_for_daemons();

    let medium = medium(&store.place, &exported);
    let there = TestStore::on_medium(&store.place, medium.0.join("exported"));
    there.assert_sound();
    let listed = there.ok(&["list", "--json"]).json();
    let images = listed["images"].as_array().unwrap().iter();
    let images: Vec<_> = images
        .map(|image| image["name"].as_str().unwrap())
        .collect();
    assert_eq!(images, ["f", "two"]);
    {
        let mounted = there.mount_with("two", "ro,dev,suid");
        // Every number and time, ctime included.
        expected.assert_same(&mounted.snapshot(), Fields::ALL, "from the medium");
        let refused = fs::write(mounted.join("etc/hosts"), "x").unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    }
    there.wait_for_daemons();
    for command in [
        &["fold"][..],
        &["clone", "two", "new"],
        &["patch", "apply", name, "--family", "f"],
        &["collect"],
        &["remove", "two"],
    ] {
        there.run(command).exits(1).says(&["ead-only"]);
    }
    let found = there.path.metadata().unwrap();
    fs::remove_dir_all(format!("/run/foldfs/{}-{}", found.dev(), found.ino())).unwrap();

    // Another store takes an image from it, by itself or as an archive.
    let home = TestStore::new();
    home.import("here", &store.sample(1), "f");
    let medium = there.path.as_os_str();
    let direct: [&OsStr; 8] = [
        "import", "direct", "", "--image", "two", "--family", "f", "--json",
    ]
    .map(|word| match word {
        "" => medium,
        word => OsStr::new(word),
    });
    let report = home.ok(&direct).json();
    assert_eq!(report["family"], "f", "{report}");
    let new = report["new_bytes"].as_u64().unwrap();
    let logical = report["logical_bytes"].as_u64().unwrap();
    assert!(new < logical && new >= 3 << 20, "{report}");
    let archive = there.ok(&["export", "two", "-", "--format", "tar"]).stdout;
    let mut import = home.command(&["import", "two", "-", "--json", "--family", "f"]);
    let report = run(&mut import, &archive).exits(0).json();
    assert_eq!(report["new_bytes"], 0, "{report}");
    for name in ["direct", "two"] {
        let mounted = home.mount(name);
        expected.assert_same(&mounted.snapshot(), Fields::COPY, name);
    }
    home.assert_sound();
    let listed = home.ok(&["list", "--json"]).json();
    let from = listed["images"][0]["source"].as_str().unwrap();
    assert!(from.ends_with("exported, image two"), "{listed}");

    // What cannot be taken.
    let with = |name: &str, place: &OsStr, image: &str| {
        let words = [
            OsStr::new("import"),
            OsStr::new(name),
            place,
            OsStr::new("--image"),
            OsStr::new(image),
        ];
        home.run(&words)
    };
    with("new", medium, "nobody")
        .exits(1)
        .says(&["there is no such image or family"]);
    with("new", home.path.as_os_str(), "two")
        .exits(2)
        .says(&["it is this store", "foldfs clone"]);
    with("new", store.place.as_os_str(), "two")
        .exits(1)
        .says(&["it is no store"]);
    assert_eq!(fs::read_dir(home.path.join("staging")).unwrap().count(), 0);
}

#[test]
fn one_that_does_not_fit_leaves_nothing() {
    if !can_run("one_that_does_not_fit") {
        return;
    }
    let store = store();
    {
        let mounted = store.mount("two");
        live_in(&mounted.path);
        fs::write(mounted.join("more"), op::pattern(9, 16 << 20)).unwrap();
    }
    store.wait_for_daemons();
    let small = Device::new(Kind::Ext4, 16);
    let before = Snapshot::of(&small.path);
    let destination = small.path.join("exported");
    let destination = destination.to_str().unwrap();
    let command = ["export", "two", destination, "--format", "store"];
    store.run(&command).exits(1).says(&["No space left"]);
    before.assert_same(
        &Snapshot::of(&small.path),
        Fields::COPY.without(Fields::DIRECTORY_MTIME),
        "what was there",
    );
    store.assert_sound();
    store
        .run(&["export", "two", "x", "--image", "one"])
        .exits(2)
        .says(&["--format store"]);
}
