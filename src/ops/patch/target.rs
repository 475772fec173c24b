//! An image that a patch is applied to.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use super::decide::{Conflict, Decision, decide};
use super::known::Known;
use super::observe::{Observed, observe};
use super::steps::Steps;
use crate::archive::patch::{ContentId, PatchEntry, PatchTable};
use crate::error::Result;
use crate::filesystem::Filesystem;
use crate::filesystem::follow::Alteration;
use crate::filesystem::settling::Affected;
use crate::ops::Context;
use crate::ops::report::{AppliedConflict, AppliedImage};
use crate::path_bytes::PathBytes;
use crate::store::catalog::{Image, Reads, Untouched};
use crate::store::objects::Objects;

/// How often files that were not there before are read.
const ATTEMPTS: usize = 3;

/// An image, and what is known of its own files.
pub(super) struct Target {
    pub image: Image,
    pub filesystem: Arc<Filesystem>,
    pub known: Known,
    /// What the change leaves alone in it, whatever it finds.
    untouched: Untouched,
    /// By the position of the variant.
    given_up: BTreeMap<usize, GivenUp>,
}

/// A version of its own that an image gives up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GivenUp {
    /// The path in the change's table.
    pub position: usize,
    /// What the change is there in this image.
    pub variant: usize,
    /// What it gets has something of its own version.
    pub is_merged: bool,
}

/// What an image shows at the paths of a patch, and what is to become of it.
#[derive(Default)]
pub(super) struct Look {
    /// [`crate::filesystem::images::Images::changes`] before.
    changes: u64,
    /// An empty file gets a new version.
    is_unread: bool,
    pub observed: Observed,
    pub steps: Steps,
    pub affected: Affected,
    pub report: AppliedImage,
    /// What stays as it is, for one reason or another.
    pub untouched: Untouched,
    /// Where it keeps a version of its own.
    pub conflicts: Vec<(usize, Conflict)>,
    /// Where it has contents of the patch that are no objects.
    pub contents: HashMap<ContentId, Vec<u8>>,
}

impl Look {
    pub(super) fn has_conflicts(&self) -> bool {
        !self.conflicts.is_empty()
    }
}

impl Target {
    /// Looks at an image, and decides.
    pub(super) fn new(
        context: &Context,
        image: Image,
        untouched: Untouched,
        table: &PatchTable,
    ) -> Result<(Self, Look)> {
        let filesystem = context.images.withheld_filesystem(image.id)?;
        let mut target = Self {
            image,
            filesystem,
            known: Known::default(),
            untouched,
            given_up: BTreeMap::new(),
        };
        let objects = context.store.objects();
        let first = {
            let still = target.filesystem.alter();
            let changes = context.images.changes(target.image.id);
            let observed = observe(&still, objects, table, &target.known)?;
            match observed.unknown().is_empty() {
                true => Some(target.decide(context, changes, observed, table)?),
                false => None,
            }
        };
        let look = match first {
            Some(look) => look,
            None => {
                target.known = known_of(&target.filesystem, objects, table)?;
                target.look(context, &target.filesystem.alter(), table)?
            }
        };
        Ok((target, look))
    }

    /// What the change leaves alone in it, whatever it finds.
    pub(super) fn untouched(&self) -> &Untouched {
        &self.untouched
    }

    /// The image has what a position would become there, and perhaps more.
    pub(super) fn has_already(&mut self, position: usize) {
        if let Ok(position) = u32::try_from(position)
            && let Err(place) = self.untouched.positions.binary_search(&position)
        {
            self.untouched.positions.insert(place, position);
        }
    }

    /// From now on the image's part in the change is this: of the variants that were added these, in place of
    /// what is at their paths.
    pub(super) fn give_up(&mut self, added: Range<usize>, given: Vec<GivenUp>) {
        self.given_up = given.into_iter().map(|it| (it.variant, it)).collect();
        let others = added.filter(|variant| !self.given_up.contains_key(variant));
        let replaced = self.given_up.values().map(|it| it.position);
        let added = others
            .chain(replaced)
            .filter_map(|it| u32::try_from(it).ok());
        self.untouched.positions.extend(added);
        self.untouched.positions.sort_unstable();
        self.untouched.positions.dedup();
    }

    /// Whether a version of its own that the image gives up was another one by the second look.
    pub(super) fn is_other_given_up(&self, before: &Look, now: &Look) -> bool {
        let mut conflicts = now.conflicts.iter();
        conflicts.any(|it| self.given_up.contains_key(&it.0) && !before.conflicts.contains(it))
    }

