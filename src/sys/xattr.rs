//! Extended attributes of a name in a directory, symlinks and devices included.
//!
//! The *xattrat(2) calls are Linux 6.13, and take less than half of the time; through
//! /proc/self/fd/DIRECTORY/NAME the older ones reach the same without following the last component.
//! A name of "." is the directory itself.

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::OnceLock;

use rustix::fs::{self, XattrFlags};
use rustix::io::{Errno, Result};
use rustix::path::Arg;

use super::process::entry_path;

// The same on all architectures that Rust has; libc does not name them yet.
const SETXATTRAT: libc::c_long = 463;
const GETXATTRAT: libc::c_long = 464;
const LISTXATTRAT: libc::c_long = 465;

/// struct xattr_args of linux/xattr.h.
#[repr(C)]
#[derive(Default)]
struct Arguments {
    value: u64,
    size: u32,
    flags: u32,
}

/// The call that sets an xattr, or the one that gets it.
///
/// # Safety
/// `arguments.value` leads to as many bytes as `arguments.size` says, which GETXATTRAT may write to.
unsafe fn call_at(
    call: libc::c_long,
    directory: BorrowedFd<'_>,
    name: &CStr,
    xattr: &CStr,
    arguments: &Arguments,
) -> Result<usize> {
    // SAFETY: the strings end with 0, the structure has the size that is told, and the caller
    // answers for what it refers to.
    let length = unsafe {
        libc::syscall(
            call,
            directory.as_raw_fd(),
            name.as_ptr(),
            libc::AT_SYMLINK_NOFOLLOW,
            xattr.as_ptr(),
            std::ptr::from_ref(arguments),
            size_of::<Arguments>(),
        )
    };
    returned(length)
}

/// What a call gave: a length, or -1 and errno.
fn returned(length: libc::c_long) -> Result<usize> {
    usize::try_from(length).map_err(|_| {
        let error = std::io::Error::last_os_error();
        Errno::from_io_error(&error).unwrap_or(Errno::IO)
    })
}

/// Whether the kernel has these calls, and nothing keeps this process from them.
fn has_calls_at() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    // Of the width that the kernel reads: the last one is passed on the stack.
    const NONE: usize = 0;
    // SAFETY: nothing is referred to; a kernel that knows the call refuses structures of no size.
    let refused = || unsafe { libc::syscall(GETXATTRAT, -1, NONE, NONE, NONE, NONE, NONE) } == -1;
    *FOUND.get_or_init(|| {
        let error = || std::io::Error::last_os_error().raw_os_error();
        refused() && error() == Some(libc::EINVAL)
    })
}

/// The kernel's limit of one value (XATTR_SIZE_MAX).
const VALUE_MAX: usize = 65536;

/// The value, `None` if there is no such xattr (or the file system has none at all).
pub fn get(directory: BorrowedFd<'_>, name: &[u8], xattr: &[u8]) -> Result<Option<Vec<u8>>> {
    if !has_calls_at() {
        let path = entry_path(directory, name);
        return read(|buffer| fs::lgetxattr(&path[..], xattr, buffer));
    }
    name.into_with_c_str(|name| {
        xattr.into_with_c_str(|xattr| {
            read(|buffer| {
                let arguments = Arguments {
                    value: buffer.as_mut_ptr() as u64,
                    size: buffer.len() as u32,
                    flags: 0,
                };
                // SAFETY: the value is the buffer, which is ours alone.
                unsafe { call_at(GETXATTRAT, directory, name, xattr, &arguments) }
            })
        })
    })
}

/// The value of an open descriptor's xattr; not for descriptors opened with O_PATH.
pub fn get_descriptor(file: BorrowedFd<'_>, xattr: &[u8]) -> Result<Option<Vec<u8>>> {
    read(|buffer| fs::fgetxattr(file, xattr, buffer))
}

