//! Holds: what of an image is never folded.

use std::collections::HashSet;

use crate::error::Result;
use crate::filesystem::images::Images;
use crate::merge::list;
use crate::merge::lookup::{self, Item, OpenDirectory};
use crate::merge::view::View;
use crate::store::catalog::{Image, Reads};
use crate::store::number::Number;

/// The numbers of the private files that an image shows at held paths or below them.
///
/// # Errors
/// Those of the catalog and of reading the view.
pub fn of(images: &Images, image: &Image) -> Result<HashSet<Number>> {
    let mut held = HashSet::new();
    let paths = images.store().catalog().holds(image.id)?;
    if paths.is_empty() {
        return Ok(held);
    }
    let view = images.view(image)?;
    for path in &paths {
        below(&view, path, &mut held)?;
    }
    Ok(held)
}

fn below(view: &View, path: &[u8], held: &mut HashSet<Number>) -> Result<()> {
    let mut directory = OpenDirectory::root(view)?;
    let mut found = lookup::root(view)?;
    for name in path
        .split(|&byte| byte == b'/')
        .filter(|name| !name.is_empty())
    {
        let item = match found.directory() {
            Some(_) => lookup::lookup(view, directory.parts(), name)?,
            None => None,
        };
        let Some(item) = item else {
            return Ok(());
        };
        if let Some(next) = directory.descend(view, name, &item)? {
            directory = next;
        }
        found = item;
    }
    if found.directory().is_none() {
        note(&found, held);
        return Ok(());
    }
    let mut pending = vec![directory];
    while let Some(directory) = pending.pop() {
        for (name, item) in list::list(view, directory.parts())? {
            match directory.descend(view, &name, &item)? {
                Some(next) => pending.push(next),
                None => note(&item, held),
            }
        }
    }
    Ok(())
}

fn note(item: &Item, held: &mut HashSet<Number>) {
    if let Item::Private { mark, .. } = item {
        held.insert(mark.number);
    }
}
