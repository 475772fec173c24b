//! What of a view is locked.

use super::locks::Locks;
use super::lookup::OpenDirectory;
use super::view::View;
use super::walk::{Visit, walk, walk_below};
use crate::error::Result;

/// Visits all that is locked, a directory before what is in it. Directories below which nothing can be
/// are not listed.
///
/// # Errors
/// The visitor's, and those of reading the view.
pub fn visit(
    view: &View,
    locks: &Locks,
    visitor: &mut dyn FnMut(&Visit<'_>) -> Result<()>,
) -> Result<()> {
    walk(view, &mut |visit| {
        let is_directory = visit.item.directory().is_some();
        if locks.of(visit.path, is_directory).is_some() {
            visitor(visit)?;
            return Ok(true);
        }
        Ok(is_directory && locks.may_reach_below(visit.path))
    })
}

/// Something below a directory of the view, whose path is `from`, that is locked there, or would be if the
/// directory's path were `to`: the path that is locked, and the pattern.
///
/// # Errors
/// Those of reading the view.
pub fn first_below(
    view: &View,
    directory: OpenDirectory,
    locks: &Locks,
    [from, to]: [&[u8]; 2],
) -> Result<Option<(Vec<u8>, String)>> {
    let mut found = None;
    walk_below(view, directory, b"", &mut |visit| {
        if found.is_some() {
            return Ok(false);
        }
        let is_directory = visit.item.directory().is_some();
        let mut reaches = false;
        for above in [from, to] {
            let path = [above, b"/", visit.path].concat();
            if let Some(pattern) = locks.of(&path, is_directory) {
                found = Some((path, pattern.to_owned()));
                return Ok(false);
            }
            reaches |= is_directory && locks.may_reach_below(&path);
        }
        Ok(reaches)
    })?;
    Ok(found)
}
