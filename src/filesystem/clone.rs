//! The private layer of a live image once more, in a new image's directories: names and closed files
//! as of one instant.
//!
//! While the entries are copied, `family.change` is held exclusively: nobody changes a name or
//! metadata, promotes content, or commits; looking and reading go on, and so does writing to files
//! that are open for it. Those are read when the lock is free again, where they cannot be reflinked.
//! What is in the target is seen by nobody yet, so it is built in place.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{self, AtFlags, OFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;

use super::Filesystem;
use super::failure::Outcome;
use super::node::{Node, Place};
use crate::error::Error;
use crate::store::draft::write_mark;
use crate::store::entry;
use crate::store::guest_xattr;
use crate::store::layer::{self, Layer, PrivateEntry, names_in, open_directory};
use crate::store::mark::{DirectoryRole, Mark, Role, Shown};
use crate::store::metadata::{FileType, Metadata};
use crate::store::number::Number;
use crate::sys::copy;
use crate::sys::durable::{self, Step};
use crate::sys::lease::ReadLease;

/// What copying a private layer came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Copied {
    /// Names in `private/`.
    pub entries: u64,
    /// Bytes of content that could be neither shared nor reflinked.
    pub bytes: u64,
}

/// How often the copy of a file that is being written to begins again because it got shorter.
const ATTEMPTS: u32 = 16;

impl Filesystem {
    /// Copies all that is private of this image into the empty directories of `target`. With
    /// `frozen` no file may be open for writing.
    ///
    /// # Errors
    /// Of kind Busy with `frozen`; the host's, ENOSPC for one.
    pub fn copy_layer(&self, target: &Layer, frozen: bool) -> Outcome<Copied> {
        let mut copying = Copying {
            filesystem: self,
            target,
            frozen,
            copied: Copied::default(),
            open: Vec::new(),
        };
        {
            let _unchanged = self.change.stop();
            if frozen && let Some(path) = self.open_for_writing(|_| true) {
                return Err(in_use(&path).into());
            }
            copying.index()?;
            copying.redirects()?;
            copying.private()?;
        }
        copying.open_files()
    }

    /// The path of a file that is open for writing, if there is one that has a name, at a path that is
    /// meant.
    pub fn open_for_writing(&self, is_meant: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        // One with several names may stand anywhere.
        let meant =
            |node: &&Arc<Node>| matches!(node.place(), Place::Index) || is_meant(&path_of(node));
        self.written().iter().find(meant).map(path_of)
    }

    /// The numbers of all files that have a name and are open for writing.
    pub fn numbers_written(&self) -> HashSet<u64> {
        let written = self.written();
        written.iter().map(|node| node.number.get()).collect()
    }

    fn written(&self) -> Vec<Arc<Node>> {
        let mut nodes = self.table.all();
        nodes.retain(|node| {
            node.writers.load(Ordering::SeqCst) > 0 && !matches!(node.place(), Place::Unlinked)
        });
        nodes
    }
}

fn path_of(node: &Arc<Node>) -> Vec<u8> {
    let mut names: Vec<Box<[u8]>> = Vec::new();
    let mut current = node.clone();
    loop {
        match current.place() {
            Place::Entry { parent, name } => {
                names.push(name);
                current = parent;
            }
            Place::Index => return format!("inode {}", current.number).into_bytes(),
            Place::Root | Place::Unlinked => break,
        }
    }
    names.reverse();
    names.join(&b'/')
}

fn in_use(path: &[u8]) -> Error {
    Error::busy(path.escape_ascii(), "it is open for writing")
        .remedy("close it, or clone without --frozen")
}

struct Copying<'a> {
    filesystem: &'a Filesystem,
    target: &'a Layer,
    frozen: bool,
    copied: Copied,
    open: Vec<OpenFile>,
}

/// A file that somebody writes to; its copy has only a name and a mark.
struct OpenFile {
    source: OwnedFd,
    target: OwnedFd,
    directory: Arc<OwnedFd>,
    name: Vec<u8>,
    stat: Stat,
    metadata: Metadata,
}

struct Pending {
    source: Arc<OwnedFd>,
    target: Arc<OwnedFd>,
    name: Vec<u8>,
}

