//! `staging/`: where imports and whatever else takes long build what later gets its place by one
//! rename. Opening a store for writing empties it, except for what a living process works in:
//! each directory is locked (flock(2)) by whoever made it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{self, AtFlags, Dir, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::tree;
use crate::error::{Context, Error, Result};
use crate::sys::durable;

/// A directory in `staging/`, removed with everything in it when it is dropped.
pub struct StagingDirectory {
    staging: OwnedFd,
    name: String,
    directory: OwnedFd,
    removed_on_drop: bool,
}

impl StagingDirectory {
    /// Makes a directory in the open directory `staging`; `purpose` begins its name.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn new(staging: BorrowedFd<'_>, purpose: &str) -> Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        loop {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("{purpose}-{}-{count}", std::process::id());
            match durable::mkdir(staging, name.as_bytes(), 0o700) {
                Ok(()) => {}
                // Left behind by a process that had our id.
                Err(Errno::EXIST) => continue,
                Err(errno) => return Err(errno).about("staging"),
            }
            // Somebody who empties staging may be quicker than the lock, or than that.
            let directory = match open(staging, name.as_bytes()) {
                Err(Errno::NOENT) => continue,
                opened => opened.about("staging")?,
            };
            let made = Self {
                staging: staging.try_clone_to_owned().about("staging")?,
                directory,
                name,
                removed_on_drop: true,
            };
            if lock(made.directory.as_fd()).about("staging")?
                && fs::fstat(&made.directory).about("staging")?.st_nlink > 0
            {
                return Ok(made);
            }
        }
    }

    /// The directory.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Its name in `staging/`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Removes it with everything in it.
    ///
    /// # Errors
    /// Errors of the file system; what is left goes when the store is opened for writing.
    pub fn discard(mut self) -> Result<()> {
        self.removed_on_drop = false;
        self.remove()
    }

    /// Leaves it to whoever opens the store for writing next.
    pub fn leave(mut self) {
        self.removed_on_drop = false;
    }

    /// It has got its place: nothing is to be removed.
    pub(super) fn placed(mut self) {
        self.removed_on_drop = false;
    }

    fn remove(&self) -> Result<()> {
        tree::remove(self.staging.as_fd(), self.name.as_bytes(), "staging")
    }
}

impl Drop for StagingDirectory {
    fn drop(&mut self) {
        if self.removed_on_drop
            && let Err(error) = self.remove()
            && error.errno != Some(libc::ENOENT)
        {
            log::warn!("{error}");
        }
    }
}

/// How often [`abandon`] goes over what other threads still write.
const ATTEMPTS: u32 = 100;

/// Removes what this process has staged for `purpose`, for a process that is about to end while
/// other threads of it still write there.
///
/// # Errors
/// Errors of the file system; what is left goes when the store is opened for writing.
pub fn abandon(staging: BorrowedFd<'_>, purpose: &str) -> Result<()> {
    let own = format!("{purpose}-{}-", std::process::id());
    for name in names(staging)? {
        if !name.starts_with(own.as_bytes()) {
            continue;
        }
        let mut attempt = 1;
        while let Err(error) = tree::remove(staging, &name, "staging") {
            let gone = fs::statat(staging, &name[..], AtFlags::SYMLINK_NOFOLLOW).is_err();
            if gone {
                break;
            }
            if attempt == ATTEMPTS {
                return Err(error);
            }
            attempt += 1;
        }
    }
    Ok(())
}

/// Removes everything in `staging` that no living process works in. `rescue` gets the name and
/// the directory of each before, and may take out what must stay.
///
/// # Errors
/// Those of `rescue`; errors of the file system.
pub(super) fn empty(
    staging: BorrowedFd<'_>,
    rescue: impl Fn(&[u8], BorrowedFd<'_>) -> Result<()>,
) -> Result<()> {
    for name in names(staging)? {
        let held = match open(staging, &name) {
            Ok(directory) => {
                if !lock(directory.as_fd()).about("staging")? {
                    continue;
                }
                rescue(&name, directory.as_fd())?;
                Some(directory)
            }
            Err(Errno::NOTDIR | Errno::LOOP) => None,
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(errno).about("staging"),
        };
        match tree::remove(staging, &name, "staging") {
            Err(Error {
                errno: Some(libc::ENOENT),
                ..
            }) => {}
            outcome => outcome?,
        }
        drop(held);
    }
    Ok(())
}

fn names(staging: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    let mut entries = Dir::read_from(staging).about("staging")?;
    while let Some(entry) = entries.read() {
        let entry = entry.about("staging")?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}

fn open(staging: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(staging, name, flags, Mode::empty())
}

/// Whether the lock was free.
fn lock(directory: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    match fs::flock(directory, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn emptying_spares_what_is_being_worked_in() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path();
        let staging: OwnedFd = std::fs::File::open(path).unwrap().into();
        let held = StagingDirectory::new(staging.as_fd(), "import").unwrap();
        let other = StagingDirectory::new(staging.as_fd(), "import").unwrap();
        assert_ne!(held.name(), other.name());
        durable::create(held.directory(), b"file", 0o600).unwrap();
        durable::create(other.directory(), b"file", 0o600).unwrap();
        drop(other);
        std::fs::create_dir_all(path.join("left/behind")).unwrap();
        std::fs::write(path.join("file"), b"").unwrap();
        std::os::unix::fs::symlink("left", path.join("link")).unwrap();
        empty(staging.as_fd(), |_, _| Ok(())).unwrap();
        let names: Vec<_> = std::fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, [held.name()]);
        assert!(path.join(held.name()).join("file").exists());
        held.discard().unwrap();
        assert_eq!(std::fs::read_dir(path).unwrap().count(), 0);
    }

    #[test]
    fn making_one_while_others_are_emptied() {
        let temporary = tempfile::tempdir().unwrap();
        let staging: OwnedFd = std::fs::File::open(temporary.path()).unwrap().into();
        let done = AtomicBool::new(false);
        let made = std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        empty(staging.as_fd(), |_, _| Ok(())).unwrap();
                    }
                });
            }
            let one_by_one = || {
                for _ in 0..1000 {
                    let made = StagingDirectory::new(staging.as_fd(), "import")?;
                    durable::create(made.directory(), b"file", 0o600).about("file")?;
                }
                Ok::<(), Error>(())
            };
            let made = one_by_one();
            done.store(true, Ordering::Relaxed);
            made
        });
        made.unwrap();
    }

    #[test]
    fn abandoning_spares_what_others_do() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path();
        let staging: OwnedFd = std::fs::File::open(path).unwrap().into();
        let own = StagingDirectory::new(staging.as_fd(), "import").unwrap();
        durable::create(own.directory(), b"file", 0o600).unwrap();
        let other = StagingDirectory::new(staging.as_fd(), "image").unwrap();
        std::fs::create_dir(path.join("import-0-0")).unwrap();
        abandon(staging.as_fd(), "import").unwrap();
        assert!(!path.join(own.name()).exists());
        assert!(path.join(other.name()).exists() && path.join("import-0-0").exists());
    }
}
