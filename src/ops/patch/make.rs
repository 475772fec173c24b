//! The change itself: what is prepared while guests go on, and what is done while they wait.

use super::apply::{ApplyPlan, OnConflict};
use super::contents;
use super::source::Source;
use super::target::Look;
use super::unfinished::{self, Withheld};
use crate::error::Result;
use crate::filesystem::follow::Alteration;
use crate::ops::Context;
use crate::progress::Progress;
use crate::store::Store;
use crate::store::catalog::{Change, ChangeReads, ImageRole, Untouched};
use crate::store::metadata::Time;
use crate::store::number::{ImageId, Number};

/// What is on the disk of a change that is not committed.
struct Prepared {
    change: i64,
    /// Of each target: what is to be done, and numbers for new inodes.
    steps: Vec<(Vec<u8>, Vec<Number>)>,
}

/// Makes the change; `None`, and nothing has happened, where guests have done since what needs another
/// preparation. The plan's looks are those by which it was made.
pub(super) fn make(
    context: &Context,
    plan: &mut ApplyPlan,
    progress: &dyn Progress,
) -> Result<Option<i64>> {
    let store = &context.store;
    let _readers = store.alter_placement()?;
    let mut prepared = prepare(context, plan, progress)?;
    let change = prepared.change;

    let withheld = Withheld::take(context, plan.targets.iter().map(|target| &target.image))?;
    let unsettled = plan.targets.iter().zip(&plan.looks);
    let unsettled = unsettled.map(|(target, look)| target.filesystem.unsettle(&look.affected));
    let unsettled: Vec<_> = unsettled.collect();
    progress.message("changing the images");
    let lock = context.images.change_lock(plan.family.id);
    let changing = lock.write();
    let stills = plan.targets.iter().map(|target| target.filesystem.alter());
    let stills: Vec<_> = stills.collect();
    let Some(again) = look_again(context, plan, &stills, &mut prepared)? else {
        return Ok(None);
    };
    // Some had nothing to do before, and some have nothing to do now.
    let is_kept: Vec<_> = plan
        .looks
        .iter()
        .map(|look| !look.steps.is_empty())
        .collect();
    for (look, again) in plan.looks.iter_mut().zip(again) {
        *look = again.unwrap_or_else(|| std::mem::take(look));
    }
    commit(store, plan, change)?;

    // What is done now is to be found in this catalog only.
    let mut outcome = store.ensure_backup();
    if outcome.is_err() {
        drop(stills);
    } else {
        let mut changing = Some(changing);
        let table = &plan.origin.table;
        let work = plan.targets.iter().zip(&plan.looks).zip(is_kept);
        let work = work.zip(prepared.steps).zip(stills);
        for ((((target, look), is_kept), (_, numbers)), mut still) in work {
            if !target.filesystem.is_served() {
                // Nobody uses it, or gets to: guests may go on.
                changing = None;
            }
            if is_kept || !look.steps.is_empty() {
                let done = look
                    .steps
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
    Ok(Some(change))
}

/// Contents become objects; the record, and what it means for each image, are on the disk.
fn prepare(context: &Context, plan: &ApplyPlan, progress: &dyn Progress) -> Result<Prepared> {
    let (store, origin) = (&context.store, &plan.origin);
    let needed = contents::needed(store, origin, plan.looks.iter())?;
    let looked = (&plan.targets[..], &plan.looks[..]);
    contents::provide(store, origin, looked, &needed, progress)?;
    let mut steps = Vec::new();
    let mut kept: Vec<(ImageId, Vec<u8>)> = Vec::new();
    for (target, look) in plan.targets.iter().zip(&plan.looks) {
        let encoded = look.steps.encode()?;
        if !look.steps.is_empty() {
            kept.push((target.image.id, encoded.clone()));
        }
        steps.push((encoded, unfinished::numbers(store, look.steps.inodes())?));
    }
    let change = store.catalog().next_change_id()?;
    store.keep_change(change, &origin.record, &kept)?;
    store.sync()?;
    Ok(Prepared { change, steps })
}

/// Looks at the images in which anything may have happened since; `None`: it is not prepared for what it
/// sees.
fn look_again(
    context: &Context,
    plan: &ApplyPlan,
    stills: &[Alteration<'_>],
    prepared: &mut Prepared,
) -> Result<Option<Vec<Option<Look>>>> {
    let store = &context.store;
    let mut looks = Vec::new();
    let mut is_rewritten = false;
    for (place, (target, still)) in plan.targets.iter().zip(stills).enumerate() {
        let before = &plan.looks[place];
        if target.is_as_before(context, before, still) {
            looks.push(None);
            continue;
        }
        let look = target.look(context, still, &plan.origin.table)?;
        let (steps, numbers) = &mut prepared.steps[place];
        let is_prepared =
            look.affected.is_within(&before.affected) && look.steps.inodes() <= numbers.len();
        if !is_prepared || plan.options.on_conflict == OnConflict::Fail && look.conflicts() {
            return Ok(None);
        }
        let now = look.steps.encode()?;
        if now != *steps {
            store.keep_steps(prepared.change, target.image.id, &now)?;
            is_rewritten = true;
        }
        looks.push(Some(look));
    }
    let needed = contents::needed(store, &plan.origin, looks.iter().flatten())?;
    if !needed.is_empty() {
        return Ok(None);
    }
    if is_rewritten {
        store.sync()?;
    }
    Ok(Some(looks))
}

fn commit(store: &Store, plan: &ApplyPlan, change: i64) -> Result<()> {
    let transaction = store.catalog().transaction()?;
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
            transaction.add_changed_image(change, target.image.id, &Untouched::default())?;
        }
    }
    store.commit_generation(transaction)
}
