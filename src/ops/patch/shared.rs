//! What a change does to the shared layer itself, so that the images that follow it need nothing of their
//! own. An image that shows there what is to go, and does not want what comes, is covered before; what it
//! wants instead it gets in its private layer ([`super::steps`]).
//!
//! Only what is simple goes this way: names of files with one name, new directories, metadata of
//! directories. The rest is private at first, and placement moves it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::decide::{Decision, directory};
use super::observe::{Observed, above, name_in};
use super::steps::Steps;
use crate::archive::patch::{PatchEntry, PatchTable, PathVersion};
use crate::error::{Error, Result};
use crate::path_bytes::PathBytes;
use crate::store::catalog::{Reads, Transaction};
use crate::store::metadata::{Content, Metadata, SharedInode, Time};
use crate::store::number::{FamilyId, Number};
use crate::store::shared::SharedLayer;

/// The directory that holds a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Home {
    /// One of the shared layer.
    Shared(Number),
    /// The one that the change makes at this position of its table.
    Made(usize),
}

/// A name that gets another inode, its first, or none.
#[derive(Debug, Clone, PartialEq, Eq)]
struct NameStep {
    home: Home,
    name: Box<[u8]>,
    old: Option<Arc<SharedInode>>,
}

/// A directory that gets other metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
struct MetadataStep {
    directory: Number,
    metadata: Metadata,
}

/// What a change does to the shared layer, by position in its table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct SharedSteps {
    names: BTreeMap<usize, NameStep>,
    directories: BTreeMap<usize, MetadataStep>,
}

/// What is left for one image.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Part {
    /// What it gets in its private layer.
    pub own: Steps,
    /// The positions that it has with the shared layer.
    pub satisfied: BTreeSet<usize>,
}

impl SharedSteps {
    /// What the base follows of a change where it shows the shared layer.
    ///
    /// # Errors
    /// Those of the catalog.
    pub(super) fn of(
        table: &PatchTable,
        (steps, observed): (&Steps, &Observed),
        shared: &SharedLayer,
    ) -> Result<Self> {
        let grouped = table.grouped();
        let positions: HashMap<&[u8], usize> = {
            let entries = table.entries[..table.variants_at()].iter();
            entries.map(|entry| &entry.path[..]).zip(0..).collect()
        };
        let mut found = Self::default();
        for position in steps.follow() {
            let entry = &table.entries[position];
            if let Some(step) = metadata_step(entry, observed, shared)? {
                found.directories.insert(position, step);
                continue;
            }
            let Some(above) = above(&entry.path) else {
                continue;
            };
            let makes_directory = |position: &usize| {
                found.names.contains_key(position) && is_directory(&table.entries[*position].new)
            };
            let made = positions.get(above).copied().filter(makes_directory);
            let home = match (made, observed.standing(&entry.path).entry_of) {
                (Some(made), _) => Home::Made(made),
                (None, Some(directory)) => Home::Shared(directory),
                (None, None) => continue,
            };
            let name = name_in(&entry.path);
            let old = match home {
                Home::Shared(directory) => shared.directory(directory)?.find(name).cloned(),
                Home::Made(_) => None,
            };
            let is_simple = match &old {
                Some(old) => {
                    old.content != Content::Directory && old.links == 1 && !is_directory(&entry.new)
                }
                None => entry.new.is_some(),
            };
            if is_simple && !grouped.contains(&position) {
                let name = name.into();
                found.names.insert(position, NameStep { home, name, old });
            }
        }
        Ok(found)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty() && self.directories.is_empty()
    }

    pub(super) fn has(&self, position: usize) -> bool {
        self.names.contains_key(&position) || self.directories.contains_key(&position)
    }

