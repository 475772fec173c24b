//! patch: a change of a tree as a file.

mod apply;
mod changes;
mod conflicts;
mod contents;
mod create;
mod decide;
mod entries;
mod known;
mod make;
mod merge;
mod observe;
mod running;
mod shared;
mod sharing;
mod show;
mod source;
mod steps;
mod target;
mod unfinished;

pub use apply::{ApplyOptions, ApplyPlan, OnConflict, apply, plan};
pub use changes::changes;
pub use create::{CreateOptions, create};
pub use decide::Conflict;
pub use show::{ShowOptions, show};
pub use source::{Source, Worked, make_objects};
pub use unfinished::{check_left, finish_left};

use super::report::{PatchContents, PatchReport};
use crate::archive::patch::{PatchTable, PathVersion, PublicKey};
use crate::merge::compare::{Aspects, Difference, Side, What};
use crate::ops::diff::{self, Differences, Moves};
use crate::ops::report::DiffReport;
use crate::path_bytes::PathBytes;
use crate::store::metadata::Content;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// A patch as it is told.
struct Told<'a> {
    file: &'a Path,
    size: u64,
    signer: Option<&'a PublicKey>,
    /// Keys one of which must have signed it; none: anybody, or nobody.
    keys: &'a [PublicKey],
    table: &'a PatchTable,
    stat: bool,
}

fn report(told: &Told<'_>) -> PatchReport {
    let table = told.table;
    let mut contents = PatchContents::default();
    for content in &table.contents {
        contents.count += 1;
        contents.bytes += content.id.size;
        contents.stored_bytes += content.stored();
        contents.deltas += u64::from(content.base.is_some());
    }
    let by_key = told.keys.is_empty() || told.signer.is_some_and(|key| told.keys.contains(key));
    PatchReport {
        file: told.file.to_owned().into(),
        format: 1,
        bytes: told.size,
        signed_by: told.signer.map(PublicKey::to_string),
        accepted: by_key,
        contents,
        changes: differences(table, told.stat),
    }
}

/// The names of each file of one of the trees that the table has, by the entry with the first one.
fn groups<'a>(
    table: &'a PatchTable,
    side: impl Fn(usize) -> Option<&'a PathVersion>,
) -> HashMap<usize, Vec<usize>> {
    let mut groups: HashMap<usize, Vec<usize>> = HashMap::new();
    for index in 0..table.entries.len() {
        if let Some(version) = side(index).filter(|side| side.content != Content::Directory) {
            let first = version.first_name.unwrap_or(index);
            groups.entry(first).or_default().push(index);
        }
    }
    groups
}

/// What `diff` would say of the two trees.
fn differences(table: &PatchTable, stat: bool) -> DiffReport {
    let entries = &table.entries;
    let (old, new) = (
        groups(table, |index| entries[index].old.as_ref()),
        groups(table, |index| entries[index].new.as_ref()),
    );
    let side = |index: usize, version: &PathVersion, groups: &HashMap<usize, Vec<usize>>| {
        let first = version.first_name.unwrap_or(index);
        Side {
            number: first as u64,
            several_names: groups.get(&first).is_some_and(|names| names.len() > 1),
            what: What::Own(Arc::new((
                version.content.clone(),
                version.metadata.clone(),
            ))),
        }
    };
    let mut all = Vec::with_capacity(entries.len());
    for (index, entry) in entries.iter().enumerate() {
        let before = entry.old.as_ref().map(|version| side(index, version, &old));
        let after = entry.new.as_ref().map(|version| side(index, version, &new));
        let mut aspects = Aspects::default();
        if let (Some(before), Some(after)) = (&before, &after) {
            // A patch has the digests of all contents.
            let found = Aspects::of(before, after, || Ok(false));
            aspects = found.unwrap_or_default();
            aspects.links = !before.is_directory()
                && !after.is_directory()
                && old.get(&(before.number as usize)) != new.get(&(after.number as usize));
        }
        all.push(Difference {
            path: entry.path.clone(),
            old: before,
            new: after,
            aspects,
        });
    }
    let found = Differences {
        all,
        moves: Moves::default(),
    };
    let path = |name: &[u8]| PathBytes::from(name).as_path().to_owned();
    let options = diff::Options {
        old: path(&table.old),
        new: path(&table.new),
        paths: Vec::new(),
        stat,
        text: false,
    };
    diff::present::report(&found, &options)
}
