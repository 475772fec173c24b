//! Holds: what of an image is never folded, and never taken from the shared layer again.

use std::collections::HashSet;

use crate::error::Result;
use crate::filesystem::Filesystem;
use crate::filesystem::failure::Failure;
use crate::filesystem::images::Images;
use crate::merge::lookup::Item;
use crate::merge::private_directories::PrivatePath;
use crate::store::catalog::Reads;
use crate::store::number::{ImageId, Number};

/// The numbers of the private inodes, but directories, that an image shows at held paths or below
/// them.
///
/// # Errors
/// Those of the catalog and of reading the view.
pub fn of(images: &Images, image: ImageId) -> Result<HashSet<Number>> {
    if images.store().catalog().holds(image)?.is_empty() {
        return Ok(HashSet::new());
    }
    of_live(&*images.filesystem(image)?)
}

/// Likewise of an image that is alive.
///
/// # Errors
/// As [`of`].
pub fn of_live(filesystem: &Filesystem) -> Result<HashSet<Number>> {
    let mut held = HashSet::new();
    let image = filesystem.view.layer.image();
    for path in filesystem.store.catalog().holds(image)? {
        let walked = filesystem.below(&names(&path), &mut |_, _, item| {
            if let Item::Private { mark, .. } = item {
                held.insert(mark.number);
            }
            Ok(())
        });
        walked.map_err(|failure: Failure| failure.about(format!("images/{image}")))?;
    }
    Ok(held)
}

/// The names of a path, as the catalog has it.
pub fn names(path: &[u8]) -> PrivatePath {
    let names = path.split(|&byte| byte == b'/');
    let names = names.filter(|name| !name.is_empty());
    names.map(Box::from).collect()
}
