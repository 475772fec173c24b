//! log FAMILY: the changes of a family.

use super::differences;
use super::source::find_change;
use crate::archive::patch::PatchFile;
use crate::error::{Error, Result};
use crate::ops::Context;
use crate::ops::report::{ChangeReport, ChangesReport, KeptChange};
use crate::store::catalog::{Change, ChangeReads, Reads};

/// Tells of the changes of a family: of the `last` ones, or of a single one with all that it is about, which
/// `stat` leaves out again.
///
/// # Errors
/// There is no such family or change; the record of one cannot be read.
pub fn changes(
    context: &Context,
    family: &str,
    (last, only): (Option<u64>, Option<i64>),
    stat: bool,
) -> Result<ChangesReport> {
    let catalog = context.store.catalog();
    let found = catalog.family_by_name(family)?.ok_or_else(|| {
        Error::failed(format!("{family:?}"), "there is no such family")
            .remedy("foldfs list shows all")
    })?;
    let mut all = catalog.changes_of(found.id)?;
    if let Some(only) = only {
        if find_change(context, only)?.family != found.id {
            let cause = format!("it is of another family than {family}");
            return Err(Error::failed(format!("change {only}"), cause)
                .remedy("foldfs log FAMILY shows the changes of a family"));
        }
        all.retain(|change| change.id == only);
    }
    let last = last.and_then(|last| usize::try_from(last).ok());
    let first = all.len().saturating_sub(last.unwrap_or(usize::MAX));
    let changes = all.split_off(first).into_iter();
    let report = |change| report(context, change, only.map(|_| stat));
    Ok(ChangesReport {
        family: family.to_owned(),
        changes: changes.map(report).collect::<Result<_>>()?,
    })
}

/// `details`: what it is about is told, too, or only how much that is.
fn report(context: &Context, change: Change, details: Option<bool>) -> Result<ChangeReport> {
    Ok(ChangeReport {
        kept: match change.is_kept {
            true => kept(context, &change, details)?,
            false => None,
        },
        change: change.id,
        time: change.time,
        who: change.who,
        kind: change.kind.as_str().to_owned(),
        source: change.source,
        why: change.why,
        taken_back: change.taken_back,
    })
}

fn kept(context: &Context, change: &Change, details: Option<bool>) -> Result<Option<KeptChange>> {
    let (store, catalog) = (&context.store, context.store.catalog());
    let record = match PatchFile::open_record(&store.change_path(change.id)) {
        // A collect may have forgotten it since.
        Err(_) if !catalog.change(change.id)?.is_some_and(|it| it.is_kept) => return Ok(None),
        // The others are to be seen nonetheless.
        Err(error) if details.is_none() => {
            log::warn!("{error}");
            return Ok(None);
        }
        record => record?,
    };
    let mut images = Vec::new();
    for (image, _) in catalog.images_of_change(change.id)? {
        images.extend(catalog.image(image)?.map(|image| image.name));
    }
    Ok(Some(KeptChange {
        paths: record.variants_at() as u64,
        images,
        changes: details.map(|stat| differences(&record, stat)),
    }))
}
