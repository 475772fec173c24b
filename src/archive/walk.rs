//! The way through a source directory: depth first, without recursion, and with a bounded number of
//! open directories however deep the tree is.

use std::fmt;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use rustix::fs::{self, AtFlags, Mode, OFlags, RawDir, Stat};

use super::directory::Reading;
use super::source_file::{self, descriptor_xattrs, is_mount_point, is_unchanged};
use super::tree_writer::{RowSender, TreeRow};
use crate::error::{Context, Error, Result};
use crate::path_bytes::PathBytes;
use crate::store::Store;
use crate::store::metadata::{Content, FileType, Xattrs};
use crate::store::number::Number;

/// Directories above the current one that stay open.
const OPEN_MAX: usize = 128;
/// Names of one batch.
const BATCH: usize = 128;
/// Bytes asked of getdents64(2).
const LISTING: usize = 32 << 10;
/// Longer paths are shortened in messages.
const SHOWN_PATH_MAX: usize = 4096;

/// An open directory of the source.
pub(super) struct Directory {
    pub file: OwnedFd,
    pub number: Number,
    path: Box<[u8]>,
}

impl Directory {
    /// For messages.
    pub(super) fn path_of(&self, name: &[u8]) -> PathBytes {
        let mut path = self.path.to_vec();
        path.push(b'/');
        path.extend_from_slice(name);
        path.into()
    }
}

/// Names of one directory, none of them a directory's.
pub(super) struct Batch {
    pub directory: Arc<Directory>,
    /// st_dev of the source.
    pub device: u64,
    pub names: Vec<(Box<[u8]>, FileType)>,
}

/// A directory between the root and where the walk stands.
struct Level {
    /// `None` while too many are open.
    directory: Option<Arc<Directory>>,
    number: Number,
    identity: (u64, u64),
    /// Directories in it that are still to be walked.
    below: Vec<Box<[u8]>>,
    /// Length of its path.
    path_length: usize,
}

/// The walk.
pub(super) struct Walk<'a, 'b> {
    reading: &'a Reading<'b>,
    device: u64,
    /// (device, inode) of the store: never walked.
    store: (u64, u64),
    levels: Vec<Level>,
    /// Of `levels`, so many at the beginning are closed.
    closed: usize,
    path: Vec<u8>,
    listing: Vec<u8>,
}

/// A path in a message; a very long one is shortened.
struct ShownPath<'a>(&'a [u8]);

impl ShownPath<'_> {
    fn bytes(&self) -> Vec<u8> {
        let path = self.0;
        if path.len() <= SHOWN_PATH_MAX {
            return path.to_vec();
        }
        [&path[..256], b"/...", &path[path.len() - 1024..]].concat()
    }
}

impl fmt::Display for ShownPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        PathBytes::from(self.bytes()).fmt(f)
    }
}

fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

fn open_path(path: &Path) -> Result<(OwnedFd, Stat)> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let file = fs::open(path, flags, Mode::empty()).about(path.display())?;
    let stat = fs::fstat(&file).about(path.display())?;
    Ok((file, stat))
}

/// Whether `above` is `below` or a directory over it.
pub(super) fn is_or_holds(above: &Stat, below: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    let mut stat = fs::fstat(below)?;
    let mut current: Option<OwnedFd> = None;
    loop {
        if identity(&stat) == identity(above) {
            return Ok(true);
        }
        let from = current.as_ref().map_or(below, |file| file.as_fd());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = fs::openat(from, "..", flags, Mode::empty())?;
        let parent_stat = fs::fstat(&parent)?;
        if identity(&parent_stat) == identity(&stat) {
            return Ok(false);
        }
        stat = parent_stat;
        current = Some(parent);
    }
}

