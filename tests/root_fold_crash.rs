//! Needs root. A fold or a clone that ends at any durable step, or in which one fails, leaves every
//! view as it was, in this process and in the next.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on should panic"
)]

mod family;

use family::fault::{Fault, alone, disturbed};
use family::live::{node, put, read};
use family::{Fixture, Snapshot, assert_same, commands, write};
use foldfs::filesystem::open::OpenFlags;
use foldfs::store::catalog::Reads;

const IMAGES: [&str; 2] = ["one", "two"];

fn original() -> Fixture {
    let fixture = Fixture::new();
    let source = fixture.source("source");
    write(&source, "etc/passwd", "root:x:0:0");
    write(&source, "usr/bin/sh", "a shell");
    std::fs::hard_link(source.join("usr/bin/sh"), source.join("usr/bin/bash")).unwrap();
    for name in IMAGES {
        fixture.import_as(name, &source, Some("family"), Default::default());
    }
    for name in IMAGES {
        let fs = fixture.filesystem(name);
        put(&fs, "etc/passwd", b"root:y:0:0");
        put(&fs, "usr/bin/sh", b"a better shell");
        put(&fs, "usr/own", name.as_bytes());
        fs.unlink(&node(&fs, "usr"), b"own").unwrap();
        put(&fs, "usr/own", name.as_bytes());
    }
    put(&fixture.filesystem("two"), "etc/known", b"a shell");
    fixture.context.store.sync().unwrap();
    fixture
}

fn snapshots(fixture: &Fixture) -> Vec<Snapshot> {
    let names = IMAGES.iter().chain(&["family"]);
    names.map(|name| fixture.snapshot(name)).collect()
}

fn assert_as_before(before: &[Snapshot], fixture: &Fixture, what: &str) {
    for (before, now) in before.iter().zip(snapshots(fixture)) {
        assert_same(before, &now, what);
    }
}

fn run_fold(fixture: &Fixture) {
    let _done = commands::fold(&fixture.context);
}

fn run_clone(fixture: &Fixture) {
    let _done = commands::clone(&fixture.context, "two", "copy");
}

/// What guests read in files that are about to be folded.
fn assert_reads(fixture: &Fixture, what: &str) {
    for name in IMAGES {
        let fs = fixture.filesystem(name);
        for (path, content) in [
            ("etc/passwd", &b"root:y:0:0"[..]),
            ("usr/bin/bash", b"a better shell"),
            ("usr/own", name.as_bytes()),
        ] {
            let handle = fs.open(&node(&fs, path), OpenFlags::default()).expect(what);
            assert_eq!(read(&fs, handle), content, "{what}: {path}");
            fs.release(handle);
        }
    }
}

fn assert_clone(fixture: &Fixture, what: &str) {
    let catalog = fixture.context.store.catalog();
    if catalog.image_by_name("copy").unwrap().is_some() {
        let origin = fixture.snapshot("two");
        assert_same(&origin, &fixture.snapshot("copy"), what);
    }
    let images = fixture.context.store.path().join("images");
    let count = std::fs::read_dir(images).unwrap().count();
    assert_eq!(count, catalog.images().unwrap().len(), "{what}");
}

fn sweep(run: fn(&Fixture), fault: fn(usize) -> Fault, least: usize) {
    let _alone = alone();
    let original = original();
    for step in 0.. {
        let fixture = original.copy();
        let before = snapshots(&fixture);
        let fault = fault(step);
        let what = format!("{fault:?}");
        let reached = disturbed(fault, || run(&fixture));
        assert_reads(&fixture, &what);
        if let Fault::Fails(_) = fault {
            // The next one puts right what this one left.
            run_fold(&fixture);
            assert_as_before(&before, &fixture, &what);
        }
        let fixture = fixture.reopen();
        assert_as_before(&before, &fixture, &what);
        assert_reads(&fixture, &what);
        assert_clone(&fixture, &what);
        fixture.assert_sound(&what);
        if !reached {
            assert!(step > least, "{step} steps only");
            return;
        }
    }
}

#[test]
fn a_fold_that_is_killed_at_any_step() {
    sweep(run_fold, Fault::Killed, 60);
}

#[test]
fn a_fold_in_which_any_step_fails() {
    sweep(run_fold, Fault::Fails, 60);
}

#[test]
fn a_clone_that_is_killed_at_any_step() {
    sweep(run_clone, Fault::Killed, 60);
}

#[test]
fn a_clone_in_which_any_step_fails() {
    sweep(run_clone, Fault::Fails, 60);
}
