//! A private file that does not change.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;

use rustix::fs::Stat;

use super::Node;
use crate::sys::lease::WatchedLease;

/// A private file that does not change while this lives and nobody wants it.
pub(super) struct Steady {
    pub(super) access: Access,
    pub(super) stat: Stat,
}

pub(super) enum Access {
    Leased(WatchedLease),
    /// There are no leases, and nobody else could have it open.
    Trusted(OwnedFd),
}

impl Steady {
    pub(super) fn file(&self) -> BorrowedFd<'_> {
        match &self.access {
            Access::Leased(lease) => lease.file(),
            Access::Trusted(file) => file.as_fd(),
        }
    }

    /// Whether who wants to write to it gets it at once, and the fold learns of it.
    pub(super) fn is_leased(&self) -> bool {
        matches!(self.access, Access::Leased(_))
    }

    /// From now on nobody gets to write to it, unless [`Steady::is_wanted`] says so after this.
    pub(super) fn hold(&self) {
        if let Access::Leased(lease) = &self.access {
            lease.hold();
        }
    }

    /// The file, with no lease on it.
    pub(super) fn into_file(self) -> OwnedFd {
        match self.access {
            Access::Leased(lease) => lease.give_back(),
            Access::Trusted(file) => file,
        }
    }

    /// Whether somebody wants to write to it, or has done so.
    pub(super) fn is_wanted(&self, node: &Node) -> bool {
        let is_over = match &self.access {
            Access::Leased(lease) => lease.is_over(),
            Access::Trusted(_) => false,
        };
        is_over || has_writers(node)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.stat.st_size as u64
    }

    pub(super) fn last_change(&self) -> i64 {
        self.stat.st_mtime.max(self.stat.st_ctime)
    }
}

pub(super) fn has_writers(node: &Node) -> bool {
    node.writers.load(Ordering::SeqCst) > 0
}
