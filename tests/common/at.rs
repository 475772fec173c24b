//! Reaching entries through descriptors: any bytes in a name, any depth, no symlink followed.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{self, AtFlags, Mode, OFlags, RawDir, Stat};
use rustix::io::{Errno, Result};

/// Less than PATH_MAX by the longest name.
const CHUNK: usize = 3800;

/// Opens a directory of the host for use as a root.
pub fn open_root(path: &Path) -> OwnedFd {
    fs::open(
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The directory of a path and its last name; the root itself is "." of the root.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    if path.is_empty() {
        return (b"", b".");
    }
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// A directory's path and a name below it, joined.
pub fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = directory.to_vec();
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// Opens the directory `path` below `root`, however long the path is.
pub fn open_directory(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
    let flags = flags | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut current: Option<OwnedFd> = None;
    let mut rest = path;
    loop {
        let from = current.as_ref().map_or(root, AsFd::as_fd);
        if rest.len() <= CHUNK {
            let last: &[u8] = if rest.is_empty() { b"." } else { rest };
            return fs::openat(from, last, flags, Mode::empty());
        }
        let cut = rest[..CHUNK].iter().rposition(|byte| *byte == b'/');
        let cut = cut.ok_or(Errno::NAMETOOLONG)?;
        let step = fs::openat(from, &rest[..cut], flags | OFlags::PATH, Mode::empty())?;
        rest = &rest[cut + 1..];
        current = Some(step);
    }
}

/// Opens the parent of `path` and gives the last name.
pub fn parent<'p>(root: BorrowedFd<'_>, path: &'p [u8]) -> Result<(OwnedFd, &'p [u8])> {
    let (directory, name) = split(path);
    Ok((open_directory(root, directory, OFlags::PATH)?, name))
}

/// lstat of a path below `root`.
pub fn stat(root: BorrowedFd<'_>, path: &[u8]) -> Result<Stat> {
    let (directory, name) = parent(root, path)?;
    fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)
}

/// Opens any entry itself (O_PATH).
pub fn open_path(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd> {
    let (directory, name) = parent(root, path)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(&directory, name, flags, Mode::empty())
}

/// A path for calls that have no *at form; they must not follow the last component.
pub fn proc_entry(directory: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    path
}

/// One entry of a directory as readdir tells it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    /// The name.
    pub name: Vec<u8>,
    /// d_ino.
    pub ino: u64,
    /// d_type as the type bits of st_mode.
    pub kind: u32,
}

/// All entries but "." and "..", in the order of the directory.
pub fn list(root: BorrowedFd<'_>, path: &[u8]) -> Result<Vec<Listed>> {
    let (above, name) = parent(root, path)?;
    let directory = open_directory(above.as_fd(), name, OFlags::RDONLY)?;
    let mut buffer = Vec::with_capacity(16384);
    let mut entries = RawDir::new(&directory, buffer.spare_capacity_mut());
    let mut found = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            found.push(Listed {
                name: name.to_vec(),
                ino: entry.ino(),
                kind: entry.file_type().as_raw_mode(),
            });
        }
    }
    Ok(found)
}

/// The target of a symlink.
pub fn read_link(root: BorrowedFd<'_>, path: &[u8]) -> Result<Vec<u8>> {
    let (directory, name) = parent(root, path)?;
    Ok(fs::readlinkat(&directory, name, Vec::new())?.into_bytes())
}

/// The names of an entry's xattrs, sorted; without those by which xfs shows ACLs a second time.
pub fn list_xattrs(root: BorrowedFd<'_>, path: &[u8]) -> Result<Vec<Vec<u8>>> {
    let (directory, name) = parent(root, path)?;
    let mut buffer = vec![0; 65536];
    let length = fs::llistxattr(&proc_entry(directory.as_fd(), name)[..], &mut buffer[..])?;
    let names = buffer[..length].split(|byte| *byte == 0);
    let mut names: Vec<_> = names
        .filter(|name| !name.is_empty() && !name.starts_with(b"trusted.SGI_ACL_"))
        .map(<[u8]>::to_vec)
        .collect();
    names.sort();
    Ok(names)
}

/// The value of one xattr.
pub fn get_xattr(root: BorrowedFd<'_>, path: &[u8], xattr: &[u8]) -> Result<Vec<u8>> {
    let (directory, name) = parent(root, path)?;
    let mut buffer = vec![0; 65536];
    let entry = proc_entry(directory.as_fd(), name);
    let length = fs::lgetxattr(&entry[..], xattr, &mut buffer[..])?;
    buffer.truncate(length);
    Ok(buffer)
}
