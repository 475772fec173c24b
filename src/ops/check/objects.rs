//! Objects against what refers to them.

use rayon::prelude::*;

use super::{Findings, Options};
use crate::error::Result;
use crate::ops::context::Context;
use crate::progress::Progress;
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
    if !missing.is_empty() {
        // A fold gives what it has made an object of its name before it lets others go on.
        let _alone = context.alone();
        let mut still = Vec::new();
        for (digest, who) in missing {
            if !objects.exists(&digest)? {
                still.push((digest, who));
            }
        }
        missing = still;
    }
    for (digest, (_, who)) in missing {
        findings.add(
            path(&digest),
            format!("it is missing; {who} needs it"),
            REMEDY,
        );
    }
    if !options.content {
        for (digest, cause) in objects.verification().damaged() {
            findings.add(path(&digest), cause, REMEDY);
        }
        return Ok(());
    }
    progress.total(there.iter().map(|(_, size)| size).sum());
    let damaged: Vec<(Digest, String)> = there
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
                    Some(cause.to_owned())
                }
                Err(error) => Some(error.cause),
            };
            progress.advance(*size);
            verdict.map(|cause| (*digest, cause))
        })
        .collect();
    findings.report.content_bytes = there.iter().map(|(_, size)| size).sum();
    for (digest, cause) in damaged {
        findings.add(path(&digest), cause, REMEDY);
    }
    Ok(())
}
