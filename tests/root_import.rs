//! Importing: founding a family, joining one. Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on should panic"
)]

mod family;

use family::{Fixture, assert_shows, settle, settle_at, symlink, write};
use foldfs::store::catalog::Share;

fn sample(root: &std::path::Path) {
    write(root, "etc/os-release", "ID=debian\nVERSION_ID=\"13\"\n");
    write(root, "etc/hosts", "127.0.0.1 localhost\n");
    write(root, "usr/bin/tool", "#!/bin/sh\n");
    write(root, "usr/share/doc/a", "a");
    write(root, "usr/share/doc/b", "b");
    write(root, "usr/share/empty", "");
    symlink(root, "usr/bin", "bin");
    std::fs::hard_link(root.join("usr/bin/tool"), root.join("usr/bin/tool2")).unwrap();
    settle(root);
}

#[test]
fn the_first_import_founds_a_family_of_which_it_is_a_clone() {
    let fixture = Fixture::new();
    let source = fixture.source("one");
    sample(&source);
    fixture.import("one", &source);
    let base = fixture.snapshot("debian-13");
    assert_shows(&base, &source);
    assert_eq!(fixture.snapshot("one"), base);
    assert_eq!(fixture.private("one"), [""; 0]);
    let fixture = fixture.reopen();
    assert_eq!(fixture.snapshot("one"), base);
}

#[test]
fn an_equal_import_needs_no_private_entry() {
    let fixture = Fixture::new();
    let source = fixture.source("one");
    sample(&source);
    fixture.import("one", &source);
    fixture.import("two", &source);
    assert_eq!(fixture.image("two").family, fixture.image("one").family);
    assert_eq!(fixture.private("two"), [""; 0]);
    assert_shows(&fixture.snapshot("two"), &source);
}

#[test]
fn a_similar_import_keeps_its_difference() {
    let fixture = Fixture::new();
    let source = fixture.source("one");
    sample(&source);
    fixture.import("one", &source);
    let other = fixture.source("two");
    sample(&other);
    write(&other, "etc/hosts", "127.0.0.1 two\n");
    write(&other, "opt/deep/er/new", "new");
    std::fs::remove_file(other.join("usr/share/doc/b")).unwrap();
    std::fs::remove_file(other.join("bin")).unwrap();
    write(&other, "bin/sh", "a directory now");
    // A group with another set of names is another version.
    std::fs::hard_link(other.join("usr/bin/tool"), other.join("usr/bin/tool3")).unwrap();
    settle(&other);
    fixture.import("two", &other);
    assert_eq!(fixture.image("two").family, fixture.image("one").family);
    assert_eq!(
        fixture.private("two"),
        [
            "/bin own",
            "/bin/sh stub",
            "/etc transparent",
            "/etc/hosts stub",
            "/opt own",
            "/opt/deep own",
            "/opt/deep/er own",
            "/opt/deep/er/new stub",
            "/usr transparent",
            "/usr/bin transparent",
            "/usr/bin/tool name",
            "/usr/bin/tool2 name",
            "/usr/bin/tool3 name",
            "/usr/share transparent",
            "/usr/share/doc transparent",
            "/usr/share/doc/b whiteout",
        ]
    );
    assert_shows(&fixture.snapshot("two"), &other);
    assert_shows(&fixture.snapshot("one"), &source);
    let before = fixture.snapshot("two");
    let fixture = fixture.reopen();
    assert_eq!(fixture.snapshot("two"), before);
}

#[test]
fn something_else_founds_a_family_of_its_own() {
    let fixture = Fixture::new();
    let source = fixture.source("one");
    sample(&source);
    fixture.import("one", &source);
    let other = fixture.source("two");
    write(&other, "etc/os-release", "ID=alpine\nVERSION_ID=3.20\n");
    fixture.import("two", &other);
    assert_ne!(fixture.image("two").family, fixture.image("one").family);
    assert_eq!(
        fixture.image("alpine-3.20").family,
        fixture.image("two").family
    );
    let third = fixture.source("three");
    sample(&third);
    fixture.import_as("three", &third, Some("mine"), Share::All);
    assert_eq!(fixture.image("mine").family, fixture.image("three").family);
    fixture.import_as("four", &third, Some("mine"), Share::Majority);
    assert_eq!(fixture.image("mine").family, fixture.image("four").family);
}

#[test]
fn directories_that_differ_in_their_times_only_need_no_private_entry() {
    let fixture = Fixture::new();
    let source = fixture.source("one");
    sample(&source);
    fixture.import("one", &source);
    let other = fixture.source("two");
    sample(&other);
    write(&other, "usr/share/doc/c", "c");
    settle_at(&other, 1_200_000_000);
    fixture.import("two", &other);
    assert_eq!(
        fixture.private("two"),
        [
            "/usr transparent",
            "/usr/share transparent",
            "/usr/share/doc transparent",
            "/usr/share/doc/c stub",
        ]
    );
    assert_shows(&fixture.snapshot("two"), &other);
    let before = fixture.snapshot("two");
    let fixture = fixture.reopen();
    family::assert_same(&before, &fixture.snapshot("two"), "reopened");
    // A guest's change of one of them makes it the image's own.
    let guest = family::guest::Guest(fixture.filesystem("two"));
    guest.chmod("usr/bin", 0o700).unwrap();
    guest.chmod("usr/share/doc", 0o700).unwrap();
    let after = fixture.snapshot("two");
    for path in ["usr/bin", "usr/share/doc"] {
        assert_eq!(
            (after[path].mode, after[path].mtime),
            (0o700, before[path].mtime)
        );
    }
    assert_eq!(fixture.snapshot("one")["usr/bin"].mode, 0o755);
}
