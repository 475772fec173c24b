//! Needs root. Collecting objects in the midst of everything else: stopped at each of its durable
//! steps, an operation waits while a whole collect runs, and a collect while a whole operation does.
//! Whoever has to wait for the other one's end waits; nothing that is needed is ever removed.
//!
//! Imports stage in a store of their own that is open for reading, as another process would; what
//! is done over the control socket is done in the daemon's process, as here.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on should panic"
)]

mod family;

#[path = "root_collect_beside/interleave.rs"]
mod interleave;
#[path = "root_collect_beside/operations.rs"]
mod operations;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use family::guest::Guest;
use family::live::{node, put};
use family::{Fixture, Snapshot, assert_same, write};
use foldfs::ops::request::{Call, Request};
use foldfs::ops::{perform, report::Report};
use foldfs::progress::Silent;
use foldfs::store::catalog::Reads;
use interleave::{Met, interleave};
use operations::{Operation, Scene};

const IMAGES: [&str; 3] = ["one", "two", "three"];

/// A store in which all operations find something to do, and a collect, too. Objects that nothing
/// refers to have the content of files that are about to be imported or folded.
fn original() -> Fixture {
    let fixture = Fixture::new();
    let source = fixture.source("source");
    for path in ["etc/passwd", "etc/hosts", "usr/lib/a", "usr/lib/b", "var/c"] {
        write(&source, path, &format!("in all images: {path}"));
    }
    write(&source, "usr/bin/sh", "a shell");
    std::fs::hard_link(source.join("usr/bin/sh"), source.join("usr/bin/bash")).unwrap();
    for name in IMAGES {
        fixture.import_as(name, &source, Some("family"), Default::default());
    }
    let waste = fixture.source("waste");
    for number in 0..4 {
        write(
            &waste,
            &format!("file{number}"),
            &format!("garbage {number}"),
        );
    }
    fixture.import_as("waste", &waste, Some("wasted"), Default::default());
    for name in ["waste", "wasted"] {
        let name = name.into();
        done(&fixture, Request::Remove { name });
    }
    for name in IMAGES {
        let fs = fixture.filesystem(name);
        put(&fs, "etc/new", b"new in all images");
        put(&fs, "etc/found", b"garbage 0");
        put(&fs, "var/own", name.as_bytes());
        // A stub, of an object that the shared layer has, and of one that it has not.
        guest(&fixture, name).chmod("etc/hosts", 0o600).unwrap();
        drop(node(&fs, "etc/hosts"));
    }
    put(&fixture.filesystem("one"), "var/twice", b"twice in one");
    put(&fixture.filesystem("one"), "var/again", b"twice in one");
    done(&fixture, Request::Fold { family: None });
    put(&fixture.filesystem("two"), "var/late", b"garbage 1");
    put(&fixture.filesystem("one"), "var/late", b"late");
    put(&fixture.filesystem("two"), "var/later", b"late");
    write(
        &fixture.source("new"),
        "etc/passwd",
        "in all images: etc/passwd",
    );
    write(&fixture.source("new"), "etc/garbage", "garbage 2");
    write(&fixture.source("new"), "etc/more", "garbage 3");
    write(&fixture.source("new"), "etc/new", "new content");
    fixture.context.store.sync().unwrap();
    fixture
}

fn guest(fixture: &Fixture, image: &str) -> Guest {
    Guest(fixture.filesystem(image))
}

fn done(fixture: &Fixture, request: Request) -> Report {
    let dry_run = false;
    perform(&fixture.context, &Call { request, dry_run }, &Silent).unwrap()
}

/// A whole collect; how many objects went.
fn collect(fixture: &Fixture) -> u64 {
    match done(fixture, Request::Collect { keep_changes: 10 }) {
        Report::Collect(report) => report.removed.len() as u64,
        other => panic!("{other:?}"),
    }
}

/// What of a view an operation determines: all but numbers and times.
type Shown = BTreeMap<String, (String, u32, u32, Vec<u8>)>;

fn shown(snapshot: Snapshot) -> Shown {
    snapshot
        .into_iter()
        .map(|(path, seen)| (path, (seen.file_type, seen.mode, seen.links, seen.content)))
        .collect()
}

fn views(fixture: &Fixture) -> BTreeMap<String, Snapshot> {
    let images = fixture.context.store.catalog().images().unwrap();
    images
        .into_iter()
        .map(|image| (image.name.clone(), fixture.snapshot(&image.name)))
        .collect()
}

/// Who is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum First {
    Operation,
    Collect,
}

/// What came of all of them.
#[derive(Debug, Default)]
struct Counts {
    interleavings: u64,
    /// The other one was done before the one that was stopped went on.
    done_in_the_midst: u64,
    /// It had to wait.
    waited: u64,
    /// By collects that ran in the midst or around.
    removed: u64,
}

/// All interleavings of an operation with a collect.
fn sweep(original: &Fixture, operation: &Operation, first: First, counts: &mut Counts) {
    let expected: BTreeMap<String, Shown> = {
        let scene = Scene::new(original);
        operation.run(&scene, &|| ());
        let views = views(&scene.fixture).into_iter();
        views.map(|(name, view)| (name, shown(view))).collect()
    };
    for step in 0.. {
        let scene = Scene::new(original);
        let what = format!("{}, {first:?} stopped at step {step}", operation.name);
        let before = views(&scene.fixture);
        let removed = AtomicU64::new(0);
        let met = interleave(
            first == First::Collect,
            step,
            &|point| operation.run(&scene, point),
            &|| {
                removed.fetch_add(collect(&scene.fixture), Ordering::SeqCst);
            },
        );
        if met == Met::NotReached {
            assert!(step > 0, "{what}: it has no steps");
            return;
        }
        counts.interleavings += 1;
        match met {
            Met::Done => counts.done_in_the_midst += 1,
            _ => counts.waited += 1,
        }
        counts.removed += removed.into_inner();
        scene.fixture.assert_sound(&what);
        let after = views(&scene.fixture);
        let names = |views: &BTreeMap<String, Snapshot>| views.keys().cloned().collect::<Vec<_>>();
        assert_eq!(
            names(&after),
            expected.keys().cloned().collect::<Vec<_>>(),
            "{what}"
        );
        for (name, view) in &after {
            if !operation.alters(name) {
                assert_same(&before[name], view, &format!("{what}: {name}"));
            }
            let shown = shown(view.clone());
            assert!(shown == expected[name], "{what}: {name} is {shown:?}");
        }
        // Nothing that is still needed was left to chance.
        counts.removed += collect(&scene.fixture);
        scene.fixture.assert_sound(&what);
        let fixture = scene.end();
        let fixture = fixture.reopen();
        for (name, view) in views(&fixture) {
            assert_same(&after[&name], &view, &format!("{what}, reopened: {name}"));
        }
        fixture.assert_sound(&what);
    }
}

fn sweep_all(operations: &[Operation]) {
    if !rustix::process::geteuid().is_root() {
        panic!("it needs root");
    }
    let original = original();
    for operation in operations {
        for first in [First::Operation, First::Collect] {
            let mut counts = Counts::default();
            sweep(&original, operation, first, &mut counts);
            eprintln!("{}, {first:?} stopped: {counts:?}", operation.name);
            assert!(counts.removed > 0, "there was nothing to collect");
        }
    }
}

#[test]
fn collect_beside_imports() {
    sweep_all(&operations::IMPORTS);
}

#[test]
fn collect_beside_what_operations_do() {
    sweep_all(&operations::OPERATIONS);
}

#[test]
fn collect_beside_guests() {
    sweep_all(&operations::GUESTS);
}
