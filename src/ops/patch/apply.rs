//! patch apply and revert: what a patch says becomes a change of a family: of its base and of every image,
//! each path where the image has what the patch says was there.
//!
//! 1. Every image is looked at and decided ([`super::decide`]); nothing is changed yet.
//! 2. Contents become objects, those that the change takes away from somebody, too: it can be taken back.
//!    What the base follows is done in the shared layer ([`super::sharing`]); images that show it and don't
//!    follow are covered. The change's record, and what is left for each image, are written to `changes/`.
//! 3. Kernels that have an image mounted are told to ask about what will change ([`Filesystem::unsettle`]).
//! 4. All images of the family are kept still, looked at and decided once more: a guest may have been at
//!    work. Where that needs what is not prepared, all of it is done again.
//! 5. One transaction adds the change to the catalog, and changes the shared layer. Before it nothing has
//!    happened, after it everything: what is still to be done in an image is done before anybody gets to look at it,
//!    however often that is cut short ([`super::unfinished`]).
//! 6. Placement runs over the family, if an image has got something private.
//!
//! [`Filesystem::unsettle`]: crate::filesystem::Filesystem::unsettle

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::make::{Made, make};
use super::running::Replaced;
use super::source::{self, Origin, Source};
use super::target::{Look, Target};
use crate::archive::patch::ContentId;
use crate::error::{Error, Result};
use crate::ops::Context;
use crate::ops::report::{ApplyReport, RunningProcess};
use crate::progress::Progress;
use crate::store::catalog::{Family, Image, ImageRole, Reads};

/// What becomes of a patch where an image has a version of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnConflict {
    /// The image keeps it; the rest is applied.
    #[default]
    Keep,
    /// It gets what the change brings.
    Replace,
    /// It gets both changes, where they are of different lines of a text, or of different metadata.
    Merge,
    /// Nothing is applied to any image.
    Fail,
}

/// What is wanted.
#[derive(Debug, Clone)]
pub struct ApplyOptions {
    /// What it is made of.
    pub source: Source,
    /// The family, if the source or the images don't say it.
    pub family: Option<String>,
    /// The images that it is applied to; none: all of the family, and its base.
    pub images: Vec<String>,
    /// Where an image has a version of its own.
    pub on_conflict: OnConflict,
    /// Who asks for it.
    pub who: String,
    /// What for.
    pub why: String,
}

/// How often it is begun again because guests were at work at the same paths.
const ATTEMPTS: usize = 8;

/// What an application will do, if no guest is at work at its paths until then.
pub struct ApplyPlan {
    pub(super) options: ApplyOptions,
    pub(super) family: Family,
    pub(super) origin: Origin,
    /// Those that somebody uses come first: they wait for nobody else.
    pub(super) targets: Vec<Target>,
    /// Of each target.
    pub(super) looks: Vec<Look>,
    /// Contents that come of merging, which nobody has yet.
    pub(super) merged: HashMap<ContentId, Vec<u8>>,
    /// How many variants the table has got for images that give up a version of their own.
    pub(super) given_up: usize,
}

impl ApplyPlan {
    /// Whether nothing may be applied because an image has a version of its own.
    fn is_refused(&self) -> bool {
        let keeps = Look::has_conflicts;
        self.options.on_conflict == OnConflict::Fail && self.looks.iter().any(keeps)
    }

    /// What is reported before and after.
    pub fn report(&self, change: Option<i64>) -> ApplyReport {
        let mut images: Vec<_> = self.targets.iter().zip(&self.looks).collect();
        images.sort_by_key(|(target, _)| target.image.id);
        // What is committed stands in the working tree itself.
        if matches!(self.options.source, Source::Working { .. }) {
            images.retain(|(target, _)| target.image.role != ImageRole::Working);
        }
        let images = images.into_iter().map(|(_, look)| look.report.clone());
        ApplyReport {
            source: self.origin.name.clone(),
            family: self.family.name.clone(),
            change,
            applied: !self.is_refused(),
            paths: self.origin.table.variants_at() as u64,
            images: images.collect(),
        }
    }

    /// Who goes on with what was replaced, and in which image.
    fn running(&self, context: &Context) -> Vec<(String, RunningProcess)> {
        let mut replaced = Replaced::new();
        for (target, look) in self.targets.iter().zip(&self.looks) {
            let mounts = context.mounted_on(target.image.id);
            let files = look.steps.replaced(&self.origin.table, &look.observed);
            replaced.add((target.image.id, &mounts), files);
        }
        let found = replaced.processes().into_iter();
        let named = found.filter_map(|(id, process)| {
            let target = self.targets.iter().find(|target| target.image.id == id)?;
            Some((target.image.name.clone(), process))
        });
        named.collect()
    }

