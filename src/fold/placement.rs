//! Placement carried out: cover, commit, uncover (docs/format.md). Every view is the same before,
//! after, and between any two steps; guests may go on working all the time.
//!
//! The three steps are separate calls, so that tests can put a guest's operations between them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;
use rayon::prelude::*;

use super::effort::Effort;
use super::{commit, holds};
use crate::error::{Error, Result};
use crate::filesystem::Filesystem;
use crate::filesystem::failure::Failure;
use crate::filesystem::images::Images;
use crate::merge::placement::{self, Becomes, Counts, Directory, Participant, Placement};
use crate::store::becoming;
use crate::store::catalog::{Family, ImageRole, Reads, Share};
use crate::store::metadata::Content;
use crate::store::number::{FamilyId, ImageId, Number};

/// A placement of one family, under way.
pub struct Work {
    /// The family.
    pub family: Family,
    /// What is to be done.
    pub placement: Placement,
    /// All images of the family, alive.
    pub(super) images: Vec<(ImageId, Arc<Filesystem>)>,
}

/// What a commit did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Done {
    /// What the shared layer got and lost.
    pub counts: Counts,
    /// Changes that were left out because a guest was at work there.
    pub left_out: u64,
}

/// Plans the placement of a family.
///
/// # Errors
/// Those of reading the private layers and the catalog.
pub fn plan(images: &Images, family: FamilyId) -> Result<Work> {
    plan_without(images, family, None)
}

/// Plans the placement of a family as if one of its images were gone.
///
/// # Errors
/// As [`plan`].
pub fn plan_without(images: &Images, family: FamilyId, gone: Option<ImageId>) -> Result<Work> {
    let catalog = images.store().catalog();
    let missing = || Error::failed(format!("family {family}"), "it does not exist");
    let family = catalog.family(family)?.ok_or_else(missing)?;
    let mut live = Vec::new();
    let mut voting = Vec::new();
    let mut rows = catalog.images_of(family.id)?;
    rows.retain(|image| Some(image.id) != gone);
    for image in rows {
        live.push((image.id, images.filesystem(image.id)?));
        voting.push(image.role);
    }
    let held = live.iter().map(|(_, live)| holds::of_live(live));
    let held = held.collect::<Result<Vec<_>>>()?;
    let participants: Vec<Participant<'_>> = live
        .iter()
        .zip(voting.iter().zip(&held))
        .filter(|(_, (role, _))| **role != ImageRole::Working)
        .map(|((_, filesystem), (role, held))| Participant {
            view: &filesystem.view,
            names: filesystem.names_lock(),
            base: *role == ImageRole::Base,
            held,
        })
        .collect();
    let placement = placement::plan(images.shared(), family.root, family.share, &participants)?;
    Ok(Work {
        family,
        placement,
        images: live,
    })
}

impl Work {
    /// Makes every view independent of what is about to change, durably.
    ///
    /// # Errors
    /// Errors of the host; what is covered by then stays so, which no view shows.
    pub fn cover(&self, images: &Images) -> Result<()> {
        // What a fold that failed left on its way to become an object can be read in its own image
        // only: the shared layer is for all.
        for (image, filesystem) in &self.images {
            let work = filesystem.view.layer.work();
            becoming::finish_left(images.store(), work, &format!("images/{image}/work"))?;
        }
        let mut gone = HashSet::new();
        let mut covered = false;
        // From the leaves up, so that a directory that leaves has nothing shared in it by then.
        let changes = self.placement.changes.iter().rev();
        let changes: Vec<_> = changes
            .filter(|change| change.new != Becomes::Same)
            .collect();
        for alike in changes.chunk_by(|left, right| left.directory == right.directory) {
            let Some(Directory::Shared(directory)) = alike.first().map(|change| change.directory)
            else {
                continue;
            };
            covered = true;
            let names: Vec<&[u8]> = alike.iter().map(|change| &*change.name).collect();
            let olds = alike.iter().filter_map(|change| change.old.as_ref());
            let emptied = olds.clone().filter(|old| old.content == Content::Directory);
            let emptied: Vec<Number> = emptied.map(|old| old.number).collect();
            gone.extend(olds.map(|old| old.number));
            for (image, filesystem) in &self.images {
                let about = |failure: Failure| failure.about(format!("images/{image}"));
                filesystem.cover(directory, &names).map_err(about)?;
                for number in &emptied {
                    filesystem.cover_directory(*number).map_err(about)?;
                }
            }
        }
        if !gone.is_empty() {
            for (image, filesystem) in &self.images {
                let about = |failure: Failure| failure.about(format!("images/{image}"));
                filesystem.cover_unlinked(&gone).map_err(about)?;
            }
        }
        if covered {
            images.store().sync()?;
        }
        Ok(())
    }

