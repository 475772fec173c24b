//! Changes that were committed, but not carried out in all images: nobody gets to look at such an image
//! before the rest is done.

use std::collections::HashSet;

use super::observe::observe;
use super::steps::Steps;
use super::target::known_of;
use crate::archive::patch::{PatchFile, PatchTable};
use crate::error::{Error, Result};
use crate::ops::Context;
use crate::store::catalog::{Image, Reads};
use crate::store::number::{ImageId, Number};
use crate::store::{Access, Store};

/// Images that nobody else gets to look at in this process, but who uses them already, through what they
/// use.
pub(super) struct Withheld<'a> {
    context: &'a Context,
    images: Vec<ImageId>,
}

impl<'a> Withheld<'a> {
    /// Takes images away from everybody else.
    ///
    /// # Errors
    /// One lacks something of a change before (kind Busy).
    pub(super) fn take<'i>(
        context: &'a Context,
        images: impl IntoIterator<Item = &'i Image>,
    ) -> Result<Self> {
        let mut withheld = Self {
            context,
            images: Vec::new(),
        };
        for image in images {
            let object = format!("image {}", image.name);
            let changing = Error::busy(&object, "a change of its family is being applied");
            let taken = context.images.withhold_free(image.id, changing);
            taken.map_err(|cause| Error::busy(&object, cause).remedy("try again"))?;
            withheld.images.push(image.id);
        }
        Ok(withheld)
    }
}

impl Drop for Withheld<'_> {
    fn drop(&mut self) {
        let left = withhold_unfinished(self.context);
        for image in &self.images {
            if left.as_ref().is_some_and(|left| !left.contains(image)) {
                self.context.images.give_back(*image);
            }
        }
    }
}

/// Carries out what is left of all changes. What cannot be is logged, and those images are withheld
/// until a later call can.
pub fn finish_left(context: &Context) {
    let left = match context.store.unfinished_changes() {
        Ok(left) => left,
        Err(error) => return log::error!("{error}"),
    };
    if left.is_empty() {
        return;
    }
    if context.store.access() == Access::Write
        && let Err(error) = finish(context)
    {
        log::error!("{error}");
    }
    let still = withhold_unfinished(context);
    for (_, image) in left {
        if still.as_ref().is_some_and(|still| !still.contains(&image)) {
            context.images.give_back(image);
        }
    }
}

/// Whether what an image lacks of a change can be read, and is of that change.
///
/// # Errors
/// It is damaged, or its patch is, or missing.
pub fn check_left(store: &Store, change: i64, image: ImageId) -> Result<()> {
    let about = format!("changes/{change}-{image}");
    let steps = Steps::decode(&store.change_steps(change, image)?, &about)?;
    let table = PatchFile::open_record(&store.change_path(change))?;
    steps.refuse_other(&table, image)
}

/// Says of an error that it came after the commit.
pub(super) fn is_made(error: Error) -> Error {
    let cause = format!("a change is made, but not in all images: {}", error.cause);
    Error { cause, ..error }
}

/// Carries out what is left of all changes.
///
/// # Errors
/// Those of the host: the first one; other images are brought along nonetheless.
fn finish(context: &Context) -> Result<()> {
    finish_all(context).map_err(is_made)
}

fn finish_all(context: &Context) -> Result<()> {
    let store = &context.store;
    let left = store.unfinished_changes()?;
    // What is done now is to be found in this catalog only.
    store.ensure_backup()?;
    let mut outcome = Ok(());
    for changes in left.chunk_by(|left, right| left.0 == right.0) {
        let Some(&(change, _)) = changes.first() else {
            continue;
        };
        let table = PatchFile::open_record(&store.change_path(change))?;
        for &(change, image) in changes {
            if let Err(error) = finish_image(context, &table, change, image) {
                outcome = outcome.and(Err(error));
            }
        }
    }
    store.finish_changes()?;
    outcome
}

fn finish_image(context: &Context, table: &PatchTable, change: i64, image: ImageId) -> Result<()> {
    let store = &context.store;
    let Some(row) = store.catalog().image(image)? else {
        return store.is_carried_out(change, image);
    };
    let about = format!("changes/{change}-{image}");
    let steps = Steps::decode(&store.change_steps(change, image)?, &about)?;
    steps.refuse_other(table, image)?;
    let filesystem = context.images.withheld_filesystem(image)?;
    let known = known_of(&filesystem, store.objects(), table)?;
    let numbers = numbers(store, steps.inodes())?;
    let still = filesystem.alter();
    let affected = steps.affected(table, &observe(&still, store.objects(), table, &known)?);
    drop(still);
    let unsettled = filesystem.unsettle(&affected);
    let changing = context.images.change_lock(row.family);
    let changing = changing.write();
    let mut alteration = filesystem.alter();
    let observed = observe(&alteration, store.objects(), table, &known)?;
    steps.carry_out(&mut alteration, &observed, table, numbers)?;
    store.is_carried_out(change, image)?;
    drop((alteration, changing));
    filesystem.tell_changed(&affected);
    drop(unsettled);
    Ok(())
}

/// Numbers for new inodes: to be had before any lock.
pub(super) fn numbers(store: &Store, count: usize) -> Result<Vec<Number>> {
    let numbers = (0..count).map(|_| store.numbers().next());
    numbers.collect()
}

/// The images that lack something of a change, which nobody gets to use; `None` if that is not known.
fn withhold_unfinished(context: &Context) -> Option<HashSet<ImageId>> {
    match context.store.unfinished_changes() {
        Ok(left) => {
            for &(change, image) in &left {
                let busy = Error::busy(
                    format!("images/{image}"),
                    format!("change {change} is not carried out in it yet"),
                );
                let busy =
                    busy.remedy("run a command that alters the store, `foldfs fold` for one");
                context.images.withhold(image, busy);
            }
            Some(left.into_iter().map(|(_, image)| image).collect())
        }
        Err(error) => {
            log::error!("{error}");
            None
        }
    }
}
