//! What a daemon has left that died with its images mounted, to the one that starts now: kept by the service manager
//! meanwhile.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::service_manager::descriptors;
use crate::store::lock::StoreLock;

/// The name under which the store's lock is kept: nobody alters the store between two daemons.
const LOCK: &str = "lock";

/// What was left.
#[derive(Debug)]
pub struct Inheritance {
    lock: Option<OwnedFd>,
    /// All but the lock, by its names.
    pub descriptors: Vec<(String, OwnedFd)>,
}

impl Inheritance {
    /// To be called once, as the daemon starts.
    pub fn take() -> Self {
        let mut descriptors = descriptors::inherited();
        let lock = descriptors.iter().position(|(name, _)| name == LOCK);
        Self {
            lock: lock.map(|place| descriptors.swap_remove(place).1),
            descriptors,
        }
    }

    /// No mount is left: nothing waits for this daemon.
    pub fn end(&mut self) {
        if let Some(lock) = self.lock.take() {
            descriptors::let_go(LOCK);
            StoreLock::end_left(lock.as_fd());
        }
    }

    /// The store's lock.
    pub fn lock(&self) -> Option<BorrowedFd<'_>> {
        self.lock.as_ref().map(AsFd::as_fd)
    }
}

/// The lock of this daemon outlives it, if it dies.
pub fn keep(lock: Option<&StoreLock>) {
    let Some(lock) = lock.filter(|lock| !lock.was_taken_over()) else {
        return;
    };
    descriptors::let_go(LOCK);
    if let Err(error) = descriptors::keep(LOCK, &[lock.descriptor()]) {
        log::warn!("the store is not locked between this daemon's death and the next one: {error}");
    }
}

/// It ends with this daemon, which has unmounted all and is done with the store.
pub fn end(lock: Option<&StoreLock>) {
    descriptors::let_go(LOCK);
    if let Some(lock) = lock {
        lock.end();
    }
}
