//! What one of two trees has at a path.

use std::sync::Arc;

use crate::error::Result;
use crate::store::metadata::{Content, Metadata, SharedInode};

/// What stands at a path of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Side {
    /// st_ino: paths with the same one are names of one file. In two images of a store the same
    /// number is the same file, wherever it stands.
    pub number: u64,
    /// It may have other names.
    pub several_names: bool,
    /// The version.
    pub what: What,
}

/// The version at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// An inode of the shared layer, as the tree shows it.
    Shared(Arc<SharedInode>),
    /// Anything else. A regular file with a size but no digest is no object.
    Own(Arc<(Content, Metadata)>),
}

impl Side {
    /// Type and content.
    pub fn content(&self) -> &Content {
        match &self.what {
            What::Shared(inode) => &inode.content,
            What::Own(own) => &own.0,
        }
    }

    /// Owner, mode, mtime, xattrs.
    pub fn metadata(&self) -> &Metadata {
        match &self.what {
            What::Shared(inode) => &inode.metadata,
            What::Own(own) => &own.1,
        }
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.content() == &Content::Directory
    }

    fn is_same_inode(&self, other: &Side) -> bool {
        match (&self.what, &other.what) {
            (What::Shared(left), What::Shared(right)) => Arc::ptr_eq(left, right),
            _ => false,
        }
    }
}

/// In what two versions differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each says one thing, in any combination"
)]
pub struct Aspects {
    /// The file type.
    pub file_type: bool,
    /// A file's bytes, a symlink's target, a device's number.
    pub content: bool,
    /// Permission, set-id and sticky bits.
    pub mode: bool,
    /// Owner or group.
    pub owner: bool,
    /// Time of the last modification.
    pub mtime: bool,
    /// Extended attributes, ACLs included.
    pub xattrs: bool,
    /// Which names are one file with it.
    pub links: bool,
}

impl Aspects {
    /// Whether they differ in anything.
    pub fn any(self) -> bool {
        self != Self::default()
    }

    /// In what two sides differ, links left out. `same_bytes` reads both: it is asked about two
    /// regular files of one size if nobody has the digest of one of them.
    ///
    /// # Errors
    /// Those of `same_bytes`.
    pub fn of(old: &Side, new: &Side, same_bytes: impl FnOnce() -> Result<bool>) -> Result<Self> {
        if old.is_same_inode(new) {
            return Ok(Self::default());
        }
        let (left, right) = (old.metadata(), new.metadata());
        Ok(Self {
            file_type: old.content().file_type() != new.content().file_type(),
            content: !same_content(old.content(), new.content(), same_bytes)?,
            mode: left.mode != right.mode,
            owner: (left.uid, left.gid) != (right.uid, right.gid),
            mtime: left.mtime != right.mtime,
            xattrs: left.xattrs != right.xattrs,
            links: false,
        })
    }
}

fn same_content(
    old: &Content,
    new: &Content,
    same_bytes: impl FnOnce() -> Result<bool>,
) -> Result<bool> {
    match (old, new) {
        (
            Content::Regular { size, digest },
            Content::Regular {
                size: new_size,
                digest: new_digest,
            },
        ) => match (digest, new_digest) {
            _ if size != new_size => Ok(false),
            _ if *size == 0 => Ok(true),
            (Some(old), Some(new)) => Ok(old == new),
            _ => same_bytes(),
        },
        // Another type is no other content: there is nothing to compare.
        _ => Ok(old.file_type() != new.file_type() || old == new),
    }
}
