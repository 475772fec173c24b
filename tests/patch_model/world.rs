//! A family whose images were changed at random, and changes that are made in it.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test; each file of tests uses its part"
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use foldfs::fold::placement;
use foldfs::ops::patch::{self, ApplyOptions, CreateOptions, OnConflict, Source};
use foldfs::ops::report::ApplyReport;
use foldfs::ops::{check, clone, fold};
use foldfs::progress::Silent;
use foldfs::store::catalog::Share;
use proptest::prelude::*;

use crate::family::guest::Guest;
use crate::family::{Fixture, Snapshot, settle_at, symlink, write};
use crate::patch_model::{options, source};

/// Images that a change is applied to; the first is the base.
pub const IMAGES: [&str; 3] = ["f", "one", "two"];

pub const PATHS: [&str; 16] = [
    "etc/hosts",
    "etc",
    "etc/x",
    "usr/a",
    "usr/b",
    "usr",
    "usr/sub",
    "usr/sub/deep",
    "usr/sub/deep/d",
    "usr/sub/c",
    "opt",
    "opt/n",
    "opt/n/f",
    "link",
    "var",
    "",
];

#[derive(Debug, Clone)]
pub enum Op {
    Create(usize),
    Mkdir(usize),
    Unlink(usize),
    Rmdir(usize),
    Empty(usize),
    Rename(usize, usize),
    Exchange(usize, usize),
    Link(usize, usize),
    Symlink(usize),
    Chmod(usize, u32),
    Write(usize, bool),
}

pub fn op() -> impl Strategy<Value = Op> {
    let path = || 0..PATHS.len();
    prop_oneof![
        2 => path().prop_map(Op::Create),
        2 => path().prop_map(Op::Mkdir),
        3 => path().prop_map(Op::Unlink),
        2 => path().prop_map(Op::Rmdir),
        1 => path().prop_map(Op::Empty),
        4 => (path(), path()).prop_map(|(p, q)| Op::Rename(p, q)),
        1 => (path(), path()).prop_map(|(p, q)| Op::Exchange(p, q)),
        3 => (path(), path()).prop_map(|(p, q)| Op::Link(p, q)),
        1 => path().prop_map(Op::Symlink),
        4 => (path(), 0..2u32).prop_map(|(p, m)| Op::Chmod(p, 0o700 + m)),
        4 => (path(), any::<bool>()).prop_map(|(p, b)| Op::Write(p, b)),
    ]
}

/// What happens to some image, or to the whole family.
#[derive(Debug, Clone)]
pub enum Step {
    Guest(usize, Op),
    Place,
    Fold,
}

pub fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => (0..IMAGES.len(), op()).prop_map(|(i, op)| Step::Guest(i, op)),
        1 => Just(Step::Place),
        1 => Just(Step::Fold),
    ];
    proptest::collection::vec(step, 0..14)
}

pub fn tree(root: &Path, newer: bool, time: u64) {
    write(root, "etc/os-release", "ID=debian\nVERSION_ID=\"13\"\n");
    write(root, "etc/hosts", if newer { "new\n" } else { "old\n" });
    write(root, "usr/a", "a");
    write(root, "usr/b", "b");
    write(root, "usr/sub/deep/d", "d");
    write(root, "usr/sub/deep/e", "e");
    for (from, to) in [("usr/a", "usr/sub/c"), ("usr/sub/deep/e", "etc/e")] {
        std::fs::hard_link(root.join(from), root.join(to)).unwrap();
    }
    symlink(root, "usr/a", "link");
    if newer {
        write(root, "opt/n/f", "f");
        write(root, "opt/n/g", "");
        std::fs::remove_file(root.join("usr/b")).unwrap();
    }
    settle_at(root, time);
}

