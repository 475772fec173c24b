//! What an administrator pins stays the image's own, whatever folds, passes and placement do.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use super::common::mapping::Mapped;
use super::passes::{folding, twins_with};
use super::*;

/// The layer that serves a path, and as what.
fn served(store: &TestStore, image: &str, path: &str) -> (String, String) {
    let why = store.ok(&["why", image, path, "--json"]).json();
    let text = |key: &str| why[key].as_str().unwrap().to_owned();
    (text("layer"), text("role"))
}

/// One of each kind: of one name, of several, empty, sparse, no file at all.
const HELD: [&str; 9] = [
    "/etc/hosts",
    "/etc/conf.d/b.conf",
    "/usr/bin/tool",
    "/etc/tool",
    "/empty file",
    "/usr/sparse",
    "/usr/dangling",
    "/etc/fifo",
    "/etc/zero",
];

#[track_caller]
fn assert_own(store: &TestStore, image: &str) {
    for path in HELD {
        let (layer, role) = served(store, image, path);
        assert_eq!((&*layer, &*role), ("private", "file"), "{path}");
    }
}

#[test]
fn what_is_held_stays_the_images_own() {
    let Some(store) = twins("what_is_held_stays_the_images_own") else {
        return;
    };
    let first = store.mount("first");
    let second = store.mount("second");
    let before = [first.snapshot(), second.snapshot()];
    for path in HELD {
        assert_eq!(served(&store, "first", path).0, "shared", "{path}");
    }
    let mut hold = vec!["hold", "first", "--json"];
    hold.extend(HELD);
    let report = store.ok(&hold).json();
    for held in report["paths"].as_array().unwrap() {
        assert_eq!(held["exists"], true, "{held}");
        assert_eq!(held["inodes"], 1, "{held}");
    }
    assert_own(&store, "first");
    before[0].assert_same(&first.snapshot(), Fields::ALL, "a hold shows");

    // All that moves versions about.
    store.ok(&["fold"]);
    store.import("third", &store.sample(0), "family");
    store.import("fourth", &store.sample(1), "family");
    store.ok(&["fold"]);
    store.ok(&["remove", "fourth"]);
    store.ok(&["remove", "third"]);
    store.ok(&["collect"]);
    assert_own(&store, "first");
    first.unmount();
    let first = store.mount("first");
    store.ok(&["fold"]);
    assert_own(&store, "first");
    for (before, image) in before.iter().zip([&first, &second]) {
        before.assert_same(&image.snapshot(), Fields::ALL, "a held file shows");
    }

    // What becomes of the shared one is nothing to it.
    for path in HELD.iter().take(6) {
        fs::write(second.join(&path[1..]), path).unwrap();
    }
    store.ok(&["fold"]);
    assert_own(&store, "first");
    before[0].assert_same(&first.snapshot(), Fields::ALL, "the twin was altered");

    let mut release = vec!["release", "first"];
    release.extend(HELD);
    store.ok(&release);
    assert_eq!(served(&store, "first", "/etc/hosts").1, "file");
    store.ok(&["fold"]);
    for path in ["/etc/hosts", "/usr/bin/tool", "/usr/sparse"] {
        assert_ne!(served(&store, "first", path).1, "file", "{path}");
    }
    for path in ["/usr/dangling", "/etc/zero"] {
        assert_eq!(served(&store, "first", path).0, "shared", "{path}");
    }
    before[0].assert_same(&first.snapshot(), Fields::ALL, "a release shows");
    finish(&store, [first, second]);
}

#[test]
fn a_held_tree_is_a_path() {
    let Some(store) = twins("a_held_tree_is_a_path") else {
        return;
    };
    let first = store.mount("first");
    let before = first.snapshot();
    let held = store.ok(&["hold", "first", "/usr", "--json"]).json();
    let held = &held["paths"][0];
    assert_eq!(held["inodes"], held["shared_inodes"], "{held}");
    before.assert_same(&first.snapshot(), Fields::ALL, "a hold of a tree shows");
    let report = store.ok(&["fold", "--json"]).json();
    assert_eq!(report["families"][0]["folded_files"], 0, "{report}");
    assert_ne!(report["families"][0]["held_files"], 0, "{report}");
    assert_eq!(
        served(&store, "first", "/usr/lib/deep/deeper/data").1,
        "file"
    );

    // What goes elsewhere is held no more; what comes is, but not what it has in common.
    script(
        &first.path,
        "mv usr/lib/deep moved; mv etc/hosts usr/hosts; cp usr/hosts usr/lib/copied; mv usr/lib usr/lib64",
    )
    .exits(0);
    store.ok(&["fold"]);
    assert_eq!(served(&store, "first", "/moved/deeper/data").1, "stub");
    assert_eq!(served(&store, "first", "/usr/lib64/copied").1, "file");
    let listed = store.ok(&["hold", "first", "--json"]).json();
    assert_eq!(listed["paths"][0]["shared_inodes"], 1, "{listed}");
    store.ok(&["hold", "first", "/usr"]);
    assert_eq!(served(&store, "first", "/usr/hosts").1, "file");
    store.ok(&["release", "first", "/usr"]);
    store.ok(&["fold"]);
    assert_eq!(served(&store, "first", "/usr/lib64/copied").1, "stub");
    finish(&store, [first]);
}

