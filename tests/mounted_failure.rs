//! Needs root and FUSE. What a mounted image does when the host fails: no space, no inodes, a quota
//! that is used up, a disk with bad places, a daemon that is killed. And that nobody waits for the
//! promotion of another file.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on should panic"
)]

mod common;

#[path = "mounted_failure/full.rs"]
mod full;
#[path = "mounted_failure/hashing.rs"]
mod hashing;
#[path = "mounted_failure/held.rs"]
mod held;
#[path = "mounted_failure/killed.rs"]
mod killed;
#[path = "mounted_failure/killed_storm.rs"]
mod killed_storm;
#[path = "mounted_failure/promotion.rs"]
mod promotion;
#[path = "mounted_failure/scarce.rs"]
mod scarce;
#[path = "mounted_failure/unreadable.rs"]
mod unreadable;

use std::fs;

use common::store::TestStore;

/// Expects that no image of a store has anything on its way. `orphans/` may hold what is open.
#[track_caller]
fn assert_no_debris(store: &TestStore, parts: &[&str], what: &str) {
    for image in fs::read_dir(store.path.join("images")).unwrap() {
        for part in parts {
            let path = image.as_ref().unwrap().path().join(part);
            let names = fs::read_dir(&path).unwrap();
            let names: Vec<_> = names.map(|name| name.unwrap().file_name()).collect();
            assert!(names.is_empty(), "{what}: {}: {names:?}", path.display());
        }
    }
}
