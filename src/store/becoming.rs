//! A private file becomes an object (docs/format.md): `work/DIGEST`, from the moment its stub is in
//! place until it has its name in `objects/`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::content::digest_of;
use super::digest::Digest;
use super::layer::names_in;
use super::layout;
use super::objects::Objects;
use super::open::Store;
use super::tree;
use crate::error::{Context, Result};
use crate::sys::durable;

/// Opens content that a stub of an image refers to; `work` is the image's.
///
/// # Errors
/// As [`Objects::open`].
pub fn open(objects: &Objects, work: BorrowedFd<'_>, digest: &Digest) -> Result<OwnedFd> {
    let missing = match objects.open(digest) {
        Err(error) if error.errno == Some(libc::ENOENT) => error,
        found => return found,
    };
    match open_work(work, layout::work_name(digest).as_bytes()) {
        Ok(file) => Ok(file),
        // It has got its name in between, or there is none.
        Err(Errno::NOENT) => objects.open(digest),
        Err(_) => Err(missing),
    }
}

fn open_work(work: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    fs::openat(work, name, flags, Mode::empty())
}

/// Makes `work/DIGEST` the object. Its content is `digest`'s; it, and the stub in its place, are
/// synced.
///
/// # Errors
/// Those of the host; opening the store does the rest.
pub fn finish(objects: &Objects, work: BorrowedFd<'_>, digest: &Digest) -> Result<()> {
    let name = layout::work_name(digest);
    let about = || format!("work/{name}");
    if objects.exists(digest)? {
        let file = open_work(work, name.as_bytes()).about(about())?;
        if objects.same_content(file.as_fd(), digest)? {
            return durable::unlink(work, name.as_bytes()).about(about());
        }
        log::error!("object {digest}: its content was not what its name says; it is replaced");
    }
    Objects::strip(work, name.as_bytes())?;
    objects.replace(work, name.as_bytes(), digest)
}

/// Finishes or drops what an attempt left in an image's `work/` that ended early. Nothing may be on
/// its way in it now.
///
/// # Errors
/// Those of the host.
pub fn finish_left(store: &Store, work: BorrowedFd<'_>, about: &str) -> Result<()> {
    let names = names_in(work).about(about)?.into_iter();
    let left: Vec<_> = names
        .filter_map(|name| Some((layout::parse_work(&name)?, name)))
        .collect();
    if left.is_empty() {
        return Ok(());
    }
    // The stubs must be durable.
    store.sync()?;
    for (digest, name) in left {
        finish_unproved(store, work, &name, &digest, about)?;
    }
    Ok(())
}

/// Finishes a `work/DIGEST` of which nothing is known, or drops it; whether it is an object now.
pub(super) fn finish_unproved(
    store: &Store,
    work: BorrowedFd<'_>,
    name: &[u8],
    digest: &Digest,
    about: &str,
) -> Result<bool> {
    let object = || format!("{about}/{digest}");
    let stat = fs::statat(work, name, AtFlags::SYMLINK_NOFOLLOW).about(object())?;
    let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    if !regular {
        tree::remove(work, name, about)?;
        return Ok(false);
    }
    if stat.st_nlink > 1 {
        durable::unlink(work, name).about(object())?;
        return Ok(false);
    }
    let file = open_work(work, name).about(object())?;
    let objects = store.objects();
    // Where the object is damaged, this is all that is left of its content.
    if objects.exists(digest)? && objects.same_content(file.as_fd(), digest)? {
        durable::unlink(work, name).about(object())?;
        return Ok(false);
    }
    if digest_of(file.as_fd()).about(object())? != *digest {
        log::error!(
            "{}: its content is not what it was; run `foldfs check`",
            object()
        );
        return Ok(false);
    }
    durable::sync(&file).about(object())?;
    Objects::strip(work, name)?;
    objects.replace(work, name, digest)?;
    Ok(true)
}
