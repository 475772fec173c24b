//! What /proc tells of descriptors and processes.

use std::os::fd::{AsRawFd, BorrowedFd};

/// The path through which the kernel reaches an open descriptor, O_PATH ones included (proc(5)).
pub fn descriptor_path(file: BorrowedFd<'_>) -> Vec<u8> {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into_bytes()
}

/// The path of `name` below an open directory: for calls that have no *at form. One component, so
/// no symlink but the last can be met; the caller's call must not follow that one.
pub fn entry_path(directory: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    let mut path = descriptor_path(directory);
    path.push(b'/');
    path.extend_from_slice(name);
    path
}

/// Lets this process have as many descriptors as root may give it.
///
/// # Errors
/// The limit cannot be set: never for root, unless it is above the kernel's (fs.nr_open).
pub fn raise_descriptor_limit() -> rustix::io::Result<()> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)
}
