//! The files that fold looks at: private regular files with content of their own.
//!
//! One readdir for each private directory and `index/`, one statat for each file in it; nothing is
//! opened. A stub is all holes, so it is told by its blocks; one that has some (an xattr that does
//! not fit into the inode) is told by its mark when it is about to be hashed.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{self, AtFlags, FileType, OFlags};
use rustix::io::Errno;

use crate::error::{Context, Result};
use crate::merge::private_directories::PrivatePath;
use crate::store::ImageDirs;
use crate::store::cache::FileKey;
use crate::store::layer::open_directory;
use crate::store::layout;
use crate::store::mark::{self, Mark};
use crate::store::metadata::Time;
use crate::store::number::{ImageId, Number};
use crate::sys::xattr;

/// A private regular file of one image.
#[derive(Debug)]
pub struct Candidate {
    /// Its directory: a position in [`Candidates`], or [`INDEX`].
    pub directory: u32,
    /// Its name there.
    pub name: Box<[u8]>,
    /// What it is on the host, and how old.
    pub key: FileKey,
    /// Bytes that it occupies.
    pub allocated: u64,
}

/// The directory of a [`Candidate`] in `index/`.
pub const INDEX: u32 = u32::MAX;

/// A private directory: the one above it, and its name there.
#[derive(Debug)]
struct Directory {
    above: u32,
    name: Box<[u8]>,
}

/// All of one image.
#[derive(Debug)]
pub struct Candidates {
    directories: Vec<Directory>,
    /// The files, those of one directory one after the other.
    pub files: Vec<Candidate>,
    /// How many names there are in private directories.
    pub entries: u64,
    /// Files that were left out because they were altered a moment ago.
    pub recent: u64,
    /// Files that were left out because an administrator pinned them.
    pub held: u64,
}

/// Which private files count.
#[derive(Debug, Clone, Copy)]
pub struct Choice<'a> {
    /// Numbers of files that are never folded.
    pub held: &'a HashSet<Number>,
    /// Files altered at this moment or later are about to be altered again: by ctime, which no guest
    /// can set.
    pub altered_before: Option<Time>,
    /// Files that are nearly all holes count, too. To hash one takes as long as its size says, to keep
    /// it only what it occupies, and a guest makes one of terabytes at no cost.
    pub with_holes: bool,
}

/// A file that is so many times as large as what it occupies is nearly all holes;
const HOLES: u64 = 16;

/// one that is smaller than this is hashed at once, anyhow.
const SMALL: u64 = 1 << 20;

struct Pending {
    parent: Arc<OwnedFd>,
    directory: Directory,
}

impl Candidates {
    /// Walks an image's private layer. A guest may be at work there: what it moves meanwhile may be
    /// missed, or found twice.
    ///
    /// # Errors
    /// Those of the host.
    pub fn of(image: ImageId, dirs: &ImageDirs, choice: &Choice<'_>) -> Result<Self> {
        Self::walk(dirs, choice).about(format!("images/{image}"))
    }

    fn walk(dirs: &ImageDirs, choice: &Choice<'_>) -> rustix::io::Result<Self> {
        let mut found = Self {
            directories: vec![Directory {
                above: 0,
                name: Box::default(),
            }],
            files: Vec::new(),
            entries: 0,
            recent: 0,
            held: 0,
        };
        found.list(dirs.index.as_fd(), INDEX, choice)?;
        let root = Arc::new(open_directory(&dirs.private, b".", OFlags::RDONLY)?);
        let mut pending = found.descend(&root, 0, choice)?;
        while let Some(next) = pending.pop() {
            let opened = open_directory(&*next.parent, &next.directory.name, OFlags::RDONLY);
            let opened = match opened {
                Ok(opened) => Arc::new(opened),
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(error) => return Err(error),
            };
            let position = found.directories.len() as u32;
            found.directories.push(next.directory);
            pending.extend(found.descend(&opened, position, choice)?);
        }
        Ok(found)
    }

