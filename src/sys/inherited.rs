//! Descriptors that were left open for this program by whoever started it, known by their numbers.

#![allow(unsafe_code)]

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::{Errno, FdFlags, Result, fcntl_getfd, fcntl_setfd};

/// Takes one over; from now on it is close-on-exec.
///
/// # Errors
/// EBADF: there is none, or it is this program's own: all that it opens is close-on-exec from the start, and what was
/// left open for it cannot be.
pub fn claim(number: RawFd) -> Result<OwnedFd> {
    if number <= rustix::stdio::raw_stderr() {
        return Err(Errno::BADF);
    }
    // SAFETY: it is looked at only, and the kernel says if there is none.
    let found = unsafe { BorrowedFd::borrow_raw(number) };
    let flags = fcntl_getfd(found)?;
    if flags.contains(FdFlags::CLOEXEC) {
        return Err(Errno::BADF);
    }
    fcntl_setfd(found, flags | FdFlags::CLOEXEC)?;
    // SAFETY: nobody else in this program owns it: what the program opens is close-on-exec, and so is, as of the line
    // above, what has been claimed.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn only_what_is_not_our_own_and_only_once() {
        let (reader, writer) = std::io::pipe().unwrap();
        assert_eq!(claim(reader.as_raw_fd()).unwrap_err(), Errno::BADF);
        for number in [-1, 0, 1, 2, 1 << 30] {
            assert_eq!(claim(number).unwrap_err(), Errno::BADF);
        }
        let passed = rustix::io::dup(&writer).unwrap();
        let number = passed.as_raw_fd();
        std::mem::forget(passed);
        let claimed = claim(number).unwrap();
        assert_eq!(claimed.as_raw_fd(), number);
        assert_eq!(claim(number).unwrap_err(), Errno::BADF);
    }
}
