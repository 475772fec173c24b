//! The lock under which an image's names and metadata change, and what is noted of changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::altered::Journal;
use super::refusals::Refusals;

/// The lock that a family's images share: held shared by every change of an image's names or
/// metadata, exclusively by a commit of the family's shared layer.
pub type ChangeLock = Arc<RwLock<()>>;

/// What was changed of an image in this process. Outlives the live image, so that who has seen all
/// of it once knows whether there is anything new to see.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// Goes up after each change of names or metadata.
    pub(super) changes: AtomicU64,
    /// Goes up when somebody has ended writing to a file.
    pub(super) closed: AtomicU64,
    /// Files whose content somebody has ended writing to.
    pub(super) altered: Journal,
    /// Shared files that became the image's own, with content.
    pub(super) promoted_files: AtomicU64,
    /// Bytes of content that were copied for that.
    pub(super) promoted_bytes: AtomicU64,
    /// How often one failed.
    pub(super) promotion_failures: AtomicU64,
    /// What was refused because it is locked.
    pub(super) refusals: Refusals,
    /// When that was last said.
    said: Mutex<Option<Instant>>,
}

/// A guest without room tries again and again: that is said once in a while.
const QUIET: Duration = Duration::from_secs(10);

impl Notes {
    /// Counts a promotion that failed; whether to say so.
    pub(super) fn promotion_failed(&self) -> bool {
        self.promotion_failures.fetch_add(1, Ordering::Relaxed);
        let mut said = self.said.lock();
        let say = said.is_none_or(|said| said.elapsed() > QUIET);
        if say {
            *said = Some(Instant::now());
        }
        say
    }
}

/// One image's part in its family's lock.
pub(super) struct Change {
    lock: ChangeLock,
    notes: Arc<Notes>,
}

/// Held while an image's names or metadata change.
pub(super) struct Changing<'a> {
    count: &'a AtomicU64,
    _lock: RwLockReadGuard<'a, ()>,
}

impl Change {
    pub(super) fn new(lock: ChangeLock) -> Self {
        let notes = Arc::default();
        Self { lock, notes }
    }

    /// Notes changes in `notes` from now on.
    pub(super) fn note_in(&mut self, notes: Arc<Notes>) {
        self.notes = notes;
    }

    /// What was noted.
    pub(super) fn notes(&self) -> &Arc<Notes> {
        &self.notes
    }

    /// Begins a change.
    pub(super) fn read(&self) -> Changing<'_> {
        Changing {
            count: &self.notes.changes,
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
