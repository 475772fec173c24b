//! What a change means for one image: written down before the change is committed, carried out after
//! it, as often as it takes. Where it was carried out in part, the rest is done; where it was carried
//! out, nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::decide::Decision;
use super::observe::{Observed, Seen, above, name_in};
use crate::archive::patch::{PatchTable, PathVersion};
use crate::error::{Error, Result};
use crate::filesystem::failure::{Failure, Outcome};
use crate::filesystem::follow::Alteration;
use crate::filesystem::settling::Affected;
use crate::path_bytes::PathBytes;
use crate::store::metadata::{Content, Time};
use crate::store::number::{ImageId, Number};

/// The steps of one image. Positions are those of the patch's table.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Steps {
    /// Paths that get their new versions.
    follow: Vec<usize>,
    /// The mtimes that directories have afterwards: seconds and nanoseconds.
    mtimes: Vec<(PathBytes, i64, u32)>,
}

impl Steps {
    /// What the decisions mean for an image.
    pub(super) fn of(table: &PatchTable, observed: &Observed, decisions: &[Decision]) -> Self {
        let mut steps = Self::default();
        let mut mtimes: BTreeMap<&[u8], Time> = BTreeMap::new();
        let mut gone: HashSet<&[u8]> = HashSet::new();
        for (index, (entry, decision)) in table.entries.iter().zip(decisions).enumerate() {
            let Decision::Follow(directory) = decision else {
                continue;
            };
            if let Some(metadata) = directory {
                mtimes.insert(&entry.path, metadata.mtime);
                let new = entry.new.as_ref().map(|new| &new.metadata);
                // Else only its mtime follows.
                if new.is_some_and(|new| new.equal_but_mtime(metadata)) {
                    steps.follow.push(index);
                }
                continue;
            }
            steps.follow.push(index);
            if let Some(new) = &entry.new
                && new.content == Content::Directory
            {
                mtimes.insert(&entry.path, new.metadata.mtime);
            }
            let stays = entry.new.as_ref().map(|new| &new.content) == Some(&Content::Directory);
            if !stays {
                gone.insert(&entry.path);
            }
            // Its directory's times tell of the image's own changes only.
            if let Some(above) = above(&entry.path)
                && !gone.contains(above)
                && let Some(seen) = observed.at(above).filter(|seen| seen.is_directory())
            {
                mtimes.entry(above).or_insert(seen.metadata.mtime);
            }
        }
        let times = mtimes.into_iter();
        let times = times.map(|(path, time)| (path.into(), time.seconds, time.nanoseconds));
        steps.mtimes = times.collect();
        steps
    }

    pub(super) fn is_empty(&self) -> bool {
        self.follow.is_empty() && self.mtimes.is_empty()
    }

    /// The paths that get a new version.
    pub(super) fn follow(&self) -> impl Iterator<Item = usize> {
        self.follow.iter().copied()
    }

    /// The mtime that a directory is to have, if they say.
    pub(super) fn mtime(&self, path: &[u8]) -> Option<Time> {
        let found = self
            .mtimes
            .binary_search_by(|(of, ..)| of.as_bytes().cmp(path));
        found.ok().map(|place| time(&self.mtimes[place]))
    }

