//! Making a store.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{self, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::catalog::Catalog;
use super::format_file::FormatFile;
use super::generation;
use super::layout;
use super::open::{Access, Contents, Store, check_caller, contents};
use super::tree;
use crate::error::{Context, Error, Result};
use crate::sys::copy;
use crate::sys::durable::{self, Step};

impl Store {
    /// Makes a store at `path`, a new or an empty directory, and opens it for writing. What an
    /// interrupted `init` left there is made anew. The last step gives foldfs.toml its name: the
    /// store is there wholly or not at all.
    ///
    /// # Errors
    /// When the caller is not root, the directory's parent does not exist, or it holds something.
    pub fn init(path: &Path) -> Result<Self> {
        check_caller(rustix::process::geteuid())?;
        let object = format!("store {}", path.display());
        let root = make_root(path, &object)?;
        match contents(root.as_fd()).about(&object)? {
            Contents::Nothing => {}
            Contents::HalfMade => remove_parts(root.as_fd(), &object)?,
            Contents::Other => return Err(occupied(root.as_fd(), &object)),
        }
        durable::chown(&root, b".", Some(0), Some(0)).about(&object)?;
        durable::chmod(&root, b".", 0o700).about(&object)?;
        // objects/ first: without it, a directory is not taken for a half-made store.
        for part in [
            layout::OBJECTS,
            layout::IMAGES,
            layout::STAGING,
            layout::RUN,
        ] {
            durable::mkdir(&root, part.as_bytes(), 0o700).about(&object)?;
        }
        let images = super::image_dirs::open_directory(root.as_fd(), layout::IMAGES);
        generation::set(images.about(&object)?.as_fd(), 0)?;
        let path = std::fs::canonicalize(path).about(&object)?;
        drop(Catalog::create(&path.join(layout::CATALOG))?);
        write_format(root.as_fd()).about(&object)?;
        Self::open(&path, Access::Write)
    }

    /// Refuses what [`Store::init`] would refuse, and changes nothing.
    ///
    /// # Errors
    /// Those of `init`, as far as they can be foreseen.
    pub fn check_init(path: &Path) -> Result<()> {
        check_caller(rustix::process::geteuid())?;
        let object = format!("store {}", path.display());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match fs::open(path, flags, Mode::empty()) {
            Ok(root) => match contents(root.as_fd()).about(&object)? {
                Contents::Nothing | Contents::HalfMade => Ok(()),
                Contents::Other => Err(occupied(root.as_fd(), &object)),
            },
            Err(Errno::NOENT) if path.parent().is_none_or(Path::is_dir) => Ok(()),
            Err(Errno::NOENT) => Err(no_parent(&object)),
            Err(Errno::NOTDIR) => Err(no_directory(&object)),
            Err(errno) => Err(errno).about(object),
        }
    }
}

/// Removes what an interrupted `init` left, objects/ last: see above.
fn remove_parts(root: BorrowedFd<'_>, object: &str) -> Result<()> {
    for part in layout::INIT_PARTS.iter().rev() {
        match tree::remove(root, part.as_bytes(), object) {
            Err(Error {
                errno: Some(libc::ENOENT),
                ..
            }) => {}
            outcome => outcome?,
        }
    }
    Ok(())
}

fn make_root(path: &Path, object: &str) -> Result<OwnedFd> {
    use std::os::unix::ffi::OsStrExt;
    let made = durable::mkdir(fs::CWD, path.as_os_str().as_bytes(), 0o700);
    match made {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(Errno::NOENT) => return Err(no_parent(object)),
        Err(errno) => return Err(errno).about(object),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = match fs::open(path, flags, Mode::empty()) {
        Err(Errno::NOTDIR) => return Err(no_directory(object)),
        outcome => outcome.about(object)?,
    };
    if made.is_ok() {
        let parent = fs::openat(&root, "..", flags, Mode::empty()).about(object)?;
        durable::sync(parent).about(object)?;
    }
    Ok(root)
}

fn no_parent(object: &str) -> Error {
    Error::failed(object, "its parent directory does not exist")
        .remedy("make the parent directory first")
}

fn no_directory(object: &str) -> Error {
    Error::failed(object, "it is a file, not a directory")
        .remedy("name a new or an empty directory")
}

fn occupied(root: BorrowedFd<'_>, object: &str) -> Error {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let cause = match fs::openat(root, layout::FORMAT, flags, Mode::empty()) {
        Ok(_) => "there is a store already",
        Err(_) => "the directory is not empty",
    };
    Error::failed(object, cause).remedy("name a new or an empty directory")
}

fn write_format(root: BorrowedFd<'_>) -> std::io::Result<()> {
    let mut random = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut random)?;
    let id = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let text = FormatFile { id }.to_toml();
    let (new, name) = (layout::NEW_FORMAT.as_bytes(), layout::FORMAT.as_bytes());
    let file = durable::create(root, new, 0o600)?;
    durable::perform(Step::Write, || {
        copy::write_all_at(&file, text.as_bytes(), 0)
    })?;
    // The directories and the catalog, too, before the name that says that they are there.
    durable::sync_filesystem(&file)?;
    durable::rename(root, new, root, name, RenameFlags::NOREPLACE)?;
    durable::sync(root)?;
    Ok(())
}
