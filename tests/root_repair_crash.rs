//! Needs root. check --repair that ends at any durable step, or in which one fails, can be run again
//! and ends as if nothing had happened.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on should panic"
)]

mod family;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use family::fault::{Fault, alone, disturbed};
use family::live::put;
use family::{Fixture, Snapshot, assert_same, write};
use foldfs::ops::repair;
use foldfs::progress::Silent;
use foldfs::store::digest::Digest;
use rustix::fs::XattrFlags;

const IMAGES: [&str; 2] = ["one", "two"];

const SHARED: &[u8] = b"a shell, of which an image has a copy";

fn original() -> Fixture {
    let fixture = Fixture::new();
    let source = fixture.source("source");
    write(&source, "etc/passwd", "root:x:0:0");
    fs::create_dir_all(source.join("usr/bin")).unwrap();
    fs::write(source.join("usr/bin/sh"), SHARED).unwrap();
    for name in IMAGES {
        fixture.import_as(name, &source, Some("family"), Default::default());
    }
    for name in IMAGES {
        let fs = fixture.filesystem(name);
        put(&fs, "etc/own", name.as_bytes());
        put(&fs, "usr/marked", name.as_bytes());
    }
    put(&fixture.filesystem("two"), "usr/copy", SHARED);
    fixture.context.store.sync().unwrap();
    fixture
}

fn object(store: &Path) -> PathBuf {
    let name = Digest::of(SHARED).to_string();
    store.join("objects").join(&name[..2]).join(&name[2..])
}

fn image(fixture: &Fixture, name: &str) -> PathBuf {
    let id = fixture.image(name).id;
    fixture.context.store.path().join(format!("images/{id}"))
}

/// One damage of each kind that is mended.
fn damage(fixture: &Fixture) {
    let [one, two] = IMAGES.map(|name| image(fixture, name));
    let store = fixture.context.store.path();
    let object = object(store);
    assert_eq!(fs::read(&object).unwrap(), SHARED);
    fs::write(&object, "damaged").unwrap();
    for place in ["private/foreign", "index/foreign"] {
        fs::write(one.join(place), place).unwrap();
    }
    fs::create_dir(two.join("private/etc/foreign")).unwrap();
    fs::write(two.join("private/etc/foreign/file"), "in a directory").unwrap();
    for part in ["redirects", "orphans"] {
        fs::remove_dir_all(two.join(part)).unwrap();
    }
    let marked = two.join("private/usr/marked");
    rustix::fs::lsetxattr(&marked, "trusted.foldfs", b"garbage", XattrFlags::empty()).unwrap();
    fs::write(store.join("images/foreign"), "images/foreign").unwrap();
}

fn run_repair(fixture: &Fixture) -> bool {
    let options = repair::Options {
        content: true,
        ..repair::Options::default()
    };
    repair::apply(&fixture.context, &options, &Silent).is_ok_and(|left| left.findings.is_empty())
}

/// What the images show, but for what a new mark gives a file, and for the times of directories:
/// what is foreign has altered those that it came into.
fn views(fixture: &Fixture) -> Vec<Snapshot> {
    let view = |name: &&str| {
        let mut view = fixture.snapshot(name);
        for seen in view.values_mut() {
            seen.number = 0;
            seen.ctime = Default::default();
            if seen.file_type == "Directory" {
                seen.mtime = Default::default();
            }
        }
        view
    };
    IMAGES.iter().chain(&["family"]).map(view).collect()
}

/// What was moved aside: names and contents.
fn aside(fixture: &Fixture) -> BTreeSet<(String, Vec<u8>)> {
    let quarantine = fixture.context.store.path().join("quarantine");
    let mut found = BTreeSet::new();
    let mut pending = vec![quarantine.clone()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else if path != quarantine.join("list") {
                // Two attempts may give two numbers.
                let inside = path.strip_prefix(&quarantine).unwrap().components().skip(1);
                let name = inside.collect::<PathBuf>().display().to_string();
                found.insert((name, fs::read(&path).unwrap()));
            }
        }
    }
    found
}

fn sweep(fault: fn(usize) -> Fault) {
    let _alone = alone();
    let original = original();
    let before = views(&original);
    damage(&original);
    let undisturbed = original.copy_in_memory();
    assert!(run_repair(&undisturbed));
    let undisturbed = undisturbed.reopen();
    let kept = aside(&undisturbed);
    assert_eq!(kept.len(), 4, "{kept:?}");
    for step in 0.. {
        let fixture = original.copy_in_memory();
        let fault = fault(step);
        let what = format!("{fault:?}");
        let reached = disturbed(fault, || {
            run_repair(&fixture);
        });
        let fixture = fixture.reopen();
        assert!(run_repair(&fixture), "{what}");
        let fixture = fixture.reopen();
        for (before, now) in before.iter().zip(views(&fixture)) {
            assert_same(before, &now, &what);
        }
        assert_eq!(aside(&fixture), kept, "{what}");
        fixture.assert_sound(&what);
        let options = repair::Options::default();
        let again = repair::apply(&fixture.context, &options, &Silent).unwrap();
        assert_eq!(again.repairs, [], "{what}");
        if !reached {
            println!("{step} steps");
            assert!(step > 30, "{step} steps only");
            return;
        }
    }
}

#[test]
fn a_repair_that_is_killed_at_any_step() {
    sweep(Fault::Killed);
}

#[test]
fn a_repair_in_which_any_step_fails() {
    sweep(Fault::Fails);
}

#[test]
fn a_restoration_of_the_catalog_that_is_killed_at_any_step() {
    let _alone = alone();
    let mut original = original();
    let before = views(&original);
    for step in 0.. {
        let what = format!("killed at {step}");
        let mut reached = true;
        let copy = original.copy_in_memory();
        let store = copy.context.store.path().to_owned();
        let copy = copy.reopen_after(|| {
            for name in ["catalog.db", "catalog.db-wal", "catalog.db-shm"] {
                let _gone = fs::remove_file(store.join(name));
            }
            fs::write(store.join("catalog.db"), "garbage").unwrap();
            let options = repair::Options::default();
            reached = disturbed(Fault::Killed(step), || {
                let _killed = repair::catalog(&store, &options);
            });
            repair::catalog(&store, &options).expect(&what);
        });
        assert!(run_repair(&copy), "{what}");
        for (before, now) in before.iter().zip(views(&copy)) {
            assert_same(before, &now, &what);
        }
        original = original.reopen();
        if !reached {
            println!("{step} steps");
            assert!(step > 5, "{step} steps only");
            return;
        }
    }
}
