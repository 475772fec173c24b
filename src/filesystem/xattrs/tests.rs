use super::*;
use crate::filesystem::set_attributes::Changes;
use crate::filesystem::test_image::{OLD, ROOT, TestImage};
use crate::store::mark;

const NOBODY: Caller = Caller {
    uid: 65534,
    gid: 65534,
    pid: 0,
};

fn set(image: &TestImage, path: &str, name: &str, value: &[u8], how: SetXattr) -> Outcome<()> {
    let node = image.node(path);
    image
        .fs
        .set_xattr(&node, name.as_bytes(), value, how, &ROOT)
}

#[test]
fn shared_xattrs_are_read_and_changed() {
    let image = TestImage::new();
    for path in ["dir/file", "dir", "twin", ""] {
        let node = image.node(path);
        assert_eq!(image.fs.xattr(&node, b"user.kind").unwrap(), b"shared");
        let before = image.fs.attributes(&node).unwrap();
        set(&image, path, "user.kind", b"own", SetXattr::Replace).unwrap();
        set(&image, path, "trusted.foldfs", b"guest", SetXattr::Create).unwrap();
        assert_eq!(image.fs.xattr(&node, b"user.kind").unwrap(), b"own");
        assert_eq!(image.fs.xattr(&node, b"trusted.foldfs").unwrap(), b"guest");
        let mut names = image.fs.xattr_names(&node, &ROOT).unwrap();
        names.sort();
        assert_eq!(names, [&b"trusted.foldfs"[..], b"user.kind"]);
        let names = image.fs.xattr_names(&node, &NOBODY).unwrap();
        assert_eq!(names, [b"user.kind"]);
        image.fs.remove_xattr(&node, b"user.kind").unwrap();
        image.fs.remove_xattr(&node, b"trusted.foldfs").unwrap();
        assert!(image.fs.xattr_names(&node, &ROOT).unwrap().is_empty());
        let after = image.fs.attributes(&node).unwrap();
        assert_eq!((after.mtime, after.number), (OLD, before.number));
        assert!(after.ctime > before.ctime);
    }
}

#[test]
fn refusals_are_those_of_ext4_and_leave_no_trace() {
    let image = TestImage::new();
    let node = image.node("dir/file");
    let before = image.fs.attributes(&node).unwrap();
    let refused = |name: &str, value: &[u8], how| {
        let outcome = set(&image, "dir/file", name, value, how);
        outcome.unwrap_err().errno()
    };
    assert_eq!(refused("user.kind", b"", SetXattr::Create), Errno::EXIST);
    assert_eq!(refused("user.no", b"", SetXattr::Replace), Errno::NODATA);
    assert_eq!(refused("system.no", b"", SetXattr::Any), Errno::OPNOTSUPP);
    assert_eq!(refused("no", b"", SetXattr::Any), Errno::OPNOTSUPP);
    assert_eq!(refused("user.", b"", SetXattr::Any), Errno::INVAL);
    assert_eq!(
        refused("user.big", &[0; 65537], SetXattr::Any),
        Errno::TOOBIG
    );
    let long = format!("trusted.foldfs{}", "x".repeat(241));
    assert_eq!(refused(&long, b"", SetXattr::Any), Errno::RANGE);
    let default = "system.posix_acl_default";
    assert_eq!(refused(default, b"x", SetXattr::Any), Errno::ACCESS);
    let remove = |name: &str| image.fs.remove_xattr(&node, name.as_bytes());
    assert_eq!(remove("user.no").unwrap_err().errno(), Errno::NODATA);
    remove("system.posix_acl_access").unwrap();
    let get = |name: &str| image.fs.xattr(&node, name.as_bytes()).unwrap_err().errno();
    assert_eq!(get("user.no"), Errno::NODATA);
    assert_eq!(get(mark::NAME), Errno::NODATA);
    assert_eq!(get("trusted.foldfs.g"), Errno::NODATA);
    assert_eq!(image.node("dir/file").source(), Source::Shared(node.number));
    // These get as far as the host.
    assert_eq!(
        refused("user.big", &[0; 65000], SetXattr::Any),
        Errno::NOSPC
    );
    let access = "system.posix_acl_access";
    assert_eq!(
        refused(access, b"\x02\0\0\0odd", SetXattr::Any),
        Errno::INVAL
    );
    let after = image.fs.attributes(&node).unwrap();
    assert_eq!((after.mtime, after.ctime), (before.mtime, before.ctime));
}

