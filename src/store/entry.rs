//! A private entry read as a whole: what its view shows of it.

use std::os::fd::BorrowedFd;

use rustix::fs::{self, Stat};
use rustix::io::{Errno, Result};

use super::guest_xattr;
use super::mark::{Mark, Role};
use super::metadata::{Content, FileType, Metadata, Time};

/// Owner, mode, mtime and xattrs of a private entry as its view shows them.
pub fn read_metadata(
    directory: BorrowedFd<'_>,
    name: &[u8],
    stat: &Stat,
    mark: &Mark,
) -> Result<Metadata> {
    Ok(Metadata {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: shown_mtime(stat, mark),
        xattrs: guest_xattr::read_all(directory, name)?,
    })
}

/// mtime of the host inode.
pub fn host_mtime(stat: &Stat) -> Time {
    Time {
        seconds: stat.st_mtime,
        nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
    }
}

/// ctime of the host inode.
pub fn host_ctime(stat: &Stat) -> Time {
    Time {
        seconds: stat.st_ctime,
        nanoseconds: u32::try_from(stat.st_ctime_nsec).unwrap_or(0),
    }
}

/// The ctime that the view shows.
pub fn shown_ctime(stat: &Stat, mark: &Mark) -> Time {
    mark.shown.ctime.unwrap_or(host_ctime(stat))
}

/// The mtime that the view shows.
pub fn shown_mtime(stat: &Stat, mark: &Mark) -> Time {
    mark.shown.mtime.unwrap_or(host_mtime(stat))
}

/// Type and content of a private entry; `None` for a file whose content is no object.
///
/// # Errors
/// EBADMSG for a file type that Linux does not know.
pub fn read_content(
    directory: BorrowedFd<'_>,
    name: &[u8],
    stat: &Stat,
    mark: &Mark,
) -> Result<Option<Content>> {
    let rdev = stat.st_rdev;
    let size = stat.st_size as u64;
    Ok(Some(
        match FileType::from_mode(stat.st_mode).ok_or(Errno::BADMSG)? {
            FileType::Directory => Content::Directory,
            FileType::Regular => match mark.role {
                Role::Stub { digest } => Content::Regular {
                    size,
                    digest: Some(digest),
                },
                _ if size == 0 => Content::Regular { size, digest: None },
                _ => return Ok(None),
            },
            FileType::Symlink => Content::Symlink {
                target: fs::readlinkat(directory, name, Vec::new())?
                    .into_bytes()
                    .into(),
            },
            FileType::CharDevice => Content::CharDevice { rdev },
            FileType::BlockDevice => Content::BlockDevice { rdev },
            FileType::Fifo => Content::Fifo,
            FileType::Socket => Content::Socket,
        },
    ))
}