impl<'a, 'b> Walk<'a, 'b> {
    /// Opens the source, which may be given as a symlink.
    ///
    /// # Errors
    /// When it is inside the store or holds it.
    pub(super) fn start(reading: &'a Reading<'b>, store: &Store, source: &Path) -> Result<Self> {
        let (file, stat) = open_path(source)?;
        let store_stat = fs::fstat(store.root()).about(store.path().display())?;
        let object = PathBytes::from(source);
        if is_or_holds(&store_stat, file.as_fd()).about(&object)? {
            return Err(Error::failed(object, "it is inside the store")
                .remedy("mount the image and import the mount, or use `foldfs clone`"));
        }
        if is_or_holds(&stat, store.root()).about(&object)? {
            let cause = format!("the store is inside it: {}", store.path().display());
            return Err(Error::failed(object, cause)
                .remedy("import a directory that does not hold the store"));
        }
        let mut walk = Self {
            reading,
            device: stat.st_dev,
            store: identity(&store_stat),
            levels: Vec::new(),
            closed: 0,
            path: object.as_bytes().to_vec(),
            listing: Vec::with_capacity(LISTING),
        };
        let number = reading.numbers.next()?;
        walk.push(file, &stat, number);
        Ok(walk)
    }

    /// Walks it all; the root's number.
    pub(super) fn run(
        mut self,
        rows: &mut RowSender,
        batches: &SyncSender<Batch>,
    ) -> Result<Number> {
        let root = self.levels[0].number;
        self.list(rows, batches)?;
        while let Some(level) = self.levels.last_mut() {
            if self.reading.has_failed() {
                break;
            }
            let Some(name) = level.below.pop() else {
                self.leave()?;
                continue;
            };
            let parent = level.number;
            let Some(directory) = level.directory.clone() else {
                return Err(self.moved());
            };
            if let Some(number) = self.enter(&directory, &name, rows, batches)? {
                rows.send(TreeRow::Entry {
                    parent,
                    name,
                    number,
                })?;
            }
        }
        Ok(root)
    }

