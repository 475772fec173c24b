//! patch create: the differences of two trees, with what the new one has, written to a file.

use std::collections::HashSet;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::entries::entries;
use super::{Told, report};
use crate::archive::patch::{
    ContentId, PatchEntry, PatchTable, PatchWriter, PathVersion, PublicKey, SecretKey,
};
use crate::error::{Context as _, Error, Result};
use crate::merge::compare::{Scope, Tree, open_path};
use crate::ops::Context;
use crate::ops::diff::{Differences, Operand, differences, is_path, or_removed};
use crate::ops::report::PatchReport;
use crate::path_bytes::PathBytes;
use crate::progress::Progress;
use crate::store::Store;

/// What is wanted.
pub struct CreateOptions {
    /// The old tree; an operand as `diff` takes it.
    pub old: PathBuf,
    /// The new one.
    pub new: PathBuf,
    /// The patch; one that is there is replaced.
    pub file: PathBuf,
    /// Who signs it.
    pub signer: Option<SecretKey>,
}

impl CreateOptions {
    /// Whether an operand may name an image, so that the store is needed.
    pub fn needs_store(&self) -> bool {
        !is_path(&self.old) || !is_path(&self.new)
    }
}

/// Writes the patch that makes the old tree the new one. `context`: the store, if
/// [`CreateOptions::needs_store`]. The file is there as a whole, and on the disk, or as it was before.
///
/// # Errors
/// No such image or directory; something changes while it is read; those of reading and writing.
pub fn create(
    context: Option<&Context>,
    options: &CreateOptions,
    progress: &dyn Progress,
) -> Result<PatchReport> {
    let store = context.map(|context| &*context.store);
    let _placement = store.map(Store::keep_placement).transpose()?;
    let still = store
        .map(|store| store.catalog().stand_still())
        .transpose()?;
    let (old, new) = (
        Operand::find(context, &options.old)?,
        Operand::find(context, &options.new)?,
    );
    let directory = match options.file.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let about = PathBytes::from(&*options.file).to_string();
    let named = options.file.file_name();
    named.ok_or_else(|| Error::usage(&about, "it names no file").remedy("name the patch"))?;
    let temporary = tempfile::NamedTempFile::new_in(directory).about(&about)?;
    let file = temporary.as_file().try_clone().about(&about)?;
    let written = write(&old, &new, store, options, file, progress);
    drop(still);
    let (table, size) = or_removed(context, [&old, &new], written)?;
    let kept = temporary.persist(&options.file);
    kept.map_err(|error| error.error).about(&about)?;
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.about(&about)?;
    let signer = options.signer.as_ref().map(SecretKey::public);
    Ok(report(&Told {
        file: &options.file,
        size,
        signer: signer.as_ref(),
        keys: &[] as &[PublicKey],
        table: &table,
        stat: true,
    }))
}

fn write(
    old: &Operand,
    new: &Operand,
    store: Option<&Store>,
    options: &CreateOptions,
    file: File,
    progress: &dyn Progress,
) -> Result<(PatchTable, u64)> {
    let (mut old_tree, mut new_tree) = (old.tree(store)?, new.tree(store)?);
    progress.message("comparing");
    let same_store = old.is_image() && new.is_image();
    let found = differences(
        &mut *old_tree,
        &mut *new_tree,
        &Scope::default(),
        same_store,
    )?;
    let about = PathBytes::from(&*options.file).to_string();
    let writer = PatchWriter::new(file, options.signer.as_ref(), about)?;
    let mut creation = Creation {
        old: &mut *old_tree,
        new: &mut *new_tree,
        found: &found,
        writer,
    };
    progress.message("reading contents");
    let entries = entries(&found.all, creation.old, creation.new)?;
    creation.contents(&entries, progress)?;
    let name = |path: &Path| PathBytes::from(path).as_bytes().to_vec();
    let names = (name(&options.old), name(&options.new));
    creation.writer.finish(names, entries)
}

struct Creation<'a> {
    old: &'a mut dyn Tree,
    new: &'a mut dyn Tree,
    found: &'a Differences,
    writer: PatchWriter<'a>,
}

impl Creation<'_> {
    /// Writes each content of the new tree that the old one lacks at all of these paths.
    fn contents(&mut self, entries: &[PatchEntry], progress: &dyn Progress) -> Result<()> {
        let id = |version: &Option<PathVersion>| version.as_ref().and_then(PathVersion::content_id);
        let mut known: HashSet<ContentId> =
            entries.iter().filter_map(|entry| id(&entry.old)).collect();
        for (index, entry) in entries.iter().enumerate() {
            let Some(content) = id(&entry.new).filter(|content| known.insert(*content)) else {
                continue;
            };
            let shown = PathBytes::from([b"/", &entry.path[..]].concat());
            progress.message(&format!("packing {shown}"));
            let origin = match self.found.moves.at(index) {
                Some(moved) if moved.to == index => &entries[moved.from],
                _ => entry,
            };
            let base = match id(&origin.old) {
                Some(base) => Some((base, open_path(self.old, &origin.path)?)),
                None => None,
            };
            let file = open_path(self.new, &entry.path)?;
            let base = base.as_ref().map(|(id, file)| (*id, file.as_fd()));
            let added = self.writer.add((content, file.as_fd()), base);
            added.map_err(|error| Error {
                object: format!("{shown}: {}", error.object),
                ..error
            })?;
        }
        Ok(())
    }
}
