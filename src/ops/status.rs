//! status: how many bytes images show, share and keep, and what the store saves.

use std::collections::HashSet;

use super::context::Context;
use super::report::{ImageStatus, StatusReport};
use crate::error::Result;
use crate::fold::content::LeftOut;
use crate::merge::lookup::Item;
use crate::merge::walk;
use crate::progress::Progress;
use crate::store::catalog::{Image, ImageRole, Reads};
use crate::store::digest::Digest;
use crate::store::mark::Role;
use crate::store::metadata::{Content, FileType};
use crate::store::number::Number;

/// Counts the images that `name` means: one, or a family's; without a name all, and then also what
/// the whole store occupies.
///
/// # Errors
/// Nothing has that name; the catalog's and the file system's. An image that is damaged is left out.
pub fn status(
    context: &Context,
    name: Option<&str>,
    progress: &dyn Progress,
) -> Result<StatusReport> {
    let mut contents = Contents::default();
    let (mut images, mut left_out) = (Vec::new(), LeftOut::new());
    for (image, family) in selected(context, name)? {
        progress.message(&format!("counting {}", image.name));
        let counted = counted(context, &image)
            .and_then(|count| Ok((count, context.store.image_allocated(image.id)?)));
        let (count, stored_bytes) = match counted {
            Ok(counted) => counted,
            Err(error) => {
                left_out.insert(image.id, error);
                continue;
            }
        };
        contents.add(&count);
        images.push(ImageStatus {
            family,
            role: image.role.as_str().to_owned(),
            inodes: count.inodes,
            logical_bytes: count.shared_bytes + count.private_bytes,
            shared_bytes: count.shared_bytes,
            private_bytes: count.private_bytes,
            stored_bytes,
            image: image.name,
        });
    }
    let guests = images
        .iter()
        .filter(|image| image.role != ImageRole::Base.as_str());
    let logical_bytes: u64 = guests.map(|image| image.logical_bytes).sum();
    let mut report = StatusReport {
        images,
        logical_bytes,
        unique_bytes: contents.bytes,
        stored_bytes: None,
        saved_bytes: None,
        objects: None,
        folding: context.passes.status(),
        damaged: damaged(context),
        left_out: super::damaged::sentences(context, &left_out),
    };
    if name.is_none() {
        progress.message("counting the store");
        let stored = context.store.allocated()?;
        let mut objects = 0;
        context.store.objects().for_each(|_| {
            objects += 1;
            Ok(())
        })?;
        report.stored_bytes = Some(stored);
        report.saved_bytes = Some(logical_bytes as i64 - stored as i64);
        report.objects = Some(objects);
    }
    Ok(report)
}

/// What this process has found damaged.
fn damaged(context: &Context) -> Vec<String> {
    let damaged = context.store.objects().verification().damaged();
    damaged
        .iter()
        .map(|(digest, _)| digest.to_string())
        .collect()
}

/// The images that a name means, each with its family's name.
fn selected(context: &Context, name: Option<&str>) -> Result<Vec<(Image, String)>> {
    let snapshot = context.store.catalog().snapshot()?;
    let images = match name {
        None => snapshot.images()?,
        // A family's name finds its base.
        Some(name) => match snapshot.image_by_name(name)? {
            None => return Err(super::unknown_name(name)),
            Some(base) if base.role == ImageRole::Base => snapshot.images_of(base.family)?,
            Some(image) => vec![image],
        },
    };
    let named = images.into_iter().map(|image| {
        let family = snapshot.family(image.family)?;
        Ok((image, family.map_or_else(String::new, |family| family.name)))
    });
    named.collect()
}

/// Contents that several images may have in common, each counted once.
#[derive(Default)]
struct Contents {
    known: HashSet<Digest>,
    bytes: u64,
}

impl Contents {
    fn add(&mut self, count: &Count) {
        self.bytes += count.own_bytes;
        for (digest, size) in &count.objects {
            if self.known.insert(*digest) {
                self.bytes += size;
            }
        }
    }
}

/// What one view shows.
#[derive(Default)]
struct Count {
    inodes: u64,
    shared_bytes: u64,
    private_bytes: u64,
    /// Private content that is no object.
    own_bytes: u64,
    objects: Vec<(Digest, u64)>,
    /// Inodes with several names that have been counted.
    linked: HashSet<Number>,
}

/// Counts a view while its guest may be at work. Where a change made the walk stumble, it is done
/// once more with the names held still.
fn counted(context: &Context, image: &Image) -> Result<Count> {
    if let Ok(count) = count(context, image) {
        return Ok(count);
    }
    let change = context.images.change_lock(image.family);
    let _unchanged = change.write();
    count(context, image)
}

fn count(context: &Context, image: &Image) -> Result<Count> {
    let view = context.images.view(image)?;
    let mut count = Count::default();
    walk::walk(&view, &mut |visit| {
        count.add(visit.item);
        Ok(true)
    })?;
    Ok(count)
}

impl Count {
    fn add(&mut self, item: &Item) {
        let several = match item {
            Item::Shared { inode, .. } => inode.content != Content::Directory && inode.links > 1,
            Item::Private { site, .. } => *site == crate::merge::lookup::Site::Index,
        };
        if several && !self.linked.insert(item.number()) {
            return;
        }
        self.inodes += 1;
        match item {
            Item::Shared { inode, .. } => {
                if let Content::Regular { size, digest } = inode.content {
                    self.shared_bytes += size;
                    self.objects.extend(digest.map(|digest| (digest, size)));
                }
            }
            Item::Private { stat, mark, .. } => {
                if FileType::from_mode(stat.st_mode) != Some(FileType::Regular) {
                    return;
                }
                let size = stat.st_size as u64;
                self.private_bytes += size;
                match mark.role {
                    Role::Stub { digest } => self.objects.push((digest, size)),
                    _ => self.own_bytes += size,
                }
            }
        }
    }
}
