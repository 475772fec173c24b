//! An open store, and the refusals of what is none.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, RenameFlags, StatVfsMountFlags};
use rustix::io::Errno;

use super::cache::HashCache;
use super::catalog::{Catalog, CatalogMode, Numbers};
use super::format_file::{self, FormatFile};
use super::image_dirs::open_directory;
use super::layout;
use super::lock::{PlacementLock, StoreLock};
use super::number::ImageId;
use super::objects::Objects;
use super::recovery;
use super::staging::StagingDirectory;
use super::tree;
use crate::error::{Context, Error, Result};
use crate::sys::{copy, durable};

/// What a store is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading, while others may write. Takes no lock and changes nothing.
    Read,
    /// Altering it. Takes the lock, and clears up what a crash left.
    Write,
}

/// What a daemon that has died has left to the next one.
#[derive(Debug, Clone, Copy, Default)]
pub struct Left<'a> {
    /// Its lock.
    pub lock: Option<BorrowedFd<'a>>,
    /// Images that the kernel goes on using: what they have in `orphans/` is not debris.
    pub images: &'a [ImageId],
}

/// An open store. All its directories are reached through descriptors; only SQLite uses paths.
/// Never fork with one open: SQLite's locks and connections belong to one process.
pub struct Store {
    path: PathBuf,
    id: String,
    root: OwnedFd,
    images: OwnedFd,
    staging: OwnedFd,
    run: OwnedFd,
    objects: Objects,
    catalog: Arc<Catalog>,
    numbers: Numbers,
    /// Released last.
    lock: Option<StoreLock>,
}

impl Store {
    /// Opens the store at `path`.
    ///
    /// # Errors
    /// When the caller is not root; there is nothing at `path`, or a file, or a directory that is
    /// no store or a half-made one; others than root own it or can get at it; it is damaged or of
    /// a newer format. With [`Access::Write`] also when another process alters it (kind Busy).
    pub fn open(path: &Path, access: Access) -> Result<Self> {
        Self::open_after(path, access, Left::default())
    }

    /// Opens the store at `path` for a daemon that goes on with what another one has left.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_after(path: &Path, access: Access, left: Left<'_>) -> Result<Self> {
        let (root, path) = open_directory_of_store(path)?;
        let object = format!("store {}", path.display());
        let format = read_format(root.as_fd(), &path, &object)?;

