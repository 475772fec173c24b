//! What a change does to the shared layer, for all images of the family: who has it from there, and who must
//! be covered first.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::apply::ApplyPlan;
use super::shared::{Part, SharedSteps};
use super::target::Look;
use crate::error::{Context as _, Result};
use crate::filesystem::Filesystem;
use crate::filesystem::failure::Failure;
use crate::filesystem::follow::Alteration;
use crate::merge::locate::{Located, locate};
use crate::ops::Context;
use crate::store::catalog::{ImageRole, Reads};
use crate::store::layer::{self, PrivateEntry};
use crate::store::mark::{DirectoryRole, Role};

/// What becomes of the shared layer, and of each image beside it.
pub(super) struct Sharing {
    steps: SharedSteps,
    /// Of each target.
    pub parts: Vec<Part>,
    /// The images of the family that the change is not about.
    pub others: Vec<Arc<Filesystem>>,
}

impl Sharing {
    /// Decides it, by what was seen.
    ///
    /// # Errors
    /// Those of the catalog, and of bringing the other images to life.
    pub(super) fn of(context: &Context, plan: &ApplyPlan) -> Result<Self> {
        let mut sharing = Self {
            steps: steps(context, plan)?,
            parts: Vec::new(),
            others: Vec::new(),
        };
        if !sharing.steps.is_empty() {
            for image in context.store.catalog().images_of(plan.family.id)? {
                if !plan.targets.iter().any(|it| it.image.id == image.id) {
                    sharing.others.push(context.images.filesystem(image.id)?);
                }
            }
        }
        sharing.parts = sharing.parts_of(plan);
        sharing.leave_to_the_many(plan);
        Ok(sharing)
    }

    fn parts_of(&self, plan: &ApplyPlan) -> Vec<Part> {
        let parts = plan.looks.iter().map(|look| self.part(plan, look));
        parts.collect()
    }

    fn part(&self, plan: &ApplyPlan, look: &Look) -> Part {
        self.steps
            .part(&plan.origin.table, &look.steps, &look.observed)
    }

    /// What most images don't take from the shared layer stays there as it is: placement would bring it back.
    fn leave_to_the_many(&mut self, plan: &ApplyPlan) {
        let images = self.parts.len() + self.others.len();
        let parts = &self.parts;
        let mut steps = self.steps.clone();
        steps.retain(|position| {
            let has = |part: &&Part| part.satisfied.contains(&position);
            parts.iter().filter(has).count() * 2 >= images
        });
        if steps != self.steps {
            self.steps = steps;
            self.parts = self.parts_of(plan);
        }
    }

    /// Whether nothing is left to placement.
    pub(super) fn is_all(&self) -> bool {
        let nothing = BTreeSet::new();
        let has_all = |part: &Part| part.own.is_empty() && self.is_satisfied(&part.satisfied);
        self.parts.iter().all(has_all) && (self.others.is_empty() || self.is_satisfied(&nothing))
    }

    fn is_satisfied(&self, satisfied: &BTreeSet<usize>) -> bool {
        self.steps.names_without(satisfied).is_empty()
            && self.steps.directories_without(satisfied).next().is_none()
    }

    /// Who shows what the shared layer has now, and goes on to, gets it privately. Nothing of that shows.
    ///
    /// # Errors
    /// Those of the host, ENOSPC for one; what is covered by then stays so.
    pub(super) fn cover(&self, plan: &ApplyPlan) -> Result<()> {
        let nothing = BTreeSet::new();
        let targets = plan.targets.iter().zip(&self.parts);
        let targets = targets.map(|(target, part)| (&target.filesystem, &part.satisfied));
        let others = self.others.iter().map(|other| (other, &nothing));
        for (filesystem, satisfied) in targets.chain(others) {
            let image = filesystem.view.layer.image();
            let about = |failure: Failure| failure.about(format!("images/{image}"));
            for (directory, names) in self.steps.names_without(satisfied) {
                filesystem.cover(directory, &names).map_err(about)?;
            }
            for directory in self.steps.directories_without(satisfied) {
                filesystem.cover_metadata(directory).map_err(about)?;
            }
        }
        Ok(())
    }