pub fn run(guest: &Guest, op: &Op) {
    let p = |path: &usize| PATHS[*path];
    // What a guest is refused changes nothing.
    let _refused = match op {
        Op::Create(path) => guest.create(p(path)).is_err(),
        Op::Mkdir(path) => guest.mkdir(p(path)).is_err(),
        Op::Unlink(path) => guest.unlink(p(path)).is_err(),
        Op::Rmdir(path) => guest.rmdir(p(path)).is_err(),
        Op::Empty(path) => {
            // A directory that is removed and made again takes nothing from the shared layer.
            for below in [
                "d",
                "e",
                "c",
                "deep",
                "f",
                "g",
                "n",
                "hosts",
                "os-release",
                "x",
            ] {
                let below = format!("{}/{below}", p(path));
                let _gone = guest.unlink(&below).is_ok() || guest.rmdir(&below).is_ok();
            }
            guest.rmdir(p(path)).is_err() || guest.mkdir(p(path)).is_err()
        }
        Op::Rename(old, new) => guest.rename(p(old), p(new)).is_err(),
        Op::Exchange(old, new) => guest.exchange(p(old), p(new)).is_err(),
        Op::Link(old, new) => guest.link(p(old), p(new)).is_err(),
        Op::Symlink(path) => guest.symlink("target", p(path)).is_err(),
        Op::Chmod(path, mode) => guest.chmod(p(path), *mode).is_err(),
        Op::Write(path, other) => {
            let text: &[u8] = if *other { b"WRITTEN" } else { b"written" };
            guest.write(p(path), text).is_err()
        }
    };
}

pub struct World {
    pub fixture: Fixture,
}

impl World {
    pub fn new() -> Self {
        let fixture = Fixture::new();
        for (name, newer, time) in [("one", false, 0), ("two", true, 1)] {
            let source = fixture.source(name);
            tree(&source, newer, 1_100_000_000 + time);
            fixture.import_as(name, &source, Some("f"), Share::Majority);
        }
        Self { fixture }
    }

    pub fn guest(&self, image: &str) -> Guest {
        Guest(self.fixture.filesystem(image))
    }

    pub fn clone(&self, from: &str, to: &str) {
        let options = clone::Options {
            from: from.into(),
            to: to.into(),
            frozen: false,
            reset: None,
        };
        let context = &self.fixture.context;
        let plan = clone::plan(context, &options).unwrap();
        clone::apply(context, &plan, &Silent).unwrap();
    }

    pub fn run(&self, steps: &[Step]) {
        for step in steps {
            match step {
                Step::Guest(image, op) => run(&self.guest(IMAGES[*image]), op),
                Step::Place => {
                    let family = self.fixture.image("f").family;
                    placement::place(&self.fixture.context.images, family).unwrap();
                }
                Step::Fold => {
                    let context = &self.fixture.context;
                    let plan = fold::plan(context, &fold::Options { family: None }, &Silent);
                    fold::apply(context, &plan.unwrap(), &Silent).unwrap();
                }
            }
        }
    }

    pub fn create(&self, old: &str, new: &str) -> PathBuf {
        let file = self.fixture.source("patches").join("p");
        let options = CreateOptions {
            old: old.into(),
            new: new.into(),
            file: file.clone(),
            signer: None,
        };
        patch::create(Some(&self.fixture.context), &options, &Silent).unwrap();
        file
    }

    pub fn apply(&self, file: &Path, on_conflict: OnConflict) -> ApplyReport {
        self.change(source(file), on_conflict)
    }

    /// Makes a change of the whole family.
    pub fn change(&self, source: Source, on_conflict: OnConflict) -> ApplyReport {
        let context = &self.fixture.context;
        let options = ApplyOptions {
            on_conflict,
            ..options(source)
        };
        let plan = patch::plan(context, &options, &Silent).unwrap();
        patch::apply(context, plan, &Silent).unwrap()
    }

    #[track_caller]
    pub fn assert_sound(&self) {
        let options = check::Options { content: true };
        let report = check::run(&self.fixture.context, options, &Silent).unwrap();
        assert!(report.findings.is_empty(), "{:?}", report.findings);
    }
}

pub fn conflicts(report: &ApplyReport, image: &str) -> BTreeSet<String> {
    let found = report.images.iter().find(|found| found.image == image);
    let conflicts = found.expect(image).conflicts.iter();
    let path = |path: &[u8]| String::from_utf8(path[1..].to_vec()).unwrap();
    conflicts
        .map(|conflict| path(conflict.path.as_bytes()))
        .collect()
}

pub fn all(fixture: &Fixture) -> Vec<(String, Snapshot)> {
    let names = IMAGES.iter().chain(&["old", "new"]);
    names
        .map(|name| (String::from(*name), fixture.snapshot(name)))
        .collect()
}
