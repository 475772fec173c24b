//! The change itself: what is prepared while guests go on, and what is done while they wait.

use std::sync::Arc;

use super::apply::{ApplyPlan, OnConflict};
use super::contents::{self, Sources};
use super::shared::SharedSteps;
use super::sharing::Sharing;
use super::source::Source;
use super::unfinished::{self, Withheld};
use crate::error::Result;
use crate::filesystem::Filesystem;
use crate::filesystem::follow::Alteration;
use crate::ops::Context;
use crate::progress::Progress;
use crate::store::Store;
use crate::store::catalog::{Change, ChangeReads, ImageRole};
use crate::store::metadata::Time;
use crate::store::number::{ImageId, Number};

/// What is on the disk of a change that is not committed.
struct Prepared {
    change: i64,
    sharing: Sharing,
    /// Of each target: what is to be done in its private layer, and numbers for new inodes.
    steps: Vec<(Vec<u8>, Vec<Number>)>,
}

/// A change that was made.
pub(super) struct Made {
    pub change: i64,
    /// The shared layer has all of it: nothing is left to placement.
    pub is_placed: bool,
}

/// Makes the change; `None`, and nothing has happened, where guests have done since what needs another
/// preparation. The plan's looks are those by which it was made.
pub(super) fn make(
    context: &Context,
    plan: &mut ApplyPlan,
    progress: &dyn Progress,
) -> Result<Option<Made>> {
    let store = &context.store;
    let _readers = store.alter_placement()?;
    let mut prepared = prepare(context, plan, progress)?;
    let change = prepared.change;

    let withheld = Withheld::take(context, plan.targets.iter().map(|target| &target.image))?;
    let filesystems = plan.targets.iter().map(|target| target.filesystem.clone());
    let filesystems: Vec<Arc<Filesystem>> = filesystems.collect();
    let bystanders = prepared.sharing.others.clone();
    let unsettled = filesystems.iter().zip(&plan.looks);
    let unsettled = unsettled.map(|(filesystem, look)| filesystem.unsettle(&look.affected));
    let unsettled: Vec<_> = unsettled.collect();
    progress.message("changing the images");
    let lock = context.images.change_lock(plan.family.id);
    let changing = lock.write();
    let stills = filesystems.iter().map(|filesystem| filesystem.alter());
    let mut stills: Vec<_> = stills.collect();
    // Some had nothing to do before, and some have nothing to do now.
    let is_kept: Vec<bool> = {
        let parts = prepared.sharing.parts.iter();
        parts.map(|part| !part.own.is_empty()).collect()
    };
    let mut others: Vec<_> = bystanders.iter().map(|other| other.alter()).collect();
    let is_prepared = look_again(context, plan, &stills, &mut prepared)?
        && prepared.sharing.part_with(&mut stills, &mut others)?;
    if !is_prepared {
        return Ok(None);
    }
    let Prepared { sharing, steps, .. } = prepared;
    commit(store, plan, sharing.steps(), change)?;

    let mut outcome = sharing.has_changed(context, &mut stills, &mut others);
    drop(others);
    let is_placed = sharing.is_all();
    if !is_placed {
        // What is done now is to be found in this catalog only.
        outcome = outcome.and_then(|()| store.ensure_backup());
    }
    if outcome.is_err() {
        drop(stills);
    } else {
        let mut changing = Some(changing);
        let table = &plan.origin.table;
        let work = plan.targets.iter().zip(&plan.looks);
        let work = work.zip(sharing.parts.iter().zip(is_kept));
        let work = work.zip(steps).zip(stills);
        for ((((target, look), (part, is_kept)), (_, numbers)), mut still) in work {
            if !target.filesystem.is_served() {
                // Nobody uses it, or gets to: guests may go on.
                changing = None;
            }
            if is_kept || !part.own.is_empty() {
                let done = part
                    .own
                    .carry_out(&mut still, &look.observed, table, numbers);
                let done = done.and_then(|()| store.is_carried_out(change, target.image.id));
                outcome = outcome.and(done);
            }
            drop(still);
            if changing.is_none() {
                target.filesystem.tell_changed(&look.affected);
            }
        }
        drop(changing);
    }
    for (target, look) in plan.targets.iter().zip(&plan.looks) {
        target.filesystem.tell_changed(&look.affected);
    }
    drop(unsettled);
    let outcome = outcome.and(store.finish_changes());
    drop(withheld);
    outcome.map_err(unfinished::is_made)?;
    Ok(Some(Made { change, is_placed }))
}

