//! What a clone comes back with about its identity.

use serde::{Deserialize, Serialize};

use crate::path_bytes::PathBytes;

/// A clone got an identity of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityReport {
    /// The host's name that it got; `None`: it has none, or had this one.
    pub hostname: Option<String>,
    /// What was altered, by path.
    pub paths: Vec<ResetPath>,
}

/// A path that was altered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResetPath {
    /// From the root of the image.
    pub path: PathBytes,
    /// What became of it.
    pub kind: ResetKind,
}

/// What became of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ResetKind {
    /// It is not there any more.
    Removed,
    /// It has no content any more.
    Emptied,
    /// It has other content.
    Rewritten,
}
