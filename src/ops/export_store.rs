//! export --format store: a family with its base and chosen images as a store of its own, smaller than this one, for
//! a medium that is carried elsewhere or cannot be written to.
//!
//! 1. The private layers are copied, each as of one instant, as for a clone.
//! 2. The catalog gets what belongs to these images. Numbers stay, so that st_ino does.
//! 3. The objects that their views need are copied, each once, and verified on the way.
//! 4. Placement runs there, so that the shared layer holds no more than these images share.
//!
//! All of it is built beside the destination, closed, synced and then renamed. Operations that alter this store
//! wait meanwhile; guests don't.

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

use super::Context;
use super::export::Format;
use super::place;
use super::report::ExportReport;
use crate::archive::{ExportTarget, ImageSource};
use crate::error::{Context as _, Error, Result};
use crate::merge::lookup::Item;
use crate::merge::walk;
use crate::progress::Progress;
use crate::store::catalog::{
    Catalog, Change, ChangeReads, Family, Image, ImageRole, NewFamily, NewImage, Reads, Transaction,
};
use crate::store::digest::Digest;
use crate::store::layer::Layer;
use crate::store::mark::Role;
use crate::store::metadata::Content;
use crate::store::number::FamilyId;
use crate::store::objects::Objects;
use crate::store::{Store, layout};
use crate::sys::copy;
use crate::sys::durable::{self, Step};

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The family, or one of its images, which goes with it.
    pub name: String,
    /// Images of the family besides.
    pub images: Vec<String>,
    /// A directory that does not exist, or an empty one; absolute.
    pub destination: PathBuf,
}

/// What will be written.
pub struct Plan {
    options: Options,
    family: Family,
    /// The base first.
    images: Vec<Image>,
}

/// Looks for the family and its images.
///
/// # Errors
/// There is no such family or image; an image is of another family, or a working tree.
pub fn plan(context: &Context, options: &Options) -> Result<Plan> {
    let catalog = context.store.catalog();
    let find = |name: &str| -> Result<Image> {
        let found = catalog.image_by_name(name)?;
        found.ok_or_else(|| super::unknown_name(name))
    };
    let named = find(&options.name)?;
    let family = catalog.family(named.family)?;
    let missing = || Error::failed(&options.name, "its family is missing in the catalog");
    let family = family.ok_or_else(|| missing().remedy("run `foldfs check`"))?;
    let mut images = vec![find(&family.name)?];
    let others = options.images.iter().map(|name| find(name));
    for image in std::iter::once(Ok(named)).chain(others) {
        let image = image?;
        let object = || format!("image {:?}", image.name);
        if image.family != family.id {
            let cause = format!("it is not of family {}", family.name);
            return Err(Error::failed(object(), cause)
                .remedy("foldfs list shows which image is of which family"));
        }
        if image.role == ImageRole::Working {
            return Err(Error::failed(object(), "it is a family's working tree")
                .remedy("commit it, or export a clone of it"));
        }
        if !images.contains(&image) {
            images.push(image);
        }
    }
    Ok(Plan {
        options: options.clone(),
        family,
        images,
    })
}

/// Writes the store. It is there as a whole and on the disk, or not at all.
///
/// # Errors
/// The destination holds something, or is in the store; an object is damaged; those of reading and writing.
pub fn apply(context: &Context, plan: &Plan, progress: &dyn Progress) -> Result<ExportReport> {
    let target = ExportTarget::prepare(&context.store, &plan.options.destination)?;
    let work = target.make_work()?;
    let tree = work.directory("tree")?;
    let path = rustix::fs::readlink(format!("/proc/self/fd/{}", raw(&tree)), Vec::new());
    let path = path.about("/proc/self/fd")?.into_bytes();
    let path = crate::path_bytes::PathBytes::from(path);
    drop(tree);
    let store = Store::init(path.as_path())?;
    copy_layers(context, &store, plan, progress)?;
    progress.message("writing the catalog");
    let family = copy_rows(context.store.catalog(), &store, plan)?;
    let made = Context::new(Arc::new(store), context.threads);
    copy_objects(context, &made, plan, progress)?;
    place::run(&made, family, false, progress)?;
    made.store.ensure_backup()?;
    // Closed: its catalog has no log then.
    drop(made);
    durable::sync_filesystem(target.directory()).about(target.shown())?;
    work.place()?;
    Ok(report(plan))
}

fn raw(file: &impl AsFd) -> i32 {
    use std::os::fd::AsRawFd;
    file.as_fd().as_raw_fd()
}

