//! What a change is made of: a patch, a tree that was staged, or a change that is taken back. All become
//! the same: a table of paths, and where the contents are to be had.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::entries::entries;
use crate::archive::patch::{PatchFile, PatchTable, PublicKey, encode_record};
use crate::archive::{ComparedLayer, ComparedStaged, ComparedView, StagedImport};
use crate::error::{Error, Result};
use crate::merge::compare::{Difference, Scope, Tree, Within, compare};
use crate::ops::path::names;
use crate::ops::{Context, clone, unknown_name, working};
use crate::path_bytes::PathBytes;
use crate::progress::Progress;
use crate::store::catalog::{Change, ChangeKind, ChangeReads, Family, Image, Reads, Untouched};
use crate::store::number::ImageId;

/// How a working tree was worked in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Worked {
    /// By somebody, who says that it is done.
    ByHand,
    /// By `foldfs upgrade`.
    ByUpgrade,
    /// It is committed as it is changed: what is open for writing waits until it is closed.
    Live {
        /// Paths at which the tree has kept a version of its own against another change: nobody has said that
        /// it is to stand against that.
        but_for: Vec<PathBytes>,
    },
}

/// What a change is to be made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Source {
    /// A patch on the host.
    Patch {
        /// The file; absolute.
        file: PathBytes,
        /// Public keys one of which must have signed it; none: anybody, or nobody.
        keys: Vec<String>,
    },
    /// A tree that another process has staged: what the family's base is to become.
    Staged {
        /// One name below `staging/`.
        staged: PathBytes,
        /// Where the tree comes from, for people.
        origin: String,
        /// It is a layer, with whiteouts, to be put over the base.
        is_layer: bool,
    },
    /// What was done in the working tree of a family.
    Working {
        /// The family.
        family: String,
        /// How.
        worked: Worked,
    },
    /// What an image of the family has otherwise than the base.
    Image {
        /// The image.
        image: String,
        /// These paths, from the root, and what is below them; none: all.
        paths: Vec<PathBytes>,
    },
    /// The opposite of a change of the family, in the images in which it was made.
    Change {
        /// Its number.
        change: i64,
    },
}

/// Where contents are that the store may lack.
pub(super) enum Contents {
    /// In a patch.
    Patch(Box<PatchFile>),
    /// Beside a staged tree.
    Staged(Box<StagedImport>),
    /// The store has all of them.
    Kept,
}

/// A source that was read.
pub(super) struct Origin {
    /// For people.
    pub name: String,
    pub kind: ChangeKind,
    /// The change that it takes back.
    pub taken_back: Option<i64>,
    pub table: PatchTable,
    /// The table as the store keeps it.
    pub record: Vec<u8>,
    pub contents: Contents,
    /// The images that it is about and which paths it leaves alone in each; `None`: all, and none.
    within: Option<HashMap<ImageId, Untouched>>,
}

impl Origin {
    /// Reads a source, for a family and its base.
    ///
    /// # Errors
    /// The patch is none, damaged, or not signed as demanded; there is no such change, or it is not kept;
    /// those of reading.
    pub(super) fn read(
        context: &Context,
        source: &Source,
        (family, base): (&Family, &Image),
        progress: &dyn Progress,
    ) -> Result<Self> {
        match source {
            Source::Patch { file, keys } => patch(file, keys),
            Source::Staged {
                staged,
                origin,
                is_layer,
            } => {
                let bases = (family, base);
                staged_tree(context, (staged, origin, *is_layer), bases, progress)
            }
            Source::Working { worked, .. } => {
                let image = working::tree_of(context, family)?;
                let kind = match worked {
                    Worked::ByUpgrade => ChangeKind::Upgrade,
                    Worked::ByHand => ChangeKind::Commit,
                    Worked::Live { .. } => ChangeKind::Live,
                };
                let but_for = match worked {
                    Worked::Live { but_for } => Some(&but_for[..]),
                    Worked::ByHand | Worked::ByUpgrade => None,
                };
                let image = (&image, but_for);
                let origin = image_tree(context, (family, base), image, &[], progress)?;
                Ok(Origin { kind, ..origin })
            }
            Source::Image { image, paths } => {
                let found = context.store.catalog().image_by_name(image)?;
                let found = found.ok_or_else(|| unknown_name(image))?;
                if found.family != family.id {
                    return Err(other_family(image, family));
                }
                image_tree(context, (family, base), (&found, None), paths, progress)
            }
            Source::Change { change } => change_back(context, *change),
        }
    }

