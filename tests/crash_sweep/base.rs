//! The store that every operation is tried on.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use foldfs::store::Store;
use rustix::fs::{CWD, FileType, Mode, XattrFlags, lsetxattr, mknodat};

use super::common::op;
use super::family::{settle_at, symlink, write};
use super::operations::Hands;
use super::world::World;

/// More than one piece of everything that reads in pieces of 64 KiB.
const LARGE: usize = 150_000;

/// user::rwx user:7:rwx group::r-x mask::rwx other::---
pub const DEFAULT_ACL: &[u8] = &[
    2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 7, 0, 7, 0, 0, 0, 4, 0, 5, 0, 255, 255, 255,
    255, 16, 0, 7, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255,
];

/// Makes `place` a world: three images of a family, in which guests have done all kinds of things,
/// and trees to import.
pub fn make(place: &Path) {
    let store = place.join("store");
    fs::create_dir_all(place.join("sources")).unwrap();
    drop(Store::init(&store).unwrap());
    let world = World::open(place).unwrap();
    for (name, version) in [("old", 1), ("new", 2), ("other", 3)] {
        tree(&world.source(name), version);
    }
    let archive = world.source("tree.tar");
    let status = Command::new("tar")
        .args(["--xattrs", "--xattrs-include=*", "--sparse", "-C"])
        .arg(world.source("other"))
        .arg("-cf")
        .arg(&archive)
        .arg(".")
        .status();
    assert!(status.unwrap().success());
    twice(&world.source("twice.tar"), &archive, &world.source("other"));
    tree(&world.source("less"), 2);
    take_away(&world.source("less"));
    for (name, source) in [("one", "old"), ("two", "new"), ("three", "new")] {
        world.import(name, source, "family").unwrap();
    }
    for image in ["one", "two"] {
        let hands = Hands::on(&world, image).unwrap();
        hands.live_in();
    }
    world.context.store.sync().unwrap();
}

/// An archive with a member that a later one replaces, both of new content.
fn twice(path: &Path, archive: &Path, root: &Path) {
    fs::copy(archive, path).unwrap();
    let member = root.join("only/3");
    let before = fs::read(&member).unwrap();
    for content in ["replaced", "what replaces it"] {
        fs::write(&member, content).unwrap();
        let status = Command::new("tar")
            .arg("-C")
            .arg(root)
            .arg("-rf")
            .arg(path)
            .arg("./only/3")
            .status();
        assert!(status.unwrap().success());
    }
    fs::write(&member, before).unwrap();
}

/// Names and links fewer than others have.
fn take_away(root: &Path) {
    fs::remove_file(root.join("gone")).unwrap();
    fs::remove_dir_all(root.join("usr/lib")).unwrap();
    fs::remove_file(root.join("usr/bin/bash")).unwrap();
    fs::remove_file(root.join("several/second")).unwrap();
    write(root, "several/own", "two names that nobody else has");
    fs::hard_link(root.join("several/own"), root.join("several/too")).unwrap();
    settle_at(root, 1_100_000_000);
}

fn tree(root: &Path, version: u32) {
    for path in [
        "etc/passwd",
        "usr/bin/sh",
        "usr/lib/a/b/c",
        "usr/lib/a/d",
        "usr/deep/a/b",
        "opt/x/y",
        "opt/z",
        "emptied/file",
        "gone",
        "stub",
        "several/first",
        "over/target",
    ] {
        write(root, path, &format!("content of {path}"));
    }
    write(root, "etc/hosts", &format!("version {version}"));
    write(root, "etc/empty", "");
    write(root, &format!("only/{version}"), "of this version");
    fs::create_dir(root.join("hollow")).unwrap();
    let large = root.join("var/large");
    write(root, "var/large", "");
    fs::write(&large, op::pattern(7, LARGE as u32)).unwrap();
    if version == 3 {
        // Large enough to be read in pieces, with a hole at its end.
        let new = root.join("var/new");
        fs::write(&new, op::pattern(11, 3 << 20)).unwrap();
        let file = fs::File::options().write(true).open(&new).unwrap();
        file.set_len(4 << 20).unwrap();
    }
    let holes = fs::File::create(root.join("var/holes")).unwrap();
    holes.set_len(1 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&holes, b"end", (1 << 20) - 3).unwrap();
    for (old, new) in [
        ("usr/bin/sh", "usr/bin/bash"),
        ("usr/bin/sh", "etc/shell"),
        ("several/first", "several/second"),
    ] {
        fs::hard_link(root.join(old), root.join(new)).unwrap();
    }
    let mode = Mode::from_raw_mode(0o640);
    mknodat(CWD, root.join("etc/fifo"), FileType::Fifo, mode, 0).unwrap();
    let null = rustix::fs::makedev(1, 3);
    mknodat(
        CWD,
        root.join("etc/null"),
        FileType::CharacterDevice,
        mode,
        null,
    )
    .unwrap();
    fs::create_dir(root.join("acl")).unwrap();
    let set = |path: &str, name: &str, value: &[u8]| {
        lsetxattr(root.join(path), name, value, XattrFlags::empty()).unwrap();
    };
    set("acl", "system.posix_acl_default", DEFAULT_ACL);
    set("etc/passwd", "user.note", b"a note");
    set("opt/z", "trusted.foldfs", b"a guest's");
    let mode = fs::Permissions::from_mode(0o6755);
    fs::set_permissions(root.join("opt/x/y"), mode).unwrap();
    assert!(fs::metadata(&large).unwrap().size() == LARGE as u64);
    // All directories of all versions are alike, and so are the files.
    let _now = Command::new("find")
        .arg(root)
        .args([
            "-not",
            "-type",
            "d",
            "-exec",
            "touch",
            "-hd",
            "@1000000000",
            "{}",
            "+",
        ])
        .status();
    symlink(root, "hosts", "etc/link");
    settle_at(root, 1_100_000_000);
}