        let part = |name: &str| {
            open_directory(root.as_fd(), name)
                .about(path.join(name).display())
                .map_err(|error| error.remedy("the store is damaged: restore the directory"))
        };
        let run = part(layout::RUN)?;
        let lock = match access {
            Access::Write => Some(StoreLock::take_after(run.as_fd(), &object, left.lock)?),
            Access::Read => None,
        };
        let mode = match access {
            Access::Write => CatalogMode::Write,
            Access::Read if mounted_read_only(root.as_fd()).about(&object)? => {
                CatalogMode::ReadOnlyMedium
            }
            Access::Read => CatalogMode::Read,
        };
        let catalog = Arc::new(Catalog::open(&path.join(layout::CATALOG), mode)?);
        let store = Self {
            images: part(layout::IMAGES)?,
            staging: part(layout::STAGING)?,
            objects: Objects::new(part(layout::OBJECTS)?),
            numbers: Numbers::new(Arc::clone(&catalog)),
            id: format.id,
            path,
            root,
            run,
            catalog,
            lock,
        };
        if access == Access::Write {
            store.check_generation()?;
            recovery::clear_up(&store, left.images)?;
        }
        Ok(store)
    }

    /// Its absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its id: 32 hexadecimal digits.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What it was opened for.
    pub fn access(&self) -> Access {
        match self.lock {
            Some(_) => Access::Write,
            None => Access::Read,
        }
    }

    /// The lock, if it was opened for writing.
    pub fn lock(&self) -> Option<&StoreLock> {
        self.lock.as_ref()
    }

    /// The store's directory.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// `images/`
    pub fn images(&self) -> BorrowedFd<'_> {
        self.images.as_fd()
    }

    /// `staging/`
    pub fn staging(&self) -> BorrowedFd<'_> {
        self.staging.as_fd()
    }

    /// `run/`
    pub fn run(&self) -> BorrowedFd<'_> {
        self.run.as_fd()
    }

    /// Opens the hash cache. It changes nothing that an image shows: no lock is needed.
    pub fn hash_cache(&self) -> HashCache {
        HashCache::open(&self.path.join(layout::CACHE))
    }

    /// The path of the daemon's control socket.
    pub fn control_socket(&self) -> PathBuf {
        self.path.join(layout::RUN).join(layout::CONTROL_SOCKET)
    }

    /// The objects.
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// The catalog.
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// The source of inode numbers.
    pub fn numbers(&self) -> &Numbers {
        &self.numbers
    }

    /// A directory in `staging/` for what `purpose` says. Needs no lock: it is spared while it is
    /// held, and removed when it is dropped.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn stage(&self, purpose: &str) -> Result<StagingDirectory> {
        StagingDirectory::new(self.staging(), purpose)
    }

    /// Where versions lie stays as it is until this is dropped: for who reads layers in a process
    /// that does not hold the store's lock.
    ///
    /// # Errors
    /// As [`PlacementLock::keep`].
    pub fn keep_placement(&self) -> Result<PlacementLock> {
        PlacementLock::keep(self.run(), &format!("store {}", self.path.display()))
    }

    /// Versions may move until this is dropped.
    ///
    /// # Errors
    /// As [`PlacementLock::alter`].
    pub fn alter_placement(&self) -> Result<PlacementLock> {
        PlacementLock::alter(self.run(), &format!("store {}", self.path.display()))
    }

    /// Makes what was written to the store durable: one syncfs(2).
    ///
    /// # Errors
    /// Errors of the file system.
    #[track_caller]
    pub fn sync(&self) -> Result<()> {
        durable::sync_filesystem(&self.root).about(self.path.display())
    }

    /// What the store occupies, in bytes of allocated blocks, as du(1) counts them.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn allocated(&self) -> Result<u64> {
        tree::allocated(self.root.as_fd(), &self.path.display().to_string())
    }

    /// Copies the catalog to `catalog.bak`; the copy before becomes `catalog.bak.1`.
    ///
    /// # Errors
    /// Where SQLite and the file system fail; the copies there were stay.
    pub fn back_up_catalog(&self) -> Result<()> {
        let new = layout::NEW_BACKUP;
        let about = self.path.join(layout::BACKUP);
        let about = about.display();
        match durable::unlink(&self.root, new.as_bytes()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno).about(&about),
        }
        self.catalog.copy_to(&self.path.join(new))?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let copy = fs::openat(&self.root, new, flags, Mode::empty()).about(&about)?;
        durable::sync(&copy).about(&about)?;
        match self.rename(layout::BACKUP, layout::OLDER_BACKUP) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno).about(&about),
        }
        self.rename(new, layout::BACKUP).about(&about)?;
        durable::sync(&self.root).about(&about)
    }

    fn rename(&self, old: &str, new: &str) -> rustix::io::Result<()> {
        let flags = RenameFlags::empty();
        durable::rename(
            &self.root,
            old.as_bytes(),
            &self.root,
            new.as_bytes(),
            flags,
        )
    }
}

/// Device nodes, owners and trusted xattrs need root.
pub(super) fn check_caller(user: rustix::process::Uid) -> Result<()> {
    if user.is_root() {
        return Ok(());
    }
    Err(Error::failed("foldfs", "a store can be used by root only").remedy("run foldfs as root"))
}

/// Opens a store's directory, of which only the outside is looked at; its absolute path.
pub(super) fn open_directory_of_store(path: &Path) -> Result<(OwnedFd, PathBuf)> {
    check_caller(rustix::process::geteuid())?;
    let object = format!("store {}", path.display());
    let root = open_root(path, &object)?;
    let path = std::fs::canonicalize(path).about(&object)?;
    read_format(root.as_fd(), &path, &object)?;
    check_owner(root.as_fd(), &path, &object)?;
    Ok((root, path))
}

