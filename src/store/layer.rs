//! The private layer of one image: its directories, and how one entry of it reads.
//!
//! ```text
//! images/ID/private/              the difference between the view and the shared layer
//! images/ID/index/NUMBER          a file that has several names in this image
//! images/ID/index/NUMBER.names    its token: every private name is a hard link of it
//! images/ID/redirects/NUMBER      shared directory NUMBER stands elsewhere in this image
//! images/ID/orphans/NUMBER        unlinked, but the kernel still refers to it
//! images/ID/work/                 entries being built
//! ```
//! Nothing here knows what an entry means to a view: that is merge/.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{self, AtFlags, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::{Errno, Result};

use super::layout;
use super::mark::{self, Mark};
use super::number::{ImageId, Number};
use crate::error::{self, Context, Error};
use crate::sys::xattr;

/// The directories of `images/ID`, open.
#[derive(Debug)]
pub struct Layer {
    image: ImageId,
    private: OwnedFd,
    index: OwnedFd,
    redirects: OwnedFd,
    orphans: OwnedFd,
    work: OwnedFd,
    serial: AtomicU64,
}

/// A name of a private directory, as the host has it.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant, reason = "it lives on the stack")]
pub enum PrivateEntry {
    /// The name does not exist in the view.
    Whiteout,
    /// Anything else: the host inode and its mark.
    Marked {
        /// Of the host inode: number, links and shown times are not the view's.
        stat: Stat,
        /// What it is.
        mark: Mark,
    },
}

/// Opens a directory below another one: one component, no symlink, no other file system.
pub fn open_directory(parent: impl AsFd, name: &[u8], flags: OFlags) -> Result<OwnedFd> {
    fs::openat2(
        parent,
        name,
        flags | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV,
    )
}

/// Whether a host inode is a whiteout, provided that it has no mark.
fn is_whiteout(stat: &Stat) -> bool {
    stat.st_mode & libc::S_IFMT == libc::S_IFCHR && stat.st_rdev == 0
}

/// Reads one name of a private directory; `None` if there is no such name.
///
/// # Errors
/// EBADMSG for a thing that foldfs did not put there: no mark, or one that does not decode.
pub fn read_entry(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Option<PrivateEntry>> {
    let stat = match fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error),
    };
    match xattr::get(directory, name, mark::NAME.as_bytes())? {
        Some(bytes) => {
            let mark = Mark::decode(&bytes).map_err(|_| Errno::BADMSG)?;
            Ok(Some(PrivateEntry::Marked { stat, mark }))
        }
        None if is_whiteout(&stat) => Ok(Some(PrivateEntry::Whiteout)),
        None => Err(Errno::BADMSG),
    }
}

impl Layer {
    /// Opens the layer whose directory is `images/ID`.
    pub fn open(root: impl AsFd, image: ImageId) -> Result<Self> {
        let root = root.as_fd();
        let directory = |name: &str| open_directory(root, name.as_bytes(), OFlags::RDONLY);
        Ok(Self {
            image,
            private: directory(layout::PRIVATE)?,
            index: directory(layout::INDEX)?,
            redirects: directory(layout::REDIRECTS)?,
            orphans: directory(layout::ORPHANS)?,
            work: directory(layout::WORK)?,
            serial: AtomicU64::new(0),
        })
    }

    /// Whose layer it is.
    pub fn image(&self) -> ImageId {
        self.image
    }

    /// `private/`: the root of the view.
    pub fn private(&self) -> BorrowedFd<'_> {
        self.private.as_fd()
    }

    /// `index/`.
    pub fn index(&self) -> BorrowedFd<'_> {
        self.index.as_fd()
    }

    /// `redirects/`.
    pub fn redirects(&self) -> BorrowedFd<'_> {
        self.redirects.as_fd()
    }

    /// `orphans/`.
    pub fn orphans(&self) -> BorrowedFd<'_> {
        self.orphans.as_fd()
    }

    /// `work/`.
    pub fn work(&self) -> BorrowedFd<'_> {
        self.work.as_fd()
    }

    /// A name in `work/` that nobody else of this process uses; a store has one writing process.
    pub fn work_name(&self) -> Vec<u8> {
        format!("w{}", self.serial.fetch_add(1, Ordering::Relaxed)).into_bytes()
    }

    /// The file's name in `index/`, `redirects/` or `orphans/`.
    pub fn number_name(number: Number) -> Vec<u8> {
        layout::number_name(number).into_bytes()
    }

    /// The token's name in `index/`.
    pub fn token_name(number: Number) -> Vec<u8> {
        layout::token_name(number).into_bytes()
    }

    /// The numbers of all files in `index/`.
    ///
    /// # Errors
    /// One that names the file if there is one that foldfs did not put there.
    pub fn index_numbers(&self) -> error::Result<Vec<Number>> {
        let mut names = self.names_of(self.index(), layout::INDEX)?;
        names.retain(|name| layout::parse_token(name).is_none());
        self.parse_numbers(names, layout::INDEX)
    }

    /// The numbers of all tokens in `index/`.
    ///
    /// # Errors
    /// Those of the host.
    pub fn token_numbers(&self) -> error::Result<Vec<Number>> {
        let names = self.names_of(self.index(), layout::INDEX)?;
        let tokens = names.iter().filter_map(|name| layout::parse_token(name));
        Ok(tokens.collect())
    }

    /// The numbers of all shared directories in `redirects/`.
    ///
    /// # Errors
    /// As [`Layer::index_numbers`].
    pub fn redirect_numbers(&self) -> error::Result<Vec<Number>> {
        let names = self.names_of(self.redirects(), layout::REDIRECTS)?;
        self.parse_numbers(names, layout::REDIRECTS)
    }

    fn names_of(&self, directory: BorrowedFd<'_>, part: &str) -> error::Result<Vec<Vec<u8>>> {
        names_in(directory).about(format!("images/{}/{part}", self.image))
    }

    fn parse_numbers(&self, names: Vec<Vec<u8>>, part: &str) -> error::Result<Vec<Number>> {
        let number = |name: Vec<u8>| {
            layout::parse_number(&name).ok_or_else(|| {
                let object = format!("images/{}/{part}/{}", self.image, name.escape_ascii());
                Error::failed(object, "a name that foldfs does not make")
                    .remedy("`foldfs check --repair` moves it to quarantine/")
            })
        };
        names.into_iter().map(number).collect()
    }
}

/// All names of a host directory but "." and "..", in no order. The descriptor may be an O_PATH one.
pub fn names_in(directory: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>> {
    names_of(open_directory(
        directory,
        b".",
        OFlags::RDONLY | OFlags::NOATIME,
    )?)
}

/// All names of a directory that was opened for reading, but "." and "..", in no order: through its own
/// position, so for one thread at a time.
pub fn names_from(directory: BorrowedFd<'_>) -> Result<Vec<Box<[u8]>>> {
    fs::seek(directory, fs::SeekFrom::Start(0))?;
    let mut names = Vec::new();
    let mut buffer = [std::mem::MaybeUninit::uninit(); 16 << 10];
    let mut entries = fs::RawDir::new(directory, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.into());
        }
    }
    Ok(names)
}

/// All names of a directory that was opened to be listed, but "." and "..", in no order.
pub fn names_of(listing: OwnedFd) -> Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in fs::Dir::new(listing)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}
