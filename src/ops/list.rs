//! list: the families and images of a store.

use super::context::Context;
use super::report::{ListReport, ListedFamily, ListedImage};
use crate::error::Result;
use crate::store::catalog::Reads;

/// The families and images, as of one instant; the context knows where images are mounted.
///
/// # Errors
/// The catalog's.
pub fn list(context: &Context) -> Result<ListReport> {
    let snapshot = context.store.catalog().snapshot()?;
    let mut families = Vec::new();
    for family in snapshot.families()? {
        families.push(ListedFamily {
            shared_inodes: snapshot.family_counts(family.id)?.inodes,
            name: family.name,
            os: family.os,
            os_version: family.os_version,
            architecture: family.architecture,
            share: family.share,
            created: family.created,
        });
    }
    let mut images = Vec::new();
    for image in snapshot.images()? {
        let family = snapshot.family(image.family)?;
        images.push(ListedImage {
            family: family.map_or_else(String::new, |family| family.name),
            role: image.role.as_str().to_owned(),
            created: image.created,
            mounted: context.mounted_on(image.id),
            source: image.source,
            name: image.name,
        });
    }
    Ok(ListReport { families, images })
}
