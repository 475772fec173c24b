//! Guests at work between cover, commit and uncover: whatever they do at the affected places, no
//! step of a placement ever shows. Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on should panic"
)]

mod family;

use std::path::Path;

use family::guest::Guest;
use family::{Fixture, Snapshot, assert_same, commands, settle, symlink, write};
use foldfs::filesystem::failure::Outcome;
use foldfs::fold::effort::Effort;
use foldfs::fold::placement;
use foldfs::store::catalog::Share;

const IMAGES: [&str; 5] = ["f", "one", "two", "three", "four"];

fn old(root: &Path) {
    write(root, "etc/os-release", "ID=debian\nVERSION_ID=\"13\"\n");
    write(root, "etc/hosts", "localhost\n");
    write(root, "usr/bin/tool", "#!/bin/sh\n");
    write(root, "usr/share/doc/b", "b");
    write(root, "var/lib/data", "data");
    std::fs::hard_link(root.join("usr/bin/tool"), root.join("usr/bin/same")).unwrap();
    settle(root);
}

fn new(root: &Path) {
    old(root);
    write(root, "etc/hosts", "upgraded\n");
    write(root, "opt/new/deep/file", "new");
    write(root, "opt/new/empty", "");
    symlink(root, "new", "opt/link");
    std::fs::remove_dir_all(root.join("usr/share/doc")).unwrap();
    settle(root);
}

/// The base and one image are old, three are new; what the shared layer holds follows `from`, and
/// placement has not heard yet that the rule is the other one now.
fn fixture(from: Share) -> Fixture {
    let fixture = Fixture::new();
    for name in &IMAGES[1..] {
        let source = fixture.source(name);
        match *name {
            "one" => old(&source),
            _ => new(&source),
        }
        fixture.import_as(name, &source, Some("f"), from);
    }
    let to = match from {
        Share::Majority => Share::All,
        Share::All => Share::Majority,
    };
    let family = fixture.image("f").family;
    commands::set_share(&fixture.context, family, to).unwrap();
    fixture
}

fn snapshots(fixture: &Fixture) -> Vec<Snapshot> {
    IMAGES.map(|name| fixture.snapshot(name)).into()
}

#[track_caller]
fn assert_all_same(fixture: &Fixture, before: &[Snapshot], what: &str) {
    for (name, before) in IMAGES.iter().zip(before) {
        assert_same(before, &fixture.snapshot(name), &format!("{name}, {what}"));
    }
}

/// Runs a placement with a guest's operation before its step `stage`.
fn run(from: Share, image: &str, stage: usize, what: &str, action: fn(&Guest) -> Outcome<()>) {
    let what = format!("{from:?}, {image} at {stage}: {what}");
    let fixture = fixture(from);
    // All images are alive all the time, with every node loaded.
    let live = IMAGES.map(|name| Guest(fixture.filesystem(name)));
    let mut before = snapshots(&fixture);
    let acting = IMAGES.iter().position(|name| *name == image).unwrap();
    let act = |at: usize, before: &mut Vec<Snapshot>| {
        if at == stage {
            if let Err(failure) = action(&live[acting]) {
                panic!("{what}: {failure:?}");
            }
            before[acting] = fixture.snapshot(image);
        }
    };
    act(0, &mut before);
    let family = fixture.image("f").family;
    let images = &fixture.context.images;
    let work = placement::plan(images, family).unwrap();
    assert!(!work.placement.is_empty());
    act(1, &mut before);
    work.cover(images).unwrap();
    assert_all_same(&fixture, &before, &format!("{what}, covered"));
    act(2, &mut before);
    work.commit(images).unwrap();
    assert_all_same(&fixture, &before, &format!("{what}, committed"));
    act(3, &mut before);
    work.uncover(images).unwrap();
    assert_all_same(&fixture, &before, &format!("{what}, uncovered"));
    for round in 0.. {
        let work = placement::plan(images, family).unwrap();
        if work.placement.is_empty() {
            break;
        }
        assert!(round < 2, "{what}: it never ends: {}", work.placement);
        work.apply(images, &Effort::full(2)).unwrap();
        assert_all_same(&fixture, &before, &format!("{what}, placed again"));
    }
    drop((live, work));
    let fixture = fixture.reopen();
    assert_all_same(&fixture, &before, &format!("{what}, reopened"));
}

