//! `check`: proves that a store is sound. The catalog against itself and the objects, private layers
//! against both; whatever does not fit is a finding, never a reason to stop looking.
//!
//! Run beside a writer it may see a change half-way: the daemon, which knows who writes, holds the
//! names of the live images meanwhile.

mod layers;
mod objects;
mod shared;

use std::collections::HashMap;

use super::context::Context;
use super::report::{CheckReport, Finding};
use crate::error::Result;
use crate::path_bytes::PathBytes;
use crate::progress::Progress;
use crate::store::catalog::Reads;
use crate::store::digest::Digest;

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
}

impl Findings {
    fn add(&mut self, object: impl Into<Vec<u8>>, cause: impl Into<String>, remedy: &str) {
        self.report.findings.push(Finding {
            object: PathBytes::from(object.into()),
            cause: cause.into(),
            remedy: remedy.into(),
        });
    }

    fn redundant(&mut self, object: impl Into<Vec<u8>>, cause: &str) {
        self.report.redundant.push(Finding {
            object: PathBytes::from(object.into()),
            cause: cause.into(),
            remedy: "`foldfs fold` removes it".into(),
        });
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
    let mut findings = Findings::default();
    let catalog = context.store.catalog();
    for line in catalog.integrity_check()? {
        findings.add("catalog.db", line, "restore it from catalog.bak");
    }
    let next_number = catalog.next_number()?;
    for family in catalog.families()? {
        progress.message(&format!("shared layer of {}", family.name));
        shared::check(catalog, &family, next_number, &mut findings)?;
    }
    for image in catalog.images()? {
        progress.message(&format!("image {}", image.name));
        if let Err(error) = layers::check(context, &image, next_number, &mut findings) {
            findings.add(error.object, error.cause, &error.remedy);
        }
        findings.report.images += 1;
    }
    progress.message("objects");
    objects::check(context.store.objects(), options, progress, &mut findings)?;
    Ok(findings.report)
}
