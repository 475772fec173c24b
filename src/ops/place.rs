//! Placement of one family: what import, remove and fold end with.

use super::Context;
use crate::error::Result;
use crate::merge::placement::Counts;
use crate::progress::Progress;
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
    let Some(work) = context.placements.plan(&context.images, family)? else {
        return Ok(Counts::default());
    };
    if dry_run {
        return Ok(work.placement.counts());
    }
    let done = match work.placement.is_empty() {
        true => work.apply(&context.images)?,
        false => {
            let _readers = context.store.alter_placement()?;
            work.apply(&context.images)?
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