fn read(call: impl Fn(&mut [u8]) -> Result<usize>) -> Result<Option<Vec<u8>>> {
    let mut small = [0; 256];
    match call(&mut small) {
        Ok(length) => return Ok(Some(small[..length].to_vec())),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(None),
        Err(Errno::RANGE) => {}
        Err(error) => return Err(error),
    }
    let mut large = vec![0; VALUE_MAX];
    match call(&mut large) {
        Ok(length) => {
            large.truncate(length);
            Ok(Some(large))
        }
        Err(Errno::NODATA) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The names of all xattrs.
pub fn list(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Vec<Vec<u8>>> {
    if !has_calls_at() {
        let path = entry_path(directory, name);
        return names(|buffer| fs::llistxattr(&path[..], buffer));
    }
    name.into_with_c_str(|name| names(|buffer| list_at(directory, name, buffer)))
}

fn list_at(directory: BorrowedFd<'_>, name: &CStr, buffer: &mut [u8]) -> Result<usize> {
    // SAFETY: the name ends with 0, and the kernel writes at most as many bytes as the buffer has.
    let length = unsafe {
        libc::syscall(
            LISTXATTRAT,
            directory.as_raw_fd(),
            name.as_ptr(),
            libc::AT_SYMLINK_NOFOLLOW,
            buffer.as_mut_ptr(),
            buffer.len(),
        )
    };
    returned(length)
}

/// The names of an open descriptor's xattrs; not for descriptors opened with O_PATH.
pub fn list_descriptor(file: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>> {
    names(|buffer| fs::flistxattr(file, buffer))
}

fn names(call: impl Fn(&mut [u8]) -> Result<usize>) -> Result<Vec<Vec<u8>>> {
    let split = |list: &[u8]| {
        let names = list.split(|&byte| byte == 0);
        let names = names.filter(|name| !name.is_empty());
        names.map(<[u8]>::to_vec).collect()
    };
    let mut small = [0; 1024];
    match call(&mut small) {
        Ok(length) => return Ok(split(&small[..length])),
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(Errno::RANGE) => {}
        Err(error) => return Err(error),
    }
    let mut large = vec![0; VALUE_MAX];
    let length = call(&mut large)?;
    Ok(split(&large[..length]))
}

pub(super) fn set(
    directory: BorrowedFd<'_>,
    name: &[u8],
    xattr: &[u8],
    value: &[u8],
    flags: XattrFlags,
) -> Result<()> {
    if !has_calls_at() {
        return fs::lsetxattr(&entry_path(directory, name)[..], xattr, value, flags);
    }
    let arguments = Arguments {
        value: value.as_ptr() as u64,
        size: u32::try_from(value.len()).map_err(|_| Errno::TOOBIG)?,
        flags: flags.bits(),
    };
    name.into_with_c_str(|name| {
        xattr.into_with_c_str(|xattr| {
            // SAFETY: the value is only read.
            unsafe { call_at(SETXATTRAT, directory, name, xattr, &arguments) }
        })
    })
    .map(drop)
}

pub(super) fn remove(directory: BorrowedFd<'_>, name: &[u8], xattr: &[u8]) -> Result<()> {
    fs::lremovexattr(&entry_path(directory, name)[..], xattr)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn calls_that_the_kernel_has_are_used() {
        let place = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let directory = std::fs::File::open(place.path()).unwrap();
        let nothing = Arguments::default();
        // SAFETY: there is room for no bytes.
        let called = unsafe { call_at(GETXATTRAT, directory.as_fd(), c".", c"user.x", &nothing) };
        match has_calls_at() {
            true => assert_eq!(called, Err(Errno::NODATA)),
            false => assert!(
                matches!(called, Err(Errno::NOSYS | Errno::PERM)),
                "{called:?}"
            ),
        }
    }

    /// Both ways to the same value: the calls by descriptor and name, and the path through /proc.
    #[test]
    fn both_ways_lead_to_the_same() {
        let place = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        std::fs::write(place.path().join("file"), "").unwrap();
        symlink("file", place.path().join("link")).unwrap();
        let directory = std::fs::File::open(place.path()).unwrap();
        let directory = directory.as_fd();
        let through_proc = |name: &[u8], xattr: &str| -> Result<Vec<u8>> {
            let mut buffer = vec![0; VALUE_MAX];
            let length = fs::lgetxattr(&entry_path(directory, name)[..], xattr, &mut buffer)?;
            buffer.truncate(length);
            Ok(buffer)
        };
        let none = XattrFlags::empty();
        for (name, value) in [(&b"file"[..], vec![7; 3000]), (b".", Vec::new())] {
            set(directory, name, b"user.x", &value, none).unwrap();
            assert_eq!(
                get(directory, name, b"user.x").unwrap().as_ref(),
                Some(&value)
            );
            assert_eq!(through_proc(name, "user.x"), Ok(value));
            assert_eq!(get(directory, name, b"user.y"), Ok(None));
            let path = entry_path(directory, name);
            let listed = names(|buffer| fs::llistxattr(&path[..], buffer)).unwrap();
            assert!(listed.contains(&b"user.x".to_vec()), "{listed:?}");
            assert_eq!(list(directory, name), Ok(listed));
        }
        let created = set(directory, b"file", b"user.x", b"", XattrFlags::CREATE);
        assert_eq!(created, Err(Errno::EXIST));
        assert_eq!(get(directory, b"missing", b"user.x"), Err(Errno::NOENT));
        assert_eq!(list(directory, b"missing"), Err(Errno::NOENT));
        assert_eq!(get(directory, b"fi\0le", b"user.x"), Err(Errno::INVAL));
        // A symlink is not followed, and has no such xattrs.
        assert_eq!(get(directory, b"link", b"user.x"), Ok(None));
        let of_link = list(directory, b"link").unwrap();
        assert!(!of_link.contains(&b"user.x".to_vec()), "{of_link:?}");
        let refused = set(directory, b"link", b"user.x", b"", none);
        assert_eq!(refused, Err(Errno::PERM));
    }
}
