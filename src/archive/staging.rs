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

/// What an import is staged for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// An image is made of it.
    Commit,
    /// Only to see what would be made of it: nothing in the store is touched, and contents are
    /// hashed but not kept.
    DryRun,
}

/// Who holds the directory, and removes it when dropped.
enum Holder {
    Own {
        _directory: StagingDirectory,
    },
    OtherProcess,
    /// Elsewhere, for a dry run.
    Scratch {
        _directory: tempfile::TempDir,
    },
}

/// The directory of one import.
pub(super) struct Staging {
    holder: Holder,
    directory: OwnedFd,
    objects: OwnedFd,
    name: String,
    path: PathBuf,
}

impl Staging {
    /// Makes and locks a new one.
    pub(super) fn create(store: &Store, purpose: Purpose) -> Result<Self> {
        if purpose == Purpose::DryRun {
            return Self::scratch();
        }
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
            holder: Holder::Own { _directory: held },
            name,
            path,
        })
    }

    /// One of a dry run, below TMPDIR or /var/tmp.
    fn scratch() -> Result<Self> {
        let below = std::env::var_os("TMPDIR").unwrap_or_else(|| "/var/tmp".into());
        let made = tempfile::Builder::new()
            .prefix("foldfs-")
            .tempdir_in(&below)
            .about(Path::new(&below).display())?;
        let path = made.path().to_owned();
        let about = path.display();
        std::fs::create_dir(path.join(layout::OBJECTS)).about(&about)?;
        let open = |path: &Path| fs::open(path, DIRECTORY, Mode::empty()).about(&about);
        Ok(Self {
            directory: open(&path)?,
            objects: open(&path.join(layout::OBJECTS))?,
            name: String::new(),
            holder: Holder::Scratch { _directory: made },
            path: path.clone(),
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
            holder: Holder::OtherProcess,
            objects: objects.about(about)?,
            directory,
            name: name.to_owned(),
            path,
        })
    }

    /// What it is for.
    pub(super) fn purpose(&self) -> Purpose {
        match self.holder {
            Holder::Own { .. } | Holder::OtherProcess => Purpose::Commit,
            Holder::Scratch { .. } => Purpose::DryRun,
        }
    }

    /// The name below `staging/`; empty in a dry run.
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
        if self.purpose() == Purpose::DryRun {
            return Ok(());
        }
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
        let staging = Staging::create(&store, Purpose::Commit).unwrap();
        let path = staging.path().to_owned();
        drop(Staging::open(&store, staging.name()).unwrap());
        assert!(path.exists());
        drop(staging);
        assert!(!path.exists());
    }
}
