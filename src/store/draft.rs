//! Entries of a private layer on their way: built in `work/`, put in place by one rename.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{RenameFlags, Timespec, Timestamps, UTIME_OMIT, XattrFlags};
use rustix::io::Result;

use super::guest_xattr;
use super::layer::Layer;
use super::mark::{self, Mark};
use super::metadata::{Content, FileType, Metadata, Time};
use crate::sys::durable;

/// An entry in `work/`, without a mark at first. Removed when it is dropped before it has got its
/// place.
///
/// Order: the mark, so that it lies in the inode; owner, which would clear what comes next; xattrs,
/// mode, times.
pub struct Draft<'a> {
    layer: &'a Layer,
    name: Vec<u8>,
    file_type: FileType,
    placed: bool,
}

/// utimensat(2)'s times for an mtime alone.
pub fn mtime_only(mtime: Time) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: mtime.seconds,
            tv_nsec: mtime.nanoseconds.into(),
        },
    }
}

/// Writes the mark of an entry of a private layer.
#[track_caller]
pub fn write_mark(directory: BorrowedFd<'_>, name: &[u8], mark: &Mark) -> Result<()> {
    let value = mark.encode();
    let xattr = mark::NAME.as_bytes();
    durable::set_xattr(directory, name, xattr, &value, XattrFlags::empty())
}

impl<'a> Draft<'a> {
    fn named(layer: &'a Layer, file_type: FileType) -> Self {
        Self {
            layer,
            name: layer.work_name(),
            file_type,
            placed: false,
        }
    }

    /// An empty regular file, open for reading and writing.
    pub fn file(layer: &'a Layer) -> Result<(Self, OwnedFd)> {
        let mut draft = Self::named(layer, FileType::Regular);
        let file = draft.made(|work, name| durable::create(work, name, 0o600))?;
        Ok((draft, file))
    }

    /// An inode of this content; a regular file is a hole of its size.
    pub fn new(layer: &'a Layer, content: &Content) -> Result<Self> {
        if let Content::Regular { size, .. } = content {
            let (draft, file) = Self::file(layer)?;
            if *size > 0 {
                durable::truncate(file, *size)?;
            }
            return Ok(draft);
        }
        let mut draft = Self::named(layer, content.file_type());
        draft.made(|work, name| match content {
            Content::Directory => durable::mkdir(work, name, 0o700),
            Content::Symlink { target } => durable::symlink(target, work, name),
            other => {
                let mode = other.file_type().bits() | 0o600;
                durable::mknod(work, name, mode, other.rdev())
            }
        })?;
        Ok(draft)
    }

    /// A whiteout: it has no mark.
    pub fn whiteout(layer: &'a Layer) -> Result<Self> {
        Self::new(layer, &Content::CharDevice { rdev: 0 })
    }

    /// Another name of an entry that is not a directory.
    pub fn link(
        layer: &'a Layer,
        file_type: FileType,
        directory: BorrowedFd<'_>,
        name: &[u8],
    ) -> Result<Self> {
        let mut draft = Self::named(layer, file_type);
        draft.made(|work, new| durable::link(directory, name, work, new))?;
        Ok(draft)
    }

    fn made<T>(&mut self, make: impl FnOnce(BorrowedFd<'_>, &[u8]) -> Result<T>) -> Result<T> {
        let made = make(self.layer.work(), &self.name);
        // There is nothing to remove.
        self.placed = made.is_err();
        made
    }

    /// `work/`.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.layer.work()
    }

    /// Its name in `work/`.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// Sets the mark.
    #[track_caller]
    pub fn mark(&self, mark: &Mark) -> Result<()> {
        write_mark(self.directory(), &self.name, mark)
    }

    /// Sets owner, xattrs, mode and mtime.
    pub fn describe(&self, metadata: &Metadata) -> Result<()> {
        describe(self.directory(), &self.name, self.file_type, metadata)
    }

    /// Sets owner, xattrs, mode and these times.
    pub fn describe_at(&self, metadata: &Metadata, times: &Timestamps) -> Result<()> {
        describe_at(
            self.directory(),
            &self.name,
            self.file_type,
            metadata,
            times,
        )
    }

    /// Gives it its place.
    #[track_caller]
    pub fn place(mut self, to: impl AsFd, name: &[u8], flags: RenameFlags) -> Result<()> {
        durable::rename(self.layer.work(), &self.name, to, name, flags)?;
        // After an exchange what was in its place is the draft, and goes.
        self.placed = !flags.contains(RenameFlags::EXCHANGE);
        Ok(())
    }
}

/// Gives an entry owner, xattrs (and no others), mode and mtime.
pub fn describe(
    directory: BorrowedFd<'_>,
    name: &[u8],
    file_type: FileType,
    metadata: &Metadata,
) -> Result<()> {
    let times = mtime_only(metadata.mtime);
    describe_at(directory, name, file_type, metadata, &times)
}

fn describe_at(
    directory: BorrowedFd<'_>,
    name: &[u8],
    file_type: FileType,
    metadata: &Metadata,
    times: &Timestamps,
) -> Result<()> {
    // Owner first: it clears set-id bits and security.capability.
    durable::chown(directory, name, Some(metadata.uid), Some(metadata.gid))?;
    guest_xattr::replace_all(directory, name, &metadata.xattrs)?;
    if file_type != FileType::Symlink {
        durable::chmod(directory, name, metadata.mode)?;
    }
    durable::set_times(directory, name, times)
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if self.placed {
            return;
        }
        let what = format!("images/{}/work", self.layer.image());
        if let Err(error) = super::tree::remove(self.layer.work(), &self.name, &what) {
            log::warn!("{error}");
        }
    }
}
