//! clone: an image once more. What it costs are entries, not bytes: closed private files become
//! objects first, which both images refer to.

use super::context::Context;
use super::identity::{self, Reset};
use super::report::CloneReport;
use crate::error::{Context as _, Error, Result};
use crate::fold::candidates::{Candidates, Choice};
use crate::fold::effort::Effort;
use crate::fold::{folding, holds};
use crate::progress::Progress;
use crate::store::catalog::{Image, ImageRole, NewImage, Reads, check_name};
use crate::store::layer::Layer;
use crate::store::metadata::Time;

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// An image, or a family for its base.
    pub from: String,
    /// The new image's name.
    pub to: String,
    /// Refuse if a file is open for writing.
    pub frozen: bool,
    /// Whether the clone gets an identity of its own, and how.
    pub reset: Option<identity::Options>,
}

/// What a clone will do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    options: Options,
    origin: Image,
    family: String,
    entries: u64,
    files: u64,
    role: ImageRole,
    reset: Option<Reset>,
}

impl Plan {
    /// Makes it a working tree.
    pub fn working(self) -> Self {
        let role = ImageRole::Working;
        Self { role, ..self }
    }

    /// What is reported before.
    pub fn report(&self) -> CloneReport {
        CloneReport {
            image: self.options.to.clone(),
            family: self.family.clone(),
            entries: self.entries,
            new_objects: self.files,
            copied_bytes: 0,
            identity: self.reset.as_ref().map(Reset::report),
        }
    }
}

/// Looks at the origin.
///
/// # Errors
/// There is none; the new name is taken or no name; a file is open for writing and must not be (kind
/// Busy); the identity cannot be reset ([`identity`]).
pub fn plan(context: &Context, options: &Options) -> Result<Plan> {
    check_name(&options.to)?;
    let catalog = context.store.catalog();
    let origin = catalog.image_by_name(&options.from)?;
    let origin = origin.ok_or_else(|| super::unknown_name(&options.from))?;
    if catalog.image_by_name(&options.to)?.is_some() {
        let taken = Error::failed(format!("name {:?}", options.to), "it exists already");
        return Err(taken.remedy("choose another name"));
    }
    let family = catalog.family(origin.family)?.ok_or_else(|| {
        let image = format!("image {:?}", origin.name);
        Error::failed(image, "its family is missing in the catalog").remedy("run `foldfs check`")
    })?;
    if options.frozen
        && let Some(live) = context.images.live(origin.id)
        && let Some(path) = live.open_for_writing(|_| true)
    {
        let busy = Error::busy(path.escape_ascii(), "it is open for writing");
        return Err(busy.remedy("close it, or clone without --frozen"));
    }
    let reset = options.reset.as_ref();
    let reset = reset.map(|reset| identity::plan(context, &origin, &options.to, reset));
    let reset = reset.transpose()?;
    let dirs = context.store.image_dirs(origin.id)?;
    let everything = Choice {
        held: &holds::of(&context.images, origin.id)?,
        altered_before: None,
        with_holes: true,
    };
    let candidates = Candidates::of(origin.id, &dirs, &everything)?.complete()?;
    Ok(Plan {
        options: options.clone(),
        family: family.name,
        entries: candidates.entries,
        files: candidates.files.len() as u64,
        origin,
        role: ImageRole::Guest,
        reset,
    })
}

/// Makes the clone. It appears with the commit of its row, or not at all.
///
/// # Errors
/// As [`plan`]; the host's, ENOSPC for one. Files of the origin that became objects by then stay so,
/// which it does not show.
pub fn apply(context: &Context, plan: &Plan, progress: &dyn Progress) -> Result<CloneReport> {
    let Plan {
        options, origin, ..
    } = plan;
    let store = &context.store;
    // What is kept alive here is the same instance all the time.
    let filesystem = context.images.filesystem(origin.id)?;
    let new_objects = make_objects(context, origin, progress)?;
    progress.message("copying private entries");
    let id = store.catalog().reserve_image_id()?;
    let staged = store.create_image_dirs()?;
    let layer = Layer::open(&staged.dirs().root, id).about("staging")?;
    let copied = filesystem
        .copy_layer(&layer, options.frozen)
        .map_err(|failure| failure.about(format!("image {:?}", origin.name)))?;
    drop(layer);
    // Before the clone gets a place: it has never had another identity, whatever happens from here on.
    let reset = options.reset.as_ref().map(|reset| {
        progress.message("resetting the identity");
        let root = staged.dirs().root.try_clone().about("staging")?;
        let clone = context.images.staged(root, id, origin)?;
        identity::apply(context, &clone, origin, &options.to, reset)
    });
    let reset = reset.transpose()?;
    store.sync()?;
    store.publish_image(staged, id)?;
    let commit = || {
        let transaction = store.catalog().transaction()?;
        transaction.create_image(&NewImage {
            id,
            family: origin.family,
            name: &options.to,
            role: plan.role,
            created: Time::now().seconds,
            source: &origin.name,
        })?;
        transaction.copy_image_rows(origin.id, id)?;
        transaction.commit()
    };
    if let Err(error) = commit() {
        if let Err(left) = store.retire_image(id) {
            log::warn!("{left}");
        }
        return Err(error);
    }
    Ok(CloneReport {
        image: options.to.clone(),
        family: plan.family.clone(),
        entries: copied.entries,
        new_objects,
        copied_bytes: copied.bytes,
        identity: reset.as_ref().map(Reset::report),
    })
}

/// Makes objects of the private files of an image that is kept alive, but for those that somebody is writing
/// to; how many are new.
///
/// # Errors
/// The host's, ENOSPC for one. What became an object by then stays one, which no view shows.
pub(super) fn make_objects(
    context: &Context,
    image: &Image,
    progress: &dyn Progress,
) -> Result<u64> {
    progress.message("making objects of private files");
    let mounted = !context.mounted_on(image.id).is_empty();
    let mut made = 0;
    // Once more for what was written meanwhile.
    for _ in 0..2 {
        let images = &context.images;
        let effort = Effort::full(context.threads);
        let (new, _) = folding::make_objects(images, image, mounted, &effort, progress)?;
        made += new;
        if new == 0 {
            break;
        }
    }
    Ok(made)
}
