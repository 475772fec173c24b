//! remove: an image goes, and what only one image of its family still uses goes back into that one;
//! a family goes with its base when no guest is left.

use super::Context;
use super::report::RemoveReport;
use crate::error::{Error, Result};
use crate::fold::placement;
use crate::progress::Progress;
use crate::store::catalog::{Family, Image, ImageRole, Reads};

/// What a removal will do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    image: Image,
    family: Family,
    /// The image is the base, and nothing else is left of the family.
    whole_family: bool,
    withdrawn: u64,
}

impl Plan {
    /// What is reported before and after.
    pub fn report(&self) -> RemoveReport {
        RemoveReport {
            image: self.image.name.clone(),
            family: self.family.name.clone(),
            family_removed: self.whole_family,
            withdrawn: self.withdrawn,
        }
    }
}

/// Decides what goes.
///
/// # Errors
/// Nothing is called so; the image is mounted or in use (kind Busy); it is the base of other images.
pub fn plan(context: &Context, name: &str) -> Result<Plan> {
    let catalog = context.store.catalog();
    let image = catalog
        .image_by_name(name)?
        .ok_or_else(|| super::unknown_name(name))?;
    let object = format!("image {name}");
    let missing = || Error::failed(&object, "its family is missing in the catalog");
    let family = catalog.family(image.family)?.ok_or_else(missing)?;
    let mounted = context.mounted_on(image.id);
    if let Some(place) = mounted.first() {
        let busy = Error::busy(&object, format!("it is mounted on {place}"));
        return Err(busy.remedy(format!("foldfs unmount {place}")));
    }
    if context.images.live(image.id).is_some() {
        return Err(Error::busy(&object, "it is in use"));
    }
    let others = catalog.images_of(family.id)?.len() - 1;
    let whole_family = image.role == ImageRole::Base;
    if whole_family && others > 0 {
        let cause = format!("it is the base of a family with {others} more images");
        return Err(Error::failed(&object, cause).remedy("remove those first"));
    }
    let withdrawn = match whole_family {
        true => 0,
        false => {
            match placement::plan_without(&context.images, family.id, Some(image.id)) {
                Ok(work) => work.placement.counts().withdrawn,
                // Another image is damaged: what only this one uses stays in the shared layer.
                Err(error) => {
                    let error = super::damaged::named(context, error);
                    log::warn!("family {}: placement is left out: {error}", family.name);
                    0
                }
            }
        }
    };
    Ok(Plan {
        image,
        family,
        whole_family,
        withdrawn,
    })
}

/// Removes the image, then places the family's versions anew. Its contents are for `collect`.
///
/// # Errors
/// The image came into use, or the catalog fails: nothing is changed. What fails afterwards is logged: it is made good
/// when the store is next opened, and by the next fold.
pub fn apply(context: &Context, plan: &Plan, progress: &dyn Progress) -> Result<RemoveReport> {
    context.images.end(&plan.image, || {
        let transaction = context.store.catalog().transaction()?;
        match plan.whole_family {
            true => transaction.delete_family(plan.family.id)?,
            false => transaction.delete_image(plan.image.id)?,
        }
        context.store.commit_generation(transaction)
    })?;
    context.images.shared().forget();
    super::import::back_up(&context.store);
    if let Err(error) = context.store.retire_image(plan.image.id) {
        log::warn!("{error}");
    }
    let mut report = plan.report();
    if !plan.whole_family {
        match super::place::run(context, plan.family.id, false, progress) {
            Ok(counts) => report.withdrawn = counts.withdrawn,
            Err(error) => {
                let error = super::damaged::named(context, error);
                log::warn!("image {} is gone, but placement: {error}", plan.image.name);
            }
        }
    }
    Ok(report)
}