fn open_root(path: &Path, object: &str) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    fs::open(path, flags, Mode::empty()).map_err(|errno| {
        let (cause, remedy) = match errno {
            Errno::NOENT => (
                String::from("there is no such directory"),
                "make a store with `foldfs init`, or name one with --store",
            ),
            Errno::NOTDIR => (
                String::from("it is a file, not a directory"),
                "name a store's directory with --store",
            ),
            errno => (errno.to_string(), ""),
        };
        Error {
            errno: Some(errno.raw_os_error()),
            ..Error::failed(object, cause).remedy(remedy)
        }
    })
}

fn read_format(root: BorrowedFd<'_>, path: &Path, object: &str) -> Result<FormatFile> {
    let name = path.join(layout::FORMAT).display().to_string();
    let foreign = || Error::failed(&name, "it is no regular file").remedy(format_file::RESTORE);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = match fs::openat(root, layout::FORMAT, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => {
            let (cause, remedy) = match contents(root).about(object)? {
                Contents::Nothing => ("it is an empty directory, no store", "run `foldfs init`"),
                Contents::HalfMade => (
                    "it is half-made: `foldfs init` did not finish",
                    "run `foldfs init` again",
                ),
                Contents::Other => (
                    "it is no store: it holds no foldfs.toml",
                    "name a store's directory with --store",
                ),
            };
            return Err(Error::failed(object, cause).remedy(remedy));
        }
        Err(Errno::LOOP) => return Err(foreign()),
        Err(errno) => return Err(errno).about(name),
    };
    let stat = fs::fstat(&file).about(&name)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(foreign());
    }
    let mut buffer = vec![0; 4096];
    let length = copy::read_at(&file, &mut buffer, 0).about(&name)?;
    FormatFile::parse(&buffer[..length], &name)
}

fn check_owner(root: BorrowedFd<'_>, path: &Path, object: &str) -> Result<()> {
    let stat = fs::fstat(root).about(object)?;
    if stat.st_uid != 0 {
        let cause = format!("it belongs to user {}, not to root", stat.st_uid);
        return Err(Error::failed(object, cause).remedy(format!(
            "make sure of its content, then chown root {}",
            path.display()
        )));
    }
    let mode = stat.st_mode & 0o7777;
    if mode & 0o777 != 0o700 {
        let cause = format!("its mode is {mode:04o}: others than root can get at it");
        let cause = match mode & 0o077 {
            0 => format!("its mode is {mode:04o}, not 0700"),
            _ => cause,
        };
        let remedy = format!("chmod 700 {}", path.display());
        return Err(Error::failed(object, cause).remedy(remedy));
    }
    Ok(())
}

pub(super) fn mounted_read_only(root: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    Ok(fs::fstatvfs(root)?
        .f_flag
        .contains(StatVfsMountFlags::RDONLY))
}

/// What a directory without foldfs.toml holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Contents {
    Nothing,
    /// Only what `init` makes, and no image or object.
    HalfMade,
    Other,
}

pub(super) fn contents(root: BorrowedFd<'_>) -> rustix::io::Result<Contents> {
    let mut found = Contents::Nothing;
    for name in list(root)? {
        match layout::INIT_PARTS
            .iter()
            .find(|part| part.as_bytes() == name)
        {
            Some(&part) if [layout::OBJECTS, layout::IMAGES].contains(&part) => {
                match open_directory(root, part) {
                    Ok(inner) if list(inner.as_fd())?.is_empty() => found = Contents::HalfMade,
                    Ok(_) | Err(Errno::NOTDIR | Errno::LOOP) => return Ok(Contents::Other),
                    Err(errno) => return Err(errno),
                }
            }
            Some(_) => found = Contents::HalfMade,
            None => return Ok(Contents::Other),
        }
    }
    // A mere `run` or `images` may be anybody's.
    if found == Contents::HalfMade
        && matches!(
            fs::statat(root, layout::OBJECTS, AtFlags::SYMLINK_NOFOLLOW),
            Err(Errno::NOENT)
        )
    {
        found = Contents::Other;
    }
    Ok(found)
}

fn list(directory: BorrowedFd<'_>) -> rustix::io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    let mut entries = fs::Dir::read_from(directory)?;
    while let Some(entry) = entries.read() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}
