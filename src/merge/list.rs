//! All names of a directory of a view.

use std::collections::HashSet;

use super::lookup::{self, Item, Parts, damaged};
use super::view::View;
use crate::error::Result;
use crate::store::layer::{self, PrivateEntry};

/// One name and what it is.
pub type Named = (Box<[u8]>, Item);

/// The entries of a directory, sorted by the bytes of their names; each as [`lookup::lookup`] has it.
pub fn list(view: &View, parts: Parts<'_>) -> Result<Vec<Named>> {
    list_wanted(view, parts, &|_| true)
}

/// Those of them whose names are wanted; the others are not looked at.
pub fn list_wanted(
    view: &View,
    parts: Parts<'_>,
    wanted: &dyn Fn(&[u8]) -> bool,
) -> Result<Vec<Named>> {
    let mut entries = Vec::new();
    let mut decided = HashSet::new();
    if let Some(private) = parts.private {
        let names = layer::names_in(private).map_err(|error| damaged(view, b".", error))?;
        for name in names.into_iter().filter(|name| wanted(name)) {
            match layer::read_entry(private, &name).map_err(|error| damaged(view, &name, error))? {
                Some(PrivateEntry::Marked { stat, mark }) => {
                    let item = lookup::private_item(view, stat, mark)?;
                    entries.push((name.clone().into_boxed_slice(), item));
                }
                Some(PrivateEntry::Whiteout) => {}
                // Removed since the names were read.
                None => continue,
            }
            decided.insert(name);
        }
    }
    if let Some(shared) = parts.shared {
        let directory = view.shared.directory(shared)?;
        for (name, _) in directory.iter() {
            if decided.contains(name) || !wanted(name) {
                continue;
            }
            if let Some(item) = lookup::shared_item(view, &directory, name)? {
                entries.push((name.into(), item));
            }
        }
    }
    entries.sort_unstable_by(|(left, _), (right, _)| left.cmp(right));
    Ok(entries)
}

/// Whether the directory shows no name.
pub fn is_empty(view: &View, parts: Parts<'_>) -> Result<bool> {
    let mut decided = HashSet::new();
    if let Some(private) = parts.private {
        let names = layer::names_in(private).map_err(|error| damaged(view, b".", error))?;
        for name in names {
            match layer::read_entry(private, &name).map_err(|error| damaged(view, &name, error))? {
                Some(PrivateEntry::Marked { .. }) => return Ok(false),
                Some(PrivateEntry::Whiteout) => {}
                None => continue,
            }
            decided.insert(name);
        }
    }
    let Some(shared) = parts.shared else {
        return Ok(true);
    };
    let directory = view.shared.directory(shared)?;
    let mut names = directory.iter();
    Ok(names.all(|(name, _)| decided.contains(name)))
}
