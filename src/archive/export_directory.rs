//! A tree as a plain directory: an exact copy, made under a temporary name and then renamed.
//!
//! ```text
//! PARENT/.NAME.foldfs-PID/
//!   tree/     becomes PARENT/NAME
//!   links/    NUMBER: a name of each file that may have several, to link the others to
//! ```

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{self, Mode, OFlags, RenameFlags, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use super::directory_stack::{DIRECTORY, DirectoryStack};
use super::view_source::{ViewEntry, ViewSource};
use super::walk::is_or_holds;
use crate::error::{Context, Error, Result};
use crate::path_bytes::PathBytes;
use crate::progress::Progress;
use crate::store::metadata::{Content, Metadata, Time};
use crate::store::number::Number;
use crate::store::{Store, tree};
use crate::sys::copy;
use crate::sys::durable::{self, Step};

/// Writes a tree to `destination`, a directory that does not exist or is empty: types, content with
/// its holes, hard links, owners, modes, mtimes, xattrs, ACLs. Content is reflinked where the host
/// can. The directory is there wholly, and durable, or not at all.
///
/// # Errors
/// When the destination exists with something in it, is a mount point or inside the store; when
/// anything cannot be read or written there.
pub fn export_directory(
    source: &dyn ViewSource,
    store: &Store,
    destination: &Path,
    progress: &dyn Progress,
) -> Result<()> {
    let target = Target::prepare(store, destination)?;
    let work = target.make_work()?;
    let mut writer = TreeWriter {
        stack: DirectoryStack::new(work.directory("tree")?),
        unfinished: Vec::new(),
        links: work.directory("links")?,
        linked: HashSet::new(),
        progress,
    };
    source.visit(&mut |entry| writer.write(entry))?;
    writer.finish()?;
    durable::sync_filesystem(&target.parent).about(&target.shown)?;
    work.place()
}

/// Where the export goes.
pub struct Target {
    pub(super) parent: OwnedFd,
    pub(super) name: Vec<u8>,
    pub(super) shown: String,
}

impl Target {
    /// The directory that will hold the destination.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.parent.as_fd()
    }

    /// The destination, for messages.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// Opens the directory that will hold the destination, and refuses what cannot be.
    ///
    /// # Errors
    /// It is inside the store; the directory cannot be opened.
    pub fn prepare(store: &Store, destination: &Path) -> Result<Self> {
        let shown = destination.display().to_string();
        let absolute = std::path::absolute(destination).about(&shown)?;
        let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
            return Err(Error::failed(&shown, "it cannot be made or replaced")
                .remedy("name a new directory"));
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent_path = parent.display();
        let parent = fs::open(parent, flags, Mode::empty()).about(parent_path)?;
        let store_stat = fs::fstat(store.root()).about(store.path().display())?;
        if is_or_holds(&store_stat, parent.as_fd()).about(&shown)? {
            return Err(Error::failed(&shown, "it is inside the store")
                .remedy("export to another directory"));
        }
        Ok(Self {
            parent,
            name: name.as_bytes().to_vec(),
            shown,
        })
    }

    /// Makes the temporary directory beside the destination, which must not hold anything.
    ///
    /// # Errors
    /// The destination holds something, or is no directory; those of the host.
    pub fn make_work(&self) -> Result<Work<'_>> {
        match fs::openat(&self.parent, &self.name[..], DIRECTORY, Mode::empty()) {
            Err(Errno::NOENT) => {}
            Err(Errno::NOTDIR | Errno::LOOP) => {
                return Err(Error::failed(&self.shown, "it exists and is no directory")
                    .remedy("name a new directory"));
            }
            opened => {
                let existing = opened.about(&self.shown)?;
                let entries = fs::Dir::read_from(&existing).about(&self.shown)?;
                // "." and ".." are there always.
                if entries.take(3).count() > 2 {
                    return Err(Error::failed(&self.shown, "it is not empty")
                        .remedy("name a new or an empty directory"));
                }
            }
        }
        let name = [b".", &self.name[..], b".foldfs-"].concat();
        let name = [&name[..], std::process::id().to_string().as_bytes()].concat();
        // A name of 255 bytes leaves no room for more.
        let name = name[name.len().saturating_sub(255)..].to_vec();
        durable::mkdir(&self.parent, &name, 0o700).about(&self.shown)?;
        Ok(Work { target: self, name })
    }
}

