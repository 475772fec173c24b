//! From a number back to its node: for file handles (open_by_handle_at(2)), which outlive what the
//! kernel has forgotten, and remounts.
//!
//! A private entry wins over a shared inode that is shown under the same number. A shared inode is
//! found through its names in the catalog; a private entry that stands elsewhere by one walk of the
//! private layer.

use std::sync::Arc;

use rustix::io::Errno;

use super::Filesystem;
use super::attributes::Attributes;
use super::failure::Outcome;
use super::node::{Node, Place};
use crate::merge::lookup;
use crate::merge::private_directories::{PrivatePath, path_merging_with, path_of};
use crate::store::catalog::Reads;
use crate::store::number::Number;

impl Filesystem {
    /// LOOKUP of ".": the inode of a nodeid, of which the kernel then holds one more reference. The answer
    /// is about this very nodeid, also if it is an older one of a node that has flipped.
    ///
    /// # Errors
    /// ESTALE if the view shows no such inode (any more).
    pub fn recall(&self, number: Number, flip: u8) -> Outcome<Attributes> {
        let _names = self.names.read();
        let node = self.find(number)?.ok_or(Errno::STALE)?;
        let identity = node.state.lock().recall_as(flip);
        let attributes = self.attributes_of(&node).map(|attributes| Attributes {
            identity,
            ..attributes
        });
        if attributes.is_ok() {
            self.table.remember(&node);
        }
        self.done(node);
        attributes
    }

    /// LOOKUP of "..": the directory that holds a directory; likewise.
    ///
    /// # Errors
    /// ESTALE for what is not there (any more); ENOTDIR.
    pub fn recall_parent(&self, number: Number) -> Outcome<Attributes> {
        let _names = self.names.read();
        let node = self.find(number)?.ok_or(Errno::STALE)?;
        let parent = match node.place() {
            Place::Root => Ok(node.clone()),
            Place::Entry { parent, .. } => Ok(parent),
            Place::Index => Err(Errno::NOTDIR),
            Place::Unlinked => Err(Errno::STALE),
        };
        let outcome = parent.map_err(Into::into).and_then(|parent| {
            let attributes = self.attributes_of(&parent)?;
            self.table.remember(&parent);
            Ok(attributes)
        });
        self.done(node);
        outcome
    }

    /// With `names` held; to be given back with [`Filesystem::done`].
    fn find(&self, number: Number) -> Outcome<Option<Arc<Node>>> {
        if let Some(node) = self.table.get(number) {
            // Asking for it, the kernel does not have it any more, nor will anybody else: only its
            // FORGET is still on the way.
            if matches!(node.place(), Place::Unlinked) {
                self.done(node);
                return Ok(None);
            }
            return Ok(Some(node));
        }
        if self.view.is_indexed(number) {
            let item = lookup::indexed(&self.view, number)?;
            return Ok(Some(self.node_of(&self.root, b"", &item)));
        }
        for path in self.shared_paths(self.view.shared_of(number))? {
            if let Some(node) = self.numbered(&path, number)? {
                return Ok(Some(node));
            }
        }
        match path_of(&self.view, number)? {
            Some(path) => self.numbered(&path, number),
            None => Ok(None),
        }
    }

    /// What a path leads to, if it has this number.
    fn numbered(&self, path: &PrivatePath, number: Number) -> Outcome<Option<Arc<Node>>> {
        match self.descend(path)? {
            Some(node) if node.number == number => Ok(Some(node)),
            Some(node) => {
                self.done(node);
                Ok(None)
            }
            None => Ok(None),
        }
    }

    /// Where the image may show a shared inode: below the place where the shared layer has it, or
    /// below a directory of the image's own that shows one above it.
    fn shared_paths(&self, shared: Number) -> Outcome<Vec<PrivatePath>> {
        let catalog = self.view.shared.catalog();
        let mut paths = Vec::new();
        for (directory, name) in catalog.names_of(shared)? {
            let (mut names, mut top) = (vec![name], directory);
            while top != self.view.root && !self.view.is_redirected(top) {
                let Some((parent, name)) = catalog.names_of(top)?.into_iter().next() else {
                    break;
                };
                names.push(name);
                top = parent;
            }
            let above = match top == self.view.root {
                true => Some(PrivatePath::new()),
                false => path_merging_with(&self.view, top)?,
            };
            if let Some(mut path) = above {
                path.extend(names.into_iter().rev());
                paths.push(path);
            }
        }
        Ok(paths)
    }
}
