//! The lock under which an image's names and metadata change, and the count of such changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The lock that a family's images share: held shared by every change of an image's names or
/// metadata, exclusively by a commit of the family's shared layer.
pub type ChangeLock = Arc<RwLock<()>>;

/// One image's part in its family's lock.
pub(super) struct Change {
    lock: ChangeLock,
    /// Goes up after each change. Outlives the live image, so that who has seen all of it once
    /// knows whether there is anything new to see.
    count: Arc<AtomicU64>,
}

/// Held while an image's names or metadata change.
pub(super) struct Changing<'a> {
    count: &'a AtomicU64,
    _lock: RwLockReadGuard<'a, ()>,
}

impl Change {
    pub(super) fn new(lock: ChangeLock) -> Self {
        let count = Arc::default();
        Self { lock, count }
    }

    /// Counts in `count` from now on.
    pub(super) fn count_in(&mut self, count: Arc<AtomicU64>) {
        self.count = count;
    }

    /// Begins a change.
    pub(super) fn read(&self) -> Changing<'_> {
        Changing {
            count: &self.count,
            _lock: self.lock.read(),
        }
    }

    /// Waits for all changes of the family's images, and keeps new ones waiting.
    pub(super) fn stop(&self) -> RwLockWriteGuard<'_, ()> {
        self.lock.write()
    }
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        // After the change: who reads the count before it was made finds it altered later.
        self.count.fetch_add(1, Ordering::Release);
    }
}
