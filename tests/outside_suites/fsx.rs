//! fsx: random reads and writes of all sorts in one file, each read compared with what must be
//! there.
//!
//! It empties its file first, so that a shared file is promoted without its content. In block mode
//! it does not, and leaves what is behind its part of the file alone: the content is copied.
//! promotions.rs has the file promoted under it again and again.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::SystemTime;

use super::common::device::{Device, Kind};
use super::common::fsx::EVERYTHING;
pub use super::common::fsx::Fsx;
use super::common::store::{Mounted, TestStore};
use super::*;

/// Each one that does not change the size, in the first part of a file.
const BLOCKS: &str = "blockmode = true\nflen = 196608\n[weights]\nread = 10\nwrite = 10\n\
    mapread = 10\nmapwrite = 10\ntruncate = 0\nclose_open = 0\ninvalidate = 10\n\
    posix_fallocate = 0\npunch_hole = 10\nsendfile = 10\nposix_fadvise = 10\n\
    copy_file_range = 10\nfsync = 1\nfdatasync = 1\n";

/// More than fsx works on in any mode.
const LENGTH: usize = 300_000;

/// The seeds, and the operations with each of them.
pub fn length() -> (Range<u64>, u64) {
    let first = std::env::var("FOLDFS_TEST_SEED").map_or(1, |seed| seed.parse().unwrap());
    match is_full() {
        true => (first..first + 20, 20_000),
        false => (first..first + 2, 3_000),
    }
}

/// A store whose family has the images `first` and `second`, each with a shared file for each
/// seed.
pub fn twins(store: &TestStore) {
    let source = store.place.join("tree");
    fs::create_dir_all(source.join("shared")).unwrap();
    fs::create_dir_all(source.join("copies")).unwrap();
    for seed in length().0 {
        fs::write(shared(&source, seed), original(seed)).unwrap();
    }
    store.import("first", &source, "family");
    store.import("second", &source, "family");
}

/// What is in that file.
pub fn original(seed: u64) -> Vec<u8> {
    let word = |i: u64| (i ^ seed << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let words = (0..LENGTH as u64 / 8).map(word);
    words.flat_map(u64::to_le_bytes).collect()
}

/// The file of a seed that is shared at the start.
pub fn shared(root: &Path, seed: u64) -> PathBuf {
    root.join("shared").join(seed.to_string())
}

/// What fsx leaves in a plain file that was like the shared one.
pub fn plain(store: &TestStore, fsx: &Fsx, seed: u64, operations: u64) -> Vec<u8> {
    let path = store.place.join("plain");
    fs::write(&path, original(seed)).unwrap();
    fsx.exercise(&path, seed, operations);
    fs::read(&path).unwrap()
}

pub fn is_same(path: &Path, content: &[u8], when: &str) {
    assert!(
        fs::read(path).unwrap() == content,
        "{} {when}",
        path.display()
    );
}

/// A shared and a private file at once, with each of the seeds, while they are folded.
fn exercise(test: &str, kind: Option<Kind>, configuration: &str) {
    let missing = kind.and_then(Device::missing);
    let Some(program) = tool(test, "fsx").filter(|_| can_run(test, missing)) else {
        return;
    };
    let device = kind.map(|kind| Device::new(kind, 2_000));
    let store = device
        .as_ref()
        .map_or_else(TestStore::new, |device| TestStore::at(&device.path));
    twins(&store);
    let (first, second) = (store.mount("first"), store.mount("second"));
    let fsx = Fsx::new(program, &store.place, configuration);
    let private = |seed: u64| first.join("copies").join(seed.to_string());
    let (seeds, operations) = length();
    let expected: Vec<_> = seeds
        .clone()
        .map(|seed| plain(&store, &fsx, seed, operations))
        .collect();

    let mut folds = Folds::default();
    for (seed, expected) in seeds.clone().zip(&expected) {
        let (common, own) = (shared(&first.path, seed), private(seed));
        assert_eq!(why(&store, "first", &format!("/shared/{seed}")).0, "shared");
        put(&own, &original(seed), SystemTime::now());
        // A file as large as it: else fold would not look at it.
        let like = second.join("copies/like");
        let prepare = |_| {
            fs::copy(&common, &like).unwrap();
        };
        let ((), done) = while_folding(&store, prepare, || {
            thread::scope(|scope| {
                scope.spawn(|| fsx.exercise(&common, seed, operations));
                fsx.exercise(&own, seed, operations);
            });
        });
        is_same(&common, expected, "differs from a plain file");
        is_same(&own, expected, "differs from a plain file");
        is_same(&shared(&second.path, seed), &original(seed), "changed");
        assert_eq!(
            why(&store, "first", &format!("/shared/{seed}")).0,
            "private"
        );
        folds.runs += done.runs;
        folds.busy += done.busy;
        folds.folded += done.folded;
    }
    eprintln!("{test}: seeds {seeds:?}, {operations} operations each; {folds:?}");
    // Where the size changes, few folds find another file as large.
    assert!(folds.busy > 0 || configuration != BLOCKS, "{folds:?}");
    look_again(&store, first, &expected);
    finish(&store, [second]);
}

/// Both files of each seed are equal: once they are closed they are folded, and nothing shows.
fn look_again(store: &TestStore, first: Mounted, expected: &[Vec<u8>]) {
    let names = || {
        length()
            .0
            .flat_map(|seed| [format!("shared/{seed}"), format!("copies/{seed}")])
    };
    store.ok(&["fold"]);
    let look = |first: &Mounted, when: &str| {
        for (name, expected) in names().zip(expected.iter().flat_map(|content| [content; 2])) {
            is_same(&first.join(&name), expected, when);
        }
    };
    look(&first, "after a fold");
    for (name, content) in names().zip(expected.iter().flat_map(|content| [content; 2])) {
        let role = why(store, "first", &format!("/{name}")).1;
        assert!(content.is_empty() || role == "stub", "{name}: {role}");
    }
    first.unmount();
    let first = store.mount("first");
    look(&first, "after a remount");
    first.unmount();
}

#[test]
fn fsx_with_its_defaults() {
    exercise("fsx_with_its_defaults", None, "");
}

#[test]
fn fsx_with_every_operation() {
    exercise("fsx_with_every_operation", None, EVERYTHING);
}

#[test]
fn fsx_in_a_part_of_a_file() {
    exercise("fsx_in_a_part_of_a_file", None, BLOCKS);
}

#[test]
fn fsx_on_xfs() {
    exercise("fsx_on_xfs", Some(Kind::Xfs), EVERYTHING);
}
