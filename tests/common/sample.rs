//! The tree that the operations start from: one of each kind, and what other file systems of this
//! sort get wrong.

use std::fs::{self, File, Permissions};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, lsetxattr, mknodat, utimensat,
};

use super::{at, op};

/// Makes the tree. `variant` 0 is the first image's; others differ from it in some files.
pub fn make(root: &Path, variant: u32) {
    super::fix_umask();
    fs::create_dir(root).unwrap();
    for directory in [
        "etc",
        "etc/conf.d",
        "usr",
        "usr/bin",
        "usr/lib/deep/deeper",
        "var/log",
        "empty",
    ] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    write(root, "etc/hosts", b"127.0.0.1 localhost\n");
    write(root, "etc/conf.d/a.conf", b"a = 1\n");
    write(root, "etc/conf.d/b.conf", b"b = 2\n");
    write(root, "usr/bin/tool", &op::pattern(1, 70_000));
    write(root, "usr/bin/other", &op::pattern(2, 9_000));
    write(root, "usr/lib/deep/deeper/data", &op::pattern(3, 4096));
    write(root, "empty file", b"");
    mode(root, "usr/bin/tool", 0o4755);
    mode(root, "usr/bin/other", 0o755);
    mode(root, "var/log", 0o2775);
    mode(root, "empty", 0o1777);
    chown(root.join("var/log"), Some(0), Some(50)).unwrap();
    chown(root.join("etc/conf.d/b.conf"), Some(1000), Some(1000)).unwrap();

    for (from, to) in [
        ("usr/bin/tool", "usr/bin/tool2"),
        ("usr/bin/tool", "etc/tool"),
        ("etc/conf.d/a.conf", "usr/lib/a.conf"),
    ] {
        fs::hard_link(root.join(from), root.join(to)).unwrap();
    }
    symlink("hosts", root.join("etc/link")).unwrap();
    symlink("/nowhere/at all", root.join("usr/dangling")).unwrap();
    // xfs takes 1023 bytes at most.
    symlink(bytes(&[b's'; 4000]), root.join("usr/long link"))
        .or_else(|_| symlink(bytes(&[b's'; 1000]), root.join("usr/long link")))
        .unwrap();
    fs::hard_link(root.join("etc/link"), root.join("usr/link too")).unwrap();

    node(root, "etc/fifo", FileType::Fifo, 0);
    node(root, "etc/socket", FileType::Socket, 0);
    node(
        root,
        "etc/null",
        FileType::CharacterDevice,
        rustix::fs::makedev(1, 3),
    );
    node(root, "etc/zero", FileType::CharacterDevice, 0);
    node(
        root,
        "etc/block",
        FileType::BlockDevice,
        rustix::fs::makedev(7, 9),
    );

    let sparse = File::create(root.join("usr/sparse")).unwrap();
    sparse.set_len(1 << 19).unwrap();
    sparse.write_all_at(b"in the middle", 200_000).unwrap();

    let long = root.join(bytes(&[b'L'; 255]));
    fs::create_dir(&long).unwrap();
    fs::write(long.join(bytes(&[b'l'; 255])), b"long names").unwrap();
    fs::write(root.join(bytes(b"\xff\xfe\x01 bytes")), b"not UTF-8").unwrap();

    xattr(root, "etc/hosts", "user.note", b"seen");
    xattr(root, "etc/hosts", "trusted.note", b"\x00binary\xff");
    xattr(root, "etc/link", "trusted.on_link", b"1");
    xattr(root, "etc/conf.d", "trusted.overlay.opaque", b"y");
    xattr(root, "usr/bin/other", "trusted.foldfs", b"not a mark");
    xattr(root, "etc/zero", "security.foldfs_test", b"x");
    xattr(root, "usr", "user.large", &op::pattern(4, 900));
    acl(root, "etc/conf.d/b.conf", "access", 1);
    acl(root, "usr/lib", "default", 1);
    acl(root, "usr/lib", "access", 3);
    acl(root, "etc/fifo", "access", 2);

    if variant > 0 {
        write(
            root,
            "etc/hosts",
            format!("10.0.0.{variant} host\n").as_bytes(),
        );
        write(
            root,
            "usr/lib/only",
            format!("only in {variant}").as_bytes(),
        );
        fs::remove_file(root.join("usr/bin/other")).unwrap();
        fs::remove_file(root.join("usr/bin/tool2")).unwrap();
        fs::create_dir(root.join("var/extra")).unwrap();
        write(root, "var/extra/file", b"more");
        mode(root, "etc/conf.d/a.conf", 0o600);
    }
    set_times(root);
}

/// A copy of a tree by `cp -a`, the oracle of everything.
pub fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp")
        .arg("-aT")
        .arg(from)
        .arg(to)
        .status()
        .unwrap();
    assert!(
        status.success(),
        "cp -aT {} {}",
        from.display(),
        to.display()
    );
}

fn bytes(name: &[u8]) -> PathBuf {
    std::ffi::OsStr::from_bytes(name).into()
}

fn write(root: &Path, path: &str, content: &[u8]) {
    fs::write(root.join(path), content).unwrap();
}

fn mode(root: &Path, path: &str, mode: u32) {
    fs::set_permissions(root.join(path), Permissions::from_mode(mode)).unwrap();
}

fn node(root: &Path, path: &str, file_type: FileType, device: u64) {
    mknodat(
        CWD,
        root.join(path),
        file_type,
        Mode::from_raw_mode(0o640),
        device,
    )
    .unwrap();
}

fn xattr(root: &Path, path: &str, name: &str, value: &[u8]) {
    lsetxattr(root.join(path), name, value, XattrFlags::empty())
        .unwrap_or_else(|error| panic!("{path}: {name}: {error}"));
}

fn acl(root: &Path, path: &str, kind: &str, value: u8) {
    let name = format!("system.posix_acl_{kind}");
    xattr(root, path, &name, &op::xattr_value(&name, value));
}

/// Times that nothing happens to have: nanoseconds, some before 1970; the deepest first, because
/// nothing below a directory changes its times then.
fn set_times(root: &Path) {
    let open = at::open_root(root);
    let snapshot =
        super::snapshot::Snapshot::take(open.as_fd(), super::snapshot::Depth::Attributes);
    for (index, path) in snapshot.entries.keys().rev().enumerate() {
        let (directory, name) = at::parent(open.as_fd(), path).unwrap();
        let tv_sec = if index % 5 == 0 {
            -1_000
        } else {
            1_600_000_000
        } - index as i64;
        let time = Timespec {
            tv_sec,
            tv_nsec: 123_456_789 + index as i64,
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        utimensat(&directory, name, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}