    fn descend(
        &mut self,
        directory: &Arc<OwnedFd>,
        position: u32,
        choice: &Choice<'_>,
    ) -> rustix::io::Result<Vec<Pending>> {
        let below = self.list(directory.as_fd(), position, choice)?;
        let pending = below.into_iter().map(|name| Pending {
            parent: directory.clone(),
            directory: Directory {
                above: position,
                name,
            },
        });
        Ok(pending.collect())
    }

    /// Notes the files of a directory; the names of its subdirectories.
    fn list(
        &mut self,
        directory: impl AsFd,
        position: u32,
        choice: &Choice<'_>,
    ) -> rustix::io::Result<Vec<Box<[u8]>>> {
        let directory = directory.as_fd();
        let mut below = Vec::new();
        let mut names = fs::Dir::read_from(directory)?;
        while let Some(entry) = names.read() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            self.entries += u64::from(position != INDEX);
            let known = entry.file_type();
            if !matches!(
                known,
                FileType::RegularFile | FileType::Directory | FileType::Unknown
            ) {
                continue;
            }
            if known == FileType::Directory {
                below.push(name.into());
                continue;
            }
            let stat = match fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error),
            };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => below.push(name.into()),
                FileType::RegularFile if stat.st_size > 0 && stat.st_blocks > 0 => {
                    let held = choice.held;
                    if !held.is_empty() && is_held(directory, name, held)? {
                        self.held += 1;
                        continue;
                    }
                    let allocated = stat.st_blocks as u64 * 512;
                    let key = FileKey::of(&stat);
                    let is_hollow = key.size > SMALL && key.size / HOLES > allocated;
                    if is_hollow && !choice.with_holes {
                        continue;
                    }
                    if choice
                        .altered_before
                        .is_some_and(|before| key.ctime >= before)
                    {
                        self.recent += 1;
                        continue;
                    }
                    self.files.push(Candidate {
                        directory: position,
                        name: name.into(),
                        key,
                        allocated,
                    });
                }
                _ => {}
            }
        }
        Ok(below)
    }

    /// The names that lead from the root to a directory; `None` for `index/`.
    pub fn path(&self, directory: u32) -> Option<PrivatePath> {
        if directory == INDEX {
            return None;
        }
        let mut path = PrivatePath::new();
        let mut current = directory;
        while current != 0 {
            let directory = &self.directories[current as usize];
            path.push(directory.name.clone());
            current = directory.above;
        }
        path.reverse();
        Some(path)
    }

    /// Opens a directory (O_PATH); `None` if it is not there any more.
    ///
    /// # Errors
    /// Those of the host.
    pub fn open(&self, dirs: &ImageDirs, directory: u32) -> rustix::io::Result<Option<OwnedFd>> {
        let Some(path) = self.path(directory) else {
            return open_directory(&dirs.index, b".", OFlags::PATH).map(Some);
        };
        let mut current = open_directory(&dirs.private, b".", OFlags::PATH)?;
        for name in path {
            current = match open_directory(&current, &name, OFlags::PATH) {
                Ok(below) => below,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
                Err(error) => return Err(error),
            };
        }
        Ok(Some(current))
    }

    /// Where a file is, for a person: its path in the private layer, or its number.
    pub fn describe(&self, candidate: &Candidate) -> Vec<u8> {
        let path = self.path(candidate.directory);
        let mut names = path.unwrap_or_else(|| vec![layout::INDEX.as_bytes().into()]);
        names.push(candidate.name.clone());
        names.join(&b'/')
    }
}

fn is_held(
    directory: BorrowedFd<'_>,
    name: &[u8],
    held: &HashSet<Number>,
) -> rustix::io::Result<bool> {
    let bytes = match xattr::get(directory, name, mark::NAME.as_bytes()) {
        Err(Errno::NOENT) => None,
        bytes => bytes?,
    };
    let mark = bytes.and_then(|bytes| Mark::decode(&bytes).ok());
    Ok(mark.is_some_and(|mark| held.contains(&mark.number)))
}

impl Candidate {
    /// The number of a file in `index/`.
    pub fn indexed(&self) -> Option<Number> {
        match self.directory {
            INDEX => layout::parse_number(&self.name),
            _ => None,
        }
    }
}