/// user::rw-, user:7:r--, group::r--, mask::rw-, other::---
fn entries() -> Vec<u8> {
    let mut value = 2u32.to_le_bytes().to_vec();
    let entries = [
        (1, 6, u32::MAX),
        (2, 4, 7),
        (4, 4, u32::MAX),
        (16, 6, u32::MAX),
        (32, 0, u32::MAX),
    ];
    for (tag, permissions, id) in entries {
        value.extend_from_slice(&u16::to_le_bytes(tag));
        value.extend_from_slice(&u16::to_le_bytes(permissions));
        value.extend_from_slice(&id.to_le_bytes());
    }
    value
}

#[test]
fn an_access_acl_changes_the_mode_and_may_take_set_gid() {
    let image = TestImage::new();
    let node = image.node("dir/file");
    let changes = Changes {
        mode: Some(0o2755),
        gid: Some(50),
        ..Changes::default()
    };
    let name = acl::ACCESS;
    for (caller, mode) in [
        (ROOT, 0o2660),
        (Caller { gid: 50, ..NOBODY }, 0o2660),
        (NOBODY, 0o660),
    ] {
        image
            .fs
            .set_attributes(
                &node,
                &Changes {
                    mode: None,
                    ..changes
                },
            )
            .unwrap();
        image
            .fs
            .set_attributes(
                &node,
                &Changes {
                    gid: None,
                    ..changes
                },
            )
            .unwrap();
        image
            .fs
            .set_xattr(&node, name, &entries(), SetXattr::Any, &caller)
            .unwrap();
        assert_eq!(image.fs.attributes(&node).unwrap().mode, mode, "{caller:?}");
        assert_eq!(image.fs.xattr(&node, name).unwrap(), entries());
        image.fs.remove_xattr(&node, name).unwrap();
    }
}

#[test]
fn names_of_trusted_xattrs_are_shown_to_administrators_only() {
    let image = TestImage::new();
    set(&image, "dir", "trusted.a", b"1", SetXattr::Any).unwrap();
    let own = Caller {
        uid: 1,
        gid: 1,
        pid: std::process::id(),
    };
    let node = image.node("dir");
    assert_eq!(image.fs.xattr_names(&node, &own).unwrap().len(), 2);
    assert_eq!(image.fs.xattr_names(&node, &NOBODY).unwrap().len(), 1);
}

#[test]
fn what_is_no_change_to_ext4_leaves_the_times() {
    let image = TestImage::new();
    let node = image.node("dir/file");
    let before = image.fs.attributes(&node).unwrap();
    set(&image, "dir/file", "user.kind", b"shared", SetXattr::Any).unwrap();
    assert_eq!(node.source(), Source::Shared(node.number));
    // user::rw- group::r-- other::r--: the mode says so already.
    let minimal: Vec<u8> = [&entries()[..12], &entries()[20..28], &entries()[36..44]].concat();
    let minimal = [&minimal[..22], &[4, 0], &minimal[24..]].concat();
    let name = "system.posix_acl_access";
    set(&image, "dir/file", name, &minimal, SetXattr::Any).unwrap();
    let after = image.fs.attributes(&node).unwrap();
    assert_eq!((after.mode, after.ctime), (before.mode, before.ctime));
    set(&image, "dir/file", "user.kind", b"own", SetXattr::Any).unwrap();
    assert!(image.fs.attributes(&node).unwrap().ctime > before.ctime);
}
