//! Needs root, FUSE and the tools that `scripts/install-deps.sh test` brings. Test suites by
//! others at work in mounted images, while they are folded, and, to compare, in a plain directory
//! of the same sort of file system: pjdfstest (names and metadata) and fsx (content).
//!
//! `make test` runs a short form of them; with FOLDFS_TEST_SUITES=full (`make soak`) it is all.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on should panic"
)]

mod common;

#[path = "outside_suites/fsx.rs"]
mod fsx;
#[path = "outside_suites/pjdfstest.rs"]
mod pjdfstest;
#[path = "outside_suites/promotions.rs"]
mod promotions;

use std::fs::{self, File};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::SystemTime;

use common::fsx::tool;
use common::store::{Mounted, TestStore};
use common::{can_run, needs_fuse};

/// Whether everything is to be run.
fn is_full() -> bool {
    std::env::var("FOLDFS_TEST_SUITES").is_ok_and(|form| form == "full")
}

/// What folds did, summed up.
#[derive(Debug, Default)]
struct Folds {
    runs: u64,
    folded: u64,
    busy: u64,
    /// Paths whose versions moved into the shared layer, out of it, or were exchanged there.
    moved: u64,
}

impl Folds {
    fn add(&mut self, store: &TestStore) {
        let report = store.ok(&["fold", "--json"]).json();
        self.runs += 1;
        for family in report["families"].as_array().unwrap() {
            let count = |key: &str| family[key].as_u64().unwrap();
            self.folded += count("folded_files");
            self.busy += count("busy_files");
            self.moved += count("shared_paths") + count("unshared_paths");
        }
    }
}

/// Says so when it goes, in a panic too.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Does something while the store is folded again and again, after `prepare` each time.
fn while_folding<T>(
    store: &TestStore,
    mut prepare: impl FnMut(u64) + Send,
    work: impl FnOnce() -> T,
) -> (T, Folds) {
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let folding = scope.spawn(|| {
            let mut folds = Folds::default();
            while folds.runs == 0 || !ended.load(Ordering::SeqCst) {
                prepare(folds.runs);
                folds.add(store);
            }
            folds
        });
        let done = {
            let _ends = Ends(&ended);
            work()
        };
        (done, folding.join().unwrap())
    })
}

/// Puts a version of a file there that is the same wherever it is put.
fn put(path: &Path, content: &[u8], mtime: SystemTime) {
    fs::write(path, content).unwrap();
    let file = File::options().write(true).open(path).unwrap();
    file.set_modified(mtime).unwrap();
}

/// Which layer serves a path of an image, and in which role.
fn why(store: &TestStore, image: &str, path: &str) -> (String, String) {
    let report = store.ok(&["why", image, path, "--json"]).json();
    let word = |key: &str| report[key].as_str().unwrap().to_owned();
    (word("layer"), word("role"))
}

/// Unmounts, and has the store checked.
fn finish(store: &TestStore, mounts: impl IntoIterator<Item = Mounted>) {
    mounts.into_iter().for_each(Mounted::unmount);
    store.wait_for_daemons();
    store.assert_sound();
}
