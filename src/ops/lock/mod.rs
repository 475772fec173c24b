//! lock and unlock: paths of a family that none of its images may alter, add to or remove from.
//!
//! 1. All images are looked at: where one has another version than the base, or where somebody has a file
//!    open for writing or mapped so, it is refused.
//! 2. The locks come into force in this process.
//! 3. All images are looked at once more: what is locked does not change any more, so that this counts.
//! 4. The catalog gets the patterns, or the former locks come back into force.

mod look;

use std::sync::Arc;

use look::Found;

use super::Context;
use super::report::LockReport;
use crate::error::{Error, Result};
use crate::merge::locks::Locks;
use crate::progress::Progress;
use crate::store::catalog::{Family, Reads};

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The family.
    pub family: String,
    /// Patterns, in their order.
    pub patterns: Vec<String>,
    /// Images may be as they are there.
    pub adopt: bool,
}

/// What locking or unlocking will do, if no guest is at work there until then.
#[derive(Debug)]
pub struct Plan {
    family: Family,
    listed: bool,
    adopt: bool,
    changed: Vec<String>,
    before: Arc<Locks>,
    after: Arc<Locks>,
    paths: u64,
    found: Found,
}

impl Plan {
    /// What is reported before and after.
    pub fn report(&self) -> LockReport {
        LockReport {
            family: self.family.name.clone(),
            listed: self.listed,
            changed: self.changed.clone(),
            patterns: self.after.patterns().map(Into::into).collect(),
            paths: self.paths,
            differences: self.found.differences.clone(),
            more_differences: self.found.more,
        }
    }

    fn refuse_differences(&self, found: &Found) -> Result<()> {
        if self.adopt || found.differences.is_empty() {
            return Ok(());
        }
        let object = format!("family {}", self.family.name);
        Err(Error::failed(object, found.sentence())
            .remedy("make them as the base is there, or keep them as they are with --adopt"))
    }
}

fn family(context: &Context, name: &str) -> Result<Family> {
    context
        .store
        .catalog()
        .family_by_name(name)?
        .ok_or_else(|| {
            Error::failed(format!("{name:?}"), "there is no such family")
                .remedy("foldfs list shows all")
        })
}

/// Which paths become locked, too; without a pattern, which are. A pattern that is there already comes to be
/// the last one.
///
/// # Errors
/// There is no such family; a usage error for what is no pattern; images have versions of their own there,
/// unless these are adopted; somebody has a file open for writing there (kind Busy); those of reading.
pub fn plan(context: &Context, options: &Options, progress: &dyn Progress) -> Result<Plan> {
    let last = without_repetition(&options.patterns);
    let family = family(context, &options.family)?;
    let before = context.store.catalog().locks(family.id)?;
    let kept = before.iter().filter(|pattern| !last.contains(pattern));
    let after: Vec<String> = kept.chain(&last).cloned().collect();
    planned(context, options, family, [before, after], progress)
}

/// Which paths are locked no more. Without a pattern that begins with `!`, more paths are.
///
/// # Errors
/// As [`plan`]; there is no such pattern.
pub fn plan_unlock(context: &Context, options: &Options, progress: &dyn Progress) -> Result<Plan> {
    let family = family(context, &options.family)?;
    let before = context.store.catalog().locks(family.id)?;
    for pattern in &options.patterns {
        if !before.contains(pattern) {
            let object = format!("pattern {pattern:?}");
            return Err(
                Error::failed(object, "nothing is locked by it").remedy(format!(
                    "foldfs lock {} shows the patterns that are in force",
                    family.name
                )),
            );
        }
    }
    let kept = before.iter();
    let kept = kept.filter(|pattern| !options.patterns.contains(pattern));
    let after = kept.cloned().collect();
    planned(context, options, family, [before, after], progress)
}

/// Each where it is for the last time.
fn without_repetition(given: &[String]) -> Vec<String> {
    let indexed = given.iter().enumerate();
    let last = indexed.filter(|(index, pattern)| !given[index + 1..].contains(pattern));
    last.map(|(_, pattern)| pattern.clone()).collect()
}

fn planned(
    context: &Context,
    options: &Options,
    family: Family,
    [before, after]: [Vec<String>; 2],
    progress: &dyn Progress,
) -> Result<Plan> {
    let mut plan = Plan {
        listed: options.patterns.is_empty(),
        adopt: options.adopt,
        changed: without_repetition(&options.patterns),
        before: Arc::new(Locks::new(&before)?),
        after: Arc::new(Locks::new(&after)?),
        paths: 0,
        found: Found::default(),
        family,
    };
    plan.paths = look::count(context, &plan)?;
    if !plan.listed {
        look::refuse_writers(context, &plan)?;
        plan.found = look::differences(context, &plan, progress)?;
        plan.refuse_differences(&plan.found)?;
    }
    Ok(plan)
}

/// Carries a plan out. When it returns, it is in force in all images and on the disk.
///
/// # Errors
/// As [`plan`], also for what guests did meanwhile; ENOSPC and the like. What is locked is as it was then,
/// but guests may have been refused something.
pub fn apply(context: &Context, mut plan: Plan, progress: &dyn Progress) -> Result<LockReport> {
    let id = plan.family.id;
    context.images.set_locks(id, plan.after.clone())?;
    let look = || {
        look::refuse_writers(context, &plan)?;
        let found = look::differences(context, &plan, progress)?;
        plan.refuse_differences(&found)?;
        let transaction = context.store.catalog().transaction()?;
        transaction.set_locks(id, plan.after.patterns())?;
        transaction.commit()?;
        Ok(found)
    };
    match look() {
        Ok(found) => plan.found = found,
        Err(error) => {
            context.images.set_locks(id, plan.before.clone())?;
            return Err(error);
        }
    }
    Ok(plan.report())
}
