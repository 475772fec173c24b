//! When a private directory need not be: it is empty and shows what the shared one shows.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use rustix::fs::OFlags;

use crate::error::Result;
use crate::merge::lookup::damaged;
use crate::merge::view::View;
use crate::store::entry;
use crate::store::layer;
use crate::store::mark::{DirectoryRole, Mark, Role};
use crate::store::metadata::SharedInode;

/// Whether a private directory merged with the shared one at its place shows no difference.
///
/// # Errors
/// Those of reading the private layer.
pub fn could_withdraw(
    view: &View,
    parent: BorrowedFd<'_>,
    name: &[u8],
    stat: &rustix::fs::Stat,
    mark: &Mark,
    shared: &Arc<SharedInode>,
) -> Result<bool> {
    let shown = view.shown_as(shared.number, shared.ctime);
    if mark.number != shown.number {
        return Ok(false);
    }
    if let Role::Directory(DirectoryRole::Merged { .. }) = mark.role {
        let metadata = entry::read_metadata(parent, name, stat, mark);
        let metadata = metadata.map_err(|error| damaged(view, name, error))?;
        if metadata != view.as_shown(shared).metadata
            || entry::shown_ctime(stat, mark) != shown.ctime
        {
            return Ok(false);
        }
    }
    is_empty_on_host(view, parent, name)
}

/// Whether a private directory merged with the shared one at its place would show no difference if
/// the image had the right alias.
///
/// # Errors
/// Those of reading the private layer.
pub fn could_withdraw_with_alias(
    view: &View,
    parent: BorrowedFd<'_>,
    name: &[u8],
    stat: &rustix::fs::Stat,
    mark: &Mark,
    shared: &SharedInode,
) -> Result<bool> {
    let metadata = entry::read_metadata(parent, name, stat, mark);
    let metadata = metadata.map_err(|error| damaged(view, name, error))?;
    let merged = matches!(mark.role, Role::Directory(DirectoryRole::Merged { .. }));
    Ok(merged
        && metadata.equal_but_mtime(&shared.metadata)
        && is_empty_on_host(view, parent, name)?)
}

fn is_empty_on_host(view: &View, parent: BorrowedFd<'_>, name: &[u8]) -> Result<bool> {
    let fault = |error| damaged(view, name, error);
    let private = layer::open_directory(parent, name, OFlags::PATH).map_err(fault)?;
    Ok(layer::names_in(private.as_fd()).map_err(fault)?.is_empty())
}
