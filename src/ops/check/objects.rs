//! Objects against what refers to them.

use rayon::prelude::*;
use rustix::fs::AtFlags;

use super::{Findings, Options};
use crate::error::{Error, Result};
use crate::ops::context::Context;
use crate::ops::references::references;
use crate::progress::Progress;
use crate::store::catalog::Reads;
use crate::store::digest::Digest;
use crate::store::layout;
use crate::store::objects::Found;

const REMEDY: &str = "import an image that has this file, or restore the object from a backup";

fn path(digest: &Digest) -> String {
    format!("objects/{}", layout::object_name(digest))
}

pub(super) fn check(
    context: &Context,
    options: Options,
    progress: &dyn Progress,
    findings: &mut Findings,
) -> Result<()> {
    let objects = context.store.objects();
    let mut there: Vec<(Digest, u64)> = Vec::new();
    let mut missing = std::mem::take(&mut findings.references);
    objects.for_each(|found| {
        match found {
            Found::Object(digest, stat) => {
                let size = stat.st_size as u64;
                let object = path(&digest);
                if stat.st_mode & 0o7777 != 0o400 || stat.st_uid != 0 || stat.st_gid != 0 {
                    findings.add(
                        &*object,
                        "it is not root's alone, or not read-only",
                        "chown root:root and chmod 400 it",
                    );
                }
                if stat.st_nlink != 1 {
                    findings.add(
                        &*object,
                        format!(
                            "it has {} links: it could be written through another name",
                            stat.st_nlink
                        ),
                        "find the other name and remove it",
                    );
                }
                if let Some((wanted, who)) = missing.remove(&digest)
                    && wanted != size
                {
                    let cause = format!("it has {size} bytes, {who} says {wanted}");
                    findings.add(&*object, cause, REMEDY);
                }
                there.push((digest, size));
            }
            Found::Foreign(name) => {
                let object = [b"objects/".as_slice(), &name].concat();
                findings.add(object, "it is no object", "move it elsewhere");
            }
        }
        Ok(())
    })?;
    findings.report.objects = there.len() as u64;
    let mut missing: Vec<_> = missing.into_iter().collect();
    missing.sort();
    for (digest, (_, who)) in still_missing(context, missing)? {
        let cause = format!("it is missing; {who} needs it");
        findings.add(path(&digest), cause, REMEDY);
    }
    if !options.content {
        for (digest, cause) in objects.verification().damaged() {
            findings.add(path(&digest), cause, REMEDY);
        }
        return Ok(());
    }
    progress.total(there.iter().map(|(_, size)| size).sum());
    let damaged: Vec<(Digest, Error)> = there
        .par_iter()
        .filter_map(|(digest, size)| {
            let verdict = match objects.verify(digest) {
                Ok(true) => None,
                Ok(false) => {
                    let cause = "its content does not have its digest";
                    Some(Error::failed(path(digest), cause))
                }
                Err(error) => Some(error),
            };
            progress.advance(*size);
            verdict.map(|error| (*digest, error))
        })
        .collect();
    let is_gone = |error: &Error| error.errno == Some(libc::ENOENT);
    let (gone, damaged): (Vec<_>, Vec<_>) =
        damaged.into_iter().partition(|(_, error)| is_gone(error));
    findings.report.content_bytes = there.iter().map(|(_, size)| size).sum();
    let gone = still_missing(context, gone)?.into_iter();
    for (digest, error) in damaged.into_iter().chain(gone) {
        findings.add(path(&digest), error.cause, REMEDY);
    }
    Ok(())
}

/// Those that are not there and are needed: between two looks a guest may have let go of an object,
/// and a collect have removed it.
fn still_missing<T>(context: &Context, missing: Vec<(Digest, T)>) -> Result<Vec<(Digest, T)>> {
    if missing.is_empty() {
        return Ok(missing);
    }
    // A fold gives what it has made an object of its name before it lets others go on.
    let _alone = context.alone();
    let needed = references(context)
        .inspect_err(|error| log::warn!("all that was needed may still be: {error}"))
        .ok();
    let mut still = Vec::new();
    for (digest, what) in missing {
        let needed = needed
            .as_ref()
            .is_none_or(|needed| needed.contains(&digest));
        if needed && !is_there(context, &digest)? {
            still.push((digest, what));
        }
    }
    Ok(still)
}

/// Whether there is an object, or a file that another process is making it of.
fn is_there(context: &Context, digest: &Digest) -> Result<bool> {
    let store = &context.store;
    if store.objects().exists(digest)? {
        return Ok(true);
    }
    let name = layout::work_name(digest);
    for image in store.catalog().images()? {
        let dirs = store.image_dirs(image.id)?;
        if rustix::fs::statat(&dirs.work, &*name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            return Ok(true);
        }
    }
    // It may have got its name in between.
    store.objects().exists(digest)
}
