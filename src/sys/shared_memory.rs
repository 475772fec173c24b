//! Memory that outlives a process: words in a memfd, which another process can keep.

#![allow(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::AtomicU64;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::{Errno, Result};
use rustix::mm::{MapFlags, ProtFlags};

/// Words that all who have the descriptor mapped share. What one of them has stored is there when it
/// has been killed. A page that was never touched takes no memory.
#[derive(Debug)]
pub struct SharedWords {
    memory: OwnedFd,
    start: NonNull<AtomicU64>,
    count: usize,
}

// SAFETY: the mapping lives as long as this does, and is only used through atomics.
unsafe impl Send for SharedWords {}
// SAFETY: likewise.
unsafe impl Sync for SharedWords {}

/// Its size never changes: no access can fail for a page that is not there any more.
const SEALS: SealFlags = SealFlags::SHRINK
    .union(SealFlags::GROW)
    .union(SealFlags::SEAL);

impl SharedWords {
    /// So many words, all 0. The name is shown in /proc.
    ///
    /// # Errors
    /// The kernel's: no memory, no descriptor.
    pub fn new(name: &str, count: usize) -> Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = rustix::fs::memfd_create(name, flags)?;
        let bytes = count.checked_mul(size_of::<AtomicU64>());
        let bytes = bytes.ok_or(Errno::OVERFLOW)?;
        rustix::fs::ftruncate(&memory, bytes as u64)?;
        rustix::fs::fcntl_add_seals(&memory, SEALS)?;
        Self::map(memory, count)
    }

    /// Those of a descriptor that [`SharedWords::new`] made, in whichever process.
    ///
    /// # Errors
    /// EINVAL for another one.
    pub fn open(memory: OwnedFd) -> Result<Self> {
        if !rustix::fs::fcntl_get_seals(&memory)?.contains(SEALS) {
            return Err(Errno::INVAL);
        }
        let bytes = rustix::fs::fstat(&memory)?.st_size;
        let bytes = usize::try_from(bytes).map_err(|_| Errno::INVAL)?;
        Self::map(memory, bytes / size_of::<AtomicU64>())
    }

    fn map(memory: OwnedFd, count: usize) -> Result<Self> {
        if count == 0 {
            return Err(Errno::INVAL);
        }
        let length = count * size_of::<AtomicU64>();
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, where the kernel finds room for it.
        let start = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                length,
                access,
                MapFlags::SHARED,
                &memory,
                0,
            )?
        };
        Ok(Self {
            start: NonNull::new(start.cast()).ok_or(Errno::NOMEM)?,
            memory,
            count,
        })
    }

    /// The words.
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: mapped, page-aligned, of that length, never unmapped while this lives; all bytes
        // are valid words, and whoever else has them mapped stores atomically, too.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.count) }
    }
}

impl AsFd for SharedWords {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }
}

impl Drop for SharedWords {
    fn drop(&mut self) {
        let length = self.count * size_of::<AtomicU64>();
        // SAFETY: mapped by `map`, and nothing borrows it any more.
        let unmapped = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), length) };
        if let Err(error) = unmapped {
            log::warn!("munmap: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn what_one_stores_the_other_reads_and_only_what_was_made_for_it_is_opened() {
        let one = SharedWords::new("test", 1 << 20).unwrap();
        one.words()[12345].store(7, Ordering::Relaxed);
        let other = SharedWords::open(one.as_fd().try_clone_to_owned().unwrap()).unwrap();
        assert_eq!(other.words().len(), 1 << 20);
        assert_eq!(other.words()[12345].load(Ordering::Relaxed), 7);
        drop(one);
        assert_eq!(other.words()[12345].load(Ordering::Relaxed), 7);
        let used = rustix::fs::fstat(&other).unwrap().st_blocks * 512;
        assert!(used < 64 << 10, "{used}");

        let plain = rustix::fs::memfd_create("plain", MemfdFlags::CLOEXEC).unwrap();
        assert_eq!(SharedWords::open(plain).unwrap_err(), Errno::INVAL);
        let file = tempfile::tempfile().unwrap();
        assert_eq!(SharedWords::open(file.into()).unwrap_err(), Errno::INVAL);
    }
}