/// The temporary directory, removed when dropped.
pub struct Work<'a> {
    target: &'a Target,
    name: Vec<u8>,
}

impl Work<'_> {
    fn open(&self) -> Result<OwnedFd> {
        let opened = fs::openat(
            &self.target.parent,
            &self.name[..],
            DIRECTORY,
            Mode::empty(),
        );
        opened.about(&self.target.shown)
    }

    /// Makes a directory in it.
    ///
    /// # Errors
    /// Those of the host.
    pub fn directory(&self, part: &str) -> Result<OwnedFd> {
        let work = self.open()?;
        durable::mkdir(&work, part.as_bytes(), 0o700).about(&self.target.shown)?;
        fs::openat(work, part, DIRECTORY, Mode::empty()).about(&self.target.shown)
    }

    /// Gives its directory `tree` the destination's name, in place of an empty directory.
    ///
    /// # Errors
    /// The destination holds something by now; those of the host.
    pub fn place(self) -> Result<()> {
        let (target, directory) = (self.target, self.open()?);
        let placed = durable::rename(
            &directory,
            b"tree",
            &target.parent,
            &target.name,
            RenameFlags::empty(),
        );
        placed
            .about(&target.shown)
            .map_err(|error| match error.errno {
                Some(libc::EBUSY | libc::EXDEV) => {
                    error.remedy("it is a mount point: name a new directory in it")
                }
                Some(libc::ENOTEMPTY | libc::EEXIST) => {
                    error.remedy("name a new or an empty directory")
                }
                _ => error,
            })?;
        durable::sync(&target.parent).about(&target.shown)
    }
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        let shown = format!("beside {}", self.target.shown);
        if let Err(error) = tree::remove(self.target.parent.as_fd(), &self.name, &shown) {
            log::warn!("{error}");
        }
    }
}

/// Writes entries in the order of a visit.
struct TreeWriter<'a> {
    stack: DirectoryStack,
    /// Name and metadata of each directory of the stack but the root, whose come first: they are
    /// set when everything in it is written.
    unfinished: Vec<(Vec<u8>, Metadata)>,
    links: OwnedFd,
    /// Numbers with a name in `links`.
    linked: HashSet<Number>,
    progress: &'a dyn Progress,
}

