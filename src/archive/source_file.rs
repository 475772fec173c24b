//! One entry of a source directory: its metadata, and its content in a state that it really had.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, Mode, OFlags, Stat, StatxAttributes, StatxFlags};
use rustix::io::Errno;

use super::intake::{Intake, SMALL, Taken};
use crate::error::{Context, Error, Result};
use crate::store::guest_xattr::is_acl_of_xfs;
use crate::store::metadata::{Content, FileType, Metadata, Time, Xattrs};
use crate::sys::{copy, xattr};

/// How often a file that changes while it is read is tried.
const ATTEMPTS: usize = 3;

/// Opens something for reading without leaving a trace (O_NOATIME, where that is allowed), without
/// following a symlink, and without waiting for a writer of a fifo.
pub(super) fn open(
    directory: BorrowedFd<'_>,
    name: &[u8],
    extra: OFlags,
) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | extra;
    match fs::openat(directory, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => fs::openat(directory, name, flags, Mode::empty()),
        opened => opened,
    }
}

fn time(seconds: i64, nanoseconds: u64) -> Time {
    Time {
        seconds,
        nanoseconds: nanoseconds as u32,
    }
}

/// Owner, mode and mtime of stat(2), with these xattrs.
pub(super) fn metadata(stat: &Stat, xattrs: Xattrs) -> Metadata {
    Metadata {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: time(stat.st_mtime, stat.st_mtime_nsec),
        xattrs,
    }
}

/// Whether something is mounted on this file or directory. To be asked where st_dev differs from
/// the source's, which alone does not say it: overlayfs and btrfs show several within one mount.
pub(super) fn is_mount_point(file: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    let stat = fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::empty())?;
    let root = StatxAttributes::MOUNT_ROOT;
    let is_known = stat.stx_attributes_mask.contains(root);
    Ok(!is_known || stat.stx_attributes.contains(root))
}

/// Whether nothing but the atime has changed between two calls of stat(2).
pub(super) fn is_unchanged(before: &Stat, after: &Stat) -> bool {
    let state = |stat: &Stat| {
        (
            stat.st_size,
            time(stat.st_mtime, stat.st_mtime_nsec),
            time(stat.st_ctime, stat.st_ctime_nsec),
        )
    };
    state(before) == state(after)
}

/// All xattrs of an open file or directory. One that vanishes meanwhile is left out: the ctime
/// tells.
pub(super) fn descriptor_xattrs(file: BorrowedFd<'_>) -> rustix::io::Result<Xattrs> {
    let names = xattr::list_descriptor(file)?;
    collect(names, |name| xattr::get_descriptor(file, name))
}

/// All xattrs of an entry, which is not opened.
pub(super) fn entry_xattrs(directory: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<Xattrs> {
    let names = xattr::list(directory, name)?;
    collect(names, |key| xattr::get(directory, name, key))
}

fn collect(
    names: Vec<Vec<u8>>,
    value: impl Fn(&[u8]) -> rustix::io::Result<Option<Vec<u8>>>,
) -> rustix::io::Result<Xattrs> {
    let mut xattrs = Xattrs::new();
    for name in names {
        if is_acl_of_xfs(&name) {
            continue;
        }
        if let Some(value) = value(&name)? {
            xattrs.insert(name.into(), value.into());
        }
    }
    Ok(xattrs)
}

/// An open regular file of the source.
pub(super) struct SourceFile {
    file: OwnedFd,
    pub stat: Stat,
}

impl SourceFile {
    /// Opens it; `None` if it is no regular file (any more).
    pub(super) fn open(directory: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<Option<Self>> {
        let file = match open(directory, name, OFlags::empty()) {
            Err(Errno::LOOP | Errno::NXIO) => return Ok(None),
            opened => opened?,
        };
        let stat = fs::fstat(&file)?;
        let regular = FileType::from_mode(stat.st_mode) == Some(FileType::Regular);
        Ok(regular.then_some(Self { file, stat }))
    }

    /// See [`is_mount_point`].
    pub(super) fn is_mount_point(&self) -> rustix::io::Result<bool> {
        is_mount_point(self.file.as_fd())
    }

    /// Takes its content and metadata as they were at one time.
    ///
    /// # Errors
    /// When it changes whenever it is read.
    pub(super) fn take(
        mut self,
        intake: &Intake<'_>,
        buffer: &mut Vec<u8>,
        path: impl Fn() -> String,
    ) -> Result<(Taken, Metadata)> {
        for _ in 0..ATTEMPTS {
            let taken = self.attempt(intake, buffer);
            let after = fs::fstat(&self.file).about(path())?;
            let before = std::mem::replace(&mut self.stat, after);
            // An error may come of the change.
            if is_unchanged(&before, &self.stat) {
                let taken = taken.map_err(|error| Error {
                    object: format!("{}: {}", path(), error.object),
                    ..error
                })?;
                if let Some((taken, xattrs)) = taken {
                    return Ok((taken, metadata(&before, xattrs)));
                }
            }
        }
        Err(Error::failed(path(), "it changes while it is read")
            .remedy("stop what writes to it, or import a snapshot"))
    }

    fn attempt(
        &self,
        intake: &Intake<'_>,
        buffer: &mut Vec<u8>,
    ) -> Result<Option<(Taken, Xattrs)>> {
        let size = self.stat.st_size as u64;
        let file = self.file.as_fd();
        let taken = if size <= SMALL {
            let sparse = (self.stat.st_blocks as u64) < size.div_ceil(512);
            let length = size as usize;
            if buffer.len() <= length {
                buffer.resize((length + 1).max(64 << 10), 0);
            }
            // One byte more than it should have, to see whether it has grown.
            if copy::read_at(file, &mut buffer[..=length], 0).about("reading it")? != length {
                return Ok(None);
            }
            intake.bytes(&buffer[..length], sparse)?
        } else {
            match intake.file(file, size)? {
                Some(taken) => taken,
                None => return Ok(None),
            }
        };
        let xattrs = descriptor_xattrs(file).about("its xattrs")?;
        Ok(Some((taken, xattrs)))
    }
}

/// Content and metadata of an entry that is neither a directory nor a regular file, and its
/// stat(2); `None` if it changes whenever it is read.
pub(super) fn special(
    directory: BorrowedFd<'_>,
    name: &[u8],
) -> rustix::io::Result<Option<(Content, Metadata, Stat)>> {
    for _ in 0..ATTEMPTS {
        let stat = fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let rdev = stat.st_rdev;
        let content = match FileType::from_mode(stat.st_mode) {
            Some(FileType::Symlink) => match fs::readlinkat(directory, name, Vec::new()) {
                Err(Errno::INVAL) => continue,
                target => Content::Symlink {
                    target: target?.into_bytes().into(),
                },
            },
            Some(FileType::CharDevice) => Content::CharDevice { rdev },
            Some(FileType::BlockDevice) => Content::BlockDevice { rdev },
            Some(FileType::Fifo) => Content::Fifo,
            Some(FileType::Socket) => Content::Socket,
            Some(FileType::Directory | FileType::Regular) | None => return Ok(None),
        };
        let xattrs = entry_xattrs(directory, name)?;
        let after = fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if after.st_ino == stat.st_ino && is_unchanged(&stat, &after) {
            return Ok(Some((content, metadata(&stat, xattrs), stat)));
        }
    }
    Ok(None)
}
