//! The three-way merge of a patch and an image, path by path: what the patch says was there, what it
//! says will be, and what the image shows.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::observe::{Observed, Seen, above};
use crate::archive::patch::{PatchEntry, PatchTable, PathVersion};
use crate::store::catalog::Untouched;
use crate::store::metadata::{Content, Metadata};

/// Why an image keeps what it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Conflict {
    /// It has another version there.
    Differs,
    /// It has nothing there any more.
    Missing,
    /// It has something where the patch puts something new.
    Exists,
    /// The directory that goes holds what does not go.
    NotEmpty,
    /// What is to be there would be in no directory.
    NoDirectory,
    /// An administrator has pinned the path (`foldfs hold`).
    Held,
    /// Somebody has it open for writing, or mapped so: what is written would be lost with it.
    Written,
}

/// What becomes of a path of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    /// It gets the new version. Of a directory that stays one: this metadata.
    Follow(Option<Metadata>),
    /// It has the new version.
    Has,
    /// It keeps what it has.
    Keep(Conflict),
}

/// Decides all paths of a patch for an image, in their order. `held`: paths that stay as they are,
/// with all below them. `untouched`: what the change is not about in this image.
pub(super) fn decide(
    table: &PatchTable,
    observed: &Observed,
    held: &[Box<[u8]>],
    untouched: &Untouched,
) -> Vec<Decision> {
    let mut merge = Merge {
        table,
        observed,
        held,
        places: HashMap::new(),
        decisions: Vec::with_capacity(table.entries.len()),
        old_names: Names::of((table, untouched), observed, |entry| entry.old.as_ref()),
        new_names: Names::of((table, untouched), observed, |entry| entry.new.as_ref()),
    };
    for (index, entry) in table.entries.iter().enumerate() {
        if !untouched.has(index) || !merge.places.contains_key(&entry.path[..]) {
            merge.places.insert(&entry.path, index);
        }
        let decision = match untouched.has(index) {
            true => Decision::Has,
            false if untouched.has_but_for_mtime(index) => merge.mtime(entry),
            false => merge.path(index, entry),
        };
        merge.decisions.push(decision);
    }
    merge.keep_filled_directories();
    merge.decisions
}

/// Which files of a tree of the patch the image shows as files of the same names. Names that the change is
/// not about don't count: an image that kept one never had it from there.
struct Names(Vec<bool>);

impl Names {
    fn of<'a>(
        (table, untouched): (&'a PatchTable, &Untouched),
        observed: &Observed,
        side: impl Fn(&'a PatchEntry) -> Option<&'a PathVersion>,
    ) -> Self {
        let mut groups: HashMap<usize, Vec<usize>> = HashMap::new();
        for (index, entry) in table.entries.iter().enumerate() {
            if let Some(version) = side(entry).filter(|_| !untouched.has(index)) {
                let first = version.first_name.unwrap_or(index);
                groups.entry(first).or_default().push(index);
            }
        }
        let mut same = vec![false; table.entries.len()];
        for group in groups.into_values() {
            let seen = group.iter().map(|&index| {
                let seen = observed.at(&table.entries[index].path)?;
                Some((seen.number, seen.links))
            });
            let seen: Vec<Option<(u64, u32)>> = seen.collect();
            let one = seen.windows(2).all(|two| two[0] == two[1]);
            let links = seen.first().copied().flatten().map(|(_, links)| links);
            if one && links == Some(group.len() as u32) {
                group.iter().for_each(|&index| same[index] = true);
            }
        }
        Self(same)
    }
}

struct Merge<'a> {
    table: &'a PatchTable,
    observed: &'a Observed,
    held: &'a [Box<[u8]>],
    /// The positions of the paths that are decided.
    places: HashMap<&'a [u8], usize>,
    decisions: Vec<Decision>,
    old_names: Names,
    new_names: Names,
}

