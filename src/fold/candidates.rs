//! The files that fold looks at: private regular files with content of their own.
//!
//! All of an image: one readdir for each private directory and `index/`, one statat for each file in
//! it; nothing is opened. Or the files of known numbers: then nothing else is looked at, unless nobody
//! knows where one of them lies. A stub is all holes, so it is told by its blocks; one that has some
//! (an xattr that does not fit into the inode) is told by its mark when it is about to be hashed.

mod search;

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{OFlags, Stat};
use rustix::io::Errno;

use search::Search;

use super::damage::Damage;
use crate::error::Result;
use crate::filesystem::Filesystem;
use crate::merge::private_directories::PrivatePath;
use crate::store::ImageDirs;
use crate::store::cache::FileKey;
use crate::store::layer::open_directory;
use crate::store::layout;
use crate::store::mark::{self, Mark};
use crate::store::metadata::Time;
use crate::store::number::{ImageId, Number};
use crate::sys::xattr;

/// A private regular file of one image. There may be millions: 64 bytes each, and the name.
#[derive(Debug)]
pub struct Candidate {
    inode: u64,
    /// Bytes of content.
    pub size: u64,
    mtime_seconds: i64,
    ctime_seconds: i64,
    mtime_nanoseconds: u32,
    ctime_nanoseconds: u32,
    /// Its number, 0 as long as nobody has read its mark.
    number: u64,
    /// Its directory: a position in [`Candidates`], or [`INDEX`].
    pub directory: u32,
    /// Where its name begins.
    name: u32,
    /// In units of 512 bytes.
    blocks: u32,
}

/// The directory of a [`Candidate`] in `index/`.
pub const INDEX: u32 = u32::MAX;

/// A private directory: the one above it, and its name there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Directory {
    above: u32,
    name: Box<[u8]>,
}

/// Files of one image.
#[derive(Debug)]
pub struct Candidates {
    directories: Vec<Directory>,
    /// All names of files, each with a NUL at its end.
    names: Vec<u8>,
    /// The device that they are on.
    device: u64,
    /// The files, those of one directory one after the other.
    pub files: Vec<Candidate>,
    /// How many names there are in the private directories that were listed.
    pub entries: u64,
    /// Files that were left out because they were altered a moment ago.
    pub recent: Vec<Number>,
    /// Files that were left out because an administrator pinned them.
    pub held: u64,
    /// Files that were left out because somebody writes to them.
    pub in_use: u64,
    /// What was left out because the host could not read it.
    pub damage: Damage,
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

impl Candidates {
    /// Walks an image's private layer. A guest may be at work there: what it moves meanwhile may be
    /// missed, or found twice.
    ///
    /// # Errors
    /// Those of the host.
    pub fn of(image: ImageId, dirs: &ImageDirs, choice: &Choice<'_>) -> Result<Self> {
        let mut search = Search::new(image, choice, None);
        search.walk(dirs)?;
        Ok(search.found)
    }

    /// The files of these numbers, as far as they are private files with content: without a walk, if
    /// somebody still refers to them in the live image.
    ///
    /// # Errors
    /// Those of the host.
    pub fn numbered(
        image: ImageId,
        live: Option<&Filesystem>,
        dirs: &ImageDirs,
        numbers: &[Number],
        choice: &Choice<'_>,
    ) -> Result<Self> {
        let mut search = Search::new(image, choice, Some(numbers.iter().copied().collect()));
        if let Some(live) = live {
            search.ask(live, dirs)?;
        }
        if !search.is_over() {
            search.walk(dirs)?;
        }
        Ok(search.found)
    }

    /// Nothing was left out because it could not be read.
    ///
    /// # Errors
    /// Why the first one was.
    pub fn complete(mut self) -> Result<Self> {
        match self.damage.first.take() {
            Some(error) => Err(error),
            None => Ok(self),
        }
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
        self.describe_name(candidate.directory, self.name(candidate))
    }

    fn describe_name(&self, directory: u32, name: &[u8]) -> Vec<u8> {
        let path = self.path(directory);
        let mut names = path.unwrap_or_else(|| vec![layout::INDEX.as_bytes().into()]);
        names.push(name.into());
        names.join(&b'/')
    }

    /// A file's name in its directory.
    pub fn name(&self, candidate: &Candidate) -> &[u8] {
        let rest = self.names.get(candidate.name as usize..);
        let rest = rest.unwrap_or_default();
        let length = rest.iter().position(|&byte| byte == 0);
        &rest[..length.unwrap_or(rest.len())]
    }

    /// What a file is on the host, and how old.
    pub fn key(&self, candidate: &Candidate) -> FileKey {
        FileKey {
            device: self.device,
            inode: candidate.inode,
            size: candidate.size,
            mtime: Time {
                seconds: candidate.mtime_seconds,
                nanoseconds: candidate.mtime_nanoseconds,
            },
            ctime: Time {
                seconds: candidate.ctime_seconds,
                nanoseconds: candidate.ctime_nanoseconds,
            },
        }
    }

    /// The number of a file in `index/`.
    pub fn indexed(&self, candidate: &Candidate) -> Option<Number> {
        match candidate.directory {
            INDEX => layout::parse_number(self.name(candidate)),
            _ => None,
        }
    }

    /// A file's number, from its mark in its directory; `None` if it is gone.
    ///
    /// # Errors
    /// Those of the host.
    pub fn read_number(
        &self,
        candidate: &Candidate,
        directory: impl AsFd,
    ) -> rustix::io::Result<Option<Number>> {
        match candidate.number() {
            Some(number) => Ok(Some(number)),
            None => number_of(directory.as_fd(), self.name(candidate)),
        }
    }

    fn add(
        &mut self,
        directory: u32,
        name: &[u8],
        key: &FileKey,
        stat: &Stat,
        number: Option<Number>,
    ) {
        // Only beyond 4 GiB of names.
        let Ok(start) = u32::try_from(self.names.len()) else {
            return;
        };
        self.names.extend_from_slice(name);
        self.names.push(0);
        self.device = key.device;
        self.files.push(Candidate {
            inode: key.inode,
            size: key.size,
            mtime_seconds: key.mtime.seconds,
            ctime_seconds: key.ctime.seconds,
            mtime_nanoseconds: key.mtime.nanoseconds,
            ctime_nanoseconds: key.ctime.nanoseconds,
            number: number.map_or(0, Number::get),
            directory,
            name: start,
            blocks: u32::try_from(stat.st_blocks).unwrap_or(u32::MAX),
        });
    }
}

fn allocated(stat: &Stat) -> u64 {
    stat.st_blocks as u64 * 512
}

/// The number that a file's mark says; `None` if it is gone, or has none.
fn number_of(directory: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<Option<Number>> {
    let bytes = match xattr::get(directory, name, mark::NAME.as_bytes()) {
        Err(Errno::NOENT) => None,
        bytes => bytes?,
    };
    let mark = bytes.and_then(|bytes| Mark::decode(&bytes).ok());
    Ok(mark.map(|mark| mark.number))
}

impl Candidate {
    /// Its number, as far as its mark was read.
    pub fn number(&self) -> Option<Number> {
        Number::new(self.number)
    }

    /// Bytes that it occupies.
    pub fn allocated(&self) -> u64 {
        u64::from(self.blocks) * 512
    }
}
