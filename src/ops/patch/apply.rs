//! patch apply: a patch becomes a change of a family: of its base and of every image, each path where the
//! image has what the patch says was there.
//!
//! 1. Every image is looked at and decided ([`super::decide`]); nothing is changed yet.
//! 2. Contents become objects. The patch, and what it means for each image, are written to `changes/`.
//! 3. One transaction adds the change to the catalog. Before it nothing has happened, after it
//!    everything: what is still to be done in an image is done before anybody gets to look at it,
//!    however often that is cut short ([`super::unfinished`]).
//! 4. Placement runs over the family.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::contents;
use super::target::Target;
use super::unfinished::{self, Withheld};
use crate::archive::patch::{PatchFile, PublicKey};
use crate::error::{Error, Result};
use crate::ops::Context;
use crate::ops::report::ApplyReport;
use crate::progress::Progress;
use crate::store::Store;
use crate::store::catalog::{Change, Family, ImageRole, Reads};
use crate::store::metadata::Time;

/// What becomes of a patch where an image has a version of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnConflict {
    /// The image keeps it; the rest is applied.
    #[default]
    Keep,
    /// Nothing is applied to any image.
    Fail,
}

/// What is wanted.
#[derive(Debug, Clone)]
pub struct ApplyOptions {
    /// The patch.
    pub file: PathBuf,
    /// Keys one of which must have signed it; none: anybody, or nobody.
    pub keys: Vec<PublicKey>,
    /// The family.
    pub family: String,
    /// Where an image has a version of its own.
    pub on_conflict: OnConflict,
    /// Who asks for it.
    pub who: String,
    /// What for.
    pub why: String,
}

/// What an application will do. While it lives nobody else gets to use the family's images.
pub struct ApplyPlan<'a> {
    options: ApplyOptions,
    family: Family,
    patch: PatchFile,
    targets: Vec<Target>,
    _withheld: Withheld<'a>,
}

impl ApplyPlan<'_> {
    /// Whether nothing may be applied because an image has a version of its own.
    fn is_refused(&self) -> bool {
        let keeps = |target: &Target| !target.report.conflicts.is_empty();
        self.options.on_conflict == OnConflict::Fail && self.targets.iter().any(keeps)
    }

    /// What is reported before and after.
    pub fn report(&self, change: Option<i64>) -> ApplyReport {
        let images = self.targets.iter().map(|target| target.report.clone());
        let images = images.collect();
        ApplyReport {
            file: self.options.file.clone().into(),
            family: self.family.name.clone(),
            change,
            applied: !self.is_refused(),
            paths: self.patch.table().entries.len() as u64,
            images,
        }
    }
}

/// Reads the patch and decides what becomes of each path of each image.
///
/// # Errors
/// The patch is none, damaged, or not signed as demanded; there is no such family; an image of it is
/// mounted or in use (kind Busy); those of reading.
pub fn plan<'a>(
    context: &'a Context,
    options: &ApplyOptions,
    progress: &dyn Progress,
) -> Result<ApplyPlan<'a>> {
    let patch = PatchFile::open(&options.file)?;
    patch.demand(&options.keys)?;
    let catalog = context.store.catalog();
    let family = catalog.family_by_name(&options.family)?.ok_or_else(|| {
        Error::failed(format!("{:?}", options.family), "there is no such family")
            .remedy("foldfs list shows all")
    })?;
    let mut images = catalog.images_of(family.id)?;
    images.retain(|image| image.role != ImageRole::Working);
    let withheld = Withheld::take(context, &images)?;
    let mut targets = Vec::new();
    for image in images {
        progress.message(&format!("looking at {}", image.name));
        targets.push(Target::new(context, image, patch.table())?);
    }
    Ok(ApplyPlan {
        options: options.clone(),
        family,
        patch,
        targets,
        _withheld: withheld,
    })
}

/// Applies a plan. When it returns, the change is on the disk.
///
/// # Errors
/// Before the change is committed nothing has changed: a content is missing, ENOSPC. After it, where an
/// image cannot be brought along: the error says so, nobody gets to use that image, and it is brought
/// along when the store is next opened.
pub fn apply(
    context: &Context,
    plan: ApplyPlan<'_>,
    progress: &dyn Progress,
) -> Result<ApplyReport> {
    let store = &context.store;
    if plan.is_refused() {
        return Ok(plan.report(None));
    }
    let changed = |target: &&Target| !target.steps.is_empty();
    if !plan.targets.iter().any(|target| changed(&target)) {
        return Ok(plan.report(None));
    }
    let needed = contents::needed(store, &plan.patch, &plan.targets)?;
    contents::provide(store, &plan.patch, &plan.targets, &needed, progress)?;
    let mut steps = Vec::new();
    for target in plan.targets.iter().filter(changed) {
        steps.push((target.image.id, target.steps.encode()?));
    }
    let change = store.catalog().next_change_id()?;
    let _readers = store.alter_placement()?;
    store.keep_change(change, plan.patch.file(), &steps)?;
    if let Err(error) = prove_kept(store, change, &plan.patch) {
        store.drop_uncommitted()?;
        return Err(error);
    }
    store.sync()?;
    let transaction = store.catalog().transaction()?;
    transaction.add_change(&Change {
        id: change,
        family: plan.family.id,
        time: Time::now().seconds,
        who: plan.options.who.clone(),
        kind: String::from("apply"),
        why: plan.options.why.clone(),
    })?;
    store.commit_generation(transaction)?;
    let report = plan.report(Some(change));
    let family = plan.family.id;
    progress.message("changing the images");
    let ApplyPlan {
        targets, _withheld, ..
    } = plan;
    drop(targets);
    let finished = unfinished::finish(context);
    drop(_withheld);
    finished?;
    drop(_readers);
    // The views are what they should be; where their bytes lie is another matter.
    if let Err(error) = crate::ops::place::run(context, family, false, progress) {
        let error = crate::ops::damaged::named(context, error);
        log::warn!("change {change} is made, but placement: {error}");
    }
    Ok(report)
}

/// That the store has got the very patch that was looked at: whoever made it may have written to it since.
fn prove_kept(store: &Store, change: i64, patch: &PatchFile) -> Result<()> {
    let kept = PatchFile::open(&store.change_path(change));
    match kept.is_ok_and(|kept| kept.digest() == patch.digest()) {
        true => Ok(()),
        false => Err(
            Error::failed("the patch", "it was altered while it was read")
                .remedy("stop what writes to it, and try again"),
        ),
    }
}
