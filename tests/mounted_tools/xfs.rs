//! Stores on xfs, which differs from ext4 in what it shows.

use std::fs;

use super::common::device::{Device, Kind};
use super::common::{can_run, needs_fuse};
use super::*;

#[test]
fn images_work_on_xfs() {
    let test = "images_work_on_xfs";
    if !can_run(test, needs_fuse().or(Device::missing(Kind::Xfs))) {
        return;
    }
    let device = Device::new(Kind::Xfs, 400);
    let store = TestStore::at(&device.path);
    let tree = store.sample(0);
    store.import("first", &tree, "family");
    store.import("second", &tree, "family");
    let (first, second) = (store.mount("first"), store.mount("second"));
    first.assert_shows(&tree);
    script(
        &first.path,
        "cp -a usr copy; sed -i s/a/b/ etc/hosts; mv etc usr/etc; rm -rf copy/lib",
    )
    .exits(0);
    let shown = first.snapshot();
    store.ok(&["fold"]);
    shown.assert_same(&first.snapshot(), Fields::ALL, "a fold shows");
    second.assert_shows(&tree);
    finish(&store, [first, second]);
}

/// xfs lists an ACL twice, by a name of its own beside the usual one: it goes with the ACL, nobody
/// set it, and a copy on another file system must not have it.
#[test]
fn an_acl_is_one_xattr_on_xfs() {
    let test = "an_acl_is_one_xattr_on_xfs";
    if !can_run(test, needs_fuse().or(Device::missing(Kind::Xfs))) {
        return;
    }
    let device = Device::new(Kind::Xfs, 400);
    let store = TestStore::at(&device.path);
    let tree = store.place.join("tree");
    fs::create_dir(&tree).unwrap();
    script(
        &tree,
        "echo old > old; setfacl -m u:5:rw old; setfattr -n trusted.SGI_ACL -v 1 old",
    )
    .exits(0);
    store.import("first", &tree, "family");
    store.import("second", &tree, "family");
    let (first, second) = (store.mount("first"), store.mount("second"));
    let names = "getfattr -m - old | grep -o SGI.*";
    assert_eq!(script(&tree, names).text(), "SGI_ACL\nSGI_ACL_FILE\n");
    assert_eq!(script(&first.path, names).text(), "SGI_ACL\n");
    for image in [&first, &second] {
        // Were the content made an object, its xattrs would be removed one by one.
        script(
            &image.path,
            "seq 9999 > new; setfacl -m u:7:rw new; chmod 600 old",
        )
        .exits(0);
        assert_eq!(script(&image.path, names).text(), "SGI_ACL\n");
    }
    let shown = first.snapshot();
    let report = store.ok(&["fold", "--json"]).json();
    assert_eq!(report["families"][0]["folded_files"], 2, "{report}");
    shown.assert_same(&first.snapshot(), Fields::ALL, "a fold shows");
    // What a guest sets is no ACL.
    script(
        &first.path,
        "setfattr -n trusted.SGI_ACL_FILE -v x new; getfacl -nc new | grep user:7:rw",
    )
    .exits(0);
    let listed = script(
        &first.path,
        "getfattr -n trusted.SGI_ACL_FILE --only-values new",
    );
    assert_eq!(listed.text(), "x");
    finish(&store, [first, second]);
}