    /// Which paths it leaves alone in an image; `None`: it is not about that image at all.
    pub(super) fn untouched(&self, image: ImageId) -> Option<Untouched> {
        match &self.within {
            None => Some(Untouched::default()),
            Some(within) => within.get(&image).cloned(),
        }
    }
}

fn patch(file: &PathBytes, keys: &[String]) -> Result<Origin> {
    let keys = keys.iter().map(|key| {
        key.parse()
            .map_err(|_| Error::usage(format!("key {key:?}"), "it is no public key"))
    });
    let keys: Vec<PublicKey> = keys.collect::<Result<_>>()?;
    let path: PathBuf = file.as_path().to_owned();
    let patch = PatchFile::open(&path)?;
    patch.demand(&keys)?;
    let (record, table) = encode_record(patch.table())?;
    Ok(Origin {
        name: file.to_string(),
        kind: ChangeKind::Apply,
        taken_back: None,
        table,
        record,
        contents: Contents::Patch(Box::new(patch)),
        within: None,
    })
}

fn staged_tree(
    context: &Context,
    (staged, origin, is_layer): (&PathBytes, &str, bool),
    (family, base): (&Family, &Image),
    progress: &dyn Progress,
) -> Result<Origin> {
    let import = StagedImport::open(&context.store, &staged.as_path().to_string_lossy())?;
    progress.message("comparing");
    let view = context.images.view(base)?;
    let mut old = ComparedView::new(&view, context.store.objects())?;
    let names = (&*family.name, origin);
    let staged = ComparedStaged::new(&import);
    let mut new: Box<dyn Tree> = match is_layer {
        true => {
            let below = ComparedView::new(&view, context.store.objects())?;
            Box::new(ComparedLayer::new(below, staged))
        }
        false => Box::new(staged),
    };
    let (record, table) = differences(names, &mut old, &mut *new, &Scope::default())?;
    drop(new);
    Ok(Origin {
        name: origin.to_owned(),
        kind: ChangeKind::Apply,
        taken_back: None,
        table,
        record,
        contents: Contents::Staged(Box::new(import)),
        within: None,
    })
}

/// The table of what makes the old tree the new one, and its record.
fn differences(
    names: (&str, &str),
    old: &mut dyn Tree,
    new: &mut dyn Tree,
    scope: &Scope,
) -> Result<(Vec<u8>, PatchTable)> {
    let found = compare(old, new, scope)?;
    table_of(names, &found, old, new)
}

fn table_of(
    names: (&str, &str),
    found: &[Difference],
    old: &mut dyn Tree,
    new: &mut dyn Tree,
) -> Result<(Vec<u8>, PatchTable)> {
    encode_record(&PatchTable {
        old: names.0.as_bytes().to_vec(),
        new: names.1.as_bytes().to_vec(),
        entries: entries(found, old, new)?,
        variants: 0,
        contents: Vec::new(),
    })
}

/// Paths as a scope has them.
fn paths_of(paths: &[PathBytes]) -> Result<Vec<Vec<u8>>> {
    let paths = paths.iter();
    let paths = paths.map(|path| Ok(names(path.as_bytes())?.join(&b'/')));
    paths.collect()
}

/// What an image has otherwise than the base, at one moment. `but_for`: without these paths and what is below them, and
/// without files that are open for writing; else there must be none.
fn image_tree(
    context: &Context,
    (family, base): (&Family, &Image),
    (image, but_for): (&Image, Option<&[PathBytes]>),
    paths: &[PathBytes],
    progress: &dyn Progress,
) -> Result<Origin> {
    let scope = paths_of(paths)?;
    let filesystem = context.images.filesystem(image.id)?;
    progress.message("comparing");
    let view = context.images.view(base)?;
    let objects = context.store.objects();
    let still = filesystem.alter();
    let scope = Scope::new(scope);
    let is_meant = |path: &[u8]| scope.of(path) == Within::Inside;
    let mut open = HashSet::new();
    if but_for.is_some() {
        open = filesystem.numbers_written();
    } else if let Some(path) = filesystem.open_for_writing(is_meant) {
        let object = format!("{}: {}", image.name, PathBytes::from(path));
        return Err(Error::busy(object, "it is open for writing").remedy("close it"));
    }
    let mut old = ComparedView::new(&view, objects)?;
    let mut new = ComparedView::new(&filesystem.view, objects)?;
    let called = (&*family.name, &*image.name);
    let mut found = compare(&mut old, &mut new, &scope)?;
    let kept = Scope::new(paths_of(but_for.unwrap_or_default())?);
    found.retain(|difference| {
        // One that was renamed keeps its number: neither name changes before it is closed.
        let mut sides = [&difference.old, &difference.new].into_iter().flatten();
        let is_kept = but_for.is_some_and(|paths| !paths.is_empty())
            && kept.of(&difference.path) == Within::Inside;
        !is_kept && !sides.any(|side| open.contains(&side.number))
    });
    let (record, table) = table_of(called, &found, &mut old, &mut new)?;
    drop(still);
    Ok(Origin {
        name: image.name.clone(),
        kind: ChangeKind::Adopt,
        taken_back: None,
        table,
        record,
        contents: Contents::Kept,
        within: None,
    })
}

