//! `why`: which layer serves a path, why it is private, who shares it.

use std::os::fd::AsFd;

use super::context::Context;
use super::letter;
use super::report::WhyReport;
use crate::error::{Error, Result};
use crate::merge::locked;
use crate::merge::locks::Locks;
use crate::merge::lookup::{self, Item, OpenDirectory, Site};
use crate::merge::version::{Version, version_of};
use crate::merge::view::View;
use crate::path_bytes::PathBytes;
use crate::store::catalog::{Image, ImageRole, Reads};
use crate::store::layout;
use crate::store::mark::{DirectoryRole, Role};
use crate::store::metadata::{Content, FileType};

/// What a path of a view is.
struct Resolved {
    item: Item,
    /// The directory that holds it; for the root, the root.
    parent: OpenDirectory,
    name: Vec<u8>,
}

/// `None` where a component is missing or no directory.
fn resolve(view: &View, names: &[&[u8]]) -> Result<Option<Resolved>> {
    let mut parent = OpenDirectory::root(view)?;
    let Some((last, above)) = names.split_last() else {
        return Ok(Some(Resolved {
            item: lookup::root(view)?,
            parent,
            name: b".".to_vec(),
        }));
    };
    for name in above {
        let Some(item) = lookup::lookup(view, parent.parts(), name)? else {
            return Ok(None);
        };
        let Some(below) = parent.descend(view, name, &item)? else {
            return Ok(None);
        };
        parent = below;
    }
    let found = lookup::lookup(view, parent.parts(), last)?;
    Ok(found.map(|item| Resolved {
        item,
        parent,
        name: last.to_vec(),
    }))
}

fn version(view: &View, resolved: &Resolved) -> Result<Option<Version>> {
    let private = resolved.parent.private.as_ref().map(AsFd::as_fd);
    version_of(view, private, &resolved.name, &resolved.item)
}

/// Which layer, which role, and why in a sentence.
fn explain(item: &Item) -> (&'static str, &'static str, &'static str) {
    match item {
        Item::Shared { .. } => (
            "shared",
            "shared",
            "most images of the family hold this version, so it lies in the shared layer",
        ),
        Item::Private { mark, site, .. } => match mark.role {
            Role::Stub { .. } if *site == Site::Index => (
                "private",
                "stub",
                "a name of it was made, removed or renamed here; its content is shared",
            ),
            Role::Stub { .. } => (
                "private",
                "stub",
                "its metadata, or its place, is this image's own; its content is shared",
            ),
            Role::File | Role::Name => (
                "private",
                "file",
                "it was made or altered in this image, and no fold has found it elsewhere since",
            ),
            Role::Directory(DirectoryRole::Own) => (
                "private",
                "own",
                "it was made in this image, or replaced a shared directory",
            ),
            Role::Directory(DirectoryRole::Merged { .. }) => (
                "private",
                "merged",
                "its names or metadata were changed here; other names below it are shared",
            ),
            Role::Directory(DirectoryRole::Transparent { .. }) => (
                "private",
                "transparent",
                "something below it is private; its own metadata is shared",
            ),
        },
    }
}

fn digest(item: &Item) -> Option<crate::store::digest::Digest> {
    match item {
        Item::Shared { inode, .. } => match inode.content {
            Content::Regular { digest, .. } => digest,
            _ => None,
        },
        Item::Private { mark, .. } => match mark.role {
            Role::Stub { digest } => Some(digest),
            _ => None,
        },
    }
}

/// Where the bytes are, below the store.
fn stored(image: &Image, item: &Item, path: &[u8]) -> Option<Vec<u8>> {
    if let Some(digest) = digest(item) {
        return Some(format!("objects/{}", layout::object_name(&digest)).into_bytes());
    }
    match item {
        Item::Shared { .. } => None,
        Item::Private {
            site: Site::Entry, ..
        } => Some([format!("images/{}/private/", image.id).as_bytes(), path].concat()),
        Item::Private {
            site: Site::Index,
            mark,
            ..
        } => Some(format!("images/{}/index/{}", image.id, mark.number).into_bytes()),
    }
}

/// The pattern by which a path, or another name of its file, is locked.
fn locked_by(
    context: &Context,
    image: &Image,
    view: &View,
    path: &[u8],
    item: &Item,
) -> Result<Option<String>> {
    let locks = Locks::new(&context.store.catalog().locks(image.family)?)?;
    if locks.is_empty() || image.role == ImageRole::Working {
        return Ok(None);
    }
    let is_directory = item.directory().is_some();
    let mut pattern = locks.of(path, is_directory).map(String::from);
    let may_have_others = match item {
        Item::Private { site, .. } => *site == Site::Index,
        Item::Shared { inode, .. } => inode.links > 1,
    };
    if pattern.is_none() && !is_directory && may_have_others {
        locked::visit(view, &locks, &mut |visit| {
            if visit.item.number() == item.number() {
                pattern = locks.of(visit.path, false).map(String::from);
            }
            Ok(())
        })?;
    }
    Ok(pattern)
}

/// Tells of one path of one image.
///
/// # Errors
/// No such image, no such path in it.
pub fn why(context: &Context, image: &str, path: &PathBytes) -> Result<WhyReport> {
    let catalog = context.store.catalog();
    let image = catalog
        .image_by_name(image)?
        .ok_or_else(|| super::unknown_name(image))?;
    let names = super::path::names(path.as_bytes())?;
    let path = names.join(&b'/');
    let view = context.images.view(&image)?;
    let resolved = resolve(&view, &names)?.ok_or_else(|| {
        Error::failed(
            format!("{}:/{}", image.name, path.escape_ascii()),
            "the image has no such path",
        )
        .remedy("name it from the image's root; symbolic links are not followed")
    })?;
    let own = version(&view, &resolved)?;
    let (mut shared_with, mut differs_in) = (Vec::new(), Vec::new());
    let mut unreadable_in = Vec::new();
    for other in catalog
        .images_of(image.family)?
        .iter()
        .filter(|other| other.id != image.id)
    {
        let there = || -> Result<Option<Version>> {
            let view = context.images.view(other)?;
            let there = resolve(&view, &names)?;
            there.map_or(Ok(None), |there| version(&view, &there))
        };
        let list = match there() {
            Ok(there) if own.is_some() && there == own => &mut shared_with,
            Ok(_) => &mut differs_in,
            Err(error) => {
                log::warn!("{}", super::damaged::named(context, error));
                &mut unreadable_in
            }
        };
        list.push(other.name.clone());
    }
    let item = &resolved.item;
    let held = super::hold::holding(&catalog.holds(image.id)?, &names);
    let (layer, role, mut reason) = explain(item);
    if held.is_some() && layer == "private" && item.directory().is_none() {
        reason = "an administrator pinned it (foldfs hold)";
    }
    let file_type = match item {
        Item::Shared { inode, .. } => inode.content.file_type(),
        Item::Private { stat, .. } => {
            FileType::from_mode(stat.st_mode).unwrap_or(FileType::Regular)
        }
    };
    Ok(WhyReport {
        number: item.number().get(),
        file_type: letter(file_type).into(),
        layer: layer.into(),
        role: role.into(),
        reason: reason.into(),
        digest: digest(item).map(|digest| digest.to_string()),
        stored: stored(&image, item, &path).map(PathBytes::from),
        held,
        locked: locked_by(context, &image, &view, &path, item)?,
        shared_with,
        differs_in,
        unreadable_in,
        path: PathBytes::from([&b"/"[..], &path].concat()),
        image: image.name,
    })
}