    /// Whether nothing can have happened since a look. A write to a private file counts no change: it is
    /// told by a lease, or not at all where there was nothing to read.
    pub(super) fn is_as_before(
        &self,
        context: &Context,
        look: &Look,
        still: &Alteration<'_>,
    ) -> bool {
        let is_written = |&number| still.is_written(number);
        context.images.changes(self.image.id) == look.changes
            && !self.known.is_over()
            && !look.is_unread
            && !look.affected.files.iter().any(is_written)
    }

    /// Looks at it, while it is still, and decides.
    pub(super) fn look(
        &self,
        context: &Context,
        still: &Alteration<'_>,
        table: &PatchTable,
    ) -> Result<Look> {
        let changes = context.images.changes(self.image.id);
        let observed = observe(still, context.store.objects(), table, &self.known)?;
        self.decide(context, changes, observed, table)
    }

    fn decide(
        &self,
        context: &Context,
        changes: u64,
        observed: Observed,
        table: &PatchTable,
    ) -> Result<Look> {
        let held = context.store.catalog().holds(self.image.id)?;
        let decisions = decide(table, &observed, &held, &self.untouched);
        let steps = Steps::of(table, &observed, &decisions);
        let mut report = AppliedImage {
            image: self.image.name.clone(),
            changed: 0,
            unchanged: 0,
            ..AppliedImage::default()
        };
        let mut untouched = Untouched::default();
        let mut conflicts = Vec::new();
        let variants = table.entries.iter().enumerate().skip(table.variants_at());
        let variants = variants.filter(|(index, _)| !self.untouched.has(*index));
        let has_variant: BTreeSet<&[u8]> = variants.map(|(_, entry)| &entry.path[..]).collect();
        for (position, (entry, decision)) in (0..).zip(table.entries.iter().zip(&decisions)) {
            if !matches!(decision, Decision::Follow(_)) {
                untouched.positions.push(position);
            } else if only_mtime_follows(entry, decision, &observed) {
                untouched.but_for_mtime.push(position);
            }
            let index = position as usize;
            let given = self.given_up.get(&index);
            let is_variant = index >= table.variants_at();
            if self.untouched.has(index) && (is_variant || has_variant.contains(&entry.path[..])) {
                continue;
            }
            let path = PathBytes::from([b"/", &entry.path[..]].concat());
            match (decision, given) {
                (Decision::Follow(_), None) => report.changed += 1,
                (Decision::Follow(_), Some(GivenUp { is_merged, .. })) => {
                    report.changed += 1;
                    match is_merged {
                        true => report.merged.push(path),
                        false => report.replaced.push(path),
                    }
                }
                (Decision::Has, _) => report.unchanged += 1,
                (Decision::Keep(conflict), _) => {
                    conflicts.push((index, *conflict));
                    report.conflicts.push(AppliedConflict {
                        path,
                        reason: *conflict,
                    });
                }
            }
        }
        let is_empty = |index: usize| {
            let seen = observed.at(&table.entries[index].path);
            seen.is_some_and(|seen| seen.content.size() == 0 && !seen.is_directory())
        };
        let is_unread = steps.follow().any(is_empty);
        Ok(Look {
            changes,
            is_unread,
            affected: steps.affected(table, &observed),
            contents: observed.private_contents(),
            observed,
            steps,
            report,
            untouched,
            conflicts,
        })
    }
}

/// Whether a directory has its metadata from elsewhere, and got no more of the new version than its mtime.
fn only_mtime_follows(entry: &PatchEntry, decision: &Decision, observed: &Observed) -> bool {
    let (Decision::Follow(Some(target)), Some(old), Some(seen)) =
        (decision, &entry.old, observed.at(&entry.path))
    else {
        return false;
    };
    seen.metadata.equal_but_mtime(target) && !seen.metadata.equal_but_mtime(&old.metadata)
}

/// Reads the files of an image's own at the paths of a patch, while the image may be used.
pub(super) fn known_of(
    filesystem: &Filesystem,
    objects: &Objects,
    table: &PatchTable,
) -> Result<Known> {
    let mut known = Known::default();
    for _ in 0..ATTEMPTS {
        let observed = observe(&filesystem.alter(), objects, table, &known)?;
        if observed.unknown().is_empty() {
            break;
        }
        known.read(filesystem, objects, observed.unknown())?;
    }
    Ok(known)
}

impl std::fmt::Display for Conflict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Conflict::Differs => "it has another version",
            Conflict::Missing => "there is nothing any more",
            Conflict::Exists => "there is something already",
            Conflict::NotEmpty => "what it holds stays",
            Conflict::NoDirectory => "there is no directory for it",
            Conflict::Held => "it is held",
            Conflict::Written => "somebody is writing to it",
        })
    }
}
