//! Mappings of files, read and written without ever raising SIGBUS.
#![allow(
    unsafe_code,
    reason = "mmap has no safe form; the pages are reached by the kernel only"
)]

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::{Errno, Result};

/// Who sees what is written through a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// MAP_SHARED: everybody.
    Shared,
    /// MAP_PRIVATE: nobody else.
    Private,
}

/// A mapping of the start of a file.
#[derive(Debug)]
pub struct Mapped {
    address: *mut libc::c_void,
    length: usize,
    /// Bytes travel through it, so that a bad page is EFAULT instead of a signal.
    carrier: OwnedFd,
}

// SAFETY: a mapping is the process's, not a thread's, and nothing here depends on which thread uses it.
unsafe impl Send for Mapped {}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

impl Mapped {
    /// Maps `length` bytes with MAP_SHARED.
    pub fn new(file: BorrowedFd<'_>, length: usize, writable: bool) -> Result<Mapped> {
        Mapped::of(file, length, writable, Sharing::Shared)
    }

    /// Maps `length` bytes.
    pub fn of(
        file: BorrowedFd<'_>,
        length: usize,
        writable: bool,
        sharing: Sharing,
    ) -> Result<Mapped> {
        let carrier = memfd_create(c"carrier", MemfdFlags::CLOEXEC)?;
        let write = if writable { libc::PROT_WRITE } else { 0 };
        let sharing = match sharing {
            Sharing::Shared => libc::MAP_SHARED,
            Sharing::Private => libc::MAP_PRIVATE,
        };
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                length,
                libc::PROT_READ | write,
                sharing,
                file.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(last_error());
        }
        Ok(Mapped {
            address,
            length,
            carrier,
        })
    }

    /// The bytes up to the first page that cannot be read.
    pub fn load(&self) -> Vec<u8> {
        let carrier = self.carrier.as_fd().as_raw_fd();
        let mut total = 0;
        while total < self.length {
            // SAFETY: only the kernel reads the pages, and it checks them.
            let count = unsafe {
                let start = self.address.cast::<u8>().add(total);
                libc::pwrite(carrier, start.cast(), self.length - total, total as i64)
            };
            if count <= 0 {
                break;
            }
            total += count as usize;
        }
        let mut bytes = vec![0; total];
        let mut done = 0;
        while done < total {
            let count = rustix::io::pread(&self.carrier, &mut bytes[done..], done as u64);
            done += count.expect("reading back from memory");
        }
        bytes
    }

    /// Writes through the mapping and waits until the file has it.
    pub fn store(&self, offset: usize, bytes: &[u8]) -> Result<()> {
        assert!(offset + bytes.len() <= self.length);
        let mut written = 0;
        while written < bytes.len() {
            written += rustix::io::pwrite(&self.carrier, &bytes[written..], written as u64)?;
        }
        let mut done = 0;
        while done < bytes.len() {
            // SAFETY: the range lies in the mapping; only the kernel writes it.
            let count = unsafe {
                let start = self.address.cast::<u8>().add(offset + done);
                libc::pread(
                    self.carrier.as_raw_fd(),
                    start.cast(),
                    bytes.len() - done,
                    done as i64,
                )
            };
            if count <= 0 {
                return Err(last_error());
            }
            done += count as usize;
        }
        // SAFETY: the mapping is ours.
        match unsafe { libc::msync(self.address, self.length, libc::MS_SYNC) } {
            0 => Ok(()),
            _ => Err(last_error()),
        }
    }
}

/// truncate(2) of what an O_PATH descriptor refers to.
pub fn truncate_descriptor(file: BorrowedFd<'_>, length: u64) -> Result<()> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    truncate_path(Path::new(&path), length)
}

/// truncate(2).
pub fn truncate_path(path: &Path, length: u64) -> Result<()> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::INVAL)?;
    // SAFETY: the path ends in a null byte and outlives the call.
    match unsafe { libc::truncate(path.as_ptr(), length as i64) } {
        0 => Ok(()),
        _ => Err(last_error()),
    }
}

/// How many pages of a file the page cache has, dirty ones and those being written included
/// (cachestat(2), Linux 6.5; it has the same number everywhere).
pub fn cached_pages(file: BorrowedFd<'_>) -> Result<u64> {
    const SYS_CACHESTAT: libc::c_long = 451;
    // Offset 0, length 0: the whole file.
    let range = [0u64; 2];
    let mut counts = [0u64; 5];
    // SAFETY: a struct cachestat_range and a struct cachestat, which outlive the call.
    let result = unsafe {
        libc::syscall(
            SYS_CACHESTAT,
            file.as_raw_fd(),
            range.as_ptr(),
            counts.as_mut_ptr(),
            0,
        )
    };
    match result {
        0 => Ok(counts[0]),
        _ => Err(last_error()),
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing refers to it any more.
        unsafe { libc::munmap(self.address, self.length) };
    }
}
