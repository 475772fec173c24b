//! Needs root and, for most tests, FUSE. Stores that something else has damaged: what a mount gives
//! (the right bytes or EIO, never others), what check says, and what check --repair mends.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on should panic"
)]

mod common;

#[path = "damaged_store/beside.rs"]
mod beside;
#[path = "damaged_store/catalog.rs"]
mod catalog;
#[path = "damaged_store/fifo.rs"]
mod fifo;
#[path = "damaged_store/folding.rs"]
mod folding;
#[path = "damaged_store/lying_cache.rs"]
mod lying_cache;
#[path = "damaged_store/read_only.rs"]
mod read_only;
#[path = "damaged_store/reads.rs"]
mod reads;
#[path = "damaged_store/repair.rs"]
mod repair;
#[path = "damaged_store/sweep.rs"]
mod sweep;
#[path = "damaged_store/ways.rs"]
mod ways;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use common::snapshot::Snapshot;
use common::store::TestStore;

/// The family `family` with the images `first` and `other`, which differ in some files.
fn two_images(test: &str) -> Option<TestStore> {
    if !common::can_run(test, common::needs_fuse()) {
        return None;
    }
    let store = TestStore::new();
    store.import("first", &store.sample(0), "family");
    store.import("other", &store.sample(1), "family");
    store.assert_sound();
    Some(store)
}

/// Where the content of a path of an image lies, if it is an object.
fn object_of(store: &TestStore, image: &str, path: &str) -> PathBuf {
    let why = store.ok(&["why", image, path, "--json"]).json();
    let digest = why["digest"].as_str().unwrap();
    store
        .path
        .join("objects")
        .join(&digest[..2])
        .join(&digest[2..])
}

/// Its name as messages write it.
fn digest_of(object: &Path) -> String {
    let name = object.file_name().unwrap().to_str().unwrap();
    let directory = object.parent().unwrap().file_name().unwrap();
    format!("{}{name}", directory.to_str().unwrap())
}

/// Flips one bit.
fn flip(path: &Path, position: u64) {
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, position).unwrap();
    byte[0] ^= 0x10;
    file.write_all_at(&byte, position).unwrap();
}

fn truncate(path: &Path, length: u64) {
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_len(length).unwrap();
}

/// A configuration with these lines.
fn configuration(store: &TestStore, lines: &str) -> PathBuf {
    let path = store.place.join("config.toml");
    fs::write(&path, format!("interval = \"never\"\n{lines}\n")).unwrap();
    path
}

/// Reads every file of a mount: each is as in the plain tree, or gives EIO. How many give EIO.
#[track_caller]
fn right_or_refused(plain: &Path, mounted: &Path, what: &str) -> Vec<PathBuf> {
    let mut refused = Vec::new();
    for (name, entry) in &Snapshot::of(plain).entries {
        if entry.digest.is_none() {
            continue;
        }
        let name = Path::new(OsStr::from_bytes(name));
        let expected = fs::read(plain.join(name)).unwrap();
        match fs::read(mounted.join(name)) {
            Ok(found) => assert!(
                found == expected,
                "{what}: {} has wrong bytes",
                name.display()
            ),
            Err(error) => {
                let errno = error.raw_os_error();
                assert_eq!(errno, Some(libc::EIO), "{what}: {}", name.display());
                refused.push(name.to_owned());
            }
        }
    }
    refused
}
