//! What images share: fold, why.

use std::path::PathBuf;

use clap::Args;

use super::Outcome;
use super::arguments::DryRun;
use super::session::Session;
use crate::error::{Context, Result};
use crate::ops::request::Request;
use crate::sys::process;

/// Find files that have become identical and keep them once
///
/// No image looks different for it. Files in use are left alone. Mounted images take part.
#[derive(Debug, Args)]
pub struct Fold {
    /// One family; without it, all of them
    family: Option<String>,
    #[command(flatten)]
    dry: DryRun,
}

impl Fold {
    pub fn run(self, session: &Session) -> Result<Outcome> {
        // Where no daemon runs: files that stubs took the place of go together.
        process::raise_descriptor_limit().about("the limit of open files")?;
        let family = self.family;
        session.run(Request::Fold { family }, self.dry.dry_run)
    }
}

/// Show which layer serves a path, why it is private, and who shares it
#[derive(Debug, Args)]
pub struct Why {
    /// The image
    image: String,
    /// A path in the image, from its root: /etc/fstab
    path: PathBuf,
}

impl Why {
    pub fn run(self, session: &Session) -> Result<Outcome> {
        let request = Request::Why {
            image: self.image,
            path: self.path.into(),
        };
        session.run(request, false)
    }
}
