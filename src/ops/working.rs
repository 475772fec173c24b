//! The working tree of a family: a clone of its base that somebody works in, until what was done there is
//! committed to the family or discarded. Guests see nothing of it, and it has no vote in placement.

use super::context::Context;
use super::report::{RemoveReport, WorkingReport};
use super::{clone, remove};
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::store::catalog::{Family, Image, ImageRole, Reads, check_name};
use crate::store::number::ImageId;

/// What making one will do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    family: Family,
    name: String,
    /// It is there already.
    stands: bool,
}

impl Plan {
    /// What is reported before and after.
    pub fn report(&self) -> WorkingReport {
        WorkingReport {
            family: self.family.name.clone(),
            image: self.name.clone(),
            made: !self.stands,
        }
    }
}

fn find(context: &Context, family: &Family) -> Result<Option<Image>> {
    let images = context.store.catalog().images_of(family.id)?;
    let mut images = images.into_iter();
    Ok(images.find(|image| image.role == ImageRole::Working))
}

/// The working tree of a family.
///
/// # Errors
/// There is none.
pub fn tree_of(context: &Context, family: &Family) -> Result<Image> {
    find(context, family)?.ok_or_else(|| {
        let remedy = format!("make one with `foldfs mount --shared {} DIR`", family.name);
        Error::failed(format!("family {}", family.name), "it has no working tree").remedy(remedy)
    })
}

/// Looks for the working tree of a family. `anew`: there must be none yet.
///
/// # Errors
/// There is no such family; there is one and must not be.
pub fn plan(context: &Context, family: &str, anew: bool) -> Result<Plan> {
    let catalog = context.store.catalog();
    let found = catalog.family_by_name(family)?;
    let family = found.ok_or_else(|| {
        Error::failed(format!("{family:?}"), "there is no such family")
            .remedy("foldfs list shows all")
    })?;
    let tree = find(context, &family)?;
    if let Some(tree) = tree.as_ref().filter(|_| anew) {
        let cause = "there is a working tree of the family already";
        let remedy = format!("foldfs commit {0}, or foldfs discard {0}", family.name);
        return Err(Error::failed(format!("image {}", tree.name), cause).remedy(remedy));
    }
    let stands = tree.is_some();
    let name = match tree {
        Some(tree) => tree.name,
        None => free_name(context, &family)?,
    };
    Ok(Plan {
        family,
        name,
        stands,
    })
}

fn free_name(context: &Context, family: &Family) -> Result<String> {
    let is_free = |name: &str| -> Result<bool> {
        let taken = context.store.catalog().image_by_name(name)?.is_some();
        Ok(check_name(name).is_ok() && !taken)
    };
    let mut name = format!("{}.work", family.name);
    let mut count = 1;
    while !is_free(&name)? {
        count += 1;
        name = format!("family-{}.work-{count}", family.id.0);
    }
    Ok(name)
}

/// Makes it, unless it is there.
///
/// # Errors
/// Those of cloning.
pub fn apply(context: &Context, plan: &Plan, progress: &dyn Progress) -> Result<WorkingReport> {
    if !plan.stands {
        let options = clone::Options {
            from: plan.family.name.clone(),
            to: plan.name.clone(),
            frozen: false,
            reset: None,
        };
        let plan = clone::plan(context, &options)?.working();
        clone::apply(context, &plan, progress)?;
    }
    Ok(plan.report())
}

/// What discarding the working tree of a family will do.
///
/// # Errors
/// There is no such family, or it has none; it is mounted or in use (kind Busy).
pub fn plan_discard(context: &Context, family: &str) -> Result<remove::Plan> {
    let plan = plan(context, family, false)?;
    remove::plan(context, &tree_of(context, &plan.family)?.name)
}

/// If nobody works in the working tree of a family: the tree, and how often it was mounted so far. Another answer later
/// tells that somebody has worked in it since.
pub fn unmounted(context: &Context, family: &str) -> Option<(ImageId, u64)> {
    let family = context.store.catalog().family_by_name(family).ok()??;
    let tree = tree_of(context, &family).ok()?;
    let mountings = context.mountings(tree.id);
    let is_unmounted = context.mounted_on(tree.id).is_empty();
    is_unmounted.then_some((tree.id, mountings))
}

/// Removes the working tree of a family after its commit, unless it is mounted: who works in it goes on.
///
/// # Errors
/// Those of removing it.
pub fn end(
    context: &Context,
    family: &str,
    progress: &dyn Progress,
) -> Result<Option<RemoveReport>> {
    match plan_discard(context, family) {
        Err(error) if error.kind == crate::error::ErrorKind::Busy => Ok(None),
        plan => remove::apply(context, &plan?, progress).map(Some),
    }
}
