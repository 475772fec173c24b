//! Changes that were committed, but not carried out in all images: nobody gets to look at such an image
//! before the rest is done.

use std::collections::HashSet;

use super::steps::Steps;
use crate::archive::patch::PatchFile;
use crate::error::{Error, Result};
use crate::ops::Context;
use crate::store::catalog::{Image, Reads};
use crate::store::number::ImageId;
use crate::store::{Access, Store};

/// Images that nobody else gets to use.
pub(super) struct Withheld<'a> {
    context: &'a Context,
    images: Vec<ImageId>,
}

impl<'a> Withheld<'a> {
    /// Takes images away from everybody else.
    ///
    /// # Errors
    /// One is mounted or in use (kind Busy).
    pub(super) fn take(context: &'a Context, images: &[Image]) -> Result<Self> {
        let mut withheld = Self {
            context,
            images: Vec::new(),
        };
        for image in images {
            context.images.view(image)?;
            let object = format!("image {}", image.name);
            let changing = Error::busy(&object, "a change of its family is being applied");
            context
                .images
                .withhold_unused(image.id, changing)
                .map_err(|cause| {
                    let place = context.mounted_on(image.id).into_iter().next();
                    match place {
                        Some(place) => Error::busy(&object, format!("it is mounted on {place}"))
                            .remedy(format!("foldfs unmount {place}")),
                        None => Error::busy(&object, cause).remedy("try again"),
                    }
                })?;
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
    let patch = PatchFile::open(&store.change_path(change))?;
    steps.refuse_other(patch.table(), image)
}

/// Carries out what is left of all changes.
///
/// # Errors
/// Those of the host: the first one; other images are brought along nonetheless.
pub(super) fn finish(context: &Context) -> Result<()> {
    finish_all(context).map_err(|error| {
        let cause = format!("a change is made, but not in all images: {}", error.cause);
        Error { cause, ..error }
    })
}

fn finish_all(context: &Context) -> Result<()> {
    let store = &context.store;
    let left = store.unfinished_changes()?;
    if left.is_empty() {
        return Ok(());
    }
    // What is done now is to be found in this catalog only.
    store.ensure_backup()?;
    let mut outcome = Ok(());
    let mut done = Vec::new();
    for changes in left.chunk_by(|left, right| left.0 == right.0) {
        let Some(&(change, _)) = changes.first() else {
            continue;
        };
        let patch = PatchFile::open(&store.change_path(change))?;
        for &(change, image) in changes {
            match finish_image(context, &patch, change, image) {
                Ok(()) => done.push((change, image)),
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
    }
    store.sync()?;
    for (change, image) in done {
        store.finish_change(change, image)?;
    }
    outcome
}

fn finish_image(context: &Context, patch: &PatchFile, change: i64, image: ImageId) -> Result<()> {
    let store = &context.store;
    if store.catalog().image(image)?.is_none() {
        return Ok(());
    }
    let about = format!("changes/{change}-{image}");
    let steps = Steps::decode(&store.change_steps(change, image)?, &about)?;
    let filesystem = context.images.withheld_filesystem(image)?;
    steps.carry_out(&filesystem, store.objects(), patch.table())
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
