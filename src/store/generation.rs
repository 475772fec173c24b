//! The generation: how often what private layers rely on was changed. A private layer is a
//! difference to the shared one, so a copy of the catalog from before such a change would show
//! other trees. `images/` and the catalog, its copies too, both say their generation.
//!
//! ```text
//! images/          xattr trusted.foldfs.generation: u64, little-endian
//! catalog.db       sqlite_sequence: the row "generation"
//! ```
//! The catalog's is raised by the transaction that makes the change, `images/`'s follows before any
//! image can act on it. So a catalog that is behind is an older copy, and one that is ahead has just
//! been written by a process that was killed.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::XattrFlags;

use super::catalog::{Catalog, Reads, Transaction};
use super::image_dirs::open_directory;
use super::layout;
use super::open::Store;
use crate::error::{Context, Error, Result};
use crate::sys::{durable, xattr};

const NAME: &[u8] = b"trusted.foldfs.generation";

/// The generation of `images/`; `None` where it is not known.
pub(super) fn of_images(images: BorrowedFd<'_>) -> Result<Option<u64>> {
    let found = xattr::get(images, b".", NAME).about(layout::IMAGES)?;
    let bytes = found.and_then(|bytes| <[u8; 8]>::try_from(bytes).ok());
    Ok(bytes.map(u64::from_le_bytes))
}

/// Sets the generation of `images/`, durably.
#[track_caller]
pub(super) fn set(images: BorrowedFd<'_>, generation: u64) -> Result<()> {
    let (value, flags) = (generation.to_le_bytes(), XattrFlags::empty());
    durable::set_xattr(images, b".", NAME, &value, flags).about(layout::IMAGES)?;
    durable::sync(images).about(layout::IMAGES)
}

impl Store {
    /// Commits a change of what private layers rely on. The images concerned are kept from acting on
    /// it until this returns.
    ///
    /// # Errors
    /// Those of [`Transaction::commit`].
    #[track_caller]
    pub fn commit_generation(&self, transaction: Transaction<'_>) -> Result<()> {
        let generation = transaction.raise_generation()?;
        transaction.commit()?;
        if let Err(error) = set(self.images(), generation) {
            // It is done; who opens the store next makes it good.
            log::warn!("{error}");
        }
        Ok(())
    }

    /// Sees to it that the newest copy of the catalog is of its generation: before anything goes
    /// that is to be found in the catalog only.
    ///
    /// # Errors
    /// Those of [`Store::back_up_catalog`].
    pub fn ensure_backup(&self) -> Result<()> {
        let generation = self.catalog().generation()?;
        match Catalog::generation_of_copy(&self.path().join(layout::BACKUP)) {
            Ok(copied) if copied >= generation => Ok(()),
            _ => self.back_up_catalog(),
        }
    }

    /// Compares the catalog's generation with that of the images. The store is locked.
    ///
    /// # Errors
    /// The catalog is an older copy.
    pub(super) fn check_generation(&self) -> Result<()> {
        let catalog = self.catalog().generation()?;
        match of_images(self.images())? {
            Some(images) if images > catalog => Err(older(images - catalog)),
            Some(images) if images == catalog => Ok(()),
            Some(_) => set(self.images(), catalog),
            // Of a time when there were none: no copy is known to be of this generation.
            None => {
                let transaction = self.catalog().transaction()?;
                let generation = transaction.raise_generation()?;
                transaction.commit()?;
                set(self.images(), generation)
            }
        }
    }

    /// Whether the catalog is behind the images, and how far.
    ///
    /// # Errors
    /// Errors of the file system and the catalog.
    pub fn generations_behind(&self) -> Result<u64> {
        let images = of_images(self.images())?.unwrap_or(0);
        Ok(images.saturating_sub(self.catalog().generation()?))
    }
}

/// The error of a catalog that is behind.
pub(super) fn older(by: u64) -> Error {
    let cause = format!("it is an older copy: shared layers were changed {by} times since");
    let error = Error::failed(layout::CATALOG, cause);
    Error {
        errno: Some(libc::EUCLEAN),
        ..error.remedy("run `foldfs check --repair`")
    }
}

/// The generation of a store whose catalog need not be readable.
pub(super) fn of_store(root: BorrowedFd<'_>) -> Result<Option<u64>> {
    match open_directory(root, layout::IMAGES) {
        Ok(images) => of_images(images.as_fd()),
        Err(errno) => Err(errno).about(layout::IMAGES),
    }
}