    fn shown_path(&self) -> ShownPath<'_> {
        ShownPath(&self.path)
    }

    fn moved(&self) -> Error {
        Error::failed(self.shown_path(), "it was moved while it was read")
            .remedy("stop what writes to the directory, or import a snapshot")
    }

    /// Opens `name` and makes it the deepest level; its number.
    fn enter(
        &mut self,
        parent: &Directory,
        name: &[u8],
        rows: &mut RowSender,
        batches: &SyncSender<Batch>,
    ) -> Result<Option<Number>> {
        let length = self.path.len();
        self.path.push(b'/');
        self.path.extend_from_slice(name);
        let opened = source_file::open(parent.file.as_fd(), name, OFlags::DIRECTORY)
            .and_then(|file| Ok((fs::fstat(&file)?, file)));
        let (stat, file) = opened
            .map_err(std::io::Error::from)
            .about(self.shown_path())?;
        let number = self.reading.numbers.next()?;
        if identity(&stat) == self.store {
            return Err(Error::failed(self.shown_path(), "it is the store itself")
                .remedy("import a directory that does not hold the store"));
        }
        if stat.st_dev != self.device && is_mount_point(file.as_fd()).about(self.shown_path())? {
            self.reading.warn(
                self.shown_path(),
                "another file system is mounted here; an empty directory is imported in its place",
            );
            let metadata = source_file::metadata(&stat, Xattrs::new());
            let inode = self.reading.inode(number, Content::Directory, metadata);
            rows.send(TreeRow::Inode(inode))?;
            self.path.truncate(length);
            return Ok(Some(number));
        }
        self.push(file, &stat, number);
        self.list(rows, batches)?;
        Ok(Some(number))
    }

    fn push(&mut self, file: OwnedFd, stat: &Stat, number: Number) {
        let directory = Directory {
            file,
            number,
            path: self.shown_path().bytes().into(),
        };
        self.levels.push(Level {
            directory: Some(Arc::new(directory)),
            number,
            identity: identity(stat),
            below: Vec::new(),
            path_length: self.path.len(),
        });
        if self.levels.len() - self.closed > OPEN_MAX {
            self.levels[self.closed].directory = None;
            self.closed += 1;
        }
    }

    /// Goes back to the directory above, which is opened again if it was closed.
    fn leave(&mut self) -> Result<()> {
        let Some(left) = self.levels.pop() else {
            return Ok(());
        };
        let Some(above) = self.levels.last_mut() else {
            return Ok(());
        };
        self.path.truncate(above.path_length);
        if above.directory.is_some() {
            return Ok(());
        }
        let reopened = left.directory.map(|left| {
            let file = source_file::open(left.file.as_fd(), b"..", OFlags::DIRECTORY)?;
            let stat = fs::fstat(&file)?;
            Ok((file, stat))
        });
        let reopened: Option<std::io::Result<_>> = reopened;
        let Some((file, stat)) = reopened.transpose().about(self.shown_path())? else {
            return Err(self.moved());
        };
        let path = self.shown_path().bytes().into();
        let Some(above) = self.levels.last_mut() else {
            return Ok(());
        };
        if identity(&stat) != above.identity {
            return Err(self.moved());
        }
        above.directory = Some(Arc::new(Directory {
            file,
            number: above.number,
            path,
        }));
        self.closed -= 1;
        Ok(())
    }

    /// Lists the deepest level: sends its inode, and its names in batches, and keeps those of
    /// directories.
    fn list(&mut self, rows: &mut RowSender, batches: &SyncSender<Batch>) -> Result<()> {
        let Some(Level {
            directory: Some(directory),
            ..
        }) = self.levels.last()
        else {
            return Err(self.moved());
        };
        let directory = Arc::clone(directory);
        let file = directory.file.as_fd();
        let before = fs::fstat(file).about(self.shown_path())?;
        let xattrs = descriptor_xattrs(file).about(self.shown_path())?;
        let metadata = source_file::metadata(&before, xattrs);
        let inode = self
            .reading
            .inode(directory.number, Content::Directory, metadata);
        rows.send(TreeRow::Inode(inode))?;

        let device = self.device;
        let send = |names: Vec<(Box<[u8]>, FileType)>| {
            let directory = Arc::clone(&directory);
            let batch = Batch {
                directory,
                device,
                names,
            };
            batches
                .send(batch)
                .map_err(|_| Error::failed("import", "the threads that read have stopped"))
        };
        let mut below = Vec::new();
        let mut names = Vec::with_capacity(BATCH);
        self.listing.clear();
        let buffer: &mut [MaybeUninit<u8>] = self.listing.spare_capacity_mut();
        let mut listing = RawDir::new(file, buffer);
        while let Some(entry) = listing.next() {
            let entry = entry.about(PathBytes::from(&*directory.path))?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let file_type = match FileType::from_mode(entry.file_type().as_raw_mode()) {
                Some(known) => known,
                None => {
                    let stat = fs::statat(file, name, AtFlags::SYMLINK_NOFOLLOW)
                        .about(directory.path_of(name))?;
                    FileType::from_mode(stat.st_mode).ok_or_else(|| {
                        Error::failed(directory.path_of(name), "its type is not known")
                    })?
                }
            };
            if file_type == FileType::Directory {
                below.push(name.into());
                continue;
            }
            names.push((name.into(), file_type));
            if names.len() == BATCH {
                send(std::mem::replace(&mut names, Vec::with_capacity(BATCH)))?;
            }
        }
        if !names.is_empty() {
            send(names)?;
        }
        let after = fs::fstat(file).about(self.shown_path())?;
        if !is_unchanged(&before, &after) {
            return Err(
                Error::failed(self.shown_path(), "it changes while it is read")
                    .remedy("stop what writes to it, or import a snapshot"),
            );
        }
        if let Some(level) = self.levels.last_mut() {
            level.below = below;
        }
        Ok(())
    }
}
