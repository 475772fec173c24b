//! Placement: which versions lie in the shared layer of a family. A pure plan, of the shared layer
//! only: what each image's private layer needs follows from it (filesystem/cover, uncover), so that
//! guests may go on working in between.
//!
//! For every path the images of the family vote with what their views show ([`rule`]); the walk
//! ([`plan`]) leaves out whatever no image has anything private in.

mod cursor;
mod groups;
pub mod plan;
pub mod rule;
pub mod withdraw;

use std::fmt;
use std::sync::Arc;

pub use plan::{Participant, plan};

use super::version::Version;
use crate::path_bytes::PathBytes;
use crate::store::metadata::{Content, Metadata, SharedInode};
use crate::store::number::Number;

/// A directory of the shared layer as it will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Directory {
    /// One that is there.
    Shared(Number),
    /// One that the plan makes: its place in [`Placement::changes`].
    New(usize),
}

/// What a name of a shared directory becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Becomes {
    /// It stays what it is, but some image has a private entry there that it does not need.
    Same,
    /// Nothing.
    Nothing,
    /// A new directory.
    Directory(Metadata),
    /// A new inode.
    Version(Version),
}

/// A change of one name of the shared layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// From the root, for people.
    pub path: PathBytes,
    /// The directory.
    pub directory: Directory,
    /// The name in it.
    pub name: Box<[u8]>,
    /// What it is.
    pub old: Option<Arc<SharedInode>>,
    /// What it becomes.
    pub new: Becomes,
}

/// What is to be changed in the shared layer of a family. A directory comes before what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Placement {
    /// Each name at most once.
    pub changes: Vec<Change>,
}

impl Placement {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// How many names get another version, and how many lose theirs.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for change in &self.changes {
            match (&change.old, &change.new) {
                (_, Becomes::Same) => counts.redundant += 1,
                (_, Becomes::Nothing) => counts.withdrawn += 1,
                (Some(_), _) => counts.replaced += 1,
                (None, _) => counts.shared += 1,
            }
        }
        counts
    }
}

/// The changes of a placement by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Names that the shared layer gets.
    pub shared: u64,
    /// Names that get another version there.
    pub replaced: u64,
    /// Names that leave the shared layer.
    pub withdrawn: u64,
    /// Names that stay as they are, where an image has something private that it does not need.
    pub redundant: u64,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slash = match (&self.old, &self.new) {
            (_, Becomes::Directory(_)) => "/",
            (Some(old), _) if old.content == Content::Directory => "/",
            _ => "",
        };
        let verb = match (&self.old, &self.new) {
            (_, Becomes::Same) => "redundant",
            (_, Becomes::Nothing) => "withdraw",
            (Some(_), _) => "replace",
            (None, _) => "share",
        };
        write!(f, "{verb} {}{slash}", self.path)
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for change in &self.changes {
            writeln!(f, "{change}")?;
        }
        Ok(())
    }
}