    fn changes_nothing(&self) -> bool {
        self.looks.iter().all(|look| look.steps.is_empty())
    }

    fn look(&mut self, context: &Context, progress: &dyn Progress) -> Result<()> {
        let mut images = context.store.catalog().images_of(self.family.id)?;
        let named = &self.options.images;
        images.retain(|image| {
            // A working tree is compared with the base: what that gets it must get, too.
            let is_tree = image.role == ImageRole::Working && named.contains(&self.family.name);
            named.is_empty() || named.contains(&image.name) || is_tree
        });
        let spared = |image: &&Image| {
            named.contains(&image.name) && self.origin.untouched(image.id).is_none()
        };
        if let Some(image) = images.iter().find(spared) {
            let cause = format!("{} was not made in it", self.origin.name);
            let remedy = format!("foldfs log {} shows where it was", self.family.name);
            return Err(Error::failed(format!("image {}", image.name), cause).remedy(remedy));
        }
        let is_served = |image: &Image| {
            let live = context.images.live(image.id);
            live.is_some_and(|live| live.is_served())
        };
        images.sort_by_key(|image| !is_served(image));
        self.targets.clear();
        self.looks.clear();
        self.forget_variants();
        for image in images {
            let Some(untouched) = self.origin.untouched(image.id) else {
                continue;
            };
            context.images.view(&image)?;
            progress.message(&format!("looking at {}", image.name));
            let (target, look) = Target::new(context, image, untouched, &self.origin.table)?;
            self.targets.push(target);
            self.looks.push(look);
        }
        self.resolve(context)
    }
}

/// Reads the source and decides what becomes of each path of each image.
///
/// # Errors
/// Those of [`Origin::read`]; there is no such family or image; an image of it lacks something of a change
/// before (kind Busy); those of reading.
pub fn plan(
    context: &Context,
    options: &ApplyOptions,
    progress: &dyn Progress,
) -> Result<ApplyPlan> {
    let ApplyOptions { source, images, .. } = options;
    let (family, base) = source::family(context, source, options.family.as_deref(), images)?;
    let origin = Origin::read(context, source, (&family, &base), progress)?;
    let mut plan = ApplyPlan {
        options: options.clone(),
        family,
        origin,
        targets: Vec::new(),
        looks: Vec::new(),
        merged: HashMap::new(),
        given_up: 0,
    };
    plan.look(context, progress)?;
    Ok(plan)
}

/// Applies a plan. When it returns, the change is on the disk.
///
/// # Errors
/// Before the change is committed nothing has changed: a content is missing, ENOSPC, guests are at work at
/// the same paths all the time (kind Busy). After it, where an image cannot be brought along: the error
/// says so, nobody gets to see a name of that image, and it is brought along by the next command that
/// alters the store, or when it is next opened.
pub fn apply(
    context: &Context,
    mut plan: ApplyPlan,
    progress: &dyn Progress,
) -> Result<ApplyReport> {
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            plan.look(context, progress)?;
        }
        if plan.is_refused() || plan.changes_nothing() {
            return Ok(plan.report(None));
        }
        let Some(Made { change, is_placed }) = make(context, &mut plan, progress)? else {
            context.store.drop_uncommitted()?;
            continue;
        };
        // The views are what they should be; where their bytes lie is another matter.
        if !is_placed
            && let Err(error) = crate::ops::place::run(context, plan.family.id, false, progress)
        {
            let error = crate::ops::damaged::named(context, error);
            log::warn!("change {change} is made, but placement: {error}");
        }
        let processes = plan.running(context);
        // A look-up whose answer was on its way before all this may have reached the kernel after it.
        for (target, look) in plan.targets.iter().zip(&plan.looks) {
            target.filesystem.tell_changed(&look.affected);
        }
        let mut report = plan.report(Some(change));
        for (image, process) in processes {
            let found = report.images.iter_mut().find(|it| it.image == image);
            if let Some(found) = found {
                found.processes.push(process);
            }
        }
        return Ok(report);
    }
    let object = format!("family {}", plan.family.name);
    Err(
        Error::busy(object, "guests are at work at the same paths all the time")
            .remedy("try again, or unmount their images"),
    )
}
