//! Which objects a store refers to.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::FileType;

use super::context::Context;
use crate::archive::patch::{ContentId, PatchFile, PathVersion};
use crate::error::{Context as _, Error, Result};
use crate::store::Store;
use crate::store::catalog::{ChangeReads, Image, Reads};
use crate::store::digest::Digest;
use crate::store::layout;
use crate::store::mark::{self, Mark, Role};
use crate::store::tree::{self, Visitor};
use crate::sys::xattr;

/// The objects that the shared layers and the private layers of all images refer to, and those that changes
/// took away from somebody; `but_for`: without those of these changes.
///
/// No reference of an image that lives can be missed: while its private layer is read, its
/// family's change lock is held, so that the guest cannot move a stub from a directory that has
/// not been read yet into one that has. Nothing but an operation carries a reference from one
/// image to another, or out of the catalog; where the caller keeps those waiting
/// ([`Context::alone`]), the answer is complete.
///
/// # Errors
/// The catalog's and the file system's; an entry whose mark, or a change whose record, cannot be read.
pub fn references(context: &Context, but_for: &[i64]) -> Result<HashSet<Digest>> {
    let catalog = context.store.catalog();
    if !context.store.unfinished_changes()?.is_empty() {
        let cause = "a change is not carried out in all images yet, which needs its contents";
        return Err(Error::busy("objects", cause)
            .remedy("see what the log says of it, and open the store once more"));
    }
    let mut found = HashSet::new();
    for image in catalog.images()? {
        let change = context.images.change_lock(image.family);
        let _unchanged = change.write();
        of_image(context, &image, &mut found)?;
    }
    catalog.for_each_digest(|digest, _| {
        found.insert(digest);
        Ok(())
    })?;
    for change in catalog.kept_changes()? {
        if !but_for.contains(&change.id) {
            let before = before_change(&context.store, change.id)?;
            found.extend(before.into_iter().map(|content| content.digest));
        }
    }
    Ok(found)
}

/// The contents that a change took away from an image that there is still: with them it can be taken back.
///
/// # Errors
/// Its record cannot be read; those of the catalog.
pub fn before_change(store: &Store, change: i64) -> Result<HashSet<ContentId>> {
    let record = PatchFile::open_record(&store.change_path(change))?;
    let images = store.catalog().images_of_change(change)?;
    let is_touched = |position: &usize| {
        let mut images = images.iter();
        images.any(|(_, untouched)| !untouched.has(*position))
    };
    let touched = (0..record.entries.len()).filter(is_touched);
    let old = touched.filter_map(|position| record.entries[position].old.as_ref());
    Ok(old.filter_map(PathVersion::content_id).collect())
}

/// The stubs of one image, wherever they are: `private/`, `index/`, `orphans/`, `work/`.
fn of_image(context: &Context, image: &Image, found: &mut HashSet<Digest>) -> Result<()> {
    let directories = context.store.image_dirs(image.id)?;
    let about = format!("images/{}", image.id);
    let mut stubs = Stubs {
        about: &about,
        found,
    };
    tree::walk(directories.root.as_fd(), &about, &mut stubs)
}

struct Stubs<'a> {
    about: &'a str,
    found: &'a mut HashSet<Digest>,
}

impl Visitor for Stubs<'_> {
    fn entry(&mut self, directory: BorrowedFd<'_>, name: &[u8], kind: FileType) -> Result<()> {
        if kind != FileType::RegularFile {
            return Ok(());
        }
        // A private file on its way to become this object, whose stub is already in place.
        self.found.extend(layout::parse_work(name));
        let object = || format!("{}: {}", self.about, name.escape_ascii());
        let Some(bytes) = xattr::get(directory, name, mark::NAME.as_bytes()).about(object())?
        else {
            // Being built, or one of index/'s tokens.
            return Ok(());
        };
        let mark = Mark::decode(&bytes).map_err(|_| {
            Error::failed(
                object(),
                "its mark is damaged: what it refers to is not known",
            )
            .remedy("run `foldfs check`")
        })?;
        if let Role::Stub { digest } = mark.role {
            self.found.insert(digest);
        }
        Ok(())
    }
}
