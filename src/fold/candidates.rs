//! The files that fold looks at: private regular files with content of their own.
//!
//! All of an image: one readdir for each private directory and `index/`, one statat for each file in
//! it; nothing is opened. Or the files of known numbers: then nothing else is looked at, unless nobody
//! knows where one of them lies. A stub is all holes, so it is told by its blocks; one that has some
//! (an xattr that does not fit into the inode) is told by its mark when it is about to be hashed.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{self, AtFlags, FileType, OFlags, Stat};
use rustix::io::Errno;

use crate::error::{Context, Result};
use crate::filesystem::Filesystem;
use crate::filesystem::whereabouts::Whereabouts;
use crate::merge::private_directories::PrivatePath;
use crate::store::ImageDirs;
use crate::store::cache::FileKey;
use crate::store::layer::{Layer, open_directory};
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

/// What is being looked for, and where it goes.
struct Search<'a> {
    choice: &'a Choice<'a>,
    /// Only the files of these numbers; each is taken out when it was considered.
    only: Option<HashSet<Number>>,
    /// What is considered is the file itself.
    asking: bool,
    found: Candidates,
}

impl Candidates {
    /// Walks an image's private layer. A guest may be at work there: what it moves meanwhile may be
    /// missed, or found twice.
    ///
    /// # Errors
    /// Those of the host.
    pub fn of(image: ImageId, dirs: &ImageDirs, choice: &Choice<'_>) -> Result<Self> {
        let mut search = Search::new(choice, None);
        search.walk(dirs).about(format!("images/{image}"))?;
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
        let mut search = Search::new(choice, Some(numbers.iter().copied().collect()));
        let mut found = || -> rustix::io::Result<()> {
            if let Some(live) = live {
                search.ask(live, dirs)?;
            }
            match search.is_over() {
                true => Ok(()),
                false => search.walk(dirs),
            }
        };
        found().about(format!("images/{image}"))?;
        Ok(search.found)
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
        names.push(self.name(candidate).into());
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

impl<'a> Search<'a> {
    fn new(choice: &'a Choice<'a>, only: Option<HashSet<Number>>) -> Self {
        let root = Directory {
            above: 0,
            name: Box::default(),
        };
        let found = Candidates {
            directories: vec![root],
            names: Vec::new(),
            device: 0,
            files: Vec::new(),
            entries: 0,
            recent: Vec::new(),
            held: 0,
            in_use: 0,
        };
        Self {
            choice,
            only,
            asking: false,
            found,
        }
    }

    fn is_over(&self) -> bool {
        self.only.as_ref().is_some_and(HashSet::is_empty)
    }

    /// Looks at the files that the live image knows the places of.
    fn ask(&mut self, live: &Filesystem, dirs: &ImageDirs) -> rustix::io::Result<()> {
        let mut known: Vec<(Option<PrivatePath>, Box<[u8]>)> = Vec::new();
        let Some(only) = &mut self.only else {
            return Ok(());
        };
        only.retain(|&number| {
            match live.whereabouts(number) {
                Whereabouts::Unknown => {}
                Whereabouts::InIndex => known.push((None, Layer::number_name(number).into())),
                Whereabouts::At(mut path) => {
                    let name = path.pop().unwrap_or_default();
                    known.push((Some(path), name));
                }
                Whereabouts::InUse => {
                    self.found.in_use += 1;
                    return false;
                }
                Whereabouts::Nowhere => return false,
            }
            true
        });
        known.sort_unstable();
        self.asking = true;
        let mut positions: HashMap<Directory, u32> = HashMap::new();
        for same in known.chunk_by(|(left, _), (right, _)| left == right) {
            let position = match same.first() {
                Some((Some(path), _)) => self.position(path, &mut positions),
                _ => INDEX,
            };
            let Some(directory) = self.found.open(dirs, position)? else {
                continue;
            };
            for (_, name) in same {
                self.consider(directory.as_fd(), position, name)?;
            }
        }
        self.asking = false;
        Ok(())
    }

    fn position(&mut self, path: &PrivatePath, known: &mut HashMap<Directory, u32>) -> u32 {
        let directories = &mut self.found.directories;
        path.iter().fold(0, |above, name| {
            let directory = Directory {
                above,
                name: name.clone(),
            };
            *known.entry(directory).or_insert_with_key(|directory| {
                directories.push(directory.clone());
                directories.len() as u32 - 1
            })
        })
    }

    fn walk(&mut self, dirs: &ImageDirs) -> rustix::io::Result<()> {
        self.list(dirs.index.as_fd(), INDEX)?;
        let root = Arc::new(open_directory(&dirs.private, b".", OFlags::RDONLY)?);
        let mut pending = self.descend(&root, 0)?;
        while let Some(next) = pending.pop() {
            if self.is_over() {
                break;
            }
            let opened = open_directory(&*next.parent, &next.directory.name, OFlags::RDONLY);
            let opened = match opened {
                Ok(opened) => Arc::new(opened),
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(error) => return Err(error),
            };
            let position = self.found.directories.len() as u32;
            self.found.directories.push(next.directory);
            pending.extend(self.descend(&opened, position)?);
        }
        Ok(())
    }

    fn descend(
        &mut self,
        directory: &Arc<OwnedFd>,
        position: u32,
    ) -> rustix::io::Result<Vec<Pending>> {
        let below = self.list(directory.as_fd(), position)?;
        let pending = below.into_iter().map(|name| Pending {
            parent: directory.clone(),
            directory: Directory {
                above: position,
                name,
            },
        });
        Ok(pending.collect())
    }

    /// Considers the files of a directory; the names of its subdirectories.
    fn list(
        &mut self,
        directory: BorrowedFd<'_>,
        position: u32,
    ) -> rustix::io::Result<Vec<Box<[u8]>>> {
        let mut below = Vec::new();
        let mut names = fs::Dir::read_from(directory)?;
        while let Some(entry) = names.read() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            self.found.entries += u64::from(position != INDEX);
            let file_type = match entry.file_type() {
                FileType::RegularFile | FileType::Unknown => {
                    self.consider(directory, position, name)?
                }
                known => Some(known),
            };
            if file_type == Some(FileType::Directory) {
                below.push(name.into());
            }
        }
        Ok(below)
    }

    /// Notes a file, if it counts; its type, if it is there.
    fn consider(
        &mut self,
        directory: BorrowedFd<'_>,
        position: u32,
        name: &[u8],
    ) -> rustix::io::Result<Option<FileType>> {
        let stat = match fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error),
        };
        let file_type = FileType::from_raw_mode(stat.st_mode);
        if file_type != FileType::RegularFile {
            return Ok(Some(file_type));
        }
        let key = FileKey::of(&stat);
        let before = self.choice.altered_before;
        let is_recent = before.is_some_and(|before| key.ctime >= before);
        let has_content = self.has_content(&stat);
        let mut number = None;
        if self.only.is_some() || has_content && (is_recent || !self.choice.held.is_empty()) {
            number = number_of(directory, name)?;
        }
        if let Some(only) = &mut self.only {
            // A file of several names has tokens of the same number.
            let is_wanted = number.is_some_and(|number| only.contains(&number));
            if !is_wanted || !has_content && !self.asking {
                return Ok(Some(file_type));
            }
            number.map(|number| only.remove(&number));
        }
        let is_held = number.is_some_and(|number| self.choice.held.contains(&number));
        if is_held || !has_content {
            self.found.held += u64::from(is_held && has_content);
            return Ok(Some(file_type));
        }
        match is_recent {
            true => self.found.recent.extend(number),
            false => self.found.add(position, name, &key, &stat, number),
        }
        Ok(Some(file_type))
    }

    fn has_content(&self, stat: &Stat) -> bool {
        let (size, allocated) = (stat.st_size as u64, allocated(stat));
        let is_hollow = size > SMALL && size / HOLES > allocated;
        size > 0 && allocated > 0 && (self.choice.with_holes || !is_hollow)
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
