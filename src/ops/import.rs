//! import: an image of a tree that has been hashed and staged (figure 1 of the core patent).
//!
//! 102 is `archive`; 104 and 106 are [`super::similar`]; 108 to 118: the tree is compared with the
//! shared layer as it is, and its private layer holds the difference ([`crate::merge::join`]); then
//! placement runs over the family with the new image in it. So there is one way in which the
//! shared layer changes, and an import that dies between the two is an image all the same.

use crate::archive::{Identity, StagedImport};
use crate::error::{Error, Result};
use crate::filesystem::images::Images;
use crate::merge::join::{self, IncomingTree, Join};
use crate::progress::Progress;
use crate::store::catalog::{Family, ImageRole, NewFamily, NewImage, Reads, Share, check_name};
use crate::store::metadata::{SharedInode, Time};
use crate::store::number::{FamilyId, ImageId, Number};
use crate::store::objects::Published;
use crate::store::{StagedImage, Store};

use super::Context;
use super::report::ImportReport;
use super::{new_layer, similar};

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The new image's name.
    pub name: String,
    /// The family to join or to found; `None`: join the most similar one, else found one.
    pub family: Option<String>,
    /// The rule of placement, if a family is founded.
    pub share: Share,
    /// Where the tree comes from, for people.
    pub source: String,
}

/// What an import will do.
pub struct Plan {
    options: Options,
    identity: Identity,
    reason: String,
    what: What,
}

enum What {
    /// A new family of this name, with the tree as its base.
    Found(String),
    /// A new image of this family.
    Join(Box<(Family, Join)>),
}

impl IncomingTree for StagedImport {
    fn root(&self) -> Number {
        self.root()
    }
    fn inode(&self, number: Number) -> Result<Option<SharedInode>> {
        self.inode(number)
    }
    fn directory(&self, number: Number) -> Result<Vec<(Box<[u8]>, SharedInode)>> {
        self.directory(number)
    }
    fn names_of(&self, number: Number) -> Result<Vec<(Number, Box<[u8]>)>> {
        self.names_of(number)
    }
}

impl Plan {
    /// What is reported before and after.
    pub fn report(&self, tree: &StagedImport) -> ImportReport {
        let statistics = tree.statistics();
        let (family, founded) = match &self.what {
            What::Found(name) => (name, true),
            What::Join(joining) => (&joining.0.name, false),
        };
        ImportReport {
            image: self.options.name.clone(),
            family: family.clone(),
            founded,
            reason: self.reason.clone(),
            inodes: statistics.inodes,
            logical_bytes: statistics.logical_bytes,
            known_bytes: statistics.known_bytes,
            new_objects: statistics.new_objects,
            new_bytes: statistics.new_bytes,
        }
    }

    /// The family that the image joins; `None` if it founds one.
    pub fn joins(&self) -> Option<FamilyId> {
        match &self.what {
            What::Join(joining) => Some(joining.0.id),
            What::Found(_) => None,
        }
    }
}

/// Decides the family and compares the tree with its shared layer.
///
/// # Errors
/// A name that is taken or not allowed; `--family` names an image; those of reading.
pub fn plan(context: &Context, tree: &StagedImport, options: &Options) -> Result<Plan> {
    let images = &context.images;
    let catalog = images.store().catalog();
    check_name(&options.name)?;
    if catalog.image_by_name(&options.name)?.is_some() {
        let object = format!("name {:?}", options.name);
        return Err(Error::failed(object, "it exists already").remedy("choose another name"));
    }
    let identity = tree.identity()?;
    let (family, reason) = match &options.family {
        Some(name) => match catalog.family_by_name(name)? {
            Some(family) => {
                let likeness = similar::likeness(tree, images.shared(), family.root)?;
                let (equal, files) = (likeness.equal, likeness.files);
                let percent = likeness.percent();
                let reason = format!("as asked; {equal} of {files} files ({percent} %) are equal");
                (Ok(family), reason)
            }
            None => {
                let object = format!("name {name:?}");
                if catalog.image_by_name(name)?.is_some() {
                    return Err(Error::failed(object, "it is an image, not a family"));
                }
                if *name == options.name {
                    return Err(Error::usage(
                        object,
                        "an image and its family need two names",
                    ));
                }
                check_name(name)?;
                (Err(name.clone()), String::from("as asked: it is new"))
            }
        },
        None => {
            let families = catalog.families()?;
            let none_yet = families.is_empty();
            match similar::most_similar(tree, &identity, images.shared(), families)? {
                Some(found) => (Ok(found.family), found.reason),
                None => {
                    let system = similar::describe(&identity);
                    let reason = match none_yet {
                        true => format!("there is no family yet; this is {system}"),
                        false => format!("no family is similar; this is {system}"),
                    };
                    (Err(free_name(images, &identity, &options.name)?), reason)
                }
            }
        }
    };
    let what = match family {
        Ok(family) => {
            let join = join::join(tree, images.shared(), family.root)?;
            What::Join(Box::new((family, join)))
        }
        Err(name) => What::Found(name),
    };
    Ok(Plan {
        options: options.clone(),
        identity,
        reason,
        what,
    })
}

