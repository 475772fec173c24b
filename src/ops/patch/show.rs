//! patch show: what a patch says, after it was proven whole.

use std::path::PathBuf;

use super::{Told, report};
use crate::archive::patch::{PatchFile, PublicKey};
use crate::error::Result;
use crate::ops::report::PatchReport;

/// What is wanted.
#[derive(Debug, Clone)]
pub struct ShowOptions {
    /// The patch.
    pub file: PathBuf,
    /// Keys one of which should have signed it; none: anybody, or nobody.
    pub keys: Vec<PublicKey>,
    /// Only count.
    pub stat: bool,
}

/// Tells what a patch says.
///
/// # Errors
/// It is no patch, or not as it was made: nothing of it is told then.
pub fn show(options: &ShowOptions) -> Result<PatchReport> {
    let patch = PatchFile::open(&options.file)?;
    Ok(report(&Told {
        file: &options.file,
        size: patch.size(),
        signer: patch.signer(),
        keys: &options.keys,
        table: patch.table(),
        stat: options.stat,
    }))
}
