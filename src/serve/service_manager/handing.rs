//! Descriptors for a program that this process starts, or becomes: left open over execve(2), with a table of their
//! numbers and names in a memfd, whose number stands in the environment. As sd_listen_fds(3), but for any numbers, and
//! for names of any number.

use std::fs::File;
use std::io::{Error, ErrorKind, Read, Result, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

use crate::sys::inherited;

/// The variable of the environment.
pub const VARIABLE: &str = "FOLDFS_DESCRIPTORS";

/// Longest table, in bytes.
const LONGEST: u64 = 64 << 20;

/// Descriptors that are open for the next program as long as this lives.
#[derive(Debug)]
pub struct Handing<'a> {
    table: File,
    open: Vec<BorrowedFd<'a>>,
}

impl<'a> Handing<'a> {
    /// Leaves them open. No other thread of this process may start programs meanwhile that have no business with them.
    ///
    /// # Errors
    /// No more descriptors or memory: none is left open.
    pub fn new<'b>(
        descriptors: impl IntoIterator<Item = (&'b str, BorrowedFd<'a>)>,
    ) -> Result<Self> {
        let table = memfd_create("foldfs-descriptors", MemfdFlags::CLOEXEC)?;
        let mut handing = Self {
            table: File::from(table),
            open: Vec::new(),
        };
        let mut text = String::new();
        for (name, descriptor) in descriptors {
            text += &format!("{} {name}\n", descriptor.as_raw_fd());
            handing.open.push(descriptor);
            leave_open(descriptor, true)?;
        }
        handing.table.write_all(text.as_bytes())?;
        handing.table.rewind()?;
        leave_open(handing.table.as_fd(), true)?;
        Ok(handing)
    }

    /// The value of [`VARIABLE`] for the program.
    pub fn value(&self) -> String {
        self.table.as_raw_fd().to_string()
    }
}

impl Drop for Handing<'_> {
    fn drop(&mut self) {
        for &descriptor in &self.open {
            if let Err(error) = leave_open(descriptor, false) {
                log::error!("a kept descriptor: {error}");
            }
        }
    }
}

/// For the next program.
pub fn leave_open(descriptor: BorrowedFd<'_>, open: bool) -> Result<()> {
    let mut flags = fcntl_getfd(descriptor)?;
    flags.set(FdFlags::CLOEXEC, !open);
    Ok(fcntl_setfd(descriptor, flags)?)
}

/// What the program before has handed to this one, once; nothing, if it did not.
pub fn received() -> Vec<(String, OwnedFd)> {
    let table = std::env::var(VARIABLE).ok();
    let Some(table) = table.and_then(|number| number.parse().ok()) else {
        return Vec::new();
    };
    read(table).unwrap_or_else(|error| {
        log::error!("descriptors were handed to this process, but it cannot take them: {error}");
        Vec::new()
    })
}

fn read(table: RawFd) -> Result<Vec<(String, OwnedFd)>> {
    let mut text = String::new();
    let table = File::from(inherited::claim(table)?);
    table.take(LONGEST).read_to_string(&mut text)?;
    let mut found = Vec::new();
    for line in text.lines() {
        let parts = line.split_once(' ');
        let parts = parts.and_then(|(number, name)| Some((number.parse().ok()?, name)));
        let (number, name) = parts.ok_or_else(|| Error::new(ErrorKind::InvalidData, line))?;
        found.push((name.to_owned(), inherited::claim(number)?));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_handed_over_is_received_once() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let closed = |descriptor: &dyn AsRawFd| {
            let claimed = inherited::claim(descriptor.as_raw_fd());
            claimed.map(std::mem::forget).is_err()
        };
        let number = {
            let handing = Handing::new([("image 7", reader.as_fd()), ("lock", writer.as_fd())]);
            let handing = handing.unwrap();
            let number = handing.value().parse().unwrap();
            let found = read(number).unwrap();
            let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(names, ["image 7", "lock"]);
            let numbers: Vec<RawFd> = found.iter().map(|(_, found)| found.as_raw_fd()).collect();
            assert_eq!(numbers, [reader.as_raw_fd(), writer.as_raw_fd()]);
            // They are ours, in this test.
            found
                .into_iter()
                .for_each(|(_, found)| std::mem::forget(found));
            std::mem::forget(handing);
            number
        };
        assert!(read(number).is_err());
        assert!(closed(&reader) && closed(&writer));
        writer.write_all(b"open").unwrap();

        let handing = Handing::new([("lock", writer.as_fd())]).unwrap();
        assert!(!closed(&writer));
        drop(handing);
        assert!(closed(&writer));
    }
}
