//! patch apply of container layers: archives with whiteouts, put over the base.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use super::common::store::{TestStore, tool};
use super::common::{can_run, needs_root};

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn base(root: &Path) {
    write(root, "etc/os-release", "ID=debian\n");
    write(root, "etc/conf", "old");
    write(root, "usr/lib/a", "a");
    write(root, "usr/lib/b", "b");
    fs::hard_link(root.join("usr/lib/b"), root.join("usr/lib/c")).unwrap();
    write(root, "var/cache/x/y", "y");
    write(root, "var/cache/z", "z");
    write(root, "opt/gone/file", "gone");
    write(root, "srv/becomes", "a file");
    symlink("usr/lib", root.join("lib")).unwrap();
}

/// Seconds without a fraction, as archives have them.
fn settle(root: &Path) {
    let arguments = ["-exec", "touch", "-h", "-d", "@1100000000", "{}", "+"];
    let arguments: Vec<&std::ffi::OsStr> = [root.as_os_str()]
        .into_iter()
        .chain(arguments.iter().map(AsRef::as_ref))
        .collect();
    tool("find", &arguments);
}

fn pack(layer: &Path, to: &Path, members: &[&str]) {
    let done = Command::new("tar")
        .arg("-C")
        .arg(layer)
        .arg("-caf")
        .arg(to)
        .args(members)
        .status();
    assert!(done.unwrap().success());
}

#[test]
fn a_layer_is_put_over_the_base() {
    if !can_run("a_layer_is_put_over_the_base", needs_root()) {
        return;
    }
    let store = TestStore::new();
    let (old, new, layer) = (
        store.place.join("old"),
        store.place.join("new"),
        store.place.join("layer"),
    );
    for root in [&old, &new, &layer] {
        fs::create_dir(root).unwrap();
    }
    base(&old);
    base(&new);
    // Replaced, added, removed, emptied, another type.
    for root in [&new, &layer] {
        write(root, "etc/conf", "new");
        write(root, "usr/share/added/file", "added");
        fs::set_permissions(
            root.join("usr/share/added"),
            fs::Permissions::from_mode(0o700),
        )
        .unwrap();
        write(root, "var/cache/only", "only");
    }
    fs::remove_file(new.join("usr/lib/a")).unwrap();
    fs::remove_dir_all(new.join("opt/gone")).unwrap();
    fs::remove_dir_all(new.join("var/cache/x")).unwrap();
    fs::remove_file(new.join("var/cache/z")).unwrap();
    fs::remove_file(new.join("srv/becomes")).unwrap();
    for root in [&new, &layer] {
        write(root, "srv/becomes/inside", "a directory");
    }
    write(&layer, "usr/lib/.wh.a", "");
    write(&layer, "opt/.wh.gone", "");
    write(&layer, "opt/.wh.never", "");
    write(&layer, "var/cache/.wh..wh..opq", "");
    write(&layer, "var/.wh..wh.plnk", "");
    for root in [&old, &new, &layer] {
        settle(root);
    }
    store.import("one", &old, "f");
    store.import("two", &old, "f");
    let archive = store.place.join("layer.tar.gz");
    // Only what is in them, but not the directories that the base has.
    pack(
        &layer,
        &archive,
        &[
            "etc/conf",
            "usr/share",
            "usr/lib/.wh.a",
            "opt/.wh.gone",
            "opt/.wh.never",
            "var/cache",
            "var/.wh..wh.plnk",
            "srv/becomes",
        ],
    );
    let apply =
        |file: &Path| store.run(&["patch", "apply", file.to_str().unwrap(), "--family", "f"]);
    let planned = store.run(&[
        "patch",
        "apply",
        archive.to_str().unwrap(),
        "--family",
        "f",
        "--dry-run",
    ]);
    assert!(planned.exits(0).text().contains("would be applied"));
    store.ok(&["diff", "f", "two"]);
    apply(&archive).exits(0);
    for image in ["f", "one", "two"] {
        store
            .run(&["diff", image, &format!("{}/", new.display())])
            .exits(0);
    }
    // Once more it changes nothing, plain or as standard input neither.
    let plain = store.place.join("layer.tar");
    pack(&layer, &plain, &["etc/conf", "usr/lib/.wh.a"]);
    assert!(apply(&plain).exits(0).text().contains("changes nothing"));

    // What would follow a symlink of the base is not guessed.
    let through = store.place.join("through");
    write(&through, "lib/added", "where?");
    pack(&through, &plain, &["lib/added"]);
    apply(&plain)
        .exits(1)
        .says(&["lib", "in the base it is no directory", "symlink"]);
    fs::write(&plain, "neither a patch nor an archive").unwrap();
    apply(&plain).exits(1).says(&["it is no patch"]);
    store.assert_sound();
    store.ok(&["revert", "1"]);
    store
        .run(&["diff", "two", &format!("{}/", old.display())])
        .exits(0);
}
