//! Needs root and FUSE. What outlives a daemon: the descriptors that a service manager keeps for the next one, systemd or
//! foldfs's own keeper, and the store's lock among them.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on should panic"
)]

mod common;

#[path = "mounted_kept/keeper.rs"]
mod keeper;
#[path = "mounted_kept/kept_daemon.rs"]
mod kept_daemon;
#[path = "mounted_kept/manager.rs"]
mod manager;
#[path = "mounted_kept/namespace.rs"]
mod namespace;
#[path = "mounted_kept/replaced.rs"]
mod replaced;
#[path = "mounted_kept/waiting.rs"]
mod waiting;

use common::store::TestStore;

/// A store with the image `one`.
fn image(test: &str) -> Option<TestStore> {
    if !common::can_run(test, common::needs_fuse()) {
        return None;
    }
    let store = TestStore::new();
    store.import("one", &store.sample(0), "family");
    Some(store)
}
