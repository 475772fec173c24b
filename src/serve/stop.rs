//! Threads that do something from time to time until they are to end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// Says to a thread that works from time to time when to end.
#[derive(Default)]
pub(super) struct Stop {
    /// Long work looks at this in between.
    flag: AtomicBool,
    /// Who waits for the next time waits for this.
    lock: Mutex<()>,
    changed: Condvar,
}

impl Stop {
    /// Waits, unless it is time to end; whether to go on.
    pub(super) fn wait(&self, time: Duration) -> bool {
        let mut lock = self.lock.lock();
        if !self.flag.load(Ordering::Relaxed) {
            self.changed.wait_for(&mut lock, time);
        }
        !self.flag.load(Ordering::Relaxed)
    }

    /// What says that it is time to end.
    pub(super) fn flag(&self) -> &AtomicBool {
        &self.flag
    }

    /// It is time to end.
    pub(super) fn stop(&self) {
        {
            let _lock = self.lock.lock();
            self.flag.store(true, Ordering::Relaxed);
        }
        self.changed.notify_all();
    }
}