fn report(plan: &Plan) -> ExportReport {
    ExportReport {
        image: plan.family.name.clone(),
        images: plan.images.iter().map(|image| image.name.clone()).collect(),
        destination: plan.options.destination.clone().into(),
        format: Format::Store,
        differences: Vec::new(),
    }
}

fn copy_layers(
    context: &Context,
    store: &Store,
    plan: &Plan,
    progress: &dyn Progress,
) -> Result<()> {
    for image in &plan.images {
        progress.message(&format!("copying what is private of {}", image.name));
        let filesystem = context.images.filesystem(image.id)?;
        let staged = store.create_image_dirs()?;
        let layer = Layer::open(&staged.dirs().root, image.id).about("staging")?;
        filesystem
            .copy_layer(&layer, false)
            .map_err(|failure| failure.about(format!("image {:?}", image.name)))?;
        store.publish_image(staged, image.id)?;
    }
    Ok(())
}

/// After the layers: a guest may have got new numbers until they were copied.
fn copy_rows(from: &Catalog, store: &Store, plan: &Plan) -> Result<FamilyId> {
    let transaction = store.catalog().transaction()?;
    let family = &plan.family;
    let base = &plan.images[0];
    let id = transaction.create_family(&NewFamily {
        name: &family.name,
        root: family.root,
        base: family.base,
        os: &family.os,
        os_version: &family.os_version,
        architecture: &family.architecture,
        share: family.share,
        created: family.created,
        source: &base.source,
    })?;
    for image in &plan.images {
        if image.id != family.base {
            transaction.create_image(&NewImage {
                id: image.id,
                family: id,
                name: &image.name,
                role: image.role,
                created: image.created,
                source: &image.source,
            })?;
        }
        copy_rows_of_image(from, &transaction, image)?;
    }
    from.for_each_inode(family.id, |inode| transaction.insert_inode(id, &inode))?;
    from.for_each_entry(family.id, |parent, name, number| {
        transaction.insert_entry(parent, name, number)
    })?;
    transaction.set_locks(id, from.locks(family.id)?.iter().map(String::as_str))?;
    // The log; the contents that it takes to take a change back stay behind.
    for change in from.changes_of(family.id)? {
        transaction.add_change(&Change {
            family: id,
            is_kept: false,
            ..change
        })?;
    }
    let used = from
        .next_number()?
        .saturating_sub(transaction.next_number()?);
    transaction.reserve_numbers(used)?;
    transaction.commit()?;
    Ok(id)
}

fn copy_rows_of_image(from: &Catalog, to: &Transaction<'_>, image: &Image) -> Result<()> {
    for alias in from.aliases(image.id)? {
        to.put_alias(image.id, &alias)?;
    }
    for path in from.holds(image.id)? {
        to.add_hold(image.id, &path)?;
    }
    Ok(())
}

/// Copies the objects that the views of the new store need.
fn copy_objects(
    context: &Context,
    made: &Context,
    plan: &Plan,
    progress: &dyn Progress,
) -> Result<()> {
    let staging = made.store.stage("objects")?;
    let mut copied: HashSet<Digest> = HashSet::new();
    for image in &plan.images {
        progress.message(&format!("copying the contents of {}", image.name));
        let about = || format!("image {:?}", image.name);
        let original = context.images.view(image)?;
        let view = made.store.catalog().image(image.id)?;
        let view = view.ok_or_else(|| Error::failed(about(), "it was removed meanwhile"))?;
        let view = made.images.view(&view)?;
        let source = ImageSource {
            view: &original,
            objects: context.store.objects(),
        };
        walk::walk(&view, &mut |visit| {
            let Some((digest, size)) = content(visit.item) else {
                return Ok(true);
            };
            if copied.insert(digest) {
                let object = source.open_object(&digest, size)?;
                let name = layout::work_name(&digest);
                let name = name.as_bytes();
                let file = durable::create(staging.directory(), name, 0o600).about(about())?;
                let write = || copy::copy(object.as_fd(), file.as_fd(), size);
                durable::perform(Step::Write, write).about(about())?;
                drop(file);
                Objects::strip(staging.directory(), name)?;
                made.store
                    .objects()
                    .publish(staging.directory(), name, &digest)?;
            }
            Ok(true)
        })?;
    }
    staging.discard()
}

/// The object that an item needs, and its size.
fn content(item: &Item) -> Option<(Digest, u64)> {
    match item {
        Item::Shared { inode, .. } => match inode.content {
            Content::Regular { size, digest } => Some((digest?, size)),
            _ => None,
        },
        Item::Private { stat, mark, .. } => match mark.role {
            Role::Stub { digest } => Some((digest, stat.st_size as u64)),
            _ => None,
        },
    }
}
