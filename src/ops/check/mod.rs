//! `check`: proves that a store is sound. The catalog against itself and the objects, private layers
//! against both; whatever does not fit is a finding, never a reason to stop looking.
//!
//! Beside guests at work it may see a change half-way. So an image in which something is found is
//! looked at again while changes of its family wait, and a missing object while no operation runs.
//! Both hold in the process that the guests are served by; no other can be sure.

mod changes;
mod fix;
mod layers;
mod objects;
mod shared;

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

pub use fix::Fix;

use super::context::Context;
use super::report::{CheckReport, Finding};
use crate::error::{Context as _, Result};
use crate::merge::locks::Locks;
use crate::path_bytes::PathBytes;
use crate::progress::Progress;
use crate::store::catalog::{Image, Reads};
use crate::store::digest::Digest;
use crate::store::open::Access;
use crate::store::{layer, layout};

/// What to do about a damaged catalog.
const RESTORE: &str = "`foldfs check --repair` restores it from catalog.bak";

/// What to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Read every object and compare its digest.
    pub content: bool,
}

/// Content that something refers to: its size, and who was the first to say so.
type References = HashMap<Digest, (u64, String)>;

/// What is found on the way.
#[derive(Default)]
struct Findings {
    report: CheckReport,
    references: References,
    fixes: Vec<Fix>,
}

impl Findings {
    fn add(&mut self, object: impl Into<Vec<u8>>, cause: impl Into<String>, remedy: &str) {
        self.report.findings.push(Finding {
            object: PathBytes::from(object.into()),
            cause: cause.into(),
            remedy: remedy.into(),
        });
    }

    /// What can be done about the last finding.
    fn fix(&mut self, fix: Fix) {
        self.fixes.push(fix);
    }

    fn redundant(&mut self, object: impl Into<Vec<u8>>, cause: &str) {
        self.report.redundant.push(Finding {
            object: PathBytes::from(object.into()),
            cause: cause.into(),
            remedy: "`foldfs fold` removes it".into(),
        });
    }

    /// Takes over what was found in one image.
    fn absorb(&mut self, image: Findings) {
        let report = &mut self.report;
        report.entries += image.report.entries;
        report.findings.extend(image.report.findings);
        report.redundant.extend(image.report.redundant);
        self.fixes.extend(image.fixes);
        for (digest, (size, who)) in image.references {
            self.refer(digest, size, &who);
        }
    }

    /// `who` says that there is an object of that size.
    fn refer(&mut self, digest: Digest, size: u64, who: &str) {
        let (known, first) = self
            .references
            .entry(digest)
            .or_insert_with(|| (size, who.into()));
        if *known != size {
            let cause =
                format!("its content has {size} bytes, that of {first} {known}: one digest");
            self.add(who, cause, "restore the file from another copy");
        }
    }
}

/// Checks the store.
///
/// # Errors
/// Only where nothing can be read at all: damage is a finding.
pub fn run(context: &Context, options: Options, progress: &dyn Progress) -> Result<CheckReport> {
    Ok(run_for_repair(context, options, progress)?.0)
}

