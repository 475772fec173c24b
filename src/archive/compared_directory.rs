//! A directory of the host as a tree to compare. What is mounted below it is no part of it, as for
//! an import; nothing but directories and regular files is ever opened.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{self, AtFlags, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::directory_stack::DirectoryStack;
use super::source_file::{self, entry_xattrs, is_mount_point, special};
use crate::error::{Context, Error, Result};
use crate::merge::compare::{NamedSide, Names, Side, Tree, What};
use crate::path_bytes::PathBytes;
use crate::store::layer;
use crate::store::metadata::{Content, FileType, Metadata, Xattrs};
use crate::sys::regular;

/// A directory of the host, standing in one of its directories.
pub struct ComparedDirectory {
    stack: DirectoryStack,
    /// The directories between the root and where it stands, the latter included.
    levels: Vec<Level>,
    /// st_dev of the root.
    device: u64,
    path: Vec<u8>,
}

struct Level {
    /// (st_dev, st_ino).
    identity: (u64, u64),
    path_length: usize,
    /// Something is mounted on it: it counts as empty.
    mounted: bool,
}

fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

impl ComparedDirectory {
    /// Stands in the directory itself, which may be named by a symlink.
    ///
    /// # Errors
    /// It is no directory, or cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        let shown = PathBytes::from(path);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = fs::open(path, flags, Mode::empty()).about(&shown)?;
        let stat = fs::fstat(&root).about(&shown)?;
        Ok(Self {
            stack: DirectoryStack::new(root),
            levels: vec![Level {
                identity: identity(&stat),
                path_length: shown.as_bytes().len(),
                mounted: false,
            }],
            device: stat.st_dev,
            path: shown.as_bytes().to_vec(),
        })
    }

    fn path_of(&self, name: &[u8]) -> PathBytes {
        [&self.path[..], b"/", name].concat().into()
    }

    fn replaced(&self, name: &[u8]) -> Error {
        Error::failed(self.path_of(name), "it was replaced while it was read")
            .remedy("stop what writes to the directory, or compare a snapshot")
    }

    fn is_mounted(&self, name: &[u8], stat: &Stat) -> rustix::io::Result<bool> {
        if stat.st_dev == self.device {
            return Ok(false);
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = fs::openat(self.stack.top()?, name, flags, Mode::empty())?;
        is_mount_point(found.as_fd())
    }

    /// What stands at a name; `None` if nothing does.
    fn side(&self, name: &[u8]) -> rustix::io::Result<Option<Side>> {
        let directory = self.stack.top()?;
        let stat = match fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(None),
            found => found?,
        };
        let mounted = name != b"." && self.is_mounted(name, &stat)?;
        let xattrs = || match mounted {
            true => Ok(Xattrs::new()),
            false => entry_xattrs(directory, name),
        };
        let (content, metadata): (Content, Metadata) = match FileType::from_mode(stat.st_mode) {
            Some(FileType::Directory) => {
                (Content::Directory, source_file::metadata(&stat, xattrs()?))
            }
            Some(FileType::Regular) => {
                let size = if mounted { 0 } else { stat.st_size as u64 };
                let content = Content::Regular { size, digest: None };
                (content, source_file::metadata(&stat, xattrs()?))
            }
            _ => match special(directory, name)? {
                Some((content, metadata, _)) => (content, metadata),
                None => return Err(Errno::AGAIN),
            },
        };
        Ok(Some(Side {
            number: stat.st_ino,
            several_names: content != Content::Directory && stat.st_nlink > 1,
            what: What::Own(Arc::new((content, metadata))),
        }))
    }

    fn names(&self) -> rustix::io::Result<Vec<Vec<u8>>> {
        let listing = source_file::open(self.stack.top()?, b".", OFlags::DIRECTORY)?;
        layer::names_of(listing)
    }
}

impl Tree for ComparedDirectory {
    fn root(&mut self) -> Result<Side> {
        let found = self.side(b".").about(self.path_of(b""))?;
        found.ok_or_else(|| self.replaced(b""))
    }

    fn list(&mut self, only: Option<&Names>) -> Result<Vec<NamedSide>> {
        let mut sides = Vec::new();
        if self.levels.last().is_some_and(|level| level.mounted) {
            return Ok(sides);
        }
        for name in self.names().about(self.path_of(b""))? {
            if only.is_some_and(|only| !only.contains(&name[..])) {
                continue;
            }
            // Without one, it was removed since the names were read.
            if let Some(side) = self.side(&name).about(self.path_of(&name))? {
                sides.push((name.into_boxed_slice(), side));
            }
        }
        sides.sort_unstable_by(|(left, _), (right, _)| left.cmp(right));
        Ok(sides)
    }

    fn enter(&mut self, name: &[u8]) -> Result<()> {
        self.stack.enter(name).about(self.path_of(name))?;
        let stat = self.stack.top().and_then(fs::fstat);
        let stat = stat.about(self.path_of(name))?;
        let mounted = self.is_mounted_here(&stat).about(self.path_of(name))?;
        self.path.push(b'/');
        self.path.extend_from_slice(name);
        self.levels.push(Level {
            identity: identity(&stat),
            path_length: self.path.len(),
            mounted,
        });
        Ok(())
    }

    fn leave(&mut self) -> Result<()> {
        self.levels.pop();
        self.stack.leave().about(self.path_of(b""))?;
        let Some(above) = self.levels.last() else {
            return Err(self.replaced(b""));
        };
        self.path.truncate(above.path_length);
        let stat = self.stack.top().and_then(fs::fstat);
        // It may have been opened again, by "..".
        if identity(&stat.about(self.path_of(b""))?) != above.identity {
            return Err(self.replaced(b""));
        }
        Ok(())
    }

    fn open(&mut self, name: &[u8]) -> Result<OwnedFd> {
        let directory = self.stack.top().about(self.path_of(name))?;
        let opened = regular::open(directory, name).about(self.path_of(name))?;
        opened.ok_or_else(|| self.replaced(name))
    }
}

impl ComparedDirectory {
    fn is_mounted_here(&self, stat: &Stat) -> rustix::io::Result<bool> {
        if stat.st_dev == self.device {
            return Ok(false);
        }
        is_mount_point(self.stack.top()?)
    }
}
