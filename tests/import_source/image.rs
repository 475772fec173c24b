//! Exports of an image whose guest has been at work: a directory, an archive, overlayfs layers.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use foldfs::archive::{ImageSource, export_directory, export_overlay, export_tar, import_tar};
use foldfs::progress::Silent;

use crate::describe::{self, Description};
use crate::family::Fixture;
use crate::family::guest::Guest;
use crate::fixture::{Mount, fill, set_xattr};

/// Without times: a guest's changes happen at other times than those made to a plain directory.
fn timeless(description: Description) -> Description {
    let cut = |line: String| {
        let mut fields: Vec<&str> = line.split(' ').collect();
        fields[3] = "-";
        fields.join(" ")
    };
    description
        .into_iter()
        .map(|(path, line)| (path, cut(line)))
        .collect()
}

/// A family of two, and the second one's guest at work; a plain directory that should look like it.
fn at_work() -> (Fixture, std::path::PathBuf) {
    let fixture = Fixture::new();
    let source = fixture.source("tree/source");
    fill(&source);
    fs::remove_file(source.join("whiteout")).unwrap();
    for n in 0..5 {
        fs::create_dir_all(source.join(format!("many/{n}/inner"))).unwrap();
        fs::write(source.join(format!("many/{n}/inner/file")), format!("{n}")).unwrap();
    }
    let share = foldfs::store::catalog::Share::Majority;
    fixture.import_as("other", &source, Some("family"), share);
    fixture.import_as("image", &source, Some("family"), share);
    let plain = fixture.source("tree").join("plain");
    let copied = Command::new("cp")
        .arg("-a")
        .args([&source, &plain])
        .status();
    assert!(copied.unwrap().success());

    let guest = Guest(fixture.filesystem("image"));
    let at = |name: &str| plain.join(name);
    guest.write("plain", b"CON").unwrap();
    fs::write(at("plain"), b"CONtent").unwrap();
    guest.chmod("large2", 0o640).unwrap();
    fs::set_permissions(at("large2"), fs::Permissions::from_mode(0o640)).unwrap();
    guest.unlink("edge").unwrap();
    fs::remove_file(at("edge")).unwrap();
    guest.unlink("usr/lib/third").unwrap();
    fs::remove_file(at("usr/lib/third")).unwrap();
    guest.rename("many", "usr/renamed").unwrap();
    fs::rename(at("many"), at("usr/renamed")).unwrap();
    guest.unlink("usr/renamed/3/inner/file").unwrap();
    fs::remove_file(at("usr/renamed/3/inner/file")).unwrap();
    guest.mkdir("many").unwrap();
    fs::create_dir(at("many")).unwrap();
    guest.symlink("x", "many/link").unwrap();
    symlink("x", at("many/link")).unwrap();
    guest.link("empty", "many/empty").unwrap();
    fs::hard_link(at("empty"), at("many/empty")).unwrap();
    guest.rename("usr/renamed/2", "many/2").unwrap();
    fs::rename(at("usr/renamed/2"), at("many/2")).unwrap();
    guest.create("new").unwrap();
    guest.write("new", b"new").unwrap();
    fs::write(at("new"), b"new").unwrap();
    fs::set_permissions(at("new"), fs::Permissions::from_mode(0o644)).unwrap();
    drop(guest);
    (fixture, plain)
}

fn with_source<T>(fixture: &Fixture, use_it: impl FnOnce(&ImageSource<'_>) -> T) -> T {
    let view = fixture
        .context
        .images
        .view(&fixture.image("image"))
        .unwrap();
    use_it(&ImageSource {
        view: &view,
        objects: fixture.context.store.objects(),
    })
}

#[test]
fn a_view_with_private_entries_is_exported() {
    let (fixture, plain) = at_work();
    let expected = timeless(describe::directory(&plain));
    let store = &fixture.context.store;
    let out = fixture.source("tree").join("out");
    let archive = fixture.source("tree").join("tar");
    with_source(&fixture, |source| {
        export_directory(source, store, &out, &Silent).unwrap();
        export_tar(source, store, &archive, &Silent).unwrap();
    });
    describe::assert_equal(&timeless(describe::directory(&out)), &expected);
    let import = import_tar(store, &archive, &Silent).unwrap();
    // The copy has what the view shows, times included.
    describe::assert_equal(&describe::import(&import), &describe::directory(&out));
}

#[test]
fn the_kernel_shows_the_layers_as_the_image() {
    let (fixture, plain) = at_work();
    let store = &fixture.context.store;
    let out = fixture.source("tree").join("out");
    let copy = fixture.source("tree").join("copy");
    let differences = with_source(&fixture, |source| {
        export_directory(source, store, &copy, &Silent).unwrap();
        export_overlay(source, store, &out, &Silent).unwrap()
    });
    assert_eq!(differences.len(), 1, "{differences:?}");
    let merged = fixture.source("tree").join("merged");
    fs::create_dir(&merged).unwrap();
    let run = |arguments: &[&Path]| {
        let done = Command::new(out.join("mount.sh"))
            .args(arguments)
            .status()
            .unwrap();
        assert!(done.success());
        Mount::taken(&merged)
    };
    {
        let _mount = run(&[&merged]);
        describe::assert_equal(&describe::directory(&merged), &describe::directory(&copy));
        let found = timeless(describe::directory(&merged));
        describe::assert_equal(&found, &timeless(describe::directory(&plain)));
    }
    let before = describe::directory(&out);
    let (upper, work) = (fixture.source("tree/upper"), fixture.source("tree/work"));
    let _mount = run(&[&merged, &upper, &work]);
    fs::write(merged.join("usr/renamed/1/inner/file"), b"changed").unwrap();
    assert_eq!(fs::read(merged.join("same")).unwrap(), b"content");
    let after = describe::directory(&out);
    describe::assert_equal(&after, &before);
}

#[test]
fn what_the_kernel_cannot_represent_is_listed() {
    let fixture = Fixture::new();
    let source = fixture.source("tree/source");
    fill(&source);
    set_xattr(&source.join("plain"), "trusted.overlay.redirect", b"/etc");
    fixture.import("image", &source);
    let store = &fixture.context.store;
    let out = fixture.source("tree").join("out");
    let differences = with_source(&fixture, |source| {
        export_overlay(source, store, &out, &Silent).unwrap()
    });
    assert!(
        differences.iter().any(|line| line.contains("/whiteout")),
        "{differences:?}"
    );
    let text = fs::read_to_string(out.join("differences.txt")).unwrap();
    assert_eq!(text.lines().count(), differences.len());
    let merged = fixture.source("tree").join("merged");
    fs::create_dir(&merged).unwrap();
    let done = Command::new(out.join("mount.sh"))
        .arg(&merged)
        .status()
        .unwrap();
    assert!(done.success());
    let _mount = Mount::taken(&merged);
    let mut expected = describe::directory(&source);
    expected.remove("whiteout");
    describe::assert_equal(&describe::directory(&merged), &expected);
}
