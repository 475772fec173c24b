//! `changes/` against the catalog: each change has its patch, and is carried out in all images.

use super::{Findings, Fix, Options};
use crate::archive::patch::PatchFile;
use crate::error::Result;
use crate::ops::context::Context;
use crate::ops::patch;
use crate::path_bytes::PathBytes;
use crate::store::catalog::Reads;
use crate::store::layout;
use crate::store::open::Access;

const REMEDY: &str = "restore the file from another copy of the store";

pub(super) fn check(context: &Context, options: Options, findings: &mut Findings) -> Result<()> {
    let store = &context.store;
    let foreign = match store.foreign_changes() {
        Ok(foreign) => foreign,
        Err(error) => {
            let remedy = Some(&*error.remedy).filter(|remedy| !remedy.is_empty());
            findings.add(error.object, error.cause, remedy.unwrap_or(REMEDY));
            return Ok(());
        }
    };
    for name in foreign {
        let path = [layout::CHANGES.as_bytes(), b"/", &name].concat();
        findings.add(
            &*path,
            "a name that foldfs does not make",
            "move it elsewhere",
        );
        findings.fix(Fix::Aside {
            path,
            cause: "no name of a change".into(),
            hides: false,
        });
    }
    for change in store.catalog().change_ids()? {
        let path = store.change_path(change);
        let object = PathBytes::from(format!("{}/{change}", layout::CHANGES).into_bytes());
        match path.symlink_metadata().map(|found| found.is_file()) {
            Err(_) => findings.add(
                object.as_bytes(),
                "the patch of a change is missing",
                REMEDY,
            ),
            Ok(false) => findings.add(
                object.as_bytes(),
                "the patch of a change is no regular file",
                REMEDY,
            ),
            // It is read through.
            Ok(true) if options.content => {
                if let Err(error) = PatchFile::open(&path) {
                    findings.add(object.as_bytes(), error.cause, REMEDY);
                }
            }
            Ok(true) => {}
        }
    }
    if store.unfinished_changes()?.is_empty() {
        return Ok(());
    }
    // It may be under way in this process.
    let _alone = (store.access() == Access::Write).then(|| context.alone());
    for (change, image) in store.unfinished_changes()? {
        let object = format!("{}/{change}-{image}", layout::CHANGES);
        match patch::check_left(store, change, image) {
            Ok(()) => findings.add(
                object,
                format!("change {change} is not carried out in images/{image} yet"),
                "any command that alters the store does it, `foldfs fold` for one; the log says why if not",
            ),
            Err(error) => findings.add(object, error.to_string(), REMEDY),
        }
    }
    Ok(())
}
