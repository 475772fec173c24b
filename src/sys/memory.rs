//! How this process uses memory.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Allocations of a MiB and more are given back to the kernel when they are freed, and pages of them
/// that are never touched cost nothing: each FUSE thread has a buffer of 16 MiB that glibc would
/// otherwise keep resident (50 sessions: 418 MB, with this 4 MB). mallopt(3).
pub fn map_large_allocations() {
    // SAFETY: mallopt only sets a number in the allocator; called before other threads start.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20);
    }
}

/// What is freed is used again, and not given back to the kernel, which hands out each page anew at the price of
/// a fault: for a command that is over soon. mallopt(3).
pub fn keep_what_is_freed() {
    // SAFETY: as above.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 256 << 20);
        libc::mallopt(libc::M_TOP_PAD, 1 << 20);
    }
}

/// How long the buffer is into which fuser has the kernel copy requests, one for each session thread. It is told by its
/// length: fuser keeps it to itself.
const SESSION_BUFFER: usize = (16 << 20) + 4096;

/// What is used of it: a WRITE of the most that the kernel sends at once, and what comes before its content.
const USED: usize = (1 << 20) + 2 * PAGE;

const PAGE: usize = 4096;

/// So many of them are resident. Memory for 1,000 mounts is not spent on that.
const RESIDENT: usize = 24;

static SESSION_BUFFERS: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator; buffers of session threads have their pages from the start.
///
/// A process that is killed while the kernel copies a request to a page that it has never touched cannot be given that
/// page any more, and the request fails with EIO (fuse_dev_do_read(), fs/fuse/dev.c), where otherwise the next daemon would
/// get it: seen with 6 of 220 kills beside writes of a MiB.
#[derive(Debug)]
struct Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

// SAFETY: all is System's; what is written are zeros into memory that was just handed out zeroed.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        if layout.size() == SESSION_BUFFER {
            SESSION_BUFFERS.fetch_sub(1, Ordering::Relaxed);
        }
        // SAFETY: the caller's.
        unsafe { System.dealloc(start, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's.
        let start = unsafe { System.alloc_zeroed(layout) };
        if layout.size() == SESSION_BUFFER
            && !start.is_null()
            && SESSION_BUFFERS.fetch_add(1, Ordering::Relaxed) < RESIDENT
        {
            for offset in (0..USED).step_by(PAGE) {
                // SAFETY: within what was just allocated.
                unsafe { start.add(offset).write_volatile(0) };
            }
        }
        start
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's.
        unsafe { System.realloc(start, layout, size) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_of_a_session_buffer_is_resident() {
        let resident = |buffer: &[u8]| {
            let start = buffer.as_ptr().align_offset(PAGE);
            let pages = USED / PAGE;
            let mut found = vec![0_u8; pages];
            // SAFETY: within the buffer, from a page's start, and a byte for each page.
            let asked = unsafe {
                let place = buffer[start..].as_ptr().cast_mut().cast();
                libc::mincore(place, pages * PAGE, found.as_mut_ptr())
            };
            assert_eq!(asked, 0);
            found.iter().filter(|page| **page & 1 == 1).count()
        };
        let buffer = vec![0_u8; SESSION_BUFFER];
        assert!(
            resident(&buffer) >= USED / PAGE - 1,
            "{}",
            resident(&buffer)
        );
        let other = vec![0_u8; SESSION_BUFFER + 1];
        assert!(resident(&other) < 10, "{}", resident(&other));
    }
}
