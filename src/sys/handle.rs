//! Host file handles (name_to_handle_at(2)): a file's identity on the host, over renames.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::{Errno, Result};

const CAPACITY: usize = libc::MAX_HANDLE_SZ as usize;

#[repr(C)]
struct Buffer {
    bytes: libc::c_uint,
    kind: libc::c_int,
    handle: [u8; CAPACITY],
}

/// An opaque handle of the host's file system.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FileHandle {
    kind: i32,
    handle: Box<[u8]>,
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

impl FileHandle {
    /// The handle of a name, not following a symlink.
    pub fn of(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Self> {
        let name = CString::new(name).map_err(|_| Errno::INVAL)?;
        Self::at(directory, &name, 0)
    }

    /// The handle of an open file.
    pub fn of_descriptor(file: BorrowedFd<'_>) -> Result<Self> {
        Self::at(file, c"", libc::AT_EMPTY_PATH)
    }

    fn at(directory: BorrowedFd<'_>, name: &CStr, flags: libc::c_int) -> Result<Self> {
        let mut buffer = Buffer {
            bytes: CAPACITY as libc::c_uint,
            kind: 0,
            handle: [0; CAPACITY],
        };
        let mut mount: libc::c_int = 0;
        // SAFETY: the buffer is a struct file_handle with room for `bytes` bytes, and outlives the call.
        let result = unsafe {
            libc::name_to_handle_at(
                directory.as_raw_fd(),
                name.as_ptr(),
                (&raw mut buffer).cast(),
                &raw mut mount,
                flags,
            )
        };
        if result != 0 {
            return Err(last_error());
        }
        let length = (buffer.bytes as usize).min(CAPACITY);
        Ok(Self {
            kind: buffer.kind,
            handle: buffer.handle[..length].into(),
        })
    }

    /// Opens the file; `filesystem` is any descriptor on its file system. Needs CAP_DAC_READ_SEARCH.
    ///
    /// # Errors
    /// ESTALE when the file is gone.
    pub fn open(&self, filesystem: BorrowedFd<'_>, flags: libc::c_int) -> Result<OwnedFd> {
        let mut buffer = Buffer {
            bytes: self.handle.len() as libc::c_uint,
            kind: self.kind,
            handle: [0; CAPACITY],
        };
        buffer.handle[..self.handle.len()].copy_from_slice(&self.handle);
        // SAFETY: the buffer is a struct file_handle of `bytes` bytes, and outlives the call.
        let result = unsafe {
            libc::open_by_handle_at(filesystem.as_raw_fd(), (&raw mut buffer).cast(), flags)
        };
        if result < 0 {
            return Err(last_error());
        }
        // SAFETY: the kernel has just given us this descriptor.
        Ok(unsafe { OwnedFd::from_raw_fd(result) })
    }
}