    /// What is left of them when some positions are as they should be. `mtime`: what a directory has by then.
    pub(super) fn without(
        &self,
        table: &PatchTable,
        satisfied: &BTreeSet<usize>,
        mtime: impl Fn(&[u8]) -> Option<Time>,
    ) -> Self {
        let follow = self.follow().filter(|index| !satisfied.contains(index));
        let follow: Vec<usize> = follow.collect();
        let touched = follow.iter().flat_map(|&index| {
            let path = &table.entries[index].path[..];
            [Some(path), above(path)]
        });
        let touched: HashSet<&[u8]> = touched.flatten().collect();
        let stays = |step: &&(PathBytes, i64, u32)| {
            let path = step.0.as_bytes();
            touched.contains(path) || mtime(path) != Some(time(step))
        };
        let mtimes = self.mtimes.iter().filter(stays).cloned().collect();
        Self { follow, mtimes }
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|error| Error::failed("steps of a change", error))
    }

    pub(super) fn decode(bytes: &[u8], about: &str) -> Result<Self> {
        serde_json::from_slice(bytes)
            .map_err(|error| Error::failed(about, error).remedy("run `foldfs check`"))
    }

    /// Refuses steps of another patch.
    ///
    /// # Errors
    /// They are.
    pub(super) fn refuse_other(&self, table: &PatchTable, image: ImageId) -> Result<()> {
        let entries = table.entries.len();
        if self.follow.iter().any(|&index| index >= entries) {
            let object = format!("changes/: steps of image {image}");
            return Err(Error::failed(object, "they are not of this patch")
                .remedy("restore `changes/` from another copy of the store"));
        }
        Ok(())
    }

    /// What the kernel may know of what they alter.
    pub(super) fn affected(&self, table: &PatchTable, observed: &Observed) -> Affected {
        let mut affected = Affected::default();
        let number = |path| observed.at(path).and_then(|seen| Number::new(seen.number));
        for &index in &self.follow {
            let entry = &table.entries[index];
            let seen = observed.at(&entry.path);
            let stays = seen.is_some_and(Seen::is_directory)
                && entry.new.as_ref().map(|new| &new.content) == Some(&Content::Directory);
            if let Some(above) = above(&entry.path)
                && let Some(parent) = number(above)
            {
                affected.directories.insert(parent);
                if !stays {
                    affected.names.insert((parent, name_in(&entry.path).into()));
                }
            }
            if let (Some(seen), Some(number)) = (seen, number(&entry.path)) {
                match seen.is_directory() {
                    true => affected.directories.insert(number),
                    false => affected.files.insert(number),
                };
            }
        }
        let directories = self.mtimes.iter().map(|(path, ..)| number(path.as_bytes()));
        affected.directories.extend(directories.flatten());
        affected
    }

    /// The files that lose a name, by st_ino, with the paths.
    pub(super) fn replaced(
        &self,
        table: &PatchTable,
        observed: &Observed,
    ) -> impl Iterator<Item = (u64, PathBytes)> {
        self.follow.iter().filter_map(|&index| {
            let path = &table.entries[index].path;
            let seen = observed.at(path).filter(|seen| !seen.is_directory())?;
            Some((seen.number, PathBytes::from([b"/", &path[..]].concat())))
        })
    }

    /// The most inodes that they make.
    pub(super) fn inodes(&self) -> usize {
        self.follow.len()
    }

    /// Carries them out in an image that shows what was `observed`. The contents are objects; `numbers`:
    /// for new inodes. When it was decided earlier, what somebody has made since stays.
    ///
    /// # Errors
    /// Those of the host; what is done by then stays, and a later call goes on.
    pub(super) fn carry_out(
        &self,
        alteration: &mut Alteration<'_>,
        observed: &Observed,
        table: &PatchTable,
        numbers: Vec<Number>,
    ) -> Result<()> {
        let image = alteration.filesystem().view.layer.image();
        self.refuse_other(table, image)?;
        alteration.begin();
        let mut run = Run {
            steps: self,
            table,
            observed,
            alteration,
            numbers,
        };
        run.all().map_err(|(path, failure)| {
            let path = PathBytes::from([b"/", &path[..]].concat());
            failure.about(format!("images/{image}: {path}"))
        })?;
        alteration.finish();
        Ok(())
    }
}

/// What failed, and at which path.
type Done<T> = std::result::Result<T, (Vec<u8>, Failure)>;

struct Run<'a, 'f> {
    steps: &'a Steps,
    table: &'a PatchTable,
    observed: &'a Observed,
    alteration: &'a mut Alteration<'f>,
    numbers: Vec<Number>,
}

