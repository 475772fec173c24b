//! Walking a directory tree of any depth and any names with a constant number of descriptors and
//! without recursion; and what needs nothing else: removing a tree, adding up its blocks.
//!
//! The walk goes down by opening a name and up by `..`, and checks on the way up that it is where
//! it was. It neither follows symlinks nor leaves the file system it began on.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};

use crate::error::{Context, Error, Result};
use crate::sys::durable;

/// What a walk calls.
pub trait Visitor {
    /// An entry of the directory; called for a directory before what is in it.
    ///
    /// # Errors
    /// End the walk.
    fn entry(&mut self, directory: BorrowedFd<'_>, name: &[u8], kind: FileType) -> Result<()>;

    /// Whether it is all right that a directory is gone before it was opened. By default it is an
    /// error.
    fn may_vanish(&self) -> bool {
        false
    }

    /// All that is in the directory `name` has been visited.
    ///
    /// # Errors
    /// End the walk.
    fn left(&mut self, _directory: BorrowedFd<'_>, _name: &[u8]) -> Result<()> {
        Ok(())
    }
}

/// A directory on the way from the root of the walk to where it is.
struct Level {
    /// Its name in its parent.
    name: Vec<u8>,
    /// Device and inode number of its parent.
    parent: (u64, u64),
    /// Its subdirectories that are still to be visited.
    pending: Vec<Vec<u8>>,
}

/// Visits everything below `root`, not `root` itself. `what` names the tree in errors.
///
/// # Errors
/// What the visitor returns; errors of reading directories; a mount point, and a directory that
/// was moved meanwhile.
pub fn walk(root: BorrowedFd<'_>, what: &str, visitor: &mut impl Visitor) -> Result<()> {
    let mut here = open_directory(root, b".", ResolveFlags::empty()).about(what)?;
    let mut top = visit_entries(here.as_fd(), what, visitor)?;
    let mut levels: Vec<Level> = Vec::new();
    loop {
        let pending = levels
            .last_mut()
            .map_or(&mut top, |level| &mut level.pending);
        if let Some(name) = pending.pop() {
            let parent = identity(here.as_fd()).about(what)?;
            let inside = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV;
            let opened = open_directory(here.as_fd(), &name, inside);
            if opened.as_ref().err() == Some(&rustix::io::Errno::NOENT) && visitor.may_vanish() {
                continue;
            }
            here = opened.map_err(|errno| match errno {
                rustix::io::Errno::XDEV => {
                    Error::failed(what, mount_point(&name)).remedy("unmount it and try again")
                }
                errno => described(errno, what, &name),
            })?;
            let pending = visit_entries(here.as_fd(), what, visitor)?;
            levels.push(Level {
                name,
                parent,
                pending,
            });
        } else if let Some(level) = levels.pop() {
            here = open_directory(here.as_fd(), b"..", ResolveFlags::empty()).about(what)?;
            if identity(here.as_fd()).about(what)? != level.parent {
                return Err(Error::failed(what, "a directory was moved meanwhile"));
            }
            visitor.left(here.as_fd(), &level.name)?;
        } else {
            return Ok(());
        }
    }
}

fn mount_point(name: &[u8]) -> String {
    format!("{} in it is a mount point", name.escape_ascii())
}

fn described(errno: rustix::io::Errno, what: &str, name: &[u8]) -> Error {
    let outcome: Result<()> = Err(errno).about(format!("{what}: {}", name.escape_ascii()));
    match outcome {
        Err(error) => error,
        Ok(()) => Error::failed(what, errno),
    }
}

/// Visits the entries of one directory; its subdirectories.
fn visit_entries(
    directory: BorrowedFd<'_>,
    what: &str,
    visitor: &mut impl Visitor,
) -> Result<Vec<Vec<u8>>> {
    let mut pending = Vec::new();
    let mut entries = Dir::read_from(directory).about(what)?;
    while let Some(entry) = entries.read() {
        let entry = entry.about(what)?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => {
                let stat = fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(|errno| described(errno, what, name))?;
                FileType::from_raw_mode(stat.st_mode)
            }
            kind => kind,
        };
        visitor.entry(directory, name, kind)?;
        if kind == FileType::Directory {
            pending.push(name.to_vec());
        }
    }
    Ok(pending)
}

fn open_directory(
    directory: BorrowedFd<'_>,
    name: &[u8],
    resolve: ResolveFlags,
) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat2(directory, name, flags, Mode::empty(), resolve)
}

fn identity(directory: BorrowedFd<'_>) -> rustix::io::Result<(u64, u64)> {
    let stat = fs::fstat(directory)?;
    Ok((stat.st_dev, stat.st_ino))
}

struct Remover<'a>(&'a str);

impl Visitor for Remover<'_> {
    fn entry(&mut self, directory: BorrowedFd<'_>, name: &[u8], kind: FileType) -> Result<()> {
        if kind == FileType::Directory {
            return Ok(());
        }
        durable::unlink(directory, name).map_err(|errno| described(errno, self.0, name))
    }

    fn left(&mut self, directory: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
        durable::rmdir(directory, name).map_err(|errno| described(errno, self.0, name))
    }
}

/// Removes everything in a directory. `what` names it in errors.
///
/// # Errors
/// As [`walk`], and what unlinkat(2) gives; what is removed by then stays removed.
pub fn remove_contents(directory: BorrowedFd<'_>, what: &str) -> Result<()> {
    walk(directory, what, &mut Remover(what))
}