/// A name for a family that is founded.
fn free_name(images: &Images, identity: &Identity, image: &str) -> Result<String> {
    let allowed = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let mut stem: String = match (&*identity.os, &*identity.os_version) {
        ("", _) => format!("{image}-family"),
        (os, "") => os.to_owned(),
        (os, version) => format!("{os}-{version}"),
    };
    stem = stem.chars().filter(allowed).take(48).collect();
    let start = stem.trim_start_matches(['.', '-']);
    let stem = if start.is_empty() { "family" } else { start };
    let taken = |name: &str| -> Result<bool> {
        Ok(name == image || images.store().catalog().image_by_name(name)?.is_some())
    };
    let mut name = stem.to_owned();
    let mut count = 1;
    while taken(&name)? {
        count += 1;
        name = format!("{stem}-{count}");
    }
    Ok(name)
}

/// Makes the image. `tree` is what the plan was made of.
///
/// # Errors
/// The store is as before; contents that were moved into it are for `collect`.
pub fn apply(
    context: &Context,
    tree: &StagedImport,
    plan: &Plan,
    progress: &dyn Progress,
) -> Result<ImageId> {
    let store = &context.store;
    match &plan.what {
        What::Found(family) => found(store, tree, plan, family),
        What::Join(joining) => {
            let (family, join) = &**joining;
            let image = store.catalog().reserve_image_id()?;
            let staged = new_layer::joined(store, image, join)?;
            publish_objects(store, tree)?;
            store.sync()?;
            place(store, vec![(staged, image)], || {
                let transaction = store.catalog().transaction()?;
                transaction.create_image(&plan.new_image(image, family.id))?;
                for alias in &join.aliases {
                    transaction.put_alias(image, alias)?;
                }
                store.commit_generation(transaction)
            })?;
            back_up(store);
            if let Err(error) = super::place::run(context, family.id, false, progress) {
                let name = &plan.options.name;
                let error = super::damaged::named(context, error);
                log::warn!("image {name} is there, but placement: {error}");
            }
            Ok(image)
        }
    }
}

impl Plan {
    fn new_image(&self, id: ImageId, family: FamilyId) -> NewImage<'_> {
        NewImage {
            id,
            family,
            name: &self.options.name,
            role: ImageRole::Guest,
            created: Time::now().seconds,
            source: &self.options.source,
        }
    }
}

/// A family whose shared layer is the tree, its base, and the image as a clone of it.
fn found(store: &Store, tree: &StagedImport, plan: &Plan, name: &str) -> Result<ImageId> {
    let base = store.catalog().reserve_image_id()?;
    let image = store.catalog().reserve_image_id()?;
    let staged = vec![
        (new_layer::all_shared(store, tree.root())?, base),
        (new_layer::all_shared(store, tree.root())?, image),
    ];
    publish_objects(store, tree)?;
    store.sync()?;
    place(store, staged, || {
        let transaction = store.catalog().transaction()?;
        let family = transaction.create_family(&NewFamily {
            name,
            root: tree.root(),
            base,
            os: &plan.identity.os,
            os_version: &plan.identity.os_version,
            architecture: &plan.identity.architecture,
            share: plan.options.share,
            created: Time::now().seconds,
            source: &plan.options.source,
        })?;
        tree.for_each_inode(|inode| transaction.insert_inode(family, &inode))?;
        tree.for_each_entry(|parent, name, number| transaction.insert_entry(parent, name, number))?;
        transaction.create_image(&plan.new_image(image, family))?;
        store.commit_generation(transaction)
    })?;
    back_up(store);
    Ok(image)
}

/// What a copy of the catalog lacks is all of the image.
pub(super) fn back_up(store: &Store) {
    if let Err(error) = store.ensure_backup() {
        log::warn!("{error}");
    }
}

/// Moves the new contents into the store; how many were not there yet.
fn publish_objects(store: &Store, tree: &StagedImport) -> Result<u64> {
    let mut new = 0;
    tree.for_each_new(|digest, _| {
        let name = digest.to_string();
        let outcome = store
            .objects()
            .publish(tree.objects(), name.as_bytes(), &digest)?;
        new += u64::from(outcome == Published::New);
        Ok(())
    })?;
    Ok(new)
}

/// Gives new images' directories their places and commits; if that fails, they go again.
pub(super) fn place(
    store: &Store,
    staged: Vec<(StagedImage, ImageId)>,
    commit: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let mut placed = Vec::new();
    let mut outcome = Ok(());
    for (staged, image) in staged {
        outcome = store
            .publish_image(staged, image)
            .map(|_| placed.push(image));
        if outcome.is_err() {
            break;
        }
    }
    let outcome = outcome.and_then(|()| commit());
    if outcome.is_err() {
        for image in placed {
            if let Err(error) = store.retire_image(image) {
                log::warn!("{error}");
            }
        }
    }
    outcome
}
