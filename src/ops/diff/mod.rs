//! diff: in what two trees differ, by path: images, and directories of the host. It reads only, so any
//! process does it, also beside a daemon; only placement waits for it.

mod moves;
mod past;
pub(super) mod present;
mod text;

use std::path::{Path, PathBuf};

pub(super) use moves::digest as file_digest;
pub use moves::{Move, Moves};

use super::Context;
use super::report::DiffReport;
use crate::archive::{ComparedDirectory, ComparedPast, ComparedView, Past};
use crate::error::{Error, Result};
use crate::merge::compare::{Difference, Scope, Tree, compare};
use crate::merge::view::View;
use crate::path_bytes::PathBytes;
use crate::progress::Progress;
use crate::store::Store;
use crate::store::catalog::{Image, Reads};

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The old tree; an operand.
    pub old: PathBuf,
    /// The new one.
    pub new: PathBuf,
    /// Paths of both trees, from their roots; none: all.
    pub paths: Vec<PathBytes>,
    /// Only count.
    pub stat: bool,
    /// Lines of text files that differ.
    pub text: bool,
}

impl Options {
    /// Whether an operand may name an image, so that the store is needed.
    pub fn needs_store(&self) -> bool {
        [&self.old, &self.new]
            .into_iter()
            .any(|operand| !is_path(operand))
    }
}

/// Whether an operand is a directory of the host whatever images there are.
pub(super) fn is_path(operand: &Path) -> bool {
    operand.as_os_str().as_encoded_bytes().contains(&b'/')
}

/// One of the trees, before it is opened.
pub(super) enum Operand {
    /// An image's view.
    Image(Box<(Image, View)>),
    /// What an image's view was once.
    Past(Box<(Image, View, Past)>),
    /// A directory of the host.
    Directory(PathBuf),
}

impl Operand {
    /// With a slash in it, a directory; else an image or a family's base, or with `@CHANGE` behind it, what the
    /// base was after that change; else a directory, if there is one of that name.
    pub(super) fn find(context: Option<&Context>, operand: &Path) -> Result<Self> {
        let directory = || Self::Directory(operand.to_owned());
        let Some(context) = context.filter(|_| !is_path(operand)) else {
            return Ok(directory());
        };
        let name = operand.to_string_lossy();
        match context.store.catalog().image_by_name(&name)? {
            Some(image) => {
                let view = context.images.view(&image)?;
                Ok(Self::Image(Box::new((image, view))))
            }
            None => match Self::past(context, &name)? {
                Some(past) => Ok(past),
                None if operand.is_dir() => Ok(directory()),
                None => Err(super::unknown_name(&name)),
            },
        }
    }

    /// `FAMILY@CHANGE`; `None` where that is no family.
    fn past(context: &Context, name: &str) -> Result<Option<Self>> {
        let Some((family, change)) = name.split_once('@') else {
            return Ok(None);
        };
        let catalog = context.store.catalog();
        let Some(family) = catalog.family_by_name(family)? else {
            return Ok(None);
        };
        let change: i64 = change.parse().map_err(|_| {
            Error::usage(name, "what stands behind @ is no number of a change")
                .remedy(format!("`foldfs log {}` shows the changes", family.name))
        })?;
        let base = catalog.image(family.base)?;
        let base = base.ok_or_else(|| super::unknown_name(&family.name))?;
        let view = context.images.view(&base)?;
        let mut now = ComparedView::new(&view, context.store.objects())?;
        let past = past::after(context, (&family, &base), &mut now, change)?;
        drop(now);
        Ok(Some(Self::Past(Box::new((base, view, past)))))
    }

    /// Opens it, standing in its root.
    pub(super) fn tree<'a>(&'a self, store: Option<&'a Store>) -> Result<Box<dyn Tree + 'a>> {
        match (self, store) {
            (Self::Image(image), Some(store)) => {
                Ok(Box::new(ComparedView::new(&image.1, store.objects())?))
            }
            (Self::Past(past), Some(store)) => {
                let (_, view, past) = &**past;
                let now = ComparedView::new(view, store.objects())?;
                Ok(Box::new(ComparedPast::new(now, past)))
            }
            (Self::Image(_) | Self::Past(_), None) => Err(super::unknown_name(
                self.image().map_or("", |image| &image.name),
            )),
            (Self::Directory(path), _) => Ok(Box::new(ComparedDirectory::open(path)?)),
        }
    }

    /// Whether it is an image as it is now, whose files have their own numbers.
    pub(super) fn is_image(&self) -> bool {
        matches!(self, Self::Image(_))
    }

    /// The image that is read for it.
    fn image(&self) -> Option<&Image> {
        match self {
            Self::Image(image) => Some(&image.0),
            Self::Past(past) => Some(&past.0),
            Self::Directory(_) => None,
        }
    }
}

/// In what two trees differ.
pub struct Differences {
    /// In the order of a walk; of a move, both the path it left and the one it came to are here.
    pub all: Vec<Difference>,
    /// Which of them belong together.
    pub moves: Moves,
}

/// Compares two trees that stand in their roots. `same_store`: both are images of one store, where a
/// number is one file for ever.
///
/// # Errors
/// Those of reading the trees.
pub fn differences(
    old: &mut dyn Tree,
    new: &mut dyn Tree,
    scope: &Scope,
    same_store: bool,
) -> Result<Differences> {
    let all = compare(old, new, scope)?;
    let moves = Moves::find(&all, old, new, same_store)?;
    Ok(Differences { all, moves })
}

/// Tells in what two trees differ. `context`: the store, if [`Options::needs_store`]. Where a guest
/// is at work in one, parts may be of different moments: clone it first, and compare the clone.
///
/// # Errors
/// No such image or directory; those of reading them.
pub fn diff(
    context: Option<&Context>,
    options: &Options,
    progress: &dyn Progress,
) -> Result<DiffReport> {
    let store = context.map(|context| &*context.store);
    let _placement = store.map(Store::keep_placement).transpose()?;
    let still = store
        .map(|store| store.catalog().stand_still())
        .transpose()?;
    let mut paths = Vec::new();
    for path in &options.paths {
        paths.push(super::path::names(path.as_bytes())?.join(&b'/'));
    }
    let (old, new) = (
        Operand::find(context, &options.old)?,
        Operand::find(context, &options.new)?,
    );
    progress.message("comparing");
    let compared = read(&old, &new, store, &Scope::new(paths), options);
    drop(still);
    or_removed(context, [&old, &new], compared)
}

/// What reading the trees gave; where it failed because an image is gone, this instead.
pub(super) fn or_removed<T>(
    context: Option<&Context>,
    operands: [&Operand; 2],
    read: Result<T>,
) -> Result<T> {
    if let (Err(_), Some(context)) = (&read, context) {
        for operand in operands {
            if let Some(image) = operand.image()
                && context.store.catalog().image(image.id)?.is_none()
            {
                let object = format!("image {}", image.name);
                return Err(Error::failed(object, "it was removed while it was read"));
            }
        }
    }
    read
}

fn read(
    old: &Operand,
    new: &Operand,
    store: Option<&Store>,
    scope: &Scope,
    options: &Options,
) -> Result<DiffReport> {
    let (mut old_tree, mut new_tree) = (old.tree(store)?, new.tree(store)?);
    let same_store = old.is_image() && new.is_image();
    let found = differences(&mut *old_tree, &mut *new_tree, scope, same_store)?;
    let mut report = present::report(&found, options);
    if options.text && !options.stat {
        text::add(&mut report, &mut *old_tree, &mut *new_tree)?;
    }
    Ok(report)
}
