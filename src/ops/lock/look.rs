//! What images are where they come to be locked.

use std::os::fd::OwnedFd;
use std::time::Duration;

use super::Plan;
use crate::archive::ComparedView;
use crate::error::{Context as _, Error, Result};
use crate::merge::compare::{Difference, Scope, compare};
use crate::merge::locked;
use crate::merge::lookup::Item;
use crate::merge::view::View;
use crate::merge::walk::Visit;
use crate::ops::Context;
use crate::ops::report::LockedDifference;
use crate::path_bytes::PathBytes;
use crate::progress::Progress;
use crate::store::catalog::{Image, ImageRole, Reads};
use crate::store::mark::Role;
use crate::store::metadata::FileType;
use crate::sys::lease::ReadLease;

/// So many differences are listed.
const MOST: usize = 1000;

/// And so many in an error.
const NAMED: usize = 5;

/// How often something is looked at beside guests that are at work.
const LOOKS: u32 = 10;

/// How long until the next time: the kernel tells of a file that was closed some time after close(2).
const PAUSE: Duration = Duration::from_millis(50);

/// Where images are not as the base.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) differences: Vec<LockedDifference>,
    /// How many there are besides.
    pub(super) more: u64,
}

impl Found {
    fn add(&mut self, image: &Image, difference: &Difference) {
        if self.differences.len() == MOST {
            self.more += 1;
            return;
        }
        let kind = match (&difference.old, &difference.new) {
            (None, _) => "added",
            (_, None) => "removed",
            _ => "altered",
        };
        self.differences.push(LockedDifference {
            image: image.name.clone(),
            path: shown(&difference.path),
            kind: kind.into(),
        });
    }

    pub(super) fn sentence(&self) -> String {
        let named = self.differences.iter().take(NAMED);
        let named = named.map(|of| format!("{}:{} ({})", of.image, of.path, of.kind));
        let named: Vec<String> = named.collect();
        let mut sentence = format!("images differ from its base there: {}", named.join(", "));
        let others = self.differences.len() - named.len();
        if others > 0 {
            sentence.push_str(&format!(" and {} more", others as u64 + self.more));
        }
        sentence
    }
}

fn shown(path: &[u8]) -> PathBytes {
    PathBytes::from([b"/", path].concat())
}

/// The images on which guests run.
fn guests(context: &Context, plan: &Plan) -> Result<Vec<Image>> {
    let mut images = context.store.catalog().images_of(plan.family.id)?;
    images.retain(|image| image.role == ImageRole::Guest);
    Ok(images)
}

/// Looks at an image; again, if that fails while a guest may be at work in it.
fn patiently<T>(context: &Context, image: &Image, look: impl Fn(&View) -> Result<T>) -> Result<T> {
    let mut looks = LOOKS;
    loop {
        looks -= 1;
        match context.images.view(image).and_then(|view| look(&view)) {
            Err(_) if looks > 0 && context.images.live(image.id).is_some() => {}
            looked => return looked,
        }
    }
}

/// How many paths of the base are locked by a plan.
pub(super) fn count(context: &Context, plan: &Plan) -> Result<u64> {
    let Some(base) = context.store.catalog().image(plan.family.base)? else {
        return Ok(0);
    };
    let view = context.images.view(&base)?;
    let mut count = 0;
    locked::visit(&view, &plan.after, &mut |_| {
        count += 1;
        Ok(())
    })?;
    Ok(count)
}

/// Where images are not as the base at what comes to be locked.
pub(super) fn differences(
    context: &Context,
    plan: &Plan,
    progress: &dyn Progress,
) -> Result<Found> {
    let mut found = Found::default();
    let catalog = context.store.catalog();
    let places = plan.after.places();
    let Some(base) = catalog
        .image(plan.family.base)?
        .filter(|_| !places.is_empty())
    else {
        return Ok(found);
    };
    let scope = Scope::new(places);
    let objects = context.store.objects();
    for image in guests(context, plan)? {
        progress.message(&format!("looking at {}", image.name));
        let base = context.images.view(&base)?;
        let compared = patiently(context, &image, |view| {
            let mut old = ComparedView::new(&base, objects)?;
            compare(&mut old, &mut ComparedView::new(view, objects)?, &scope)
        });
        for difference in compared? {
            if comes_to_be_locked(plan, &difference) {
                found.add(&image, &difference);
            }
        }
    }
    Ok(found)
}

fn comes_to_be_locked(plan: &Plan, difference: &Difference) -> bool {
    let sides = [&difference.old, &difference.new];
    sides.into_iter().flatten().any(|side| {
        let path = &difference.path;
        let is_directory = side.is_directory();
        plan.after.of(path, is_directory).is_some() && plan.before.of(path, is_directory).is_none()
    })
}

/// Refuses while somebody can write to a file that is locked: it was opened before.
///
/// # Errors
/// Of kind Busy, with the file.
pub(super) fn refuse_writers(context: &Context, plan: &Plan) -> Result<()> {
    for image in guests(context, plan)? {
        let mut looks = LOOKS;
        while let Some(path) = written(context, plan, &image)? {
            looks -= 1;
            if looks == 0 {
                let object = format!("{}:{}", image.name, shown(&path));
                let cause = "somebody has it open for writing, or mapped writable";
                return Err(Error::busy(object, cause).remedy("close it, and try again"));
            }
            std::thread::sleep(PAUSE);
        }
    }
    Ok(())
}

fn written(context: &Context, plan: &Plan, image: &Image) -> Result<Option<Vec<u8>>> {
    let about = || format!("image {}", image.name);
    if let Some(live) = context.images.live(image.id) {
        let writer = live.locked_writer(&plan.after);
        if let Some(path) = writer.map_err(|failure| failure.about(about()))? {
            return Ok(Some(path));
        }
    }
    // A mapping that outlives its descriptor, and even the daemon, is told by a lease only.
    patiently(context, image, |view| {
        let mut found = None;
        locked::visit(view, &plan.after, &mut |visit| {
            if found.is_none()
                && let Some(file) = private_file(view, visit)?
                && ReadLease::take(file).about(about())?.is_none()
            {
                found = Some(visit.path.to_vec());
            }
            Ok(())
        })?;
        Ok(found)
    })
}

/// Content that is the image's own: the only one that can be written to.
fn private_file(view: &View, visit: &Visit<'_>) -> Result<Option<OwnedFd>> {
    match visit.item {
        Item::Private { mark, .. }
            if mark.role == Role::File && visit.item.file_type() == FileType::Regular =>
        {
            visit.open_private(view)
        }
        _ => Ok(None),
    }
}