/// Contents become objects; the record, and what it means for each image, are on the disk, and nobody
/// depends on what leaves the shared layer.
fn prepare(context: &Context, plan: &ApplyPlan, progress: &dyn Progress) -> Result<Prepared> {
    let (store, origin) = (&context.store, &plan.origin);
    let needed = contents::needed(store, origin, plan.looks.iter())?;
    let sources = Sources {
        origin,
        targets: &plan.targets,
        looks: &plan.looks,
        merged: &plan.merged,
    };
    sources.provide(store, &needed, progress)?;
    let sharing = Sharing::of(context, plan)?;
    sharing.cover(plan)?;
    let mut steps = Vec::new();
    let mut kept: Vec<(ImageId, Vec<u8>)> = Vec::new();
    for (target, part) in plan.targets.iter().zip(&sharing.parts) {
        let encoded = part.own.encode()?;
        if !part.own.is_empty() {
            kept.push((target.image.id, encoded.clone()));
        }
        steps.push((encoded, unfinished::numbers(store, part.own.inodes())?));
    }
    let change = store.catalog().next_change_id()?;
    store.keep_change(change, &origin.record, &kept)?;
    store.sync()?;
    Ok(Prepared {
        change,
        sharing,
        steps,
    })
}

/// Looks at the images in which anything may have happened since; whether it is prepared for what it sees.
/// If so, the plan's looks are those of now.
fn look_again(
    context: &Context,
    plan: &mut ApplyPlan,
    stills: &[Alteration<'_>],
    prepared: &mut Prepared,
) -> Result<bool> {
    let store = &context.store;
    let mut looks = Vec::new();
    for (place, (target, still)) in plan.targets.iter().zip(stills).enumerate() {
        let before = &plan.looks[place];
        if target.is_as_before(context, before, still) {
            continue;
        }
        let look = target.look(context, still, &plan.origin.table)?;
        let is_prepared = look.affected.is_within(&before.affected);
        let is_refused = plan.options.on_conflict == OnConflict::Fail && look.has_conflicts();
        if !is_prepared || is_refused || target.is_other_given_up(before, &look) {
            return Ok(false);
        }
        looks.push((place, look));
    }
    if looks.is_empty() {
        return Ok(true);
    }
    let needed = contents::needed(store, &plan.origin, looks.iter().map(|(_, look)| look))?;
    if !needed.is_empty() {
        return Ok(false);
    }
    for (place, look) in looks {
        plan.looks[place] = look;
    }
    let Some(parts) = prepared.sharing.again(context, plan)? else {
        return Ok(false);
    };
    let mut is_rewritten = false;
    for ((part, target), (steps, numbers)) in
        parts.iter().zip(&plan.targets).zip(&mut prepared.steps)
    {
        if part.own.inodes() > numbers.len() {
            return Ok(false);
        }
        let now = part.own.encode()?;
        if now != *steps {
            store.keep_steps(prepared.change, target.image.id, &now)?;
            is_rewritten = true;
        }
    }
    prepared.sharing.parts = parts;
    if is_rewritten {
        store.sync()?;
    }
    Ok(true)
}

fn commit(store: &Store, plan: &ApplyPlan, shared: &SharedSteps, change: i64) -> Result<()> {
    let transaction = store.catalog().transaction()?;
    shared.write(&transaction, plan.family.id, &plan.origin.table)?;
    transaction.add_change(&Change {
        id: change,
        family: plan.family.id,
        time: Time::now().seconds,
        who: plan.options.who.clone(),
        kind: plan.origin.kind,
        source: plan.origin.name.clone(),
        why: plan.options.why.clone(),
        taken_back: plan.origin.taken_back,
        is_kept: true,
    })?;
    let is_commit = matches!(plan.options.source, Source::Working { .. });
    for (target, look) in plan.targets.iter().zip(&plan.looks) {
        if !look.steps.is_empty() {
            transaction.add_changed_image(change, target.image.id, &look.untouched)?;
        } else if is_commit && target.image.role == ImageRole::Working {
            // It has all of it, being what the change was made of: to be taken back there, too.
            transaction.add_changed_image(change, target.image.id, target.untouched())?;
        }
    }
    store.commit_generation(transaction)
}
