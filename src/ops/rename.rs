//! rename: another name for an image, or for a family and its base.

use super::context::Context;
use super::report::RenameReport;
use crate::error::{Error, Result};
use crate::store::catalog::{ImageRole, Reads, check_name};
use crate::store::number::{FamilyId, ImageId};

/// What a rename will do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    from: String,
    to: String,
    what: What,
}

/// What has the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Image(ImageId),
    Family(FamilyId),
}

impl Plan {
    /// What is reported before and after.
    pub fn report(&self) -> RenameReport {
        RenameReport {
            from: self.from.clone(),
            to: self.to.clone(),
            family: matches!(self.what, What::Family(_)),
        }
    }
}

/// Decides what `from` is: a family's name is its base's too, so both are renamed.
///
/// # Errors
/// Nothing is called `from`; `to` is taken or no name.
pub fn plan(context: &Context, from: &str, to: &str) -> Result<Plan> {
    check_name(to)?;
    let catalog = context.store.catalog();
    let what = match catalog.image_by_name(from)? {
        Some(image) if image.role == ImageRole::Base => What::Family(image.family),
        Some(image) => What::Image(image.id),
        None => return Err(super::unknown_name(from)),
    };
    if from != to && catalog.image_by_name(to)?.is_some() {
        return Err(Error::failed(format!("name {to:?}"), "it exists already")
            .remedy("choose another name"));
    }
    Ok(Plan {
        from: from.to_owned(),
        to: to.to_owned(),
        what,
    })
}

/// Renames, in one transaction. A mounted image stays mounted.
///
/// # Errors
/// The name was taken meanwhile; the catalog's.
pub fn apply(context: &Context, plan: &Plan) -> Result<()> {
    let transaction = context.store.catalog().transaction()?;
    match plan.what {
        What::Image(id) => transaction.rename_image(id, &plan.to)?,
        What::Family(id) => transaction.rename_family(id, &plan.to)?,
    }
    transaction.commit()
}
