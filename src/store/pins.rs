//! `staging/NAME/pins`: objects that an import found in the store and will refer to, 32 bytes each.
//!
//! An import works beside whatever else alters the store, so an object could be collected after
//! the import has found it and before the image that refers to it is committed. Therefore
//!
//! - the import first **pins** a digest and then looks whether the object is there;
//! - collect first **withdraws** an object (it is not there any more) and then reads the pins,
//!   and puts back what is pinned.
//!
//! Whichever comes first, the import either finds the object missing, and stages the content
//! itself, or its pin is seen. A pin need not survive a crash: the import doesn't either.

use std::collections::HashSet;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{self, Dir, Mode, OFlags};
use rustix::io::Errno;

use super::digest::Digest;
use crate::error::{Context, Error, Result};
use crate::sys::copy;

/// The file's name.
const NAME: &str = "pins";
const LENGTH: usize = 32;

/// The pins of one import. Any number of threads may add to them.
#[derive(Debug)]
pub struct Pins(OwnedFd);

impl Pins {
    /// No pins yet; `directory` is the import's, in `staging/`.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn create(directory: BorrowedFd<'_>) -> Result<Self> {
        // Not a durable step: see above.
        let flags = OFlags::WRONLY
            | OFlags::CREATE
            | OFlags::EXCL
            | OFlags::APPEND
            | OFlags::NOFOLLOW
            | OFlags::CLOEXEC;
        fs::openat(directory, NAME, flags, Mode::from_raw_mode(0o600))
            .map(Self)
            .about("staging: pins")
    }

    /// From now on the object is not collected, if it is there.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn add(&self, digest: &Digest) -> Result<()> {
        // One write(2) of this size to a local file is whole, and O_APPEND keeps writers apart.
        match rustix::io::write(&self.0, digest.as_bytes()).about("staging: pins")? {
            LENGTH => Ok(()),
            _ => Err(Error::failed("staging: pins", "a write was cut off")
                .remedy("free space on its file system and try again")),
        }
    }
}

/// The pins of all imports in the open directory `staging`.
///
/// # Errors
/// Errors of the file system.
pub fn pinned(staging: BorrowedFd<'_>) -> Result<HashSet<Digest>> {
    let mut pinned = HashSet::new();
    let mut entries = Dir::read_from(staging).about("staging")?;
    while let Some(entry) = entries.read() {
        let entry = entry.about("staging")?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let path = [name, b"/", NAME.as_bytes()].concat();
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match fs::openat(staging, &path[..], flags, Mode::empty()) {
            Ok(file) => read(&file, &mut pinned)?,
            // Something else is staged there, or the import has just ended.
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(error) => return Err(error).about("staging: pins"),
        }
    }
    Ok(pinned)
}

fn read(file: &OwnedFd, pinned: &mut HashSet<Digest>) -> Result<()> {
    let mut buffer = vec![0; LENGTH * 2048];
    let mut offset = 0;
    loop {
        // A multiple of LENGTH, because whole pins are written; the rest comes with the next read.
        let length = copy::read_at(file, &mut buffer, offset).about("staging: pins")?;
        let (whole, _) = buffer[..length].as_chunks::<LENGTH>();
        if whole.is_empty() {
            return Ok(());
        }
        pinned.extend(whole.iter().map(|bytes| Digest::from_bytes(*bytes)));
        offset += (whole.len() * LENGTH) as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn all_pins_of_all_imports_are_read() {
        let temporary = tempfile::tempdir().unwrap();
        let staging = std::fs::File::open(temporary.path()).unwrap();
        let digest = |n: usize| Digest::of(&n.to_le_bytes());
        for import in ["a", "b"] {
            let path = temporary.path().join(import);
            std::fs::create_dir(&path).unwrap();
            let directory = std::fs::File::open(&path).unwrap();
            let pins = Pins::create(directory.as_fd()).unwrap();
            let range = if import == "a" { 0..5000 } else { 4999..5002 };
            range.for_each(|n| pins.add(&digest(n)).unwrap());
        }
        std::fs::create_dir(temporary.path().join("no-import")).unwrap();
        std::fs::write(temporary.path().join("file"), b"").unwrap();
        let found = pinned(staging.as_fd()).unwrap();
        assert_eq!(found, (0..5002).map(digest).collect());
    }
}
