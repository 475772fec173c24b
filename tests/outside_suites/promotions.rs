//! fsx in a file that goes back to the shared layer, and is promoted again, many times under it.
//!
//! While fsx has the file closed for a moment, a lease keeps it from opening it again: time to put
//! the same version into the other image and to fold, after which the file is a shared one. The
//! next write promotes it in the midst of what fsx does, and the reads around it see everything.

use std::fs::{self, File};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use foldfs::sys::lease::ReadLease;
use rustix::io::Errno;

use super::fsx::{Fsx, is_same, length, original, plain, shared, twins};
use super::*;

/// Each operation but mapread: fsx keeps what it maps for that, so the file would never be closed.
const CLOSING: &str = "[weights]\nread = 10\nwrite = 10\nmapread = 0\nmapwrite = 10\n\
    truncate = 5\nclose_open = 10\ninvalidate = 10\nposix_fallocate = 10\npunch_hole = 10\n\
    sendfile = 10\nposix_fadvise = 10\ncopy_file_range = 10\nfsync = 1\nfdatasync = 1\n";

/// The file goes back so often for each seed at most: the rest of the operations follow after
/// that.
const TURNS: u32 = 30;

/// How often a fold may find that the file is still being closed.
const PATIENCE: u32 = 200;

/// What happened to the file while fsx was at work.
#[derive(Debug, Default)]
struct Turns {
    /// It was shared again, and promoted by what followed.
    shared: u32,
    /// It was opened while a fold was at it; whichever was faster.
    raced: u32,
}

/// Both images' names of a file.
struct Pair<'a> {
    store: &'a TestStore,
    path: String,
    ours: &'a Path,
    theirs: &'a Path,
}

impl Pair<'_> {
    /// Gives the other image the same version; `None` if there is nothing in it.
    fn copy(&self) -> Option<Vec<u8>> {
        let content = fs::read(self.ours).unwrap();
        let mtime = fs::metadata(self.ours).unwrap().modified().unwrap();
        put(self.theirs, &content, mtime);
        Some(content).filter(|content| !content.is_empty())
    }

    /// Folds until the file is shared.
    fn share(&self) {
        for _ in 0..PATIENCE {
            self.store.ok(&["fold"]);
            if why(self.store, "first", &self.path).0 == "shared" {
                return;
            }
        }
        let why = self.store.ok(&["why", "first", &self.path]);
        panic!("{} is not shared again:\n{}", self.path, why.text());
    }
}

/// Makes the file a shared one whenever fsx has closed it, until `ended`.
fn turn(pair: &Pair<'_>, file: &File, ended: &AtomicBool) -> Turns {
    let mut turns = Turns::default();
    let mut kept: Option<Vec<u8>> = None;
    while turns.shared + turns.raced < TURNS && !ended.load(Ordering::SeqCst) {
        let descriptor = file.try_clone().unwrap();
        let Some(lease) = ReadLease::take(descriptor.into()).unwrap() else {
            continue;
        };
        if let Some(kept) = &kept {
            is_same(pair.theirs, kept, "changed by what the other image wrote");
        }
        kept = pair.copy();
        if kept.is_none() {
            continue;
        }
        if turns.shared <= turns.raced {
            pair.share();
            turns.shared += 1;
        } else {
            thread::scope(|scope| {
                scope.spawn(|| pair.store.ok(&["fold"]));
                // A fold takes some 20 ms: now it is early, now late.
                thread::sleep(Duration::from_millis(u64::from(turns.raced * 7 % 23)));
                drop(lease);
            });
            turns.raced += 1;
        }
    }
    turns
}

#[test]
fn fsx_in_a_file_that_is_promoted_under_it() {
    let test = "fsx_in_a_file_that_is_promoted_under_it";
    let Some(program) = tool(test, "fsx") else {
        return;
    };
    // The lease is to be on the inode that fsx opens.
    let store = TestStore::coherent();
    twins(&store);
    let (first, second) = (store.mount("first"), store.mount("second"));
    let (seeds, operations) = length();
    let lease = ReadLease::take(File::open(shared(&first.path, seeds.start)).unwrap().into());
    let missing = (lease.err() == Some(Errno::INVAL)).then_some("FUSE has no leases here");
    if !can_run(test, missing) {
        return;
    }
    let fsx = Fsx::new(program, &store.place, CLOSING);
    let mut expected = Vec::new();
    for seed in seeds.clone() {
        let content = plain(&store, &fsx, seed, operations);
        let (ours, theirs) = (shared(&first.path, seed), shared(&second.path, seed));
        let pair = Pair {
            store: &store,
            path: format!("/shared/{seed}"),
            ours: &ours,
            theirs: &theirs,
        };
        let file = File::open(&ours).unwrap();
        let ended = AtomicBool::new(false);
        let turns = thread::scope(|scope| {
            let exercise = scope.spawn(|| {
                let _ends = Ends(&ended);
                fsx.exercise(&ours, seed, operations);
            });
            let turns = turn(&pair, &file, &ended);
            exercise.join().unwrap();
            turns
        });
        eprintln!("{test}: seed {seed}, {operations} operations: {turns:?}");
        assert!(
            turns.shared > 1 && turns.raced > 0,
            "seed {seed}: {turns:?}"
        );
        is_same(&ours, &content, "differs from a plain file");
        expected.push((ours.clone(), content));
        let theirs_now = fs::read(&theirs).unwrap();
        assert!(theirs_now != original(seed), "{}", theirs.display());
        expected.push((theirs.clone(), theirs_now));
    }
    let look = |when: &str| {
        for (path, content) in &expected {
            is_same(path, content, when);
        }
    };
    store.ok(&["fold"]);
    look("after a fold");
    first.unmount();
    second.unmount();
    let mounts = ["first", "second"].map(|image| store.mount(image));
    look("after a remount");
    finish(&store, mounts);
}
