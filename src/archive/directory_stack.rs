//! The directories from a root to where a tree is being written, of which only the deepest are open.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, Mode, OFlags};
use rustix::io::{Errno, Result};

/// Directories that stay open.
const OPEN_MAX: usize = 128;

pub(super) const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// The stack. Nobody else moves its directories.
pub(super) struct DirectoryStack {
    levels: Vec<Option<OwnedFd>>,
    /// Of `levels`, so many at the beginning are closed.
    closed: usize,
}

impl DirectoryStack {
    pub(super) fn new(root: OwnedFd) -> Self {
        Self {
            levels: vec![Some(root)],
            closed: 0,
        }
    }

    /// How many directories; at least one.
    pub(super) fn depth(&self) -> usize {
        self.levels.len()
    }

    /// The deepest.
    pub(super) fn top(&self) -> Result<BorrowedFd<'_>> {
        let top = self.levels.last().and_then(Option::as_ref);
        top.map(AsFd::as_fd).ok_or(Errno::BADF)
    }

    /// Goes down.
    pub(super) fn enter(&mut self, name: &[u8]) -> Result<()> {
        let directory = fs::openat(self.top()?, name, DIRECTORY, Mode::empty())?;
        self.levels.push(Some(directory));
        if self.levels.len() - self.closed > OPEN_MAX {
            self.levels[self.closed] = None;
            self.closed += 1;
        }
        Ok(())
    }

    /// Goes up.
    pub(super) fn leave(&mut self) -> Result<()> {
        let left = self.levels.pop().flatten();
        if let Some(above @ None) = self.levels.last_mut() {
            let left = left.ok_or(Errno::BADF)?;
            *above = Some(fs::openat(left, "..", DIRECTORY, Mode::empty())?);
            self.closed -= 1;
        }
        Ok(())
    }
}