    /// Leaves only what these positions, and the directories above them, say.
    pub(super) fn retain(&mut self, stays: impl Fn(usize) -> bool) {
        self.directories.retain(|&position, _| stays(position));
        let mut left: BTreeMap<usize, NameStep> = BTreeMap::new();
        for (position, step) in std::mem::take(&mut self.names) {
            let has_home = match step.home {
                Home::Shared(_) => true,
                Home::Made(above) => left.contains_key(&above),
            };
            if has_home && stays(position) {
                left.insert(position, step);
            }
        }
        self.names = left;
    }

    /// What is left for an image, of what it is to become. `steps` is all of it.
    pub(super) fn part(&self, table: &PatchTable, steps: &Steps, observed: &Observed) -> Part {
        let follows: HashSet<usize> = steps.follow().collect();
        let mut satisfied = BTreeSet::new();
        // A new directory comes with all that is in it, or not at all: by the position of the topmost one.
        let mut tops: BTreeMap<usize, usize> = BTreeMap::new();
        let mut unsatisfied: HashSet<usize> = HashSet::new();
        for (&position, step) in &self.names {
            let (top, has_home) = match step.home {
                Home::Made(above) => (tops.get(&above).copied(), true),
                Home::Shared(directory) => {
                    let standing = observed.standing(&table.entries[position].path);
                    (None, standing.entry_of == Some(directory))
                }
            };
            let top = top.unwrap_or(position);
            tops.insert(position, top);
            if !has_home || !follows.contains(&position) {
                unsatisfied.insert(top);
            }
        }
        let whole = tops.into_iter();
        let whole = whole.filter(|(_, top)| !unsatisfied.contains(top));
        satisfied.extend(whole.map(|(position, _)| position));
        for (&position, step) in &self.directories {
            let entry = &table.entries[position];
            let (standing, seen) = (observed.standing(&entry.path), observed.at(&entry.path));
            let shows = standing.directory == Some(step.directory) && standing.has_shared_metadata;
            let Some(seen) = seen.filter(|_| shows) else {
                continue;
            };
            let wanted = match (&entry.new, follows.contains(&position)) {
                (Some(new), true) => &new.metadata,
                _ => &seen.metadata,
            };
            // Where the steps say an mtime, it is looked at with those of all directories.
            let keeps_mtime = !standing.has_shared_mtime
                || seen.metadata.mtime == step.metadata.mtime
                || steps.mtime(&entry.path).is_some();
            if wanted.equal_but_mtime(&step.metadata) && keeps_mtime {
                satisfied.insert(position);
            }
        }
        let own = steps.without(table, &satisfied, |path| {
            self.mtime(table, observed, &satisfied, path)
        });
        Part { own, satisfied }
    }

    /// The mtime that a directory of an image has when the shared layer is changed.
    fn mtime(
        &self,
        table: &PatchTable,
        observed: &Observed,
        satisfied: &BTreeSet<usize>,
        path: &[u8],
    ) -> Option<Time> {
        let Some(seen) = observed.at(path) else {
            let made = |position: &&usize| table.entries[**position].path == path;
            let made = satisfied.iter().find(made)?;
            let new = table.entries[*made].new.as_ref();
            return new.map(|new| new.metadata.mtime);
        };
        let standing = observed.standing(path);
        let step = self
            .directories
            .values()
            .find(|step| standing.has_shared_mtime && Some(step.directory) == standing.directory);
        Some(step.map_or(seen.metadata.mtime, |step| step.metadata.mtime))
    }

    /// The names of shared directories that an image must hold privately, being satisfied with this only.
    pub(super) fn names_without(&self, satisfied: &BTreeSet<usize>) -> Vec<(Number, Vec<&[u8]>)> {
        let mut names: BTreeMap<Number, Vec<&[u8]>> = BTreeMap::new();
        for (position, step) in &self.names {
            if let Home::Shared(directory) = step.home
                && !satisfied.contains(position)
            {
                names.entry(directory).or_default().push(&step.name);
            }
        }
        names.into_iter().collect()
    }

