//! A staged import as a tree to compare: all contents are known by their digests.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::staged::StagedImport;
use crate::error::{Error, Result};
use crate::merge::compare::{NamedSide, Names, Side, Tree, What};
use crate::path_bytes::PathBytes;
use crate::store::metadata::{Content, SharedInode};
use crate::store::number::Number;

/// A staged import, standing in one of its directories.
pub struct ComparedStaged<'a> {
    import: &'a StagedImport,
    /// The directories between the root and where it stands, both included.
    levels: Vec<Number>,
}

impl<'a> ComparedStaged<'a> {
    /// Stands in the root.
    pub fn new(import: &'a StagedImport) -> Self {
        Self {
            import,
            levels: vec![import.root()],
        }
    }

    fn here(&self) -> Number {
        self.levels.last().copied().unwrap_or(self.import.root())
    }

    /// Whether a directory of this directory, or with no name the root, stands for others only that were below
    /// it: no member of the archive tells of it.
    pub(super) fn is_implied(&self, name: Option<&[u8]>) -> Result<bool> {
        let inode = match name {
            Some(name) => self.lookup(name)?,
            None => (self.import.inode(self.import.root())?).ok_or_else(|| missing(b"/"))?,
        };
        // Else the archive has given it a time.
        Ok(inode.content == Content::Directory && inode.metadata.mtime == inode.ctime)
    }

    fn lookup(&self, name: &[u8]) -> Result<SharedInode> {
        let found = self.import.lookup(self.here(), name)?;
        found.ok_or_else(|| missing(name))
    }
}

fn missing(name: &[u8]) -> Error {
    let name = PathBytes::from(name);
    Error::failed(format!("staged {name}"), "it is missing").remedy("try again")
}

fn side(inode: SharedInode) -> Side {
    Side {
        number: inode.number.get(),
        several_names: inode.content != Content::Directory && inode.links > 1,
        // No inode of the shared layer, whose numbers are others.
        what: What::Own(Arc::new((inode.content, inode.metadata))),
    }
}

impl Tree for ComparedStaged<'_> {
    fn root(&mut self) -> Result<Side> {
        let root = self.import.inode(self.import.root())?;
        root.map(side).ok_or_else(|| missing(b"/"))
    }

    fn list(&mut self, only: Option<&Names>) -> Result<Vec<NamedSide>> {
        let mut entries = self.import.directory(self.here())?;
        if let Some(only) = only {
            entries.retain(|(name, _)| only.contains(name));
        }
        let sides = entries.into_iter();
        Ok(sides.map(|(name, inode)| (name, side(inode))).collect())
    }

    fn enter(&mut self, name: &[u8]) -> Result<()> {
        let inode = self.lookup(name)?;
        self.levels.push(inode.number);
        Ok(())
    }

    fn leave(&mut self) -> Result<()> {
        self.levels.pop();
        Ok(())
    }

    fn open(&mut self, name: &[u8]) -> Result<OwnedFd> {
        match self.lookup(name)?.content {
            Content::Regular {
                digest: Some(digest),
                ..
            } => self.import.open_content(&digest),
            _ => Err(missing(name)),
        }
    }
}
