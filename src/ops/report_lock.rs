//! What `lock` and `unlock` tell.

use serde::{Deserialize, Serialize};

use crate::path_bytes::PathBytes;

/// Paths of a family are locked, or not any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockReport {
    /// The family.
    pub family: String,
    /// No pattern was given: nothing was to be changed.
    pub listed: bool,
    /// The patterns that came or went.
    pub changed: Vec<String>,
    /// All that are in force now, in their order.
    pub patterns: Vec<String>,
    /// How many paths of the base are locked now.
    pub paths: u64,
    /// Where images have versions of their own at what came to be locked; they keep them.
    pub differences: Vec<LockedDifference>,
    /// How many more there are than are listed.
    pub more_differences: u64,
}

/// A path at which an image is not as the family's base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockedDifference {
    /// The image.
    pub image: String,
    /// From the root.
    pub path: PathBytes,
    /// `added` (the base has nothing there), `removed` (the image has not), `altered`.
    pub kind: String,
}
