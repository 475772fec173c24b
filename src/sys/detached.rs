//! Detached mounts: a second way to a file system, with mount attributes of its own, that nobody but
//! this process can reach (open_tree(2), mount_setattr(2)).

#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::{Errno, Result};
use rustix::mount::{OpenTreeFlags, open_tree};

use super::handle::FileHandle;

/// Whether files can be written through it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writable {
    /// Opening for writing gives EROFS, also for who reopens a descriptor from here.
    No,
    /// As through the mount it is a clone of.
    Yes,
}

/// A mount that stands in no tree. It ends with the last descriptor of a file in it. Reading
/// through it leaves access times alone.
#[derive(Debug)]
pub struct DetachedMount(OwnedFd);

impl DetachedMount {
    /// Clones the mount of a directory, from that directory downward.
    ///
    /// # Errors
    /// EPERM without CAP_SYS_ADMIN; ENOSYS before Linux 5.12.
    pub fn of(directory: BorrowedFd<'_>, writable: Writable) -> Result<Self> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH;
        let mount = open_tree(directory, c"", flags)?;
        let read_only = match writable {
            Writable::No => libc::MOUNT_ATTR_RDONLY,
            Writable::Yes => 0,
        };
        let attributes = libc::mount_attr {
            attr_set: read_only | libc::MOUNT_ATTR_NOATIME,
            attr_clr: libc::MOUNT_ATTR__ATIME,
            propagation: 0,
            userns_fd: 0,
        };
        // SAFETY: the path is a C string, the attributes are a struct mount_attr of the size given;
        // both outlive the call, which only reads them.
        let result = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                mount.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_EMPTY_PATH,
                &raw const attributes,
                size_of::<libc::mount_attr>(),
            )
        };
        if result != 0 {
            let error = std::io::Error::last_os_error();
            return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO));
        }
        // open_by_handle_at(2) takes no O_PATH descriptor.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(openat(&mount, c".", flags, Mode::empty())?))
    }

    /// An open file once more, as an O_PATH descriptor through this mount.
    ///
    /// # Errors
    /// EOPNOTSUPP where the file system has no file handles; ESTALE if the file has been removed.
    pub fn reopen(&self, file: BorrowedFd<'_>) -> Result<OwnedFd> {
        FileHandle::of_descriptor(file)?.open(self.0.as_fd(), libc::O_PATH | libc::O_CLOEXEC)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    /// Opens what an O_PATH descriptor leads to, as the kernel does for a passthrough file.
    fn reopen(path: &OwnedFd, flags: OFlags) -> Result<OwnedFd> {
        let name = format!("/proc/self/fd/{}", path.as_raw_fd());
        rustix::fs::open(name, flags | OFlags::CLOEXEC, Mode::empty())
    }

    #[test]
    fn a_read_only_one_refuses_who_writes_and_another_does_not() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, "content").unwrap();
        let root = File::open(directory.path()).unwrap();
        let file = File::open(&path).unwrap();
        let inode = file.metadata().unwrap().ino();

        let mount = DetachedMount::of(root.as_fd(), Writable::No).unwrap();
        let found = mount.reopen(file.as_fd()).unwrap();
        assert_eq!(rustix::fs::fstat(&found).unwrap().st_ino, inode);
        assert_eq!(reopen(&found, OFlags::RDWR).unwrap_err(), Errno::ROFS);
        reopen(&found, OFlags::RDONLY).unwrap();
        let beside = openat(&mount.0, "file", OFlags::WRONLY, Mode::empty());
        assert_eq!(beside.unwrap_err(), Errno::ROFS);

        let mount = DetachedMount::of(root.as_fd(), Writable::Yes).unwrap();
        let found = mount.reopen(file.as_fd()).unwrap();
        let writer = reopen(&found, OFlags::RDWR).unwrap();
        assert_eq!(rustix::io::write(&writer, b"C").unwrap(), 1);
        assert_eq!(std::fs::read(&path).unwrap(), b"Content");
    }
}
