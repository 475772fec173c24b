//! Which names are one file, and where two trees differ in that.

use std::collections::{HashMap, HashSet};

use super::side::{Side, What};
use crate::store::number::Number;

/// A path that has several names in one of the trees at least, or may have.
struct Linked {
    path: Vec<u8>,
    old: Option<Side>,
    new: Option<Side>,
}

/// Paths of files with several names.
#[derive(Default)]
pub(super) struct Links(Vec<Linked>);

impl Links {
    /// Takes note of a path that is no directory in one of the trees at least.
    pub(super) fn note(&mut self, path: &[u8], old: Option<&Side>, new: Option<&Side>) {
        if old.is_some_and(|side| side.several_names) || new.is_some_and(|side| side.several_names)
        {
            self.0.push(Linked {
                path: path.to_vec(),
                old: old.cloned(),
                new: new.cloned(),
            });
        }
    }

    /// Adds those of other directories.
    pub(super) fn add(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// The shared inodes that such a path is, but for those of which one of the trees has shown all names
    /// already: a tree shows each name of a shared inode once at most.
    pub(super) fn shared_elsewhere(&self) -> HashSet<Number> {
        let mut found = HashSet::new();
        let mut complete = HashSet::new();
        let in_old: fn(&Linked) -> Option<&Side> = |linked| linked.old.as_ref();
        let in_new: fn(&Linked) -> Option<&Side> = |linked| linked.new.as_ref();
        for in_tree in [in_old, in_new] {
            let mut seen: HashMap<Number, u32> = HashMap::new();
            for side in self.0.iter().filter_map(in_tree) {
                if let (What::Shared(inode), true) = (&side.what, side.several_names) {
                    found.insert(inode.number);
                    let seen = seen.entry(inode.number).or_default();
                    *seen += 1;
                    if *seen == inode.links {
                        complete.insert(inode.number);
                    }
                }
            }
        }
        found.retain(|number| !complete.contains(number));
        found
    }

    /// The paths of both trees where a file has other names in one than in the other.
    pub(super) fn differing(self) -> HashMap<Vec<u8>, (Side, Side)> {
        let mut old_names: HashMap<u64, Vec<usize>> = HashMap::new();
        let mut new_names: HashMap<u64, Vec<usize>> = HashMap::new();
        for (index, linked) in self.0.iter().enumerate() {
            for (names, side) in [(&mut old_names, &linked.old), (&mut new_names, &linked.new)] {
                if let Some(side) = side {
                    names.entry(side.number).or_default().push(index);
                }
            }
        }
        let linked = self.0.into_iter();
        let both = linked.filter_map(|linked| Some((linked.path, (linked.old?, linked.new?))));
        both.filter(|(_, (old, new))| {
            !old.is_directory()
                && !new.is_directory()
                && old_names.get(&old.number) != new_names.get(&new.number)
        })
        .collect()
    }
}
