//! Read leases: whether a file can still change (fcntl(2), Leases).

#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Once;

use rustix::io::{Errno, Result};

/// A read lease, given back when dropped. While it is held nobody has the file open for writing or
/// mapped writable, and who wants to open it so waits (or gets EWOULDBLOCK with O_NONBLOCK).
#[derive(Debug)]
pub struct ReadLease(OwnedFd);

impl ReadLease {
    /// Takes the lease on a descriptor opened read-only, `None` while somebody may write the file.
    ///
    /// # Errors
    /// EINVAL where the file system has no leases; EACCES without CAP_LEASE.
    pub fn take(file: OwnedFd) -> Result<Option<Self>> {
        static IGNORED: Once = Once::new();
        IGNORED.call_once(ignore_break_signal);
        // SAFETY: fcntl with F_SETLEASE takes an int and touches no memory of ours.
        let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) };
        if result == 0 {
            return Ok(Some(Self(file)));
        }
        match std::io::Error::last_os_error().raw_os_error() {
            Some(libc::EAGAIN) => Ok(None),
            Some(other) => Err(Errno::from_raw_os_error(other)),
            None => Err(Errno::IO),
        }
    }

    /// The descriptor the lease is on.
    pub fn file(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.0.as_fd()
    }

    /// Whether somebody waits for the lease to be given back (F_GETLEASE shows the pending state).
    pub fn is_breaking(&self) -> bool {
        // SAFETY: as above.
        let held = unsafe { libc::fcntl(self.0.as_raw_fd(), libc::F_GETLEASE) };
        held != libc::F_RDLCK
    }
}

impl Drop for ReadLease {
    fn drop(&mut self) {
        // SAFETY: as above. Closing the descriptor would give it back too, were it not shared with
        // a child that is just being forked.
        unsafe { libc::fcntl(self.0.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) };
    }
}

/// Breaking a lease sends SIGIO to its holder, whose default action ends the process: ignore it.
/// Taking one does so, too.
pub fn ignore_break_signal() {
    // SAFETY: SIG_IGN is a valid disposition and SIGIO is used for nothing else here.
    unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
}