    /// Changes the shared layer, in one transaction, wherever the images are still covered.
    ///
    /// # Errors
    /// Nothing has changed then.
    pub fn commit(&self, images: &Images) -> Result<Done> {
        commit::commit(images, self)
    }

    /// Removes what has become redundant.
    ///
    /// # Errors
    /// Errors of the host; the rest is done when the image is next brought to life.
    pub fn uncover(&self, images: &Images) -> Result<u64> {
        self.uncover_by(images, &Effort::full(1))
    }

    fn uncover_by(&self, images: &Images, effort: &Effort<'_>) -> Result<u64> {
        // What goes now is to be found in the catalog only, and what has left the shared layer is
        // not to come back with an older copy.
        images.store().ensure_backup()?;
        effort.pool()?.install(|| {
            let images = self.images.par_iter();
            let removed = images.map(|(_, filesystem)| filesystem.uncover());
            removed.sum()
        })
    }

    /// All three steps, if there is anything to do.
    ///
    /// # Errors
    /// As each of them.
    pub fn apply(&self, images: &Images, effort: &Effort<'_>) -> Result<Done> {
        if self.placement.is_empty() {
            return Ok(Done::default());
        }
        self.cover(images)?;
        let done = self.commit(images)?;
        self.uncover_by(images, effort)?;
        Ok(done)
    }

    /// The shared numbers that leave.
    pub(super) fn leaving(&self) -> HashSet<Number> {
        let leaves = |change: &&placement::Change| change.new != Becomes::Same;
        let changes = self.placement.changes.iter().filter(leaves);
        changes
            .filter_map(|change| change.old.as_ref().map(|old| old.number))
            .collect()
    }
}

/// The state of a family's images in which its placement had nothing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Settled {
    share: Share,
    changes: Vec<(ImageId, u64)>,
}

/// Remembers what is settled, so that to find nothing to do costs nothing. One for each process.
#[derive(Default)]
pub struct Placements {
    settled: Mutex<HashMap<FamilyId, Settled>>,
}

impl Placements {
    /// Plans the placement of a family; `None` when no image of it was changed since there was
    /// nothing to do.
    ///
    /// # Errors
    /// As [`plan`].
    pub fn plan(&self, images: &Images, family: FamilyId) -> Result<Option<Work>> {
        let catalog = images.store().catalog();
        let missing = || Error::failed(format!("family {family}"), "it does not exist");
        let share = catalog.family(family)?.ok_or_else(missing)?.share;
        let rows = catalog.images_of(family)?;
        let changes = rows
            .iter()
            .map(|image| (image.id, images.changes(image.id)));
        let now = Settled {
            share,
            changes: changes.collect(),
        };
        if self.settled.lock().get(&family) == Some(&now) {
            return Ok(None);
        }
        let work = plan(images, family)?;
        if work.placement.is_empty() {
            self.settled.lock().insert(family, now);
        }
        Ok(Some(work))
    }
}

/// Plans and applies the placement of a family.
///
/// # Errors
/// As [`plan`] and [`Work::apply`].
pub fn place(images: &Images, family: FamilyId) -> Result<Done> {
    plan(images, family)?.apply(images, &Effort::full(1))
}
