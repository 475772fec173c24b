//! Versions of their own that images give up for a change: replaced by what the change brings, or merged with
//! it. Of such a path the change's table gets a variant, which is the change in those images and nowhere else; so
//! whoever takes the change back gives each image its own version again.

use std::collections::HashMap;

use super::apply::{ApplyPlan, OnConflict};
use super::contents::Sources;
use super::decide::Conflict;
use super::known::Told;
use super::merge::merge;
use super::observe::Seen;
use super::target::{GivenUp, Look, Target};
use crate::archive::patch::{ContentId, PatchEntry, PatchTable, PathVersion, encode_record};
use crate::error::Result;
use crate::ops::Context;
use crate::store::digest::Digest;
use crate::store::metadata::Content;

/// Longer texts are not merged.
const TEXT_MAX: u64 = 1 << 20;

/// What is found for all images.
#[derive(Default)]
struct Found {
    variants: Vec<PatchEntry>,
    /// Those of each path, by its position.
    places: HashMap<usize, Vec<usize>>,
    /// Contents that nobody has.
    merged: HashMap<ContentId, Vec<u8>>,
}

impl ApplyPlan {
    /// Takes the variants of an attempt before out of the table.
    pub(super) fn forget_variants(&mut self) {
        let table = &mut self.origin.table;
        table.entries.truncate(table.entries.len() - self.given_up);
        table.variants -= std::mem::take(&mut self.given_up);
    }

    /// Takes conflicts away as the caller wants it, and looks at those images again.
    ///
    /// # Errors
    /// Those of reading the images.
    pub(super) fn resolve(&mut self, context: &Context) -> Result<()> {
        if !matches!(
            self.options.on_conflict,
            OnConflict::Replace | OnConflict::Merge
        ) {
            return Ok(());
        }
        let mut found = Found::default();
        let grouped = self.origin.table.grouped();
        let mut given: Vec<Vec<GivenUp>> = Vec::new();
        for index in 0..self.targets.len() {
            let conflicts = self.looks[index].conflicts.clone();
            let conflicts = conflicts
                .into_iter()
                .filter(|(position, _)| !grouped.contains(position));
            let mut of_image = Vec::new();
            for (position, conflict) in conflicts {
                let own = own_version(
                    context,
                    &mut self.targets[index],
                    &mut self.looks[index],
                    &self.origin.table.entries[position],
                    conflict,
                )?;
                let Some(own) = own else { continue };
                let new = self.resolved(context, position, &own, conflict, &mut found)?;
                let Some((new, is_merged)) = new else {
                    continue;
                };
                if new == own {
                    self.targets[index].has_already(position);
                    continue;
                }
                let variant = found.variant(&self.origin.table, position, own, new);
                of_image.push(GivenUp {
                    position,
                    variant,
                    is_merged,
                });
            }
            given.push(of_image);
        }
        self.given_up = found.variants.len();
        let table = &mut self.origin.table;
        table.variants += found.variants.len();
        table.entries.append(&mut found.variants);
        (self.origin.record, self.origin.table) = encode_record(table)?;
        self.merged = found.merged;
        let table = &self.origin.table;
        let added = table.entries.len() - self.given_up..table.entries.len();
        for ((target, look), given) in self.targets.iter_mut().zip(&mut self.looks).zip(given) {
            target.give_up(added.clone(), given);
            *look = target.look(context, &target.filesystem.alter(), table)?;
        }
        Ok(())
    }

    /// What a path becomes in an image that has `own` there, and whether it was merged.
    fn resolved(
        &self,
        context: &Context,
        position: usize,
        own: &Option<PathVersion>,
        conflict: Conflict,
        found: &mut Found,
    ) -> Result<Option<(Option<PathVersion>, bool)>> {
        let entry = &self.origin.table.entries[position];
        if self.options.on_conflict == OnConflict::Replace {
            return Ok(Some((entry.new.clone(), false)));
        }
        let (Some(old), Some(own), Some(new), Conflict::Differs) =
            (&entry.old, own, &entry.new, conflict)
        else {
            return Ok(None);
        };
        let mut texts = |ids: [ContentId; 3]| -> Result<Option<[Vec<u8>; 3]>> {
            if ids.iter().any(|id| id.size > TEXT_MAX) {
                return Ok(None);
            }
            let sources = Sources {
                origin: &self.origin,
                targets: &self.targets,
                looks: &self.looks,
                merged: &found.merged,
            };
            let [old, own, new] = &ids;
            let read = |id| sources.bytes(&context.store, id);
            // What somebody is altering stays what it is.
            let Ok(own) = read(own) else {
                return Ok(None);
            };
            Ok(Some([read(old)?, own, read(new)?]))
        };
        let Some((version, bytes)) = merge(old, own, new, &mut texts)? else {
            return Ok(None);
        };
        if let (Some(id), Some(bytes)) = (version.content_id(), bytes) {
            found.merged.insert(id, bytes);
        }
        Ok(Some((Some(version), true)))
    }
}

impl Found {
    /// The position of a variant, which images with the same version of their own share.
    fn variant(
        &mut self,
        table: &PatchTable,
        position: usize,
        own: Option<PathVersion>,
        new: Option<PathVersion>,
    ) -> usize {
        let places = self.places.entry(position).or_default();
        let same = |&&place: &&usize| self.variants[place].old == own;
        let place = places.iter().find(same).copied();
        let place = place.unwrap_or_else(|| {
            self.variants.push(PatchEntry {
                path: table.entries[position].path.clone(),
                old: own,
                new,
            });
            places.push(self.variants.len() - 1);
            self.variants.len() - 1
        });
        table.entries.len() + place
    }
}

/// What an image has of its own at the path of a conflict, if that is something that it can give up; the
/// inner `None`: nothing.
fn own_version(
    context: &Context,
    target: &mut Target,
    look: &mut Look,
    entry: &PatchEntry,
    conflict: Conflict,
) -> Result<Option<Option<PathVersion>>> {
    let versions = [&entry.old, &entry.new].into_iter().flatten();
    let is_given = matches!(
        conflict,
        Conflict::Differs | Conflict::Missing | Conflict::Exists
    );
    if !is_given
        || versions
            .into_iter()
            .any(|it| it.content == Content::Directory)
    {
        return Ok(None);
    }
    let Some(seen) = look.observed.at(&entry.path) else {
        return Ok(Some(None));
    };
    if seen.is_directory() || seen.links > 1 {
        return Ok(None);
    }
    let content = match &seen.content {
        Content::Regular { size, digest: None } if *size > 0 => {
            match digest_of(context, target, seen, &entry.path)? {
                Some(digest) => {
                    let size = *size;
                    let id = ContentId { digest, size };
                    look.contents.insert(id, entry.path.clone());
                    let digest = Some(digest);
                    Content::Regular { size, digest }
                }
                None => return Ok(None),
            }
        }
        content => content.clone(),
    };
    Ok(Some(Some(PathVersion {
        content,
        metadata: seen.metadata.clone(),
        first_name: None,
    })))
}

/// The digest of a private file; `None` if somebody is writing to it.
fn digest_of(
    context: &Context,
    target: &mut Target,
    seen: &Seen,
    path: &[u8],
) -> Result<Option<Digest>> {
    if target.known.told(seen.number) == Told::Unknown {
        let file = [(seen.number, path.to_vec())];
        let objects = context.store.objects();
        target.known.read(&target.filesystem, objects, &file)?;
    }
    match target.known.told(seen.number) {
        Told::Digest(digest) => Ok(Some(digest)),
        Told::Written | Told::Unknown => Ok(None),
    }
}
