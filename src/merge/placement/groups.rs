//! Files of several names in a plan.

use std::collections::{BTreeSet, HashMap};

use super::{Becomes, Change, Directory, Placement};
use crate::store::metadata::Content;
use crate::store::number::Number;

/// A file of several names leaves the shared layer with all of them or not at all, as far as the
/// directories that hold them stay.
pub(super) fn keep_split_groups(placement: &mut Placement) {
    let leaves = |change: &Change| {
        let old = change.old.as_ref()?;
        let several = old.content != Content::Directory && old.links > 1;
        (several && change.new != Becomes::Same).then_some((old.number, old.links))
    };
    let mut leaving: HashMap<Number, u32> = HashMap::new();
    for (number, _) in placement.changes.iter().filter_map(leaves) {
        *leaving.entry(number).or_default() += 1;
    }
    let changes = placement.changes.iter();
    let removed: BTreeSet<Number> = changes.filter_map(removed_directory).collect();
    let stays = |change: &Change| {
        let Some((number, links)) = leaves(change) else {
            return false;
        };
        let directory_stays = match change.directory {
            Directory::Shared(directory) => !removed.contains(&directory),
            Directory::New(_) => true,
        };
        // What is in a new directory would lose its place in the plan.
        let simple = !matches!(change.new, Becomes::Directory(_));
        leaving.get(&number).is_some_and(|count| *count < links) && directory_stays && simple
    };
    let changes = std::mem::take(&mut placement.changes);
    let mut positions = Vec::with_capacity(changes.len());
    for mut change in changes {
        positions.push(placement.changes.len());
        if stays(&change) {
            continue;
        }
        if let Directory::New(position) = &mut change.directory {
            // A directory comes before what is in it.
            *position = positions[*position];
        }
        placement.changes.push(change);
    }
}

/// The shared directory that a change removes.
fn removed_directory(change: &Change) -> Option<Number> {
    let old = change.old.as_ref()?;
    let removed = old.content == Content::Directory && change.new != Becomes::Same;
    removed.then_some(old.number)
}
