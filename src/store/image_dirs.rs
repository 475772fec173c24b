//! `images/ID`: the directories of an image, and how they come and go.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::layout;
use super::number::ImageId;
use super::open::Store;
use super::staging::StagingDirectory;
use super::tree;
use crate::error::{Context, Error, Result};
use crate::sys::durable;

/// What to do when nothing in the store can replace what is missing.
const LOST: &str = "restore it from a backup of the store, or remove the image";

/// The open directories of an image. They stay valid when `images/ID` gets its place.
#[derive(Debug)]
pub struct ImageDirs {
    /// `images/ID` itself.
    pub root: OwnedFd,
    /// The private layer.
    pub private: OwnedFd,
    /// Files with several names.
    pub index: OwnedFd,
    /// Markers of shared directories that stand elsewhere.
    pub redirects: OwnedFd,
    /// Unlinked, but still referred to.
    pub orphans: OwnedFd,
    /// Entries being built.
    pub work: OwnedFd,
}

impl ImageDirs {
    fn open(root: OwnedFd, about: &str) -> Result<Self> {
        let part = |name| {
            let opened = open_directory(root.as_fd(), name).about(format!("{about}/{name}"));
            opened.map_err(|error| match name {
                layout::PRIVATE => error.remedy(LOST),
                _ => error.remedy("`foldfs check --repair` makes it again"),
            })
        };
        Ok(Self {
            private: part(layout::PRIVATE)?,
            index: part(layout::INDEX)?,
            redirects: part(layout::REDIRECTS)?,
            orphans: part(layout::ORPHANS)?,
            work: part(layout::WORK)?,
            root,
        })
    }
}

/// The directories of a new image, still in `staging/`; removed when dropped.
pub struct StagedImage {
    staging: StagingDirectory,
    dirs: ImageDirs,
}

impl StagedImage {
    /// Its directories.
    pub fn dirs(&self) -> &ImageDirs {
        &self.dirs
    }
}

pub(super) fn open_directory(parent: BorrowedFd<'_>, name: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(parent, name, flags, Mode::empty())
}

fn about(id: ImageId) -> String {
    format!("images/{id}")
}

impl Store {
    /// The directories of an image.
    ///
    /// # Errors
    /// When one of them does not exist; errors of the file system.
    pub fn image_dirs(&self, id: ImageId) -> Result<ImageDirs> {
        let name = layout::image_name(id);
        let root = open_directory(self.images(), &name).about(about(id));
        let root = root.map_err(|error| error.remedy(LOST))?;
        ImageDirs::open(root, &about(id))
    }

    /// Makes the directories of a new image, empty, in `staging/`. `private/` has no mark yet.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn create_image_dirs(&self) -> Result<StagedImage> {
        let staging = StagingDirectory::new(self.staging(), "image")?;
        for part in layout::IMAGE_PARTS {
            durable::mkdir(staging.directory(), part.as_bytes(), 0o700).about(staging.name())?;
        }
        let root = staging
            .directory()
            .try_clone_to_owned()
            .about(staging.name())?;
        let dirs = ImageDirs::open(root, staging.name())?;
        Ok(StagedImage { staging, dirs })
    }

    /// Gives a new image's directories their place, durably. `id` is reserved
    /// ([`super::catalog::Catalog::reserve_image_id`]) and its row is committed afterwards;
    /// if that does not happen, the directories are debris, which opening the store for writing
    /// removes ([`Store::retire_image`] does so at once).
    ///
    /// What is in them must have been synced.
    ///
    /// # Errors
    /// The staged directories are removed. One error is that `images/ID` exists: the catalog is
    /// older than the images.
    pub fn publish_image(&self, staged: StagedImage, id: ImageId) -> Result<ImageDirs> {
        let StagedImage { staging, dirs } = staged;
        let name = layout::image_name(id);
        let from = staging.name().as_bytes();
        let (old, new) = (self.staging(), self.images());
        match durable::rename(old, from, new, name.as_bytes(), RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                return Err(Error::failed(
                    about(id),
                    "it exists, but the catalog does not know it",
                )
                .remedy("was an old catalog restored? run `foldfs check`"));
            }
            Err(errno) => return Err(errno).about(about(id)),
        }
        staging.placed();
        durable::sync(self.images()).about(about(id))?;
        Ok(dirs)
    }

    /// Removes the directories of an image whose row is gone. They are gone from `images/` first,
    /// so that a crash leaves debris in `staging/` only.
    ///
    /// # Errors
    /// Errors of the file system; what is left goes when the store is opened for writing.
    pub fn retire_image(&self, id: ImageId) -> Result<()> {
        let grave = StagingDirectory::new(self.staging(), "retired")?;
        let name = layout::image_name(id);
        let (old, new) = (self.images(), grave.directory());
        let flags = RenameFlags::NOREPLACE;
        durable::rename(old, name.as_bytes(), new, name.as_bytes(), flags).about(about(id))?;
        durable::sync(self.images()).about(about(id))?;
        grave.discard()
    }

    /// What an image's directories occupy, in bytes of allocated blocks.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn image_allocated(&self, id: ImageId) -> Result<u64> {
        let name = layout::image_name(id);
        let root = open_directory(self.images(), &name).about(about(id))?;
        tree::allocated(root.as_fd(), &about(id))
    }
}
