//! Placement: what lies in the shared layer, and that no view ever shows it. Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on should panic"
)]

mod family;

use std::path::Path;

use family::{Fixture, assert_same, assert_shows, settle, symlink, write};
use foldfs::fold::placement;
use foldfs::store::catalog::Share;

fn common(root: &Path) {
    write(root, "etc/os-release", "ID=debian\nVERSION_ID=\"13\"\n");
    write(root, "etc/hosts", "localhost\n");
    write(root, "usr/bin/tool", "#!/bin/sh\n");
    write(root, "usr/share/doc/a", "a");
    write(root, "usr/share/doc/b", "b");
    write(root, "var/lib/data", "data");
    settle(root);
}

/// Another version of some paths, and a tree of its own.
fn upgraded(root: &Path) {
    common(root);
    write(root, "etc/hosts", "upgraded\n");
    write(root, "opt/new/deep/file", "new");
    write(root, "opt/new/empty", "");
    symlink(root, "new", "opt/link");
    std::fs::remove_file(root.join("usr/share/doc/b")).unwrap();
    settle(root);
}

fn import(fixture: &Fixture, name: &str, make: fn(&Path)) {
    let source = fixture.source(name);
    make(&source);
    fixture.import_as(name, &source, Some("f"), Share::Majority);
}

/// Nothing more is to be done, and every private entry is needed.
fn assert_settled(fixture: &Fixture) {
    let family = fixture.image("f").family;
    let work = placement::plan(&fixture.context.images, family).unwrap();
    assert_eq!(work.placement.to_string(), "");
}

#[test]
fn imports_that_tip_the_majority() {
    let fixture = Fixture::new();
    import(&fixture, "one", common);
    import(&fixture, "two", upgraded);
    assert!(fixture.shared("f").contains(&"/usr/share/doc/b".into()));
    let before = ["f", "one", "two"].map(|name| (name, fixture.snapshot(name)));
    import(&fixture, "three", upgraded);
    // Two against two: the base's stays.
    assert!(fixture.private("three").contains(&"/etc/hosts stub".into()));
    assert_settled(&fixture);
    import(&fixture, "four", upgraded);
    assert_settled(&fixture);
    for (name, before) in &before {
        assert_same(before, &fixture.snapshot(name), name);
    }
    assert_eq!(fixture.private("two"), [""; 0]);
    assert_eq!(fixture.private("four"), [""; 0]);
    let needed = [
        "/etc transparent",
        "/etc/hosts stub",
        "/opt whiteout",
        "/usr transparent",
        "/usr/share transparent",
        "/usr/share/doc transparent",
        "/usr/share/doc/b stub",
    ];
    assert_eq!(fixture.private("one"), needed);
    assert_eq!(fixture.private("f"), needed);
    assert_shows(&fixture.snapshot("four"), &fixture.source("four"));
    let snapshot = fixture.snapshot("four");
    let fixture = fixture.reopen();
    for (name, before) in &before {
        assert_same(before, &fixture.snapshot(name), name);
    }
    assert_same(&snapshot, &fixture.snapshot("four"), "four");
}
