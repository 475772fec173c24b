//! export: an image as a plain directory, an archive, or layers of the kernel's overlayfs. It reads
//! the store only, so any process does it, also beside a daemon; only placement waits for it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::context::Context;
use super::report::ExportReport;
use crate::archive::{self, ImageSource, Purpose, StagedImport};
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::store::Store;
use crate::store::catalog::Reads;

/// What an export writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A plain directory tree.
    Dir,
    /// A tar archive.
    Tar,
    /// Layers for the kernel's overlayfs.
    Overlay,
    /// A store of its own ([`super::export_store`]).
    Store,
}

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The image's name, or a family's: its base.
    pub image: String,
    /// A file or directory that does not exist, or an empty directory; for an archive also `-`,
    /// standard output.
    pub destination: PathBuf,
    /// What it becomes.
    pub format: Format,
}

/// Writes the image as it is. Where a guest is at work in it, parts may be of different moments:
/// clone it first, and export the clone.
///
/// # Errors
/// No image of that name; those of reading and writing. The destination is there wholly or not at
/// all.
pub fn export(
    context: &Context,
    options: &Options,
    progress: &dyn Progress,
) -> Result<ExportReport> {
    let store = &context.store;
    let _placement = store.keep_placement()?;
    let image = store
        .catalog()
        .image_by_name(&options.image)?
        .ok_or_else(|| super::unknown_name(&options.image))?;
    let view = context.images.view(&image)?;
    let source = ImageSource {
        view: &view,
        objects: store.objects(),
    };
    progress.message(&format!("writing {}", image.name));
    let destination = &options.destination;
    let written = match options.format {
        Format::Dir => {
            archive::export_directory(&source, store, destination, progress).map(|()| Vec::new())
        }
        Format::Tar => {
            archive::export_tar(&source, store, destination, progress).map(|()| Vec::new())
        }
        Format::Overlay => archive::export_overlay(&source, store, destination, progress),
        Format::Store => {
            return Err(Error::failed(
                "export",
                "a store is written by who has this one",
            ));
        }
    };
    let differences = match written {
        Err(_) if store.catalog().image(image.id)?.is_none() => {
            let object = format!("image {}", image.name);
            return Err(Error::failed(object, "it was removed while it was read"));
        }
        written => written?,
    };
    Ok(ExportReport {
        images: vec![image.name.clone()],
        image: image.name,
        destination: destination.clone().into(),
        format: options.format,
        differences,
    })
}

/// Stages an image of this store in another one, for an import there.
///
/// # Errors
/// No image of that name; those of reading it, and of staging.
pub fn stage(
    context: &Context,
    image: &str,
    (into, purpose): (&Store, Purpose),
    progress: &dyn Progress,
) -> Result<StagedImport> {
    let store = &context.store;
    let _placement = store.keep_placement()?;
    let found = store.catalog().image_by_name(image)?;
    let found = found.ok_or_else(|| super::unknown_name(image))?;
    let view = context.images.view(&found)?;
    let source = ImageSource {
        view: &view,
        objects: store.objects(),
    };
    let name = format!("{}: image {image}", store.path().display());
    archive::stage_view(into, (&source, &name), purpose, progress)
}
