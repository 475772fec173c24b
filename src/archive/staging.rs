//! `STORE/staging/NAME`: the directory of one import.
//!
//! ```text
//! STORE/staging/import-PID-COUNT/   0700; locked by the importing process (store::staging)
//!   objects/DIGEST                  contents that the store lacks: 64 hexadecimal digits, 0400
//!   tree.db                         the tree (tree_writer)
//!   pins                            objects that were found in the store (store::pins)
//! ```

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Context, Error, Result};
use crate::store::{StagingDirectory, Store, layout};
use crate::sys::durable;

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// The directory of one import.
pub(super) struct Staging {
    /// Holds the lock, and removes the directory when it is dropped; `None` if another process
    /// does.
    _held: Option<StagingDirectory>,
    directory: OwnedFd,
    objects: OwnedFd,
    name: String,
    path: PathBuf,
}

impl Staging {
    /// Makes and locks a new one.
    pub(super) fn create(store: &Store) -> Result<Self> {
        let held = store.stage(super::IMPORT)?;
        let name = held.name().to_owned();
        let path = store.path().join(layout::STAGING).join(&name);
        let about = path.join(layout::OBJECTS);
        let about = about.display();
        durable::mkdir(held.directory(), layout::OBJECTS.as_bytes(), 0o700).about(&about)?;
        let objects = fs::openat(held.directory(), layout::OBJECTS, DIRECTORY, Mode::empty());
        Ok(Self {
            objects: objects.about(&about)?,
            directory: held.directory().try_clone_to_owned().about(about)?,
            _held: Some(held),
            name,
            path,
        })
    }

    /// Opens one that another process has made and keeps locked.
    ///
    /// # Errors
    /// When there is none of that name, or nobody holds its lock any more.
    pub(super) fn open(store: &Store, name: &str) -> Result<Self> {
        let path = store.path().join(layout::STAGING).join(name);
        let about = path.display();
        if name.is_empty() || name.starts_with('.') || name.contains('/') {
            return Err(Error::failed(about, "it is not the name of an import"));
        }
        let directory =
            fs::openat(store.staging(), name, DIRECTORY, Mode::empty()).about(&about)?;
        match fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => {}
            Err(error) => return Err(error).about(about),
            Ok(()) => {
                return Err(Error::failed(about, "its import is not running any more")
                    .remedy("import again"));
            }
        }
        let objects = fs::openat(&directory, layout::OBJECTS, DIRECTORY, Mode::empty());
        Ok(Self {
            _held: None,
            objects: objects.about(about)?,
            directory,
            name: name.to_owned(),
            path,
        })
    }

    /// The name below `staging/`.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The directory `objects`.
    pub(super) fn objects(&self) -> BorrowedFd<'_> {
        self.objects.as_fd()
    }

    /// The directory itself.
    pub(super) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// For messages, and for SQLite.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes all that was written to it durable, the file system's other files too.
    pub(super) fn sync(&self) -> Result<()> {
        durable::sync_filesystem(&self.objects).about(self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_that_nobody_runs_is_not_opened() {
        let temporary = tempfile::tempdir().unwrap();
        let store = Store::init(&temporary.path().join("store")).unwrap();
        std::fs::create_dir_all(store.path().join("staging/import-1-1/objects")).unwrap();
        let refused = |name: &str| Staging::open(&store, name).map(|_| ()).unwrap_err();
        assert!(refused("import-1-1").to_string().contains("not running"));
        for name in ["", "..", "a/b", "nothing"] {
            refused(name);
        }
        let staging = Staging::create(&store).unwrap();
        let path = staging.path().to_owned();
        drop(Staging::open(&store, staging.name()).unwrap());
        assert!(path.exists());
        drop(staging);
        assert!(!path.exists());
    }
}
