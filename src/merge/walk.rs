//! A whole view, depth first.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::list::{self, Named};
use super::lookup::{Item, OpenDirectory, Site, damaged};
use super::view::View;
use crate::error::Result;
use crate::store::layer::Layer;
use crate::sys::regular;

/// One entry on the way.
pub struct Visit<'a> {
    /// From the root, separated by '/', without a leading one; empty for the root itself.
    pub path: &'a [u8],
    /// The directory that holds the entry; for the root, the root.
    pub parent: &'a OpenDirectory,
    /// The entry's name; "." for the root.
    pub name: &'a [u8],
    /// What it is.
    pub item: &'a Item,
}

impl Visit<'_> {
    /// The host directory and name where a private item's inode lies; `None` for a shared one.
    pub fn host<'b>(&'b self, view: &'b View) -> Option<(BorrowedFd<'b>, Vec<u8>)> {
        match self.item {
            Item::Private {
                site: Site::Entry, ..
            } => self
                .parent
                .private
                .as_ref()
                .map(|parent| (parent.as_fd(), self.name.to_vec())),
            Item::Private {
                site: Site::Index,
                mark,
                ..
            } => Some((view.layer.index(), Layer::number_name(mark.number))),
            Item::Shared { .. } => None,
        }
    }

    /// Opens the private file for reading; `None` for a shared one.
    pub fn open_private(&self, view: &View) -> Result<Option<OwnedFd>> {
        let Some((directory, name)) = self.host(view) else {
            return Ok(None);
        };
        regular::open(directory, &name).map_err(|error| damaged(view, &name, error))
    }
}

struct Level {
    directory: OpenDirectory,
    entries: std::vec::IntoIter<Named>,
    path_length: usize,
}

/// Visits the root, then every entry, a directory before what is in it, the entries of a directory
/// in the order of their names' bytes. A visitor that answers `false` for a directory has it left
/// out with all that is below it. Holds one descriptor for each private level of the depth.
///
/// # Errors
/// The visitor's, and those of [`list::list`].
pub fn walk(view: &View, visitor: &mut dyn FnMut(&Visit<'_>) -> Result<bool>) -> Result<()> {
    let root = OpenDirectory::root(view)?;
    let item = super::lookup::root(view)?;
    if !visitor(&Visit {
        path: b"",
        parent: &root,
        name: b".",
        item: &item,
    })? {
        return Ok(());
    }
    walk_below(view, root, b"", visitor)
}

/// Likewise what is below a directory, whose path is given.
///
/// # Errors
/// As [`walk`].
pub fn walk_below(
    view: &View,
    directory: OpenDirectory,
    path: &[u8],
    visitor: &mut dyn FnMut(&Visit<'_>) -> Result<bool>,
) -> Result<()> {
    let mut path = path.to_vec();
    let entries = list::list(view, directory.parts())?.into_iter();
    let mut levels = vec![Level {
        directory,
        entries,
        path_length: path.len(),
    }];
    while let Some(level) = levels.last_mut() {
        path.truncate(level.path_length);
        let Some((name, item)) = level.entries.next() else {
            levels.pop();
            continue;
        };
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(&name);
        let visit = Visit {
            path: &path,
            parent: &level.directory,
            name: &name,
            item: &item,
        };
        if !visitor(&visit)? {
            continue;
        }
        if let Some(directory) = level.directory.descend(view, &name, &item)? {
            let entries = list::list(view, directory.parts())?.into_iter();
            levels.push(Level {
                directory,
                entries,
                path_length: path.len(),
            });
        }
    }
    Ok(())
}
