//! The directories of a private layer, found by what their marks say: for those who come with a
//! number and look for the place.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::OFlags;

use super::lookup::damaged;
use super::view::View;
use crate::error::Result;
use crate::store::layer::{self, PrivateEntry};
use crate::store::mark::{DirectoryRole, Mark, Role};

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
            let Role::Directory(role) = mark.role else {
                continue;
            };
            let mut path = path.clone();
            path.push(name.into());
            if !take(&path, &mark, role) {
                return Ok(());
            }
            pending.push(Pending {
                parent: directory.clone(),
                path,
            });
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