impl Merge<'_> {
    fn path(&self, index: usize, entry: &PatchEntry) -> Decision {
        let seen = self.observed.at(&entry.path);
        let decision = self.version(index, entry, seen);
        match decision {
            Decision::Follow(_) if self.is_held(&entry.path) => Decision::Keep(Conflict::Held),
            Decision::Follow(_) if seen.is_some_and(|seen| seen.is_written) => {
                Decision::Keep(Conflict::Written)
            }
            Decision::Follow(_) if entry.new.is_some() && !self.is_in_directory(&entry.path) => {
                Decision::Keep(Conflict::NoDirectory)
            }
            decision => decision,
        }
    }

    /// Of a directory of which nothing else is to follow.
    fn mtime(&self, entry: &PatchEntry) -> Decision {
        let versions = (&entry.old, &entry.new, self.observed.at(&entry.path));
        let (Some(old), Some(new), Some(seen)) = versions else {
            return Decision::Has;
        };
        let follows = seen.is_directory() && seen.metadata.mtime == old.metadata.mtime;
        match follows && !self.is_held(&entry.path) {
            true => Decision::Follow(Some(Metadata {
                mtime: new.metadata.mtime,
                ..seen.metadata.clone()
            })),
            false => Decision::Has,
        }
    }

    fn version(&self, index: usize, entry: &PatchEntry, seen: Option<&Seen>) -> Decision {
        match (&entry.old, &entry.new, seen) {
            (_, Some(new), Some(seen))
                if new.content == Content::Directory && seen.is_directory() =>
            {
                directory(entry.old.as_ref(), new, seen)
            }
            (_, None, None) => Decision::Has,
            (None, Some(_), None) => Decision::Follow(None),
            (Some(_), Some(_), None) => Decision::Keep(Conflict::Missing),
            (_, Some(new), Some(seen)) if self.new_names.0[index] && is_version(new, seen) => {
                Decision::Has
            }
            (None, _, Some(_)) => Decision::Keep(Conflict::Exists),
            (Some(old), _, Some(seen)) => {
                let same = match old.content {
                    // Which names are in it is decided name by name.
                    Content::Directory => {
                        seen.is_directory() && seen.metadata.equal_but_mtime(&old.metadata)
                    }
                    _ => self.old_names.0[index] && is_version(old, seen),
                };
                match same {
                    true => Decision::Follow(None),
                    false => Decision::Keep(Conflict::Differs),
                }
            }
        }
    }

    fn is_held(&self, path: &[u8]) -> bool {
        self.held.iter().any(|held| {
            let rest = path.strip_prefix(&held[..]);
            held.is_empty() || rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
        })
    }

    /// Whether what a path is in will be a directory.
    fn is_in_directory(&self, path: &[u8]) -> bool {
        let Some(above) = above(path) else {
            return true;
        };
        if let Some(&place) = self.places.get(above)
            && let Some(Decision::Follow(_)) = self.decisions.get(place)
        {
            let new = self.table.entries[place].new.as_ref();
            return new.is_some_and(|new| new.content == Content::Directory);
        }
        self.observed.at(above).is_some_and(Seen::is_directory)
    }

    /// A directory in which something stays, stays. What is in one comes after it.
    fn keep_filled_directories(&mut self) {
        for (index, entry) in self.table.entries.iter().enumerate().rev() {
            let goes = self.decisions[index] == Decision::Follow(None)
                && self
                    .observed
                    .at(&entry.path)
                    .is_some_and(Seen::is_directory);
            let is_filled = goes
                && self.observed.inside(&entry.path).iter().any(|inside| {
                    let place = self.places.get(&inside[..]);
                    place.is_none_or(|&place| self.decisions[place] != Decision::Follow(None))
                });
            if is_filled {
                self.decisions[index] = Decision::Keep(Conflict::NotEmpty);
            }
        }
    }
}

fn is_version(version: &PathVersion, seen: &Seen) -> bool {
    version.content == seen.content && version.metadata == seen.metadata
}

/// A directory that stays one. Its mtime is no version of its own: it follows where it was the old one,
/// and stays where the image has changed something in it.
pub(super) fn directory(old: Option<&PathVersion>, new: &PathVersion, seen: &Seen) -> Decision {
    let (new, now) = (&new.metadata, &seen.metadata);
    let old = old.filter(|old| old.content == Content::Directory);
    let Some(old) = old.map(|old| &old.metadata) else {
        return match new.equal_but_mtime(now) {
            true => Decision::Has,
            false => Decision::Keep(Conflict::Exists),
        };
    };
    let mtime = if now.mtime == old.mtime {
        new.mtime
    } else {
        now.mtime
    };
    let is_old = now.equal_but_mtime(old);
    if !is_old && !now.equal_but_mtime(new) && !old.equal_but_mtime(new) {
        return Decision::Keep(Conflict::Differs);
    }
    let rest = if is_old { new } else { now };
    let target = Metadata {
        mtime,
        ..rest.clone()
    };
    match target == *now {
        true => Decision::Has,
        false => Decision::Follow(Some(target)),
    }
}