/// An operation and what it is called.
type Action = (&'static str, fn(&Guest) -> Outcome<()>);

const IN_BOTH: [Action; 11] = [
    ("nothing", |_| Ok(())),
    ("unlink", |guest| guest.unlink("etc/hosts")),
    ("rename away", |guest| {
        guest.rename("etc/hosts", "etc/moved")
    }),
    ("rename over", |guest| {
        guest.rename("var/lib/data", "etc/hosts")
    }),
    ("write", |guest| guest.write("etc/hosts", b"W")),
    ("chmod", |guest| guest.chmod("etc/hosts", 0o600)),
    ("link", |guest| guest.link("etc/hosts", "etc/again")),
    ("create again", |guest| {
        guest.unlink("etc/hosts")?;
        guest.create("etc/hosts")
    }),
    ("exchange", |guest| {
        guest.exchange("etc/hosts", "var/lib/data")
    }),
    ("rename the directory", |guest| guest.rename("etc", "etc2")),
    ("unlink one of two names", |guest| {
        guest.unlink("usr/bin/same")
    }),
];

const IN_OLD: [Action; 5] = [
    ("make a directory of that name", |guest| {
        guest.mkdir("opt")?;
        guest.create("opt/own")
    }),
    ("make a file of that name", |guest| guest.create("opt")),
    ("rename a directory there", |guest| {
        guest.rename("var", "opt")
    }),
    ("rename a directory away", |guest| {
        guest.rename("usr/share", "share")
    }),
    ("remove the directory", |guest| {
        guest.unlink("usr/share/doc/b")?;
        guest.rmdir("usr/share/doc")
    }),
];

const IN_NEW: [Action; 9] = [
    ("unlink in a new directory", |guest| {
        guest.unlink("opt/new/empty")
    }),
    ("write in a new directory", |guest| {
        guest.write("opt/new/deep/file", b"W")
    }),
    ("write to an empty file", |guest| {
        guest.write("opt/new/empty", b"W")
    }),
    ("create in a new directory", |guest| {
        guest.create("opt/new/deep/other")
    }),
    ("rename the new directory", |guest| {
        guest.rename("opt", "opt2")
    }),
    ("rename within the new directory", |guest| {
        guest.rename("opt/new", "opt/newer")
    }),
    ("rename out of the new directory", |guest| {
        guest.rename("opt/new/deep", "deep")
    }),
    ("chmod the new directory", |guest| {
        guest.chmod("opt/new", 0o700)
    }),
    ("replace a symlink", |guest| {
        guest.unlink("opt/link")?;
        guest.symlink("else", "opt/link")
    }),
];

fn all(from: Share, image: &str, actions: &[Action]) {
    for (what, action) in actions {
        for stage in 0..4 {
            run(from, image, stage, what, *action);
        }
    }
}

#[test]
fn sharing_more_while_an_old_image_works() {
    all(Share::All, "one", &IN_BOTH);
    all(Share::All, "one", &IN_OLD);
}

#[test]
fn sharing_more_while_a_new_image_works() {
    all(Share::All, "three", &IN_BOTH);
    all(Share::All, "three", &IN_NEW);
}

#[test]
fn sharing_less_while_an_old_image_works() {
    all(Share::Majority, "one", &IN_BOTH);
    all(Share::Majority, "one", &IN_OLD);
}

#[test]
fn sharing_less_while_a_new_image_works() {
    all(Share::Majority, "three", &IN_BOTH);
    all(Share::Majority, "three", &IN_NEW);
}