/// Removes `name`, with everything in it if it is a directory. `what` names the directory that
/// holds it in errors.
///
/// # Errors
/// As [`remove_contents`].
pub fn remove(directory: BorrowedFd<'_>, name: &[u8], what: &str) -> Result<()> {
    match open_directory(
        directory,
        name,
        ResolveFlags::BENEATH | ResolveFlags::NO_XDEV,
    ) {
        Ok(inner) => {
            remove_contents(inner.as_fd(), &format!("{what}/{}", name.escape_ascii()))?;
            durable::rmdir(directory, name)
        }
        Err(rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {
            durable::unlink(directory, name)
        }
        Err(errno) => Err(errno),
    }
    .map_err(|errno| described(errno, what, name))
}

#[derive(Default)]
struct Blocks {
    bytes: u64,
    several_names: HashSet<u64>,
}

impl Blocks {
    fn add(&mut self, stat: &fs::Stat) {
        let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if directory || stat.st_nlink == 1 || self.several_names.insert(stat.st_ino) {
            self.bytes += stat.st_blocks as u64 * 512;
        }
    }
}

impl Visitor for Blocks {
    fn may_vanish(&self) -> bool {
        true
    }

    fn entry(&mut self, directory: BorrowedFd<'_>, name: &[u8], _kind: FileType) -> Result<()> {
        match fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => self.add(&stat),
            // Removed by a living image meanwhile.
            Err(rustix::io::Errno::NOENT) => {}
            Err(errno) => return Err(described(errno, "adding up blocks", name)),
        }
        Ok(())
    }
}

/// How often [`allocated`] begins again because a guest moved a directory under its feet.
const ATTEMPTS: u32 = 8;

/// What a directory and everything in it occupy, in bytes of allocated blocks, as du(1) counts
/// them. `what` names it in errors. Guests may be at work in it.
///
/// # Errors
/// As [`walk`], but for directories that vanish.
pub fn allocated(directory: BorrowedFd<'_>, what: &str) -> Result<u64> {
    let mut attempt = 1;
    loop {
        let mut blocks = Blocks::default();
        blocks.add(&fs::fstat(directory).about(what)?);
        match walk(directory, what, &mut blocks) {
            Ok(()) => return Ok(blocks.bytes),
            // Moved: the one error that is not the system's.
            Err(error) if error.errno.is_none() && attempt < ATTEMPTS => attempt += 1,
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    fn open(path: &std::path::Path) -> OwnedFd {
        File::open(path).unwrap().into()
    }

    /// A chain of directories far deeper than PATH_MAX, built from the inside out.
    fn deep(root: &std::path::Path, depth: usize) {
        let mut here = open(root);
        let name = "d".repeat(255);
        for _ in 0..depth {
            fs::mkdirat(&here, &name, Mode::RWXU).unwrap();
            durable::create(&here, b"file\xff\n", 0o600).unwrap();
            here = open_directory(here.as_fd(), name.as_bytes(), ResolveFlags::BENEATH).unwrap();
        }
    }

    #[test]
    fn removes_trees_deeper_than_any_limit() {
        let temporary = tempfile::tempdir().unwrap();
        let root = temporary.path().join("root");
        std::fs::create_dir(&root).unwrap();
        deep(&root, 5000);
        for name in ["a", "b", "c"] {
            deep_and_wide(&root.join(name));
        }
        let outside = temporary.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("kept"), b"x").unwrap();
        std::os::unix::fs::symlink(&outside, root.join("link")).unwrap();
        let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let before = descriptors();
        remove(open(temporary.path()).as_fd(), b"root", "tmp").unwrap();
        assert!(descriptors() < before + 50);
        assert!(!root.exists() && outside.join("kept").exists());
    }

    fn deep_and_wide(path: &std::path::Path) {
        std::fs::create_dir(path).unwrap();
        for n in 0..50 {
            let inner = path.join(n.to_string());
            std::fs::create_dir(&inner).unwrap();
            std::fs::write(inner.join("file"), b"x").unwrap();
            std::fs::create_dir(inner.join("empty")).unwrap();
            deep(&inner.join("empty"), 3);
        }
    }

    #[test]
    fn removes_what_is_no_directory_and_says_what_is_missing() {
        let temporary = tempfile::tempdir().unwrap();
        let root = open(temporary.path());
        std::fs::write(temporary.path().join("file"), b"x").unwrap();
        std::os::unix::fs::symlink("/etc", temporary.path().join("link")).unwrap();
        for name in [&b"file"[..], b"link"] {
            remove(root.as_fd(), name, "tmp").unwrap();
        }
        assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0);
        let error = remove(root.as_fd(), b"gone", "tmp").unwrap_err();
        assert_eq!(error.errno, Some(libc::ENOENT));
        assert!(error.to_string().contains("gone"), "{error}");
    }

    #[test]
    fn allocated_agrees_with_du() {
        let temporary = tempfile::tempdir().unwrap();
        let root = temporary.path();
        deep_and_wide(&root.join("tree"));
        std::fs::write(root.join("a"), vec![1; 100_000]).unwrap();
        std::fs::hard_link(root.join("a"), root.join("b")).unwrap();
        File::create(root.join("sparse"))
            .unwrap()
            .set_len(1 << 30)
            .unwrap();
        let output = std::process::Command::new("du")
            .args(["-s", "--block-size=1"])
            .arg(root)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let expected: u64 = text.split_whitespace().next().unwrap().parse().unwrap();
        assert_eq!(allocated(open(root).as_fd(), "tmp").unwrap(), expected);
    }
}
