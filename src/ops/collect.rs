//! collect: remove the objects that nothing refers to.
//!
//! # Why nothing is lost
//! 1. The objects are listed **first**, then the references are gathered ([`references`]): an
//!    object published in between is not in the list.
//! 2. A reference to an object that exists comes into being only in an operation, and operations
//!    that alter the store wait for each other ([`Context::alone`]); a guest only moves and removes
//!    those it has, and while its private layer is read it does not even move them.
//! 3. Imports stage beside all this; [`pins`] says why none of them loses what it has found. Hence
//!    an object is not unlinked at once but **withdrawn** into `staging/`, and put back if it
//!    turns out to be pinned. A crash in between puts everything back (recovery).
//! 4. What a mounted image's kernel refers to is in the view, in `orphans/`, or open. The first two
//!    are references as all others. What is open, by us or handed to the kernel, is a file
//!    without a name then, as usual in Unix, and all its content stays until it is closed.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;

use super::context::Context;
use super::references::references;
use super::report::{CollectReport, CollectedObject};
use crate::error::Result;
use crate::progress::Progress;
use crate::store::catalog::{ChangeKind, ChangeReads};
use crate::store::digest::Digest;
use crate::store::layout;
use crate::store::number::FamilyId;
use crate::store::objects::Found;
use crate::store::pins;

/// An object that nothing refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Garbage {
    digest: Digest,
    size: u64,
    allocated: u64,
}

/// The objects that nothing refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    examined: u64,
    garbage: Vec<Garbage>,
    /// Changes that cannot be taken back any more.
    forgotten: Vec<i64>,
}

impl Plan {
    /// What would be reported if all of it went.
    pub fn report(&self) -> CollectReport {
        report(self.examined, &self.garbage, &self.forgotten)
    }
}

fn report(examined: u64, removed: &[Garbage], forgotten: &[i64]) -> CollectReport {
    CollectReport {
        examined,
        removed: removed
            .iter()
            .map(|object| CollectedObject {
                digest: object.digest.to_string(),
                bytes: object.size,
            })
            .collect(),
        freed_bytes: removed.iter().map(|object| object.allocated).sum(),
        forgotten_changes: forgotten.to_vec(),
    }
}

/// Finds them. `keep_changes`: how many changes of a family, the newest ones, are kept so that they can be
/// taken back. The answer holds for as long as the caller keeps other operations waiting.
///
/// # Errors
/// The catalog's and the file system's; an entry whose mark, or a change whose record, cannot be read.
pub fn plan(context: &Context, keep_changes: u64, progress: &dyn Progress) -> Result<Plan> {
    progress.message("looking for objects that nothing refers to");
    let store = &context.store;
    let mut garbage = Vec::new();
    store.objects().for_each(|found| {
        if let Found::Object(digest, stat) = found {
            garbage.push(Garbage {
                digest,
                size: stat.st_size as u64,
                allocated: stat.st_blocks as u64 * 512,
            });
        }
        Ok(())
    })?;
    let examined = garbage.len() as u64;
    let forgotten = old_changes(context, keep_changes)?;
    let referenced = references(context, &forgotten)?;
    let pinned = pins::pinned(store.staging())?;
    garbage
        .retain(|object| !referenced.contains(&object.digest) && !pinned.contains(&object.digest));
    garbage.sort_unstable_by_key(|object| object.digest);
    Ok(Plan {
        examined,
        garbage,
        forgotten,
    })
}

/// The changes that are kept, but for the newest of each family.
fn old_changes(context: &Context, keep_changes: u64) -> Result<Vec<i64>> {
    // Those of a tree that is committed as it is changed are many, and count for themselves.
    let mut by_family: HashMap<(FamilyId, bool), Vec<i64>> = HashMap::new();
    for change in context.store.catalog().kept_changes()? {
        let is_live = change.kind == ChangeKind::Live;
        let ids = by_family.entry((change.family, is_live)).or_default();
        ids.push(change.id);
    }
    let keep = usize::try_from(keep_changes).unwrap_or(usize::MAX);
    let old = by_family.into_values().flat_map(|mut ids| {
        ids.truncate(ids.len().saturating_sub(keep));
        ids
    });
    let mut old: Vec<i64> = old.collect();
    old.sort_unstable();
    Ok(old)
}

/// Removes them, but for those that an import has pinned since.
///
/// # Errors
/// The file system's. What was withdrawn by then comes back when the store is opened the next time.
pub fn apply(context: &Context, plan: &Plan) -> Result<CollectReport> {
    let store = &context.store;
    store.forget_changes(&plan.forgotten)?;
    if plan.garbage.is_empty() {
        return Ok(plan.report());
    }
    // An older copy of the catalog may still refer to what goes now.
    store.back_up_catalog()?;
    let withdrawn = store.stage(layout::WITHDRAWN)?;
    let removed = withdraw(context, plan, withdrawn.directory())
        .and_then(|taken| put_back_pinned(context, taken, withdrawn.directory()));
    match removed {
        Ok(removed) => {
            withdrawn.discard()?;
            context.images.close_kept();
            Ok(report(plan.examined, &removed, &plan.forgotten))
        }
        Err(error) => {
            withdrawn.leave();
            Err(error)
        }
    }
}

/// Takes the objects' names away.
fn withdraw(context: &Context, plan: &Plan, to: BorrowedFd<'_>) -> Result<Vec<Garbage>> {
    let mut taken = Vec::new();
    for object in &plan.garbage {
        if context.store.objects().withdraw(&object.digest, to)? {
            taken.push(*object);
        }
    }
    Ok(taken)
}

fn put_back_pinned(
    context: &Context,
    mut withdrawn: Vec<Garbage>,
    from: BorrowedFd<'_>,
) -> Result<Vec<Garbage>> {
    let store = &context.store;
    let pinned = pins::pinned(store.staging())?;
    for object in withdrawn.extract_if(.., |object| pinned.contains(&object.digest)) {
        let name = layout::work_name(&object.digest);
        store
            .objects()
            .publish(from, name.as_bytes(), &object.digest)?;
    }
    Ok(withdrawn)
}