/// Likewise; with what can be done about the findings, in the order in which it should be done.
///
/// # Errors
/// As [`run`].
pub fn run_for_repair(
    context: &Context,
    options: Options,
    progress: &dyn Progress,
) -> Result<(CheckReport, Vec<Fix>)> {
    let mut findings = Findings::default();
    let catalog = context.store.catalog();
    for line in catalog.integrity_check()? {
        findings.add("catalog.db", line, RESTORE);
    }
    let behind = context.store.generations_behind()?;
    if behind > 0 {
        let cause = format!("it is an older copy: shared layers were changed {behind} times since");
        findings.add("catalog.db", cause, RESTORE);
    }
    for family in catalog.families()? {
        progress.message(&format!("shared layer of {}", family.name));
        shared::check(catalog, &family, &mut findings)?;
        if let Err(error) = Locks::new(&catalog.locks(family.id)?) {
            let cause = format!("what is locked: {}: {}", error.object, error.cause);
            findings.add(format!("family {}", family.name), cause, RESTORE);
        }
    }
    for image in catalog.images()? {
        progress.message(&format!("image {}", image.name));
        findings.absorb(layer(context, &image)?);
        findings.report.images += 1;
    }
    directories(context, &mut findings)?;
    changes::check(context, &mut findings)?;
    progress.message("objects");
    objects::check(context, options, progress, &mut findings)?;
    // What keeps several images from being looked at is found once.
    let mut seen = HashSet::new();
    let is_new = |finding: &Finding| {
        let object = finding.object.as_bytes().to_vec();
        seen.insert((object, finding.cause.clone()))
    };
    findings.report.findings.retain(is_new);
    Ok((findings.report, findings.fixes))
}

/// How often a finding beside another process is looked for again.
const LOOKS: usize = 5;

/// One image's private layer. Nothing is found in an image that is removed meanwhile: its directory goes
/// once the catalog does not have it any more.
fn layer(context: &Context, image: &Image) -> Result<Findings> {
    let found = looked_at_again(context, image)?;
    let is_sound = found.report.findings.is_empty();
    if !is_sound && context.store.catalog().image(image.id)?.is_none() {
        return Ok(Findings::default());
    }
    Ok(found)
}

/// What is found in an image more than once, where it is found beside somebody at work.
fn looked_at_again(context: &Context, image: &Image) -> Result<Findings> {
    let look = || {
        let mut findings = Findings::default();
        // Now: guests make new ones all the time.
        let next_number = context.store.catalog().next_number()?;
        if let Err(error) = layers::check(context, image, next_number, &mut findings) {
            findings.add(error.object, error.cause, &error.remedy);
        }
        Ok(findings)
    };
    let mut found = look()?;
    if found.report.findings.is_empty() {
        return Ok(found);
    }
    if context.store.access() == Access::Read {
        // Another process may be at work, whose locks are its own: what it has half done is done soon.
        for _ in 0..LOOKS {
            std::thread::sleep(Duration::from_millis(50));
            let before = std::mem::replace(&mut found, look()?);
            let known = &before.report.findings;
            found
                .report
                .findings
                .retain(|finding| known.contains(finding));
            if found.report.findings.is_empty() {
                break;
            }
        }
        return Ok(found);
    }
    // A change of the family may be under way.
    let _alone = context.alone();
    let change = context.images.change_lock(image.family);
    let _unchanged = change.write();
    look()
}

/// An import has made an image's directory shortly before its row.
const PATIENCE: Duration = Duration::from_secs(2);

/// What lies in `images/`.
fn directories(context: &Context, findings: &mut Findings) -> Result<()> {
    let images = context.store.images();
    let begun = Instant::now();
    for name in layer::names_in(images).about(layout::IMAGES)? {
        let object = [layout::IMAGES.as_bytes(), b"/", &name].concat();
        let Some(id) = layout::parse_image(&name) else {
            findings.add(
                object,
                "a name that foldfs does not make",
                "move it elsewhere",
            );
            findings.fix(Fix::Aside {
                path: [layout::IMAGES.as_bytes(), b"/", &name].concat(),
                cause: "no name of an image".into(),
                hides: false,
            });
            continue;
        };
        let is_known = loop {
            let is_gone = || layer::open_directory(images, &name, OFlags::PATH).is_err();
            if context.store.catalog().image(id)?.is_some() || is_gone() {
                break true;
            }
            if begun.elapsed() > PATIENCE {
                break false;
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        if !is_known {
            findings.add(
                object,
                "the catalog has no such image: an import was interrupted, or the catalog is an older one",
                "any command that alters the store removes it, if it is older than the catalog",
            );
        }
    }
    Ok(())
}
