//! `quarantine/`: what a repair moved out of the way. Nothing in it is used or ever removed by
//! foldfs; whoever has looked at it may remove all of it.
//!
//! ```text
//! quarantine/1  2  3 ...      what was moved
//! quarantine/list             a line for each: its number, where it was, why it could not stay
//! ```

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::layer::{names_in, open_directory};
use super::layout;
use crate::error::{Context, Error, Result};
use crate::sys::copy;
use crate::sys::durable::{self, Step};

/// The open quarantine of a store.
pub struct Quarantine {
    directory: OwnedFd,
    next: u64,
}

impl Quarantine {
    /// Opens it, or makes it.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn open(store: BorrowedFd<'_>) -> Result<Self> {
        let name = layout::QUARANTINE;
        match durable::mkdir(store, name.as_bytes(), 0o700) {
            Ok(()) => durable::sync(store).about(name)?,
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno).about(name),
        }
        let directory = open_directory(store, name.as_bytes(), OFlags::RDONLY).about(name)?;
        let names = names_in(directory.as_fd()).about(name)?;
        let numbers = names.iter().filter_map(|name| layout::parse_number(name));
        let last = numbers.map(|number| number.get()).max().unwrap_or(0);
        Ok(Self {
            directory,
            next: last + 1,
        })
    }

    /// Moves `name` of a directory on the same file system there; its path below the store.
    /// `leave_whiteout`: a whiteout takes its place, at the same instant.
    ///
    /// # Errors
    /// Errors of the file system; it is where it was.
    pub fn take(
        &mut self,
        (directory, name): (BorrowedFd<'_>, &[u8]),
        was: &[u8],
        cause: &str,
        leave_whiteout: bool,
    ) -> Result<String> {
        let number = self.next.to_string();
        let about = format!("{}/{number}", layout::QUARANTINE);
        // First: what lies there is never without an explanation.
        self.note(&number, was, cause).about(&about)?;
        let flags = if leave_whiteout {
            durable::mknod(&self.directory, number.as_bytes(), libc::S_IFCHR, 0).about(&about)?;
            RenameFlags::EXCHANGE
        } else {
            RenameFlags::NOREPLACE
        };
        let to = &self.directory;
        if let Err(errno) = durable::rename(directory, name, to, number.as_bytes(), flags) {
            if leave_whiteout {
                durable::unlink(to, number.as_bytes()).about(&about)?;
            }
            return Err(errno).about(was.escape_ascii());
        }
        self.next += 1;
        durable::sync(&self.directory).about(&about)?;
        durable::sync(open_directory(directory, b".", OFlags::RDONLY).about(&about)?)
            .about(&about)?;
        Ok(about)
    }

    fn note(&self, number: &str, was: &[u8], cause: &str) -> rustix::io::Result<()> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o600);
        let list = fs::openat(&self.directory, layout::QUARANTINE_LIST, flags, mode)?;
        let line = format!("{number}\t{}\t{cause}\n", was.escape_ascii());
        let end = fs::fstat(&list)?.st_size as u64;
        durable::perform(Step::Write, || {
            copy::write_all_at(&list, line.as_bytes(), end)
        })?;
        durable::sync(&list)
    }
}

/// Opens the directory that holds a path below another one, and the path's last component. No
/// symlink is followed, no limit is set to the path's length.
///
/// # Errors
/// Errors of the file system; an empty path.
pub fn open_parent<'a>(root: BorrowedFd<'_>, path: &'a [u8]) -> Result<(OwnedFd, &'a [u8])> {
    let about = || path.escape_ascii().to_string();
    let mut directory = open_directory(root, b".", OFlags::RDONLY).about(about())?;
    let mut components = path.split(|&byte| byte == b'/').peekable();
    while let Some(component) = components.next() {
        if components.peek().is_none() {
            return Ok((directory, component));
        }
        directory = open_directory(&directory, component, OFlags::RDONLY).about(about())?;
    }
    Err(Error::failed(about(), "it is no path"))
}
