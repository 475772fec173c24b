//! `changes/` against the catalog: each change that is kept has its record, and is carried out in all images.

use super::{Findings, Fix};
use crate::error::Result;
use crate::ops::context::Context;
use crate::ops::patch;
use crate::ops::references::before_change;
use crate::store::Store;
use crate::store::catalog::ChangeReads;
use crate::store::layout;
use crate::store::open::Access;

const REMEDY: &str =
    "restore the file from another copy of the store; without it the change cannot be taken back";

/// Takes note of the contents that are needed to take a change back.
fn references(store: &Store, change: i64, findings: &mut Findings) -> Result<()> {
    for content in before_change(store, change)? {
        let who = || (content.size, format!("change {change}, to be taken back,"));
        findings
            .references
            .entry(content.digest)
            .or_insert_with(who);
    }
    Ok(())
}

pub(super) fn check(context: &Context, findings: &mut Findings) -> Result<()> {
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
    let unfinished = store.unfinished_changes()?;
    for change in store.catalog().kept_changes()? {
        let id = change.id;
        let Err(error) = references(store, id, findings) else {
            continue;
        };
        // A collect may have forgotten it since.
        if !store.catalog().change(id)?.is_some_and(|it| it.is_kept) {
            continue;
        }
        let cause = match error.errno {
            Some(libc::ENOENT) => String::from("the record of the change is missing"),
            _ => error.cause,
        };
        findings.add(format!("{}/{id}", layout::CHANGES), cause, REMEDY);
        if !unfinished.iter().any(|(unfinished, _)| *unfinished == id) {
            findings.fix(Fix::Forget(id));
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