    /// The shared directories whose metadata an image must hold privately, likewise.
    pub(super) fn directories_without(
        &self,
        satisfied: &BTreeSet<usize>,
    ) -> impl Iterator<Item = Number> {
        let steps = self.directories.iter();
        let others = steps.filter(|(position, _)| !satisfied.contains(position));
        others.map(|(_, step)| step.directory)
    }

    /// The shared directories that get other metadata.
    pub(super) fn directories(&self) -> impl Iterator<Item = Number> {
        self.directories.values().map(|step| step.directory)
    }

    /// The inodes that leave the shared layer; of each, its position.
    pub(super) fn leaving(&self) -> impl Iterator<Item = (usize, &Arc<SharedInode>)> {
        let steps = self.names.iter();
        steps.filter_map(|(&position, step)| Some((position, step.old.as_ref()?)))
    }

    /// Writes it all down. Whoever shows something else has it privately by now.
    ///
    /// # Errors
    /// Those of the catalog; the transaction is not to be committed then.
    pub(super) fn write(
        &self,
        transaction: &Transaction<'_>,
        family: FamilyId,
        table: &PatchTable,
    ) -> Result<()> {
        let now = Time::now();
        for step in self.names.values() {
            if let (Home::Shared(directory), Some(old)) = (step.home, &step.old) {
                transaction.take_name(directory, &step.name, old)?;
            }
        }
        let new = self.names.iter().filter_map(|(position, step)| {
            let new = table.entries[*position].new.as_ref()?;
            Some((*position, step, new))
        });
        let mut numbers = transaction.reserve_numbers(new.clone().count() as u64)?;
        let mut made: HashMap<usize, Number> = HashMap::new();
        for (position, step, new) in new {
            let number = numbers.next().and_then(Number::new);
            let number = number.ok_or_else(|| Error::failed("catalog.db", "no number is left"))?;
            let home = match step.home {
                Home::Shared(directory) => Some(directory),
                Home::Made(above) => made.get(&above).copied(),
            };
            let home = home.ok_or_else(|| {
                let path = PathBytes::from([b"/", &table.entries[position].path[..]].concat());
                Error::failed(path, "the directory it is in was not made")
            })?;
            let inode = inode(number, new, now);
            transaction.make_name(family, home, &step.name, &inode)?;
            made.insert(position, number);
        }
        // A directory that just gets other names keeps its times: they tell of the guest's own changes.
        for step in self.directories.values() {
            transaction.set_metadata(step.directory, &step.metadata, now)?;
            transaction.touch(step.directory, now)?;
        }
        Ok(())
    }
}

fn is_directory(version: &Option<PathVersion>) -> bool {
    let content = version.as_ref().map(|version| &version.content);
    content == Some(&Content::Directory)
}

/// What a directory that stays one becomes in the shared layer, if the image shows it as it is there.
fn metadata_step(
    entry: &PatchEntry,
    observed: &Observed,
    shared: &SharedLayer,
) -> Result<Option<MetadataStep>> {
    let standing = observed.standing(&entry.path);
    let (Some(number), true) = (standing.directory, standing.has_shared_metadata) else {
        return Ok(None);
    };
    let (Some(seen), Some(new)) = (observed.at(&entry.path), &entry.new) else {
        return Ok(None);
    };
    let Some(inode) = shared.catalog().inode(number)? else {
        return Ok(None);
    };
    // The image may show it with an mtime of its own.
    let mut seen = seen.clone();
    seen.metadata = inode.metadata;
    Ok(match directory(entry.old.as_ref(), new, &seen) {
        Decision::Follow(Some(metadata)) if new.content == Content::Directory => {
            Some(MetadataStep {
                directory: number,
                metadata,
            })
        }
        _ => None,
    })
}

fn inode(number: Number, new: &PathVersion, now: Time) -> SharedInode {
    SharedInode {
        number,
        content: new.content.clone(),
        metadata: new.metadata.clone(),
        ctime: now,
        links: match new.content {
            Content::Directory => 2,
            _ => 1,
        },
    }
}
