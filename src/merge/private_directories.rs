//! The entries of a private layer, its directories above all, found by what their marks say: for those who come with a
//! number and look for the place.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::OFlags;

use super::lookup::damaged;
use super::view::View;
use crate::error::Result;
use crate::store::layer::{self, PrivateEntry};
use crate::store::mark::{DirectoryRole, Mark, Role};
use crate::store::number::Number;

/// The names that lead from the root to a private directory.
pub type PrivatePath = Vec<Box<[u8]>>;

/// A private directory below the root, still to be opened.
struct Pending {
    parent: Arc<OwnedFd>,
    path: PrivatePath,
}

/// Hands every private directory but the root to `take`, until it answers `false`.
///
/// # Errors
/// Those of reading the private layer.
pub fn private_directories(
    view: &View,
    take: &mut dyn FnMut(&PrivatePath, &Mark, DirectoryRole) -> bool,
) -> Result<()> {
    private_entries(view, &mut |parent, name, mark| {
        let Role::Directory(role) = mark.role else {
            return true;
        };
        let mut path = parent.clone();
        path.push(name.into());
        take(&path, mark, role)
    })
}

/// Where the private entry of this number stands; `None` if there is none below the root. One of
/// its names, if it has several.
///
/// # Errors
/// Those of reading the private layer.
pub fn path_of(view: &View, number: Number) -> Result<Option<PrivatePath>> {
    let mut found = None;
    private_entries(view, &mut |parent, name, mark| {
        if mark.number == number {
            let mut path = parent.clone();
            path.push(name.into());
            found = Some(path);
        }
        found.is_none()
    })?;
    Ok(found)
}

/// Where the private directory stands that merges with a shared one; `None` if there is none below
/// the root.
///
/// # Errors
/// Those of reading the private layer.
pub fn path_merging_with(view: &View, shared: Number) -> Result<Option<PrivatePath>> {
    let mut found = None;
    private_directories(view, &mut |path, _, role| {
        if role.shared() == Some(shared) {
            found = Some(path.clone());
        }
        found.is_none()
    })?;
    Ok(found)
}

/// Hands every marked entry to `take`, as its directory's path and its name, until it answers
/// `false`.
///
/// # Errors
/// Those of reading the private layer.
pub fn private_entries(
    view: &View,
    take: &mut dyn FnMut(&PrivatePath, &[u8], &Mark) -> bool,
) -> Result<()> {
    let root = layer::open_directory(view.layer.private(), b".", OFlags::PATH);
    let root = Arc::new(root.map_err(|error| damaged(view, b".", error))?);
    let mut pending = Vec::new();
    let mut next = Some((root, PrivatePath::new()));
    while let Some((directory, path)) = next {
        let names = layer::names_in(directory.as_fd());
        for name in names.map_err(|error| damaged(view, b".", error))? {
            let entry = layer::read_entry(directory.as_fd(), &name);
            let Some(PrivateEntry::Marked { mark, .. }) =
                entry.map_err(|error| damaged(view, &name, error))?
            else {
                continue;
            };
            if !take(&path, &name, &mark) {
                return Ok(());
            }
            if let Role::Directory(_) = mark.role {
                let mut path = path.clone();
                path.push(name.into());
                pending.push(Pending {
                    parent: directory.clone(),
                    path,
                });
            }
        }
        next = match pending.pop() {
            Some(Pending { parent, path }) => {
                let name: &[u8] = path.last().map_or(b".", |name| name);
                let opened = layer::open_directory(&*parent, name, OFlags::PATH);
                let opened = opened.map_err(|error| damaged(view, name, error))?;
                Some((Arc::new(opened), path))
            }
            None => None,
        };
    }
    Ok(())
}
