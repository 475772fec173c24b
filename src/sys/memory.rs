//! How this process uses memory.

#![allow(unsafe_code)]

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
