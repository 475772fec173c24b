//! Needs root. A fold or a clone that ends at any durable step, or in which one fails, leaves every
//! view as it was, in this process and in the next.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on should panic"
)]

mod family;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use family::live::{node, put, read};
use family::{Fixture, Snapshot, assert_same, write};
use foldfs::filesystem::open::OpenFlags;
use foldfs::ops::{check, clone, fold};
use foldfs::progress::Silent;
use foldfs::store::catalog::Reads;
use foldfs::sys::durable;
use parking_lot::Mutex;
use rustix::io::Errno;

const IMAGES: [&str; 2] = ["one", "two"];

/// One test at a time has the hook.
static HOOK: Mutex<()> = Mutex::new(());

/// How a run is disturbed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Nothing is done from this step on: the process was killed.
    Killed(usize),
    /// This step fails.
    Fails(usize),
}

/// Runs something under a fault; whether its step was reached.
fn disturbed(fault: Fault, run: impl FnOnce()) -> bool {
    let _alone = HOOK.lock();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    durable::set_hook(Some(Arc::new(move |_, _| {
        let step = counted.fetch_add(1, Ordering::SeqCst);
        match fault {
            Fault::Killed(at) if step >= at => Err(Errno::IO),
            Fault::Fails(at) if step == at => Err(Errno::NOSPC),
            _ => Ok(()),
        }
    })));
    run();
    durable::set_hook(None);
    let (Fault::Killed(at) | Fault::Fails(at)) = fault;
    count.load(Ordering::SeqCst) > at
}

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

fn assert_sound(fixture: &Fixture, what: &str) {
    let report = check::run(&fixture.context, check::Options { content: true }, &Silent);
    assert_eq!(report.unwrap().findings, [], "{what}");
}

fn run_fold(fixture: &Fixture) {
    let plan = fold::plan(&fixture.context, &fold::Options { family: None }, &Silent);
    if let Ok(plan) = plan {
        let _done = fold::apply(&fixture.context, &plan, &Silent);
    }
}

fn run_clone(fixture: &Fixture) {
    let options = clone::Options {
        from: "two".into(),
        to: "copy".into(),
        frozen: false,
    };
    let plan = clone::plan(&fixture.context, &options).unwrap();
    let _done = clone::apply(&fixture.context, &plan, &Silent);
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
        assert_sound(&fixture, &what);
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