impl TreeWriter<'_> {
    fn write(&mut self, entry: &ViewEntry<'_>) -> Result<()> {
        if entry.depth == 0 {
            self.unfinished
                .push((b".".to_vec(), entry.metadata.clone()));
            return Ok(());
        }
        while self.stack.depth() > entry.depth {
            self.leave().about(entry.shown_path())?;
        }
        let name = entry.name();
        let write = |this: &mut Self| -> rustix::io::Result<()> {
            if entry.content == &Content::Directory {
                durable::mkdir(this.stack.top()?, name, 0o700)?;
                this.stack.enter(name)?;
                this.unfinished
                    .push((name.to_vec(), entry.metadata.clone()));
                return Ok(());
            }
            let number = entry.number.to_string();
            let directory = this.stack.top()?;
            if entry.several_names && this.linked.contains(&entry.number) {
                return durable::link(&this.links, number.as_bytes(), directory, name);
            }
            this.make(entry, directory, name)?;
            if entry.several_names {
                durable::link(directory, name, &this.links, number.as_bytes())?;
                this.linked.insert(entry.number);
            }
            Ok(())
        };
        if let Content::Regular { size, .. } = entry.content {
            let is_link = entry.several_names && self.linked.contains(&entry.number);
            if *size > 0 && !is_link {
                let file = (entry.open)()?;
                let directory = self.stack.top().about(entry.shown_path())?;
                write_content(&file, *size, directory, name)
                    .map_err(|errno| changed_or(errno, &file, *size, entry))?;
                self.progress.advance(*size);
            }
        }
        write(self).about(entry.shown_path())
    }

    /// Makes what is no directory; a regular file with content is there already.
    fn make(
        &self,
        entry: &ViewEntry<'_>,
        directory: BorrowedFd<'_>,
        name: &[u8],
    ) -> rustix::io::Result<()> {
        let mode = entry.metadata.mode;
        match entry.content {
            Content::Regular { size: 0, .. } => {
                durable::create(directory, name, 0o600)?;
            }
            Content::Regular { .. } | Content::Directory => {}
            Content::Symlink { target } => durable::symlink(target, directory, name)?,
            other => {
                let bits = other.file_type().bits() | (mode & 0o777);
                durable::mknod(directory, name, bits, other.rdev())?;
            }
        }
        let is_symlink = matches!(entry.content, Content::Symlink { .. });
        set_metadata(directory, name, entry.metadata, is_symlink)
    }

    /// Everything in the deepest directory is written.
    fn leave(&mut self) -> rustix::io::Result<()> {
        self.stack.leave()?;
        match self.unfinished.pop() {
            Some((name, metadata)) => set_metadata(self.stack.top()?, &name, &metadata, false),
            None => Ok(()),
        }
    }

    fn finish(mut self) -> Result<()> {
        while self.stack.depth() > 1 {
            self.leave().about("the exported tree")?;
        }
        let root = self.stack.top().about("the exported tree")?;
        for (name, metadata) in self.unfinished {
            set_metadata(root, &name, &metadata, false).about("the exported tree")?;
        }
        Ok(())
    }
}

fn write_content(
    file: &OwnedFd,
    size: u64,
    directory: BorrowedFd<'_>,
    name: &[u8],
) -> rustix::io::Result<()> {
    let target = durable::create(directory, name, 0o600)?;
    durable::perform(Step::Write, || {
        copy::copy(file.as_fd(), target.as_fd(), size)
    })
}

/// The error of a copy: a source that is shorter than it was has changed.
pub(super) fn changed_or(errno: Errno, file: &OwnedFd, size: u64, entry: &ViewEntry<'_>) -> Error {
    let short = fs::fstat(file).is_ok_and(|stat| (stat.st_size as u64) != size);
    if errno == Errno::IO && short {
        return Error::failed(entry.shown_path(), "it changed while it was read")
            .remedy("stop what writes to it, or export a clone");
    }
    let error: Result<()> = Err(errno).about(entry.shown_path());
    error
        .err()
        .unwrap_or_else(|| Error::failed(PathBytes::from(entry.path), errno))
}

pub(super) fn timestamps(mtime: Time) -> Timestamps {
    let time = Timespec {
        tv_sec: mtime.seconds,
        tv_nsec: mtime.nanoseconds.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// Owner first (it clears set-id bits and capabilities), then xattrs (an ACL changes the mode), then
/// mode, then times.
pub(super) fn set_metadata(
    directory: BorrowedFd<'_>,
    name: &[u8],
    metadata: &Metadata,
    is_symlink: bool,
) -> rustix::io::Result<()> {
    durable::chown(directory, name, Some(metadata.uid), Some(metadata.gid))?;
    for (xattr, value) in &metadata.xattrs {
        durable::set_xattr(directory, name, xattr, value, XattrFlags::empty())?;
    }
    if !is_symlink {
        durable::chmod(directory, name, metadata.mode)?;
    }
    durable::set_times(directory, name, &timestamps(metadata.mtime))
}
