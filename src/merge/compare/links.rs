//! Which names are one file, and where two trees differ in that.

use std::collections::{HashMap, HashSet};

use super::side::Side;
use crate::store::number::Number;

/// A path that has several names in one of the trees at least, or may have.
struct Linked {
    path: Vec<u8>,
    old: Option<Side>,
    new: Option<Side>,
}

/// Paths of files with several names, in the order of the walk.
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

    /// The shared inodes that such a path is.
    pub(super) fn shared(&self) -> HashSet<Number> {
        let sides = self.0.iter().flat_map(|linked| [&linked.old, &linked.new]);
        let sides = sides.flatten().filter(|side| side.several_names);
        sides.filter_map(Side::shared).collect()
    }

    /// The paths of both trees where a file has other names in one than in the other.
    pub(super) fn differing(self) -> Vec<(Vec<u8>, Side, Side)> {
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
        let both = linked.filter_map(|linked| Some((linked.path, linked.old?, linked.new?)));
        both.filter(|(_, old, new)| {
            !old.is_directory()
                && !new.is_directory()
                && old_names.get(&old.number) != new_names.get(&new.number)
        })
        .collect()
    }
}
