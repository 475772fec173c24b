//! What opening a store for writing clears up after a crash: debris only, never what an image
//! shows.
//!
//! - `staging/` is emptied; objects that were being collected go back: an import that still runs
//!   may have pinned them.
//! - `images/ID` goes when the catalog has no such image although the id was given once. (An id
//!   that was not: the catalog is an old copy, and `check` speaks of it.)
//! - Of every image, `orphans/` and `work/` are emptied, a `work/DIGEST` is finished.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::Dir;
use rustix::io::Errno;

use super::becoming;
use super::catalog::Reads;
use super::image_dirs::open_directory;
use super::layout;
use super::number::ImageId;
use super::open::Store;
use super::staging;
use super::tree;
use crate::error::{Context, Result};
use crate::sys::durable;

/// Clears up. The store is locked. The kernel goes on using the images `used`: their `orphans/` are left to those who
/// know what it uses.
pub(super) fn clear_up(store: &Store, used: &[ImageId]) -> Result<()> {
    staging::empty(store.staging(), |name, directory| {
        if name.starts_with(layout::WITHDRAWN.as_bytes()) {
            put_back(store, directory)?;
        }
        Ok(())
    })?;
    let last = store.catalog().last_image_id()?;
    for name in names(store.images(), layout::IMAGES)? {
        let Some(id) = layout::parse_image(&name) else {
            continue;
        };
        if store.catalog().image(id)?.is_some() {
            // The others are to work nonetheless; this one is cleared up when it comes to life.
            if let Err(error) = clear_image(store, id, used.contains(&id)) {
                log::warn!("{error}; run `foldfs check`");
            }
        } else if id <= last {
            log::info!("images/{id}: removed, it was not completed");
            store.retire_image(id)?;
        } else {
            log::warn!("images/{id}: the catalog does not know it; run `foldfs check`");
        }
    }
    Ok(())
}

fn put_back(store: &Store, withdrawn: BorrowedFd<'_>) -> Result<()> {
    for name in names(withdrawn, layout::STAGING)? {
        if let Some(digest) = layout::parse_work(&name) {
            store.objects().publish(withdrawn, &name, &digest)?;
        }
    }
    Ok(())
}

fn clear_image(store: &Store, id: ImageId, is_used: bool) -> Result<()> {
    let about = format!("images/{id}");
    let image = open_directory(store.images(), &layout::image_name(id)).about(&about)?;
    if !is_used && let Some(orphans) = part(image.as_fd(), layout::ORPHANS, &about)? {
        tree::remove_contents(orphans.as_fd(), &format!("{about}/orphans"))?;
    }
    let Some(work) = part(image.as_fd(), layout::WORK, &about)? else {
        return Ok(());
    };
    let about = format!("{about}/work");
    let mut finished = false;
    for name in names(work.as_fd(), &about)? {
        match layout::parse_work(&name) {
            Some(digest) => {
                finished |= becoming::finish_unproved(store, work.as_fd(), &name, &digest, &about)?
            }
            None => tree::remove(work.as_fd(), &name, &about)?,
        }
    }
    if finished {
        durable::sync_filesystem(work.as_fd()).about(&about)?;
    }
    Ok(())
}

/// A directory of an image; a damaged store may lack it, which is for `check` to say.
fn part(image: BorrowedFd<'_>, name: &str, about: &str) -> Result<Option<OwnedFd>> {
    match open_directory(image, name) {
        Ok(directory) => Ok(Some(directory)),
        Err(Errno::NOENT) => {
            log::warn!("{about}/{name} is missing; run `foldfs check`");
            Ok(None)
        }
        Err(errno) => Err(errno).about(format!("{about}/{name}")),
    }
}

fn names(directory: BorrowedFd<'_>, about: &str) -> Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    let mut entries = Dir::read_from(directory).about(about)?;
    while let Some(entry) = entries.read() {
        let entry = entry.about(about)?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}
