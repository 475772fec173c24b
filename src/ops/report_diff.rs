//! What `diff` tells.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::path_bytes::PathBytes;
use crate::store::digest::Digest;

/// In what two trees differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiffReport {
    /// The old tree, as it was named.
    pub old: PathBytes,
    /// The new one.
    pub new: PathBytes,
    /// They do not differ.
    pub equal: bool,
    /// How many differences there are of each kind.
    pub counts: DiffCounts,
    /// Only the counts were asked for.
    pub counts_only: bool,
    /// In the order of a walk: a directory before what is in it.
    pub differences: Vec<DiffEntry>,
}

/// How many paths differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DiffCounts {
    /// Paths that only the new tree has, without moved ones.
    pub added: u64,
    /// Bytes of regular files at them.
    pub added_bytes: u64,
    /// Paths that only the old tree has, without moved ones.
    pub removed: u64,
    /// Bytes of regular files at them.
    pub removed_bytes: u64,
    /// Files that stand at another path.
    pub moved: u64,
    /// Paths of both trees in different versions.
    pub altered: u64,
    /// Of these, paths of the same type with other content.
    pub content: u64,
    /// Bytes of the regular files among those of other content or type, in the old tree.
    pub old_bytes: u64,
    /// The same in the new tree.
    pub new_bytes: u64,
}

/// A path at which two trees differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiffEntry {
    /// From the root.
    pub path: PathBytes,
    /// `added`, `removed`, `moved`, `altered`.
    pub kind: Cow<'static, str>,
    /// Of a move: where it was.
    pub from: Option<PathBytes>,
    /// In what the versions of an altered path differ: `type`, `content`, `mode`, `owner`, `mtime`,
    /// `xattrs`, `links`.
    pub aspects: Vec<Cow<'static, str>>,
    /// What the old tree has, of a move at `from`.
    pub old: Option<DiffSide>,
    /// What the new tree has.
    pub new: Option<DiffSide>,
    /// The lines that differ, as unified text; `None` if nobody asked, or for what is no text.
    pub text: Option<String>,
}

/// What one of two trees has at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiffSide {
    /// As find(1) names it: f, d, l, c, b, p, s.
    pub file_type: Cow<'static, str>,
    /// Bytes of a regular file, else 0.
    pub size: u64,
    /// SHA-256 of a regular file's content, where it is known.
    pub digest: Option<Digest>,
    /// Of a symbolic link.
    pub target: Option<PathBytes>,
    /// st_rdev of a device, else 0.
    pub device: u64,
    /// 07777 of st_mode.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since 1970.
    pub mtime: i64,
    /// Nanoseconds of it.
    pub mtime_nanoseconds: u32,
}
