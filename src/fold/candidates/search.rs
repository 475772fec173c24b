//! The search for candidates: a walk through an image's private layer, or a look where files of known
//! numbers are.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{self, AtFlags, FileType, OFlags, Stat};
use rustix::io::Errno;

use super::{Candidates, Choice, Directory, INDEX, allocated, number_of};
use crate::error::{Context, Result};
use crate::filesystem::Filesystem;
use crate::filesystem::whereabouts::Whereabouts;
use crate::fold::damage::Damage;
use crate::merge::private_directories::PrivatePath;
use crate::store::ImageDirs;
use crate::store::cache::FileKey;
use crate::store::layer::{Layer, open_directory};
use crate::store::number::{ImageId, Number};

/// A file that is so many times as large as what it occupies is nearly all holes;
const HOLES: u64 = 16;

/// one that is smaller than this is hashed at once, anyhow.
const SMALL: u64 = 1 << 20;

struct Pending {
    parent: Arc<OwnedFd>,
    directory: Directory,
}

/// What is being looked for, and where it goes.
pub(super) struct Search<'a> {
    image: ImageId,
    choice: &'a Choice<'a>,
    /// Only the files of these numbers; each is taken out when it was considered.
    only: Option<HashSet<Number>>,
    /// What is considered is the file itself.
    asking: bool,
    pub(super) found: Candidates,
}

impl<'a> Search<'a> {
    pub(super) fn new(
        image: ImageId,
        choice: &'a Choice<'a>,
        only: Option<HashSet<Number>>,
    ) -> Self {
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
            damage: Damage::default(),
        };
        Self {
            image,
            choice,
            only,
            asking: false,
            found,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.only.as_ref().is_some_and(HashSet::is_empty)
    }

    /// Looks at the files that the live image knows the places of.
    pub(super) fn ask(&mut self, live: &Filesystem, dirs: &ImageDirs) -> Result<()> {
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
            let opened = self.found.open(dirs, position);
            let Some(Some(directory)) = self.or_leave(opened, position, b"")? else {
                continue;
            };
            for (_, name) in same {
                self.consider(directory.as_fd(), position, name)?;
            }
        }
        self.asking = false;
        Ok(())
    }

    /// Goes on without what the host cannot read, in a directory.
    fn or_leave<T>(
        &mut self,
        found: rustix::io::Result<T>,
        directory: u32,
        name: &[u8],
    ) -> Result<Option<T>> {
        match found {
            Ok(found) => Ok(Some(found)),
            Err(errno) => {
                let path = self.found.describe_name(directory, name);
                let about = format!("images/{}: {}", self.image, path.escape_ascii());
                let error: Result<()> = Err(errno).about(about);
                error.or_else(|error| self.found.damage.note(1, error))?;
                Ok(None)
            }
        }
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

    pub(super) fn walk(&mut self, dirs: &ImageDirs) -> Result<()> {
        self.list(dirs.index.as_fd(), INDEX)?;
        let root = open_directory(&dirs.private, b".", OFlags::RDONLY);
        let root = Arc::new(root.about(format!("images/{}", self.image))?);
        let mut pending = self.descend(&root, 0)?;
        while let Some(next) = pending.pop() {
            if self.is_over() {
                break;
            }
            let opened = open_directory(&*next.parent, &next.directory.name, OFlags::RDONLY);
            let opened = match opened {
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                opened => opened,
            };
            let position = self.found.directories.len() as u32;
            self.found.directories.push(next.directory);
            let Some(opened) = self.or_leave(opened, position, b"")? else {
                continue;
            };
            pending.extend(self.descend(&Arc::new(opened), position)?);
        }
        Ok(())
    }

    fn descend(&mut self, directory: &Arc<OwnedFd>, position: u32) -> Result<Vec<Pending>> {
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
    fn list(&mut self, directory: BorrowedFd<'_>, position: u32) -> Result<Vec<Box<[u8]>>> {
        let mut below = Vec::new();
        let names = fs::Dir::read_from(directory);
        let Some(mut names) = self.or_leave(names, position, b"")? else {
            return Ok(below);
        };
        while let Some(entry) = names.read() {
            let Some(entry) = self.or_leave(entry, position, b"")? else {
                break;
            };
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
    ) -> Result<Option<FileType>> {
        let looked = self.look_at(directory, position, name);
        Ok(self.or_leave(looked, position, name)?.flatten())
    }

    fn look_at(
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
