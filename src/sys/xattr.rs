//! Extended attributes of a name in a directory, symlinks and devices included.
//!
//! The *xattrat(2) calls are Linux 6.13; through /proc/self/fd/DIRECTORY/NAME the older ones reach
//! the same without following the last component. A name of "." is the directory itself.

use std::os::fd::BorrowedFd;

use rustix::fs::{self, XattrFlags};
use rustix::io::{Errno, Result};

use super::process::entry_path;

/// The kernel's limit of one value (XATTR_SIZE_MAX).
const VALUE_MAX: usize = 65536;

/// The value, `None` if there is no such xattr (or the file system has none at all).
pub fn get(directory: BorrowedFd<'_>, name: &[u8], xattr: &[u8]) -> Result<Option<Vec<u8>>> {
    let path = entry_path(directory, name);
    read(|buffer| fs::lgetxattr(&path[..], xattr, buffer))
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
    let path = entry_path(directory, name);
    names(|buffer| fs::llistxattr(&path[..], buffer))
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
    fs::lsetxattr(&entry_path(directory, name)[..], xattr, value, flags)
}

pub(super) fn remove(directory: BorrowedFd<'_>, name: &[u8], xattr: &[u8]) -> Result<()> {
    fs::lremovexattr(&entry_path(directory, name)[..], xattr)
}
