//! Placement of one family: what import, remove and fold end with.

use super::{Context, damaged};
use crate::error::{ErrorKind, Result};
use crate::fold::effort::Effort;
use crate::fold::placement::Work;
use crate::merge::placement::Counts;
use crate::progress::Progress;
use crate::store::catalog::Family;
use crate::store::number::FamilyId;

/// Plans the placement of a family and, unless it is a dry run, carries it out: cover, commit,
/// uncover. What moved, or would move.
///
/// # Errors
/// Another process is reading the layers (kind Busy): nothing is changed. Those of reading the private
/// layers and the catalog; ENOSPC while covering. Every view is as it
/// was, and what is half done is finished or superfluous when the family is next placed.
pub fn run(
    context: &Context,
    family: FamilyId,
    dry_run: bool,
    progress: &dyn Progress,
) -> Result<Counts> {
    progress.message("comparing the images of the family");
    let planned = context.placements.plan(&context.images, family)?;
    carry_out(context, planned, dry_run, &Effort::full(context.threads))
}

/// As [`run`]; but where an image of the family is damaged, so that nothing can be planned, this is
/// added to `left_out`, and nothing is done.
///
/// # Errors
/// As [`run`].
pub(super) fn run_if_sound(
    context: &Context,
    family: &Family,
    dry_run: bool,
    effort: &Effort<'_>,
    left_out: &mut Vec<String>,
    progress: &dyn Progress,
) -> Result<Counts> {
    progress.message("comparing the images of the family");
    let planned = match context.placements.plan(&context.images, family.id) {
        Err(error) if error.kind == ErrorKind::Failed => {
            left_out.push(format!(
                "family {:?}: nothing moves into or out of its shared layer: {}",
                family.name,
                damaged::named(context, error)
            ));
            return Ok(Counts::default());
        }
        planned => planned?,
    };
    carry_out(context, planned, dry_run, effort)
}

fn carry_out(
    context: &Context,
    planned: Option<Work>,
    dry_run: bool,
    effort: &Effort<'_>,
) -> Result<Counts> {
    let Some(work) = planned else {
        return Ok(Counts::default());
    };
    if dry_run {
        return Ok(work.placement.counts());
    }
    let done = match work.placement.is_empty() {
        true => work.apply(&context.images, effort)?,
        false => {
            let _readers = context.store.alter_placement()?;
            work.apply(&context.images, effort)?
        }
    };
    if done.left_out > 0 {
        log::info!(
            "family {}: {} paths were in use and stay private",
            work.family.name,
            done.left_out
        );
    }
    Ok(done.counts)
}