impl Copying<'_> {
    fn source(&self) -> &Layer {
        &self.filesystem.view.layer
    }

    fn index(&mut self) -> Outcome<()> {
        let filesystem = self.filesystem;
        let from = filesystem.view.layer.index();
        let to = Arc::new(reopened(self.target.index())?);
        for number in self.source().index_numbers()? {
            let name = Layer::number_name(number);
            let Some(PrivateEntry::Marked { stat, mark }) = layer::read_entry(from, &name)? else {
                return Err(Errno::BADMSG.into());
            };
            // About to be exchanged for the file, in an attempt that failed.
            if mark.role == Role::Name {
                continue;
            }
            self.inode(from, &to, &name, &stat, &mark)?;
            let token = Layer::token_name(number);
            match fs::statat(from, &token[..], AtFlags::SYMLINK_NOFOLLOW) {
                Ok(_) => {
                    durable::create(&*to, &token, 0o600)?;
                    write_mark(to.as_fd(), &token, &Mark::new(number, Role::Name))?;
                }
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn redirects(&mut self) -> Outcome<()> {
        for number in self.source().redirect_numbers()? {
            let name = Layer::number_name(number);
            durable::create(self.target.redirects(), &name, 0o600)?;
        }
        Ok(())
    }

    fn private(&mut self) -> Outcome<()> {
        let source = Arc::new(reopened(self.source().private())?);
        let target = Arc::new(reopened(self.target.private())?);
        let Some(PrivateEntry::Marked { stat, mark }) = layer::read_entry(source.as_fd(), b".")?
        else {
            return Err(Errno::BADMSG.into());
        };
        let mut pending = self.directory(source, target, &stat, &mark)?;
        while let Some(next) = pending.pop() {
            let source = Arc::new(open_directory(&*next.source, &next.name, OFlags::RDONLY)?);
            let target = Arc::new(open_directory(&*next.target, &next.name, OFlags::RDONLY)?);
            let Some(PrivateEntry::Marked { stat, mark }) =
                layer::read_entry(next.source.as_fd(), &next.name)?
            else {
                return Err(Errno::BADMSG.into());
            };
            drop(next);
            pending.extend(self.directory(source, target, &stat, &mark)?);
        }
        Ok(())
    }

    /// Makes everything that is directly in a directory; its subdirectories, which are empty yet.
    fn directory(
        &mut self,
        source: Arc<OwnedFd>,
        target: Arc<OwnedFd>,
        stat: &Stat,
        mark: &Mark,
    ) -> Outcome<Vec<Pending>> {
        let is_transparent = matches!(
            mark.role,
            Role::Directory(DirectoryRole::Transparent { .. })
        );
        let own = match is_transparent {
            true => Mark::new(mark.number, mark.role),
            false => shown(stat, mark),
        };
        write_mark(target.as_fd(), b".", &own)?;
        let mut below = Vec::new();
        for name in names_in(source.as_fd())? {
            self.copied.entries += 1;
            match layer::read_entry(source.as_fd(), &name)? {
                None => return Err(Errno::IO.into()),
                Some(PrivateEntry::Whiteout) => {
                    durable::mknod(&*target, &name, libc::S_IFCHR, 0)?;
                }
                Some(PrivateEntry::Marked { stat, mark }) => match mark.role {
                    Role::Name => {
                        let token = Layer::token_name(mark.number);
                        durable::link(self.target.index(), &token, &*target, &name)?;
                    }
                    Role::Directory(_) => {
                        durable::mkdir(&*target, &name, 0o700)?;
                        below.push(Pending {
                            source: source.clone(),
                            target: target.clone(),
                            name,
                        });
                    }
                    Role::File | Role::Stub { .. } => {
                        self.inode(source.as_fd(), &target, &name, &stat, &mark)?;
                    }
                },
            }
        }
        if !is_transparent {
            // Last: its group and default ACL are not for what has just been made in it.
            let metadata = entry::read_metadata(source.as_fd(), b".", stat, mark)?;
            let directory = target.as_fd();
            describe(directory, b".", FileType::Directory, &metadata)?;
            set_times(directory, b".", stat, &metadata.mtime)?;
        }
        Ok(below)
    }

    /// Anything but a directory.
    fn inode(
        &mut self,
        source: BorrowedFd<'_>,
        target: &Arc<OwnedFd>,
        name: &[u8],
        stat: &Stat,
        mark: &Mark,
    ) -> Outcome<()> {
        let file_type = FileType::from_mode(stat.st_mode).ok_or(Errno::BADMSG)?;
        let metadata = entry::read_metadata(source, name, stat, mark)?;
        let directory = target.as_fd();
        match file_type {
            FileType::Regular => {
                let file = durable::create(directory, name, 0o600)?;
                write_mark(directory, name, &shown(stat, mark))?;
                if let Role::Stub { .. } = mark.role {
                    durable::truncate(&file, stat.st_size as u64)?;
                } else if stat.st_size > 0
                    && let Some(source) = self.content(source, name, &file, mark.number)?
                {
                    self.open.push(OpenFile {
                        source,
                        target: file,
                        directory: target.clone(),
                        name: name.to_vec(),
                        stat: *stat,
                        metadata,
                    });
                    return Ok(());
                }
            }
            FileType::Symlink => {
                let to = fs::readlinkat(source, name, Vec::new())?.into_bytes();
                durable::symlink(&to, directory, name)?;
                write_mark(directory, name, &shown(stat, mark))?;
            }
            FileType::Directory => return Err(Errno::BADMSG.into()),
            _ => {
                let mode = file_type.bits() | 0o600;
                durable::mknod(directory, name, mode, stat.st_rdev)?;
                write_mark(directory, name, &shown(stat, mark))?;
            }
        }
        describe(directory, name, file_type, &metadata)?;
        set_times(directory, name, stat, &metadata.mtime)
    }

    /// Content that is no object: held, made since the objects were, in use, or all holes. Gives the
    /// file back if it is in use and cannot be reflinked.
    fn content(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        target: &OwnedFd,
        number: Number,
    ) -> Outcome<Option<OwnedFd>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOATIME;
        let open = || open_directory_entry(directory, name, flags | OFlags::CLOEXEC);
        let source = open()?;
        let lease = ReadLease::take(open()?);
        let is_open = match &lease {
            Ok(lease) => lease.is_none(),
            // No leases here: nobody but this process can have it open.
            Err(Errno::INVAL) => {
                let node = self.filesystem.table.get(number);
                node.is_some_and(|node| node.writers.load(Ordering::SeqCst) > 0)
            }
            Err(error) => return Err((*error).into()),
        };
        if is_open && self.frozen {
            return Err(in_use(name).into());
        }
        let reflinked = durable::perform(Step::Write, || {
            copy::reflink(source.as_fd(), target.as_fd())
        })?;
        if reflinked {
            return Ok(None);
        }
        if is_open {
            return Ok(Some(source));
        }
        self.copy(&source, target)?;
        Ok(None)
    }

    fn copy(&mut self, source: &OwnedFd, target: &OwnedFd) -> Outcome<Stat> {
        let mut attempt = 1;
        loop {
            let stat = fs::fstat(source)?;
            let size = stat.st_size as u64;
            let copied = durable::perform(Step::Write, || {
                copy::copy(source.as_fd(), target.as_fd(), size)
            });
            match copied {
                Ok(()) => {
                    self.copied.bytes += size.min(stat.st_blocks as u64 * 512);
                    return Ok(stat);
                }
                Err(Errno::IO) if attempt < ATTEMPTS => {
                    attempt += 1;
                    durable::truncate(target, 0)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Copies the files that somebody writes to, each as it is now.
    fn open_files(mut self) -> Outcome<Copied> {
        for mut open in std::mem::take(&mut self.open) {
            let stat = self.copy(&open.source, &open.target)?;
            open.metadata.mtime = entry::host_mtime(&stat);
            let directory = open.directory.as_fd();
            describe(directory, &open.name, FileType::Regular, &open.metadata)?;
            set_times(directory, &open.name, &open.stat, &open.metadata.mtime)?;
        }
        Ok(self.copied)
    }
}

fn open_directory_entry(
    directory: BorrowedFd<'_>,
    name: &[u8],
    flags: OFlags,
) -> rustix::io::Result<OwnedFd> {
    fs::openat(directory, name, flags, fs::Mode::empty())
}

fn reopened(directory: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    open_directory(directory, b".", OFlags::RDONLY)
}

/// The mark of a copy: the host's mtime can be made what it was, its ctime cannot.
fn shown(stat: &Stat, mark: &Mark) -> Mark {
    Mark {
        shown: Shown {
            ctime: Some(entry::shown_ctime(stat, mark)),
            mtime: None,
        },
        ..*mark
    }
}

/// Gives a new inode owner, xattrs and mode, in the order in which none undoes another.
fn describe(
    directory: BorrowedFd<'_>,
    name: &[u8],
    file_type: FileType,
    metadata: &Metadata,
) -> Outcome<()> {
    if (metadata.uid, metadata.gid) != (0, 0) {
        durable::chown(directory, name, Some(metadata.uid), Some(metadata.gid))?;
    }
    guest_xattr::write_all(directory, name, &metadata.xattrs)?;
    if file_type != FileType::Symlink {
        durable::chmod(directory, name, metadata.mode)?;
    }
    Ok(())
}

fn set_times(
    directory: BorrowedFd<'_>,
    name: &[u8],
    stat: &Stat,
    mtime: &crate::store::metadata::Time,
) -> Outcome<()> {
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: stat.st_atime,
            tv_nsec: stat.st_atime_nsec as _,
        },
        last_modification: Timespec {
            tv_sec: mtime.seconds,
            tv_nsec: mtime.nanoseconds.into(),
        },
    };
    Ok(durable::set_times(directory, name, &times)?)
}
