//! Objects against what refers to them.

use rayon::prelude::*;
use rustix::fs::AtFlags;

use super::{Findings, Fix, Options};
use crate::error::{Error, Result};
use crate::ops::context::Context;
use crate::ops::references::references;
use crate::progress::Progress;
use crate::store::catalog::Reads;
use crate::store::digest::Digest;
use crate::store::layout;
use crate::store::objects::Found;

const REMEDY: &str =
    "`foldfs check --repair --content` mends it from another copy, if there is one";

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
    let mut count = 0;
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
                    findings.fix(Fix::Owner(digest));
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
                    findings.fix(Fix::OwnInode(digest));
                }
                let needed = missing.remove(&digest);
                let is_whole = needed.as_ref().is_none_or(|(wanted, _)| *wanted == size);
                if let Some((wanted, who)) = needed.filter(|_| !is_whole) {
                    let cause = format!("it has {size} bytes, {who} says {wanted}");
                    findings.add(&*object, cause, REMEDY);
                    let size = wanted;
                    findings.fix(Fix::Object { digest, size });
                }
                count += 1;
                // There is no need to read one of another size: it may be terabytes of nothing.
                if is_whole {
                    there.push((digest, size));
                }
            }
            Found::Foreign(name) => {
                let object = [b"objects/".as_slice(), &name].concat();
                findings.add(&*object, "it is no object", "move it elsewhere");
                findings.fix(Fix::Aside {
                    path: object,
                    cause: "it is no object".into(),
                    hides: false,
                });
            }
        }
        Ok(())
    })?;
    findings.report.objects = count;
    let mut missing: Vec<_> = missing.into_iter().collect();
    missing.sort();
    for (digest, (size, who)) in still_missing(context, missing)? {
        let cause = format!("it is missing; {who} needs it");
        findings.add(path(&digest), cause, REMEDY);
        findings.fix(Fix::Object { digest, size });
    }
    if !options.content {
        for (digest, cause) in objects.verification().damaged() {
            findings.add(path(&digest), cause, REMEDY);
        }
        return Ok(());
    }
    progress.total(there.iter().map(|(_, size)| size).sum());
    let damaged: Vec<(Digest, (u64, Error))> = there
        .par_iter()
        .filter_map(|(digest, size)| {
            let verdict = match objects.verify(digest) {
                Ok(true) => {
                    objects.verification().is_mended(digest);
                    None
                }
                Ok(false) => {
                    let cause = "its content does not have its digest";
                    objects.verification().is_damaged(digest, cause);
                    Some(Error::failed(path(digest), cause))
                }
                Err(error) => Some(error),
            };
            progress.advance(*size);
            verdict.map(|error| (*digest, (*size, error)))
        })
        .collect();
    let is_gone = |error: &Error| error.errno == Some(libc::ENOENT);
    let (gone, damaged): (Vec<_>, Vec<_>) = damaged
        .into_iter()
        .partition(|(_, (_, error))| is_gone(error));
    findings.report.content_bytes = there.iter().map(|(_, size)| size).sum();
    let gone = still_missing(context, gone)?.into_iter();
    for (digest, (size, error)) in damaged.into_iter().chain(gone) {
        findings.add(path(&digest), error.cause, REMEDY);
        // One of another size is to be mended already.
        let is_known = findings
            .fixes
            .iter()
            .any(|fix| matches!(fix, Fix::Object { digest: known, .. } if *known == digest));
        if !is_known {
            findings.fix(Fix::Object { digest, size });
        }
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
    let needed = references(context, &[])
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
    // Something else in its place is none.
    let exists = || store.objects().exists(digest).unwrap_or(false);
    if exists() {
        return Ok(true);
    }
    let name = layout::work_name(digest);
    for image in store.catalog().images()? {
        // One that is damaged is a finding of its own.
        let Ok(dirs) = store.image_dirs(image.id) else {
            continue;
        };
        if rustix::fs::statat(&dirs.work, &*name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            return Ok(true);
        }
    }
    // It may have got its name in between.
    Ok(exists())
}
