//! What a change means for one image: written down before the change is committed, carried out after
//! it, as often as it takes. Where it was carried out in part, the rest is done; where it was carried
//! out, nothing.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::decide::Decision;
use super::observe::{Observed, Seen, above, observe};
use crate::archive::patch::{PatchTable, PathVersion};
use crate::error::{Error, Result};
use crate::filesystem::Filesystem;
use crate::filesystem::failure::{Failure, Outcome};
use crate::filesystem::node::Node;
use crate::filesystem::set_attributes::{Changes, NewTime};
use crate::path_bytes::PathBytes;
use crate::store::metadata::{Content, Metadata, Time};
use crate::store::number::{ImageId, Number};
use crate::store::objects::Objects;

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
            return Err(Error::failed(object, "they are not of this patch"));
        }
        Ok(())
    }

    /// Carries them out. The contents are objects.
    ///
    /// # Errors
    /// Those of the host; what is done by then stays, and a later call goes on.
    pub(super) fn carry_out(
        &self,
        filesystem: &Filesystem,
        objects: &Objects,
        table: &PatchTable,
    ) -> Result<()> {
        let image = filesystem.view.layer.image();
        self.refuse_other(table, image)?;
        let observed = observe(filesystem, objects, table)?;
        let run = Run {
            steps: self,
            filesystem,
            table,
            observed,
        };
        run.all().map_err(|(path, failure)| {
            let path = PathBytes::from([b"/", &path[..]].concat());
            failure.about(format!("images/{image}: {path}"))
        })
    }
}

/// What failed, and at which path.
type Done<T> = std::result::Result<T, (Vec<u8>, Failure)>;

struct Run<'a> {
    steps: &'a Steps,
    filesystem: &'a Filesystem,
    table: &'a PatchTable,
    observed: Observed,
}

/// A node with the references that looking it up took.
struct Found<'a> {
    filesystem: &'a Filesystem,
    node: Arc<Node>,
    numbers: Vec<Number>,
}

impl Drop for Found<'_> {
    fn drop(&mut self) {
        for &number in self.numbers.iter().rev() {
            self.filesystem.forget(number, 1);
        }
    }
}

impl Run<'_> {
    fn all(&self) -> Done<()> {
        let done = self.done();
        for &index in self.steps.follow.iter().rev() {
            if !done[&index] {
                self.at(index, |path| self.remove(path, index))?;
            }
        }
        let mut first_names: HashMap<usize, usize> = HashMap::new();
        for &index in &self.steps.follow {
            let Some(new) = self.becomes(index) else {
                continue;
            };
            let first = *first_names.entry(first_name(index, new)).or_insert(index);
            if !done[&index] {
                self.at(index, |path| self.put(path, new, first, index))?;
            }
        }
        for &index in self.steps.follow.iter().rev() {
            if let Some(new) = self
                .becomes(index)
                .filter(|new| new.content == Content::Directory)
            {
                self.at(index, |path| self.describe(path, &new.metadata))?;
            }
        }
        for (path, seconds, nanoseconds) in self.steps.mtimes.iter().rev() {
            let time = Time {
                seconds: *seconds,
                nanoseconds: *nanoseconds,
            };
            let set = self.set_mtime(path.as_bytes(), time);
            set.map_err(|failure| (path.as_bytes().to_vec(), failure))?;
        }
        Ok(())
    }

    fn at<T>(&self, index: usize, step: impl FnOnce(&[u8]) -> Outcome<T>) -> Done<T> {
        let path = &self.table.entries[index].path;
        step(path).map_err(|failure| (path.clone(), failure))
    }

    fn becomes(&self, index: usize) -> Option<&PathVersion> {
        self.table.entries[index].new.as_ref()
    }

    fn seen(&self, index: usize) -> Option<&Seen> {
        self.observed.at(&self.table.entries[index].path)
    }

    /// Which paths need neither be removed nor made.
    fn done(&self) -> HashMap<usize, bool> {
        let mut names: HashMap<usize, Vec<usize>> = HashMap::new();
        for &index in &self.steps.follow {
            if let Some(new) = self.becomes(index) {
                names.entry(first_name(index, new)).or_default().push(index);
            }
        }
        let is_done = |&index: &usize| -> (usize, bool) {
            let Some(new) = self.becomes(index) else {
                return (index, self.seen(index).is_none());
            };
            if new.content == Content::Directory {
                return (index, self.seen(index).is_some_and(Seen::is_directory));
            }
            let group = &names[&first_name(index, new)];
            let number = self.seen(group[0]).map(|seen| seen.number);
            let all = group.iter().all(|&name| {
                self.seen(name).is_some_and(|seen| {
                    seen.content == new.content
                        && seen.metadata == new.metadata
                        && Some(seen.number) == number
                        && seen.links as usize == group.len()
                })
            });
            (index, all)
        };
        self.steps.follow.iter().map(is_done).collect()
    }

    /// The directory that a path is in, and its name there.
    fn parent<'p>(&self, path: &'p [u8]) -> Outcome<(Found<'_>, &'p [u8])> {
        let above = above(path).unwrap_or_default();
        let start = if above.is_empty() { 0 } else { above.len() + 1 };
        Ok((self.find(above)?, &path[start..]))
    }

    fn find(&self, path: &[u8]) -> Outcome<Found<'_>> {
        let mut found = Found {
            filesystem: self.filesystem,
            node: self.filesystem.root().clone(),
            numbers: Vec::new(),
        };
        for name in path
            .split(|&byte| byte == b'/')
            .filter(|name| !name.is_empty())
        {
            let attributes = self.filesystem.lookup(&found.node, name)?;
            found.numbers.push(attributes.number);
            found.node = self.filesystem.node(attributes.number)?;
        }
        Ok(found)
    }

    fn remove(&self, path: &[u8], index: usize) -> Outcome<()> {
        let Some(seen) = self.seen(index) else {
            return Ok(());
        };
        let (parent, name) = self.parent(path)?;
        match seen.is_directory() {
            true => self.filesystem.rmdir(&parent.node, name),
            false => self.filesystem.unlink(&parent.node, name),
        }
    }

    /// `first`: the position of the first name of the same file that is made.
    fn put(&self, path: &[u8], new: &PathVersion, first: usize, index: usize) -> Outcome<()> {
        let (parent, name) = self.parent(path)?;
        if first != index {
            let file = self.find(&self.table.entries[first].path)?;
            let linked = self.filesystem.link(&file.node, &parent.node, name)?;
            // The link counts as a look-up.
            self.filesystem.forget(linked.number, 1);
            return Ok(());
        }
        let put = self
            .filesystem
            .put(&parent.node, name, &new.content, &new.metadata);
        put.map(|_| ())
    }

    fn describe(&self, path: &[u8], metadata: &Metadata) -> Outcome<()> {
        let found = self.find(path)?;
        self.filesystem.describe(&found.node, metadata)
    }

    fn set_mtime(&self, path: &[u8], time: Time) -> Outcome<()> {
        let found = self.find(path)?;
        if self.filesystem.attributes(&found.node)?.mtime != time {
            let changes = Changes {
                mtime: Some(NewTime::At(time)),
                ..Changes::default()
            };
            self.filesystem.set_attributes(&found.node, &changes)?;
        }
        Ok(())
    }
}

fn first_name(index: usize, version: &PathVersion) -> usize {
    version.first_name.unwrap_or(index)
}