impl Run<'_, '_> {
    fn all(&mut self) -> Done<()> {
        let (steps, table) = (self.steps, self.table);
        let mut done = self.done();
        for &index in steps.follow.iter().rev() {
            let path = &table.entries[index].path;
            if done[&index] || self.observed.at(path).is_none() {
                continue;
            }
            match self.alteration.remove(path) {
                // Somebody has made something in it since it was decided, and keeps that.
                Err(failure) if failure.errno() == Errno::NOTEMPTY => {
                    done.insert(index, true);
                }
                removed => removed.map_err(|failure| (path.clone(), failure))?,
            }
        }
        let mut first_names: HashMap<usize, usize> = HashMap::new();
        for &index in &steps.follow {
            let entry = &table.entries[index];
            let Some(new) = &entry.new else { continue };
            if done[&index] {
                continue;
            }
            let first = *first_names.entry(first_name(index, new)).or_insert(index);
            let put = match first == index {
                true => self.put(&entry.path, new),
                false => self
                    .alteration
                    .link(&table.entries[first].path, &entry.path),
            };
            put.map_err(|failure| (entry.path.clone(), failure))?;
        }
        for &index in steps.follow.iter().rev() {
            let entry = &table.entries[index];
            if let Some(new) = &entry.new
                && new.content == Content::Directory
            {
                let described = self.alteration.describe(&entry.path, &new.metadata);
                described.map_err(|failure| (entry.path.clone(), failure))?;
            }
        }
        for step in steps.mtimes.iter().rev() {
            let path = step.0.as_bytes();
            match self.alteration.set_mtime(path, time(step)) {
                Err(failure) if failure.errno() == Errno::NOENT => {}
                set => set.map_err(|failure| (path.to_vec(), failure))?,
            }
        }
        Ok(())
    }

    fn put(&mut self, path: &[u8], new: &PathVersion) -> Outcome<()> {
        let number = self.numbers.pop().ok_or(Errno::NOSPC)?;
        self.alteration
            .put(path, number, &new.content, &new.metadata)
    }

    fn seen(&self, index: usize) -> Option<&Seen> {
        self.observed.at(&self.table.entries[index].path)
    }

    /// Which paths need neither be removed nor made.
    fn done(&self) -> HashMap<usize, bool> {
        let mut names: HashMap<usize, Vec<usize>> = HashMap::new();
        for &index in &self.steps.follow {
            if let Some(new) = &self.table.entries[index].new {
                names.entry(first_name(index, new)).or_default().push(index);
            }
        }
        let is_done = |&index: &usize| -> (usize, bool) {
            let entry = &self.table.entries[index];
            let seen = self.seen(index);
            let is_of_the_patch = seen.is_none_or(|seen| {
                let versions = [&entry.old, &entry.new].into_iter().flatten();
                versions.into_iter().any(|version| is_like(version, seen))
            });
            if !is_of_the_patch {
                // Whoever made it since it was decided keeps it.
                return (index, true);
            }
            let Some(new) = &entry.new else {
                return (index, seen.is_none());
            };
            if new.content == Content::Directory {
                return (index, seen.is_some_and(Seen::is_directory));
            }
            let group = &names[&first_name(index, new)];
            let number = self.seen(group[0]).map(|seen| seen.number);
            let all = group.iter().all(|&name| {
                self.seen(name).is_some_and(|seen| {
                    is_like(new, seen)
                        && Some(seen.number) == number
                        && seen.links as usize == group.len()
                })
            });
            (index, all)
        };
        self.steps.follow.iter().map(is_done).collect()
    }
}

/// Whether it is a version, but for the names of the file; of directories, one at all.
fn is_like(version: &PathVersion, seen: &Seen) -> bool {
    version.content == seen.content
        && (seen.is_directory() || version.metadata == seen.metadata)
        && !seen.is_written
}

fn time((_, seconds, nanoseconds): &(PathBytes, i64, u32)) -> Time {
    Time {
        seconds: *seconds,
        nanoseconds: *nanoseconds,
    }
}

fn first_name(index: usize, version: &PathVersion) -> usize {
    version.first_name.unwrap_or(index)
}
