//! The store that every operation is tried on.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use foldfs::filesystem::failure::Outcome;
use foldfs::store::Store;
use foldfs::store::metadata::FileType;
use rustix::fs::{CWD, Mode, XattrFlags, lsetxattr, mknodat};

use super::common::op;
use super::family::guest::Guest;
use super::family::{settle_at, symlink, write};
use super::world::World;

/// More than one piece of everything that reads in pieces of 64 KiB.
const LARGE: usize = 150_000;

/// user::rwx user:7:rwx group::r-x mask::rwx other::---
pub const DEFAULT_ACL: &[u8] = &[
    2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 7, 0, 7, 0, 0, 0, 4, 0, 5, 0, 255, 255, 255,
    255, 16, 0, 7, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255,
];

/// Makes `place` a world: three images of a family, in which guests have done all kinds of things,
/// and a link to trees to import, which lie beside it.
pub fn make(place: &Path) {
    let store = place.join("store");
    let sources = place.with_file_name("sources");
    fs::create_dir(place).unwrap();
    fs::create_dir(&sources).unwrap();
    std::os::unix::fs::symlink(&sources, place.join("sources")).unwrap();
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
        live_in(&world.guest(image).unwrap()).unwrap();
    }
    world.context.store.sync().unwrap();
}

/// Leaves something of every kind in an image.
fn live_in(guest: &Guest) -> Outcome<()> {
    guest.mkdir("own")?;
    guest.mkdir("own/empty")?;
    guest.put("own/file", b"a private file")?;
    guest.put("own/large", &op::pattern(9, LARGE as u32))?;
    guest.put("own/known", b"content of opt/z")?;
    guest.put("own/one", b"a private file of two names")?;
    guest.link("own/one", "own/two")?;
    guest.put("own/last", b"the last of its names")?;
    guest.link("own/last", "own/temporary")?;
    guest.unlink("own/temporary")?;
    guest.mknod("own/fifo", FileType::Fifo)?;
    guest.mknod("own/device", FileType::CharDevice)?;
    guest.mknod("own/socket", FileType::Socket)?;
    guest.symlink("a/target", "own/link")?;
    guest.chown("own/fifo")?;
    guest.put("own/setgid", b"locked as System V does")?;
    guest.chmod("own/setgid", 0o2644)?;
    guest.unlink("gone")?;
    guest.unlink("emptied/file")?;
    guest.chmod("stub", 0o600)?;
    guest.rename("opt/x", "own/moved")?;
    guest.write_at("usr/lib/a/d", 3, b"promoted")?;
    guest.set_xattr("own/file", b"user.own", b"1")?;
    guest.set_xattr("own/file", b"trusted.foldfs", b"2")?;
    // Opaque: made anew over a shared one.
    guest.rmdir("hollow")?;
    guest.mkdir("hollow")
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
    mknodat(
        CWD,
        root.join("etc/fifo"),
        rustix::fs::FileType::Fifo,
        mode,
        0,
    )
    .unwrap();
    let null = rustix::fs::makedev(1, 3);
    mknodat(
        CWD,
        root.join("etc/null"),
        rustix::fs::FileType::CharacterDevice,
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
