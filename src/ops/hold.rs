//! hold and release: paths of an image that an administrator pinned. What stands there is the image's
//! own, content included, and stays so although it equals what others share.

use std::collections::HashSet;

use super::context::Context;
use super::report::{HeldPath, HoldReport, ReleaseReport};
use crate::error::{Error, Result};
use crate::filesystem::failure::Failure;
use crate::fold::holds;
use crate::merge::lookup::Item;
use crate::path_bytes::PathBytes;
use crate::progress::Progress;
use crate::store::catalog::{Image, Reads};
use crate::store::mark::Role;
use crate::store::metadata::Content;

/// An image, and paths of it as the catalog has them: names with "/" in between.
#[derive(Debug, Clone)]
pub struct Plan {
    image: Image,
    listed: bool,
    paths: Vec<Vec<u8>>,
}

impl Plan {
    /// What [`release`] does.
    pub fn report(&self) -> ReleaseReport {
        ReleaseReport {
            image: self.image.name.clone(),
            paths: self.paths.iter().map(|path| shown(path)).collect(),
        }
    }
}

/// A path from the root.
fn shown(path: &[u8]) -> PathBytes {
    PathBytes::from([&b"/"[..], path].concat())
}

/// The held path that a path is, or is below of.
pub(super) fn holding(holds: &[Box<[u8]>], names: &[&[u8]]) -> Option<PathBytes> {
    let covers = |path: &[u8]| {
        let above = holds::names(path);
        above.len() <= names.len()
            && above
                .iter()
                .zip(names)
                .all(|(left, right)| **left == **right)
    };
    let mut holds = holds.iter();
    holds.find(|path| covers(path)).map(|path| shown(path))
}

/// Which paths are meant; without any, all that are held.
///
/// # Errors
/// There is no such image; a usage error for what cannot be a path of one.
pub fn plan(context: &Context, image: &str, paths: &[PathBytes]) -> Result<Plan> {
    let catalog = context.store.catalog();
    let found = catalog.image_by_name(image)?;
    let image = found.ok_or_else(|| super::unknown_name(image))?;
    let mut chosen = Vec::new();
    for path in paths {
        chosen.push(super::path::names(path.as_bytes())?.join(&b'/'));
    }
    if paths.is_empty() {
        chosen.extend(catalog.holds(image.id)?.into_iter().map(Vec::from));
    }
    chosen.sort();
    chosen.dedup();
    Ok(Plan {
        image,
        listed: paths.is_empty(),
        paths: chosen,
    })
}

/// What stands at the paths, and what holding them would copy.
///
/// # Errors
/// Those of reading the view.
pub fn survey(context: &Context, plan: &Plan, progress: &dyn Progress) -> Result<HoldReport> {
    let filesystem = context.images.filesystem(plan.image.id)?;
    report(plan, progress, |path, held| {
        let mut seen = HashSet::new();
        filesystem.below(&holds::names(path), &mut |_, _, item| {
            if !seen.insert(item.number()) {
                return Ok(());
            }
            held.inodes += 1;
            if let Some(bytes) = to_copy(item) {
                held.shared_inodes += 1;
                held.shared_bytes += bytes;
            }
            Ok(())
        })
    })
}

/// The bytes of content that it takes to make an item the image's own; `None` if it is.
fn to_copy(item: &Item) -> Option<u64> {
    match item {
        Item::Shared { inode, .. } => match inode.content {
            Content::Regular { size, .. } => Some(size),
            _ => Some(0),
        },
        Item::Private { stat, mark, .. } => {
            matches!(mark.role, Role::Stub { .. }).then_some(stat.st_size as u64)
        }
    }
}

/// Makes what stands at the paths the image's own, then holds them.
///
/// # Errors
/// ENOSPC and other errors of the host: nothing more is held than before, and what was copied is
/// folded again.
pub fn apply(context: &Context, plan: &Plan, progress: &dyn Progress) -> Result<HoldReport> {
    let filesystem = context.images.filesystem(plan.image.id)?;
    // What was found to be redundant before goes now or not at all.
    filesystem.uncover()?;
    let report = report(plan, progress, |path, held| {
        let mut seen = HashSet::new();
        filesystem.below(&holds::names(path), &mut |directory, name, item| {
            held.inodes += u64::from(seen.insert(item.number()));
            if let Some(bytes) = filesystem.make_own(directory, name)? {
                held.shared_inodes += 1;
                held.shared_bytes += bytes;
                progress.advance(bytes);
            }
            Ok(())
        })
    })?;
    context.store.sync()?;
    let transaction = context.store.catalog().transaction()?;
    for path in &plan.paths {
        transaction.add_hold(plan.image.id, path)?;
    }
    transaction.commit()?;
    Ok(report)
}

fn report(
    plan: &Plan,
    progress: &dyn Progress,
    mut look: impl FnMut(&[u8], &mut HeldPath) -> std::result::Result<bool, Failure>,
) -> Result<HoldReport> {
    let mut paths = Vec::new();
    for path in &plan.paths {
        let mut held = HeldPath {
            path: shown(path),
            exists: false,
            inodes: 0,
            shared_inodes: 0,
            shared_bytes: 0,
        };
        let about = format!("{}:{}", plan.image.name, held.path);
        progress.message(&about);
        held.exists = look(path, &mut held).map_err(|failure| failure.about(about))?;
        paths.push(held);
    }
    Ok(HoldReport {
        image: plan.image.name.clone(),
        listed: plan.listed,
        paths,
    })
}

/// Which held paths are meant.
///
/// # Errors
/// As [`plan`]; a path is not held.
pub fn plan_release(context: &Context, image: &str, paths: &[PathBytes]) -> Result<Plan> {
    if paths.is_empty() {
        return Err(Error::usage("release", "no path is given"));
    }
    let plan = plan(context, image, paths)?;
    let held = context.store.catalog().holds(plan.image.id)?;
    for path in &plan.paths {
        if held.iter().any(|held| **held == **path) {
            continue;
        }
        let names = holds::names(path);
        let names: Vec<&[u8]> = names.iter().map(|name| &**name).collect();
        let object = format!("{}:{}", plan.image.name, shown(path));
        return Err(match holding(&held, &names) {
            Some(above) => Error::failed(object, format!("it is held with {above}"))
                .remedy(format!("release {above}")),
            None => Error::failed(object, "it is not held")
                .remedy("foldfs hold IMAGE shows what is held"),
        });
    }
    Ok(plan)
}

/// Lets the paths of a plan be folded again.
///
/// # Errors
/// Those of the catalog; nothing has changed then.
pub fn release(context: &Context, plan: &Plan) -> Result<()> {
    let transaction = context.store.catalog().transaction()?;
    for path in &plan.paths {
        transaction.delete_hold(plan.image.id, path)?;
    }
    transaction.commit()?;
    // Folding and placement have something new to look at.
    context.images.note_change(plan.image.id);
    Ok(())
}