#[test]
fn a_pass_leaves_alone_what_is_held() {
    let Some((store, images)) = twins_with(
        "a_pass_leaves_alone_what_is_held",
        "interval = '1s'\nquiet = '0s'",
    ) else {
        return;
    };
    let content = fs::read(images[0].join("usr/bin/other")).unwrap();
    // Before there is anything.
    store.ok(&["hold", "first", "/etc/pinned"]);
    for image in &images {
        fs::write(image.join("etc/pinned"), &content).unwrap();
    }
    eventually("a pass folds the other one", || {
        served(&store, "second", "/etc/pinned").1 == "stub"
    });
    assert_eq!(served(&store, "first", "/etc/pinned").1, "file");
    assert_eq!(folding(&store)["last"]["held_files"], 1);

    store.ok(&["release", "first", "/etc/pinned"]);
    eventually("what is released is folded", || {
        served(&store, "first", "/etc/pinned").1 == "stub"
    });
    store.ok(&["hold", "first", "/etc/pinned"]);
    let passes = || folding(&store)["passes"].as_u64().unwrap();
    let so_far = passes();
    eventually("passes go on", || passes() > so_far + 2);
    assert_eq!(served(&store, "first", "/etc/pinned").1, "file");
    assert_eq!(fs::read(images[0].join("etc/pinned")).unwrap(), content);
    finish(&store, images);
}

#[test]
fn who_uses_a_file_does_not_notice_that_it_is_held() {
    let Some(store) = twins("who_uses_a_file_does_not_notice") else {
        return;
    };
    store.configure("coherent = ['/']");
    let first = store.mount("first");
    let second = store.mount("second");
    let path = first.join("usr/bin/tool");
    let content = fs::read(&path).unwrap();
    let reader = File::open(&path).unwrap();
    let mapped = Mapped::new(reader.as_fd(), content.len(), false).unwrap();
    let writer = File::options().write(true).open(&path).unwrap();
    store.ok(&["hold", "first", "/usr/bin/tool"]);
    assert!(mapped.load() == content, "the mapping changed");
    writer.write_all_at(b"written", 10).unwrap();
    let mut read = vec![0; content.len()];
    reader.read_exact_at(&mut read, 0).unwrap();
    assert_eq!(&read[10..17], b"written");
    assert!(mapped.load() == read, "the mapping shows something else");
    assert!(fs::read(first.join("etc/tool")).unwrap() == read);
    assert!(fs::read(second.join("usr/bin/tool")).unwrap() == content);
    let modified = |image: &Mounted| {
        image
            .join("usr/bin/tool")
            .metadata()
            .unwrap()
            .modified()
            .unwrap()
    };
    assert!(modified(&first) > modified(&second), "a write sets mtime");
    drop((mapped, reader, writer));
    finish(&store, [first, second]);
}

#[test]
fn a_clone_is_held_where_its_origin_is() {
    let Some(store) = twins("a_clone_is_held_where_its_origin_is") else {
        return;
    };
    let first = store.mount("first");
    fs::write(first.join("etc/own"), "own").unwrap();
    store.ok(&["hold", "first", "/etc/own", "/etc/hosts"]);
    let plan = store
        .ok(&["clone", "first", "copy", "--dry-run", "--json"])
        .json();
    assert_eq!(plan["new_objects"], 0, "{plan}");
    store.ok(&["clone", "first", "copy"]);
    store.ok(&["fold"]);
    let copy = store.mount("copy");
    for image in ["first", "copy"] {
        for path in ["/etc/own", "/etc/hosts"] {
            assert_eq!(served(&store, image, path).1, "file", "{image} {path}");
        }
    }
    first
        .snapshot()
        .assert_same(&copy.snapshot(), Fields::COPY, "the clone");
    store.ok(&["release", "copy", "/etc/own"]);
    let held = store.ok(&["hold", "first", "--json"]).json();
    assert_eq!(held["paths"].as_array().unwrap().len(), 2);
    finish(&store, [first, copy]);
}
