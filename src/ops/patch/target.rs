//! An image that a patch is applied to.

use std::collections::HashMap;
use std::sync::Arc;

use super::decide::{Conflict, Decision, decide};
use super::observe::observe;
use super::steps::Steps;
use crate::archive::patch::{ContentId, PatchTable};
use crate::error::Result;
use crate::filesystem::Filesystem;
use crate::ops::Context;
use crate::ops::report::{AppliedConflict, AppliedImage};
use crate::path_bytes::PathBytes;
use crate::store::catalog::{Image, Reads};

/// An image, what it shows at the paths of a patch, and what is to become of it.
pub(super) struct Target {
    pub image: Image,
    pub filesystem: Arc<Filesystem>,
    pub steps: Steps,
    pub report: AppliedImage,
    /// Where it has contents of the patch that are no objects.
    pub contents: HashMap<ContentId, Vec<u8>>,
}

impl Target {
    /// Looks at an image, and decides.
    pub(super) fn new(context: &Context, image: Image, table: &PatchTable) -> Result<Self> {
        let filesystem = context.images.withheld_filesystem(image.id)?;
        let observed = observe(&filesystem, context.store.objects(), table)?;
        let held = context.store.catalog().holds(image.id)?;
        let decisions = decide(table, &observed, &held);
        let steps = Steps::of(table, &observed, &decisions);
        let mut report = AppliedImage {
            image: image.name.clone(),
            changed: 0,
            unchanged: 0,
            conflicts: Vec::new(),
        };
        for (entry, decision) in table.entries.iter().zip(&decisions) {
            match decision {
                Decision::Follow(_) => report.changed += 1,
                Decision::Has => report.unchanged += 1,
                Decision::Keep(conflict) => report.conflicts.push(AppliedConflict {
                    path: PathBytes::from([b"/", &entry.path[..]].concat()),
                    reason: *conflict,
                }),
            }
        }
        Ok(Self {
            contents: observed.private_contents(),
            image,
            filesystem,
            steps,
            report,
        })
    }
}

impl std::fmt::Display for Conflict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Conflict::Differs => "it has another version",
            Conflict::Missing => "there is nothing any more",
            Conflict::Exists => "there is something already",
            Conflict::NotEmpty => "what it holds stays",
            Conflict::NoDirectory => "there is no directory for it",
            Conflict::Held => "it is held",
        })
    }
}
