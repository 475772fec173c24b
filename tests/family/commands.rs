//! Commands, as the command line gives them to the library.

use std::path::Path;

use foldfs::archive::{import_directory, import_tar};
use foldfs::error::Result;
use foldfs::ops::{Context, clone, fold, import, remove};
use foldfs::progress::Silent;
use foldfs::store::catalog::{Reads, Share};
use foldfs::store::number::{FamilyId, ImageId};

/// Imports a directory or an archive: into a family, into the most similar one, or into its own.
pub fn import(
    context: &Context,
    name: &str,
    source: &Path,
    family: Option<&str>,
    share: Share,
) -> Result<ImageId> {
    let tree = match source.is_dir() {
        true => import_directory(&context.store, source, &Silent)?,
        false => import_tar(&context.store, source, &Silent)?,
    };
    let options = import::Options {
        name: name.to_owned(),
        family: family.map(str::to_owned),
        share,
        source: source.display().to_string(),
    };
    let plan = import::plan(context, &tree, &options)?;
    import::apply(context, &tree, &plan, &Silent)
}

pub fn clone(context: &Context, from: &str, to: &str) -> Result<()> {
    let options = clone::Options {
        from: from.to_owned(),
        to: to.to_owned(),
        frozen: false,
        reset: None,
    };
    let plan = clone::plan(context, &options)?;
    clone::apply(context, &plan, &Silent)?;
    Ok(())
}

pub fn remove(context: &Context, name: &str) -> Result<()> {
    let plan = remove::plan(context, name)?;
    remove::apply(context, &plan, &Silent)?;
    Ok(())
}

/// Folds everything.
pub fn fold(context: &Context) -> Result<()> {
    let options = fold::Options { family: None };
    let plan = fold::plan(context, &options, &Silent)?;
    fold::apply(context, &plan, &Silent)?;
    Ok(())
}

/// Gives a family another rule; nothing is moved yet.
pub fn set_share(context: &Context, family: FamilyId, share: Share) -> Result<()> {
    let transaction = context.store.catalog().transaction()?;
    transaction.set_share(family, share)?;
    transaction.commit()
}

/// The family of this name.
pub fn family(context: &Context, name: &str) -> Result<FamilyId> {
    let family = context.store.catalog().family_by_name(name)?;
    Ok(family.expect(name).id)
}