    /// Looks at a plan again, while all images are still: what it means now, if the shared layer is to become
    /// the same as before.
    ///
    /// # Errors
    /// As [`Sharing::of`].
    pub(super) fn again(&self, context: &Context, plan: &ApplyPlan) -> Result<Option<Vec<Part>>> {
        let mut steps = steps(context, plan)?;
        steps.retain(|position| self.steps.has(position));
        Ok((steps == self.steps).then(|| self.parts_of(plan)))
    }

    /// Makes every image independent of what it doesn't want, as far as that needs no preparation; whether it
    /// is. All of them are still.
    ///
    /// # Errors
    /// Those of the host and the catalog.
    pub(super) fn part_with<'a>(
        &self,
        targets: &mut [Alteration<'a>],
        others: &mut [Alteration<'a>],
    ) -> Result<bool> {
        let nothing = BTreeSet::new();
        let targets = targets.iter_mut().zip(&self.parts);
        let targets = targets.map(|(still, part)| (still, &part.satisfied));
        let others = others.iter_mut().map(|still| (still, &nothing));
        for (still, satisfied) in targets.chain(others) {
            if !self.is_covered(still.filesystem(), satisfied)? {
                return Ok(false);
            }
            let image = still.filesystem().view.layer.image();
            for directory in self.steps.directories() {
                let kept = still.keep_unlinked_metadata(directory);
                kept.map_err(|failure| failure.about(format!("images/{image}")))?;
            }
            for (position, leaving) in self.steps.leaving() {
                let parts = still.part_with(leaving, satisfied.contains(&position));
                if !parts.map_err(|failure| failure.about(format!("images/{image}")))? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn is_covered(&self, filesystem: &Filesystem, satisfied: &BTreeSet<usize>) -> Result<bool> {
        let view = &filesystem.view;
        let about = |name: &[u8]| format!("images/{}: {}", view.layer.image(), name.escape_ascii());
        for (directory, names) in self.steps.names_without(satisfied) {
            let private = match locate(view, directory)? {
                Located::Nowhere => continue,
                Located::Plain => return Ok(false),
                Located::Private(private) => private,
            };
            for name in names {
                let entry = layer::read_entry(private.as_fd(), name).about(about(name))?;
                if entry.is_none() {
                    return Ok(false);
                }
            }
        }
        for directory in self.steps.directories_without(satisfied) {
            let private = match locate(view, directory)? {
                Located::Nowhere => continue,
                Located::Plain => return Ok(false),
                Located::Private(private) => private,
            };
            let entry = layer::read_entry(private.as_fd(), b".").about(about(b"."))?;
            let Some(PrivateEntry::Marked { mark, .. }) = entry else {
                return Ok(false);
            };
            if let Role::Directory(DirectoryRole::Transparent { .. }) = mark.role {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What becomes of the shared layer.
    pub(super) fn steps(&self) -> &SharedSteps {
        &self.steps
    }

    /// The shared layer has changed. An image that is to get something of its own, too, shows nothing before it has.
    ///
    /// # Errors
    /// The catalog cannot be read; no image shows anything then.
    pub(super) fn has_changed<'a>(
        &self,
        context: &Context,
        targets: &mut [Alteration<'a>],
        others: &mut [Alteration<'a>],
    ) -> Result<()> {
        if self.steps.is_empty() {
            return Ok(());
        }
        context.images.shared().forget();
        let mut outcome = Ok(());
        let has_all = self.parts.iter().map(|part| part.own.is_empty());
        let others = others.iter_mut().map(|still| (still, true));
        for (still, has_all) in targets.iter_mut().zip(has_all).chain(others) {
            still.begin();
            still.parted();
            match still.filesystem().view.reload_aliases() {
                Ok(()) if has_all => still.finish(),
                Ok(()) => {}
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
        outcome
    }
}

/// What the shared layer is to become: what the base follows.
fn steps(context: &Context, plan: &ApplyPlan) -> Result<SharedSteps> {
    let mut targets = plan.targets.iter().zip(&plan.looks);
    let base = targets.find(|(target, _)| target.image.role == ImageRole::Base);
    match base {
        Some((_, look)) => SharedSteps::of(
            &plan.origin.table,
            (&look.steps, &look.observed),
            context.images.shared(),
        ),
        None => Ok(SharedSteps::default()),
    }
}
