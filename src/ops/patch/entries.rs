//! The entries of a patch's table: what two trees have at each path at which they differ.

use std::collections::HashMap;

use crate::archive::patch::{PatchEntry, PathVersion};
use crate::error::Result;
use crate::merge::compare::{Difference, Side, Tree};
use crate::ops::diff::file_digest;
use crate::store::metadata::Content;

/// What is before and after at each path, with the digests of all contents. The trees stand in their roots.
///
/// # Errors
/// Those of reading the trees.
pub(super) fn entries(
    found: &[Difference],
    old: &mut dyn Tree,
    new: &mut dyn Tree,
) -> Result<Vec<PatchEntry>> {
    let mut entries: Vec<PatchEntry> = Vec::with_capacity(found.len());
    let (mut old_names, mut new_names) = (HashMap::new(), HashMap::new());
    for (index, difference) in found.iter().enumerate() {
        let mut version = |is_old: bool| -> Result<Option<PathVersion>> {
            let (side, names) = match is_old {
                true => (&difference.old, &mut old_names),
                false => (&difference.new, &mut new_names),
            };
            let Some(side) = side else {
                return Ok(None);
            };
            if let Some(first) = first_name(side, index, names) {
                let earlier: &PatchEntry = &entries[first];
                let same = if is_old { &earlier.old } else { &earlier.new };
                return Ok(same.clone().map(|same| PathVersion {
                    first_name: Some(first),
                    ..same
                }));
            }
            let content = match side.content() {
                Content::Regular { size, digest: None } if *size > 0 => Content::Regular {
                    size: *size,
                    digest: Some(match is_old {
                        true => file_digest(difference, true, old)?,
                        false => file_digest(difference, false, new)?,
                    }),
                },
                content => content.clone(),
            };
            Ok(Some(PathVersion {
                content,
                metadata: side.metadata().clone(),
                first_name: None,
            }))
        };
        let (old, new) = (version(true)?, version(false)?);
        entries.push(PatchEntry {
            path: difference.path.clone(),
            old,
            new,
        });
    }
    Ok(entries)
}

/// The entry that has another name of the same file already.
fn first_name(side: &Side, index: usize, names: &mut HashMap<u64, usize>) -> Option<usize> {
    if !side.several_names {
        return None;
    }
    let first = *names.entry(side.number).or_insert(index);
    (first != index).then_some(first)
}