fn change_back(context: &Context, id: i64) -> Result<Origin> {
    let change = find_change(context, id)?;
    if !change.is_kept {
        let cause = "what it needs to be taken back is not kept any more";
        return Err(Error::failed(format!("change {id}"), cause)
            .remedy("`keep_changes` in the configuration says how many changes are kept"));
    }
    let record = PatchFile::open_record(&context.store.change_path(id))?;
    let (record, table) = encode_record(&record.reversed())?;
    let images = context.store.catalog().images_of_change(id)?;
    Ok(Origin {
        name: format!("change {id}"),
        kind: ChangeKind::Revert,
        taken_back: Some(id),
        table,
        record,
        contents: Contents::Kept,
        within: Some(images.into_iter().collect()),
    })
}

/// A change by its number.
///
/// # Errors
/// There is none.
pub(super) fn find_change(context: &Context, id: i64) -> Result<Change> {
    let change = context.store.catalog().change(id)?;
    change.ok_or_else(|| {
        Error::failed(format!("change {id}"), "there is no such change")
            .remedy("`foldfs log FAMILY` shows all")
    })
}

/// The family that a source is for, with its base: that of the change, or the one that is named, or that of
/// the images that are.
///
/// # Errors
/// There is none, or it is another one than that of the change or of an image.
pub(super) fn family(
    context: &Context,
    source: &Source,
    named: Option<&str>,
    images: &[String],
) -> Result<(Family, Image)> {
    let catalog = context.store.catalog();
    let image = |name: &String| -> Result<Image> {
        let found = catalog.image_by_name(name)?;
        found.ok_or_else(|| unknown_name(name))
    };
    let family = match (source, named, images.first()) {
        (Source::Change { change }, ..) => catalog.family(find_change(context, *change)?.family)?,
        (Source::Working { family, .. }, ..) => catalog.family_by_name(family)?,
        (_, Some(name), _) => catalog.family_by_name(name)?,
        (_, None, Some(name)) => catalog.family(image(name)?.family)?,
        (_, None, None) => None,
    };
    let family = family.ok_or_else(|| {
        let name = named.unwrap_or_default();
        Error::failed(format!("{name:?}"), "there is no such family")
            .remedy("foldfs list shows all")
    })?;
    for name in images {
        if image(name)?.family != family.id {
            return Err(other_family(name, &family));
        }
    }
    let base = catalog.image(family.base)?.ok_or_else(|| {
        Error::failed(format!("family {}", family.name), "it has no base")
            .remedy("run `foldfs check`")
    })?;
    Ok((family, base))
}

fn other_family(image: &str, family: &Family) -> Error {
    let cause = format!("it is not of family {}", family.name);
    Error::failed(format!("image {image:?}"), cause)
        .remedy("foldfs list shows which image is of which family")
}

/// Makes objects of the private files of an image that a change is about to be made of: so nothing is copied.
/// Not for a dry run.
///
/// # Errors
/// Those of cloning; what is wrong with the source is found when it is read.
pub fn make_objects(context: &Context, source: &Source, progress: &dyn Progress) -> Result<()> {
    let catalog = context.store.catalog();
    let image = match source {
        Source::Working { family, .. } => match catalog.family_by_name(family)? {
            Some(family) => Some(working::tree_of(context, &family)?),
            None => None,
        },
        Source::Image { image, .. } => catalog.image_by_name(image)?,
        Source::Patch { .. } | Source::Staged { .. } | Source::Change { .. } => None,
    };
    if let Some(image) = image {
        let _alive = context.images.filesystem(image.id)?;
        clone::make_objects(context, &image, progress)?;
    }
    Ok(())
}
