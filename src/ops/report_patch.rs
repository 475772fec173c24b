//! What `patch` tells.

use serde::{Deserialize, Serialize};

use super::report_diff::DiffReport;
use crate::path_bytes::PathBytes;

/// A patch that was made or is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PatchReport {
    /// The file.
    pub file: PathBytes,
    /// The version of its format.
    pub format: u32,
    /// Bytes of the file.
    pub bytes: u64,
    /// The public key of who signed it.
    pub signed_by: Option<String>,
    /// It is signed by one of the keys that the configuration demands, or none is demanded.
    pub accepted: bool,
    /// The contents that are in it.
    pub contents: PatchContents,
    /// In what the trees differ.
    pub changes: DiffReport,
}

/// The contents of a patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PatchContents {
    /// How many.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What they take in the patch.
    pub stored_bytes: u64,
    /// How many of them are told by what differs from an old one.
    pub deltas: u64,
}
