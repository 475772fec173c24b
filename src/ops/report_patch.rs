//! What `patch` tells.

use serde::{Deserialize, Serialize};

use super::patch::Conflict;
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

/// A change of a family was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplyReport {
    /// What it was made of: a patch, a directory, a change that was taken back.
    pub source: String,
    /// The family.
    pub family: String,
    /// The change that it is now; `None` in a dry run, or if nothing was changed.
    pub change: Option<i64>,
    /// False if nothing may be applied because of conflicts.
    pub applied: bool,
    /// How many paths it is about.
    pub paths: u64,
    /// The family's images, its base first.
    pub images: Vec<AppliedImage>,
}

/// What became of a patch in one image.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AppliedImage {
    /// Its name; the base has the family's.
    pub image: String,
    /// Paths that have their new version now.
    pub changed: u64,
    /// Paths that had it.
    pub unchanged: u64,
    /// Paths that have it in place of a version of the image's own: `--on-conflict replace`. Counted in `changed`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replaced: Vec<PathBytes>,
    /// Paths that have it merged with the image's own: `--on-conflict merge`. Counted in `changed`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub merged: Vec<PathBytes>,
    /// Paths that keep a version of the image's own.
    pub conflicts: Vec<AppliedConflict>,
    /// Processes of the host that go on with a file that was replaced or removed.
    pub processes: Vec<RunningProcess>,
}

/// A process that goes on with the old version of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningProcess {
    /// Its number.
    pub pid: u32,
    /// Its name, as ps(1) shows it.
    pub command: PathBytes,
    /// The path that the file had in the image.
    pub path: PathBytes,
}

/// A path that an image keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppliedConflict {
    /// From the root.
    pub path: PathBytes,
    /// Why: `differs`, `missing`, `exists`, `not-empty`, `no-directory`, `held`, `written`.
    pub reason: Conflict,
}

/// The changes of a family.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangesReport {
    /// The family.
    pub family: String,
    /// The newest last.
    pub changes: Vec<ChangeReport>,
}

/// A change of a family.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeReport {
    /// Its number.
    pub change: i64,
    /// When it was made; seconds since 1970.
    pub time: i64,
    /// Who asked for it.
    pub who: String,
    /// How it came about: `apply`, `revert`.
    pub kind: String,
    /// What it was made of.
    pub source: String,
    /// What for.
    pub why: String,
    /// The change that it takes back.
    pub taken_back: Option<i64>,
    /// What it is about, as long as it can be taken back.
    pub kept: Option<KeptChange>,
}

/// A change that can be taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptChange {
    /// How many paths it is about.
    pub paths: u64,
    /// The images in which it was made, and their clones.
    pub images: Vec<String>,
    /// In what the trees differ that it was made of; if one change was asked for.
    pub changes: Option<DiffReport>,
}
