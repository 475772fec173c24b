//! The version of a path: what placement compares (DESIGN.md, Glossary).

use std::os::fd::BorrowedFd;

use super::lookup::{Item, Site, damaged};
use super::view::View;
use crate::error::Result;
use crate::store::entry;
use crate::store::metadata::{Content, Metadata, SharedInode};
use crate::store::number::Number;

/// A version that the shared layer may hold: content that is not bytes, or an object's, metadata
/// but atime and ctime, and the set of names linked to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Version {
    /// Type and content.
    pub content: Content,
    /// Owner, mode, mtime, xattrs.
    pub metadata: Metadata,
    /// The shared inode with these very names, if it has several. Two inodes of several names
    /// are never taken for the same version: to prove that they have the same names costs more
    /// than the stubs do.
    pub group: Option<Number>,
}

impl Version {
    /// Of a shared inode.
    pub fn of_shared(inode: &SharedInode) -> Self {
        let several = inode.content != Content::Directory && inode.links > 1;
        Self {
            content: inode.content.clone(),
            metadata: inode.metadata.clone(),
            group: several.then_some(inode.number),
        }
    }
}

/// The version of an item at `name` of a private directory (`None` where there is none: the item
/// is shared then). `None` for what the shared layer cannot hold: content that is no object yet,
/// a private file that has several names.
pub fn version_of(
    view: &View,
    private: Option<BorrowedFd<'_>>,
    name: &[u8],
    item: &Item,
) -> Result<Option<Version>> {
    let (stat, mark, directory) = match (item, private) {
        (Item::Shared { inode, .. }, _) => return Ok(Some(Version::of_shared(inode))),
        (
            Item::Private {
                stat,
                mark,
                site: Site::Entry,
            },
            Some(directory),
        ) => (stat, mark, directory),
        (
            Item::Private {
                site: Site::Index, ..
            },
            _,
        )
        | (_, None) => return Ok(None),
    };
    let fault = |error| damaged(view, name, error);
    let Some(content) = entry::read_content(directory, name, stat, mark).map_err(fault)? else {
        return Ok(None);
    };
    let metadata = entry::read_metadata(directory, name, stat, mark).map_err(fault)?;
    Ok(Some(Version {
        content,
        metadata,
        group: None,
    }))
}
