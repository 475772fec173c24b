//! Where an image shows a shared directory.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::OFlags;

use super::lookup::damaged;
use super::view::View;
use crate::error::Result;
use crate::store::catalog::Reads;
use crate::store::layer::{self, PrivateEntry};
use crate::store::mark::Role;
use crate::store::number::Number;

/// Where an image shows a shared directory.
#[derive(Debug)]
pub enum Located {
    /// Nowhere: it was removed or replaced, itself or further up.
    Nowhere,
    /// At its place in the shared layer, with nothing private in it.
    Plain,
    /// As this private directory, at its place or elsewhere (an O_PATH descriptor).
    Private(OwnedFd),
}

/// Finds where the image shows shared directory `directory`. At its own place a step for each level;
/// for a renamed one a scan of the private layer's directories.
pub fn locate(view: &View, directory: Number) -> Result<Located> {
    let open = |parent: BorrowedFd<'_>, name: &[u8]| {
        layer::open_directory(parent, name, OFlags::PATH)
            .map_err(|error| damaged(view, name, error))
    };
    if directory == view.root {
        return Ok(Located::Private(open(view.layer.private(), b".")?));
    }
    // From the directory up to the root or to the first one that stands elsewhere.
    let mut names = Vec::new();
    let mut top = directory;
    while top != view.root && !view.is_redirected(top) {
        let Some((parent, name)) = view.shared.catalog().names_of(top)?.into_iter().next() else {
            return Ok(Located::Nowhere);
        };
        names.push((top, name));
        top = parent;
    }
    let mut current = if top == view.root {
        open(view.layer.private(), b".")?
    } else {
        match find_redirected(view, top)? {
            Some(found) => found,
            None => return Ok(Located::Nowhere),
        }
    };
    for (number, name) in names.into_iter().rev() {
        let entry = layer::read_entry(current.as_fd(), &name);
        match entry.map_err(|error| damaged(view, &name, error))? {
            None => return Ok(Located::Plain),
            Some(PrivateEntry::Marked { mark, .. }) => match mark.role {
                Role::Directory(role) if role.shared() == Some(number) => {
                    current = open(current.as_fd(), &name)?;
                }
                _ => return Ok(Located::Nowhere),
            },
            Some(PrivateEntry::Whiteout) => return Ok(Located::Nowhere),
        }
    }
    Ok(Located::Private(current))
}

/// The private directory that merges with a shared one which was renamed in this image.
fn find_redirected(view: &View, directory: Number) -> Result<Option<OwnedFd>> {
    let open = |parent: BorrowedFd<'_>, name: &[u8]| {
        layer::open_directory(parent, name, OFlags::PATH)
            .map_err(|error| damaged(view, name, error))
    };
    let mut pending = vec![open(view.layer.private(), b".")?];
    while let Some(parent) = pending.pop() {
        let names = layer::names_in(parent.as_fd()).map_err(|error| damaged(view, b".", error))?;
        for name in names {
            let entry = layer::read_entry(parent.as_fd(), &name);
            let Some(PrivateEntry::Marked { mark, .. }) =
                entry.map_err(|error| damaged(view, &name, error))?
            else {
                continue;
            };
            let Role::Directory(role) = mark.role else {
                continue;
            };
            let child = open(parent.as_fd(), &name)?;
            if role.shared() == Some(directory) {
                return Ok(Some(child));
            }
            pending.push(child);
        }
    }
    Ok(None)
}

/// How many of a shared inode's names the image shows as shared entries (private ones are links of
/// its token).
pub fn shared_names_shown(view: &View, shared: Number) -> Result<u32> {
    let mut shown = 0;
    for (parent, name) in view.shared.catalog().names_of(shared)? {
        let hidden = match locate(view, parent)? {
            Located::Nowhere => true,
            Located::Plain => false,
            Located::Private(directory) => layer::read_entry(directory.as_fd(), &name)
                .map_err(|error| damaged(view, &name, error))?
                .is_some(),
        };
        shown += u32::from(!hidden);
    }
    Ok(shown)
}
