//! From many numbers to their nodes: each is found from the node of the directory that holds it, so that the way from
//! the root is gone once. Guests nest directories as deep as they like.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use rustix::io::Errno;

use crate::error::Error;
use crate::filesystem::Filesystem;
use crate::filesystem::failure::{Failure, Outcome};
use crate::filesystem::node::Node;
use crate::merge::lookup;
use crate::merge::private_tree::{PrivateTree, Standing};
use crate::store::catalog::Reads;
use crate::store::number::Number;

/// Finds nodes in an image that nobody else uses.
pub(super) struct Finder<'a> {
    filesystem: &'a Filesystem,
    tree: PrivateTree,
    /// Why the private layer was not read to its end.
    unread: Option<Error>,
    /// Of directories by their index in the tree.
    private: HashMap<usize, Option<Arc<Node>>>,
    /// Of directories by their number in the shared layer.
    shared: HashMap<Number, Option<Arc<Node>>>,
    /// All that these lead to, to be given back.
    held: Vec<Arc<Node>>,
}

impl<'a> Finder<'a> {
    /// Reads the private layer once, for these numbers.
    pub(super) fn new(filesystem: &'a Filesystem, numbers: &HashSet<Number>) -> Self {
        let (tree, unread) = PrivateTree::read(&filesystem.view, numbers);
        let root = filesystem.root.clone();
        Self {
            filesystem,
            tree,
            unread,
            private: [(0, Some(root.clone()))].into(),
            shared: [(filesystem.view.root, Some(root))].into(),
            held: Vec::new(),
        }
    }

    /// The node of a number that has a name; to be given back with [`Filesystem::done`].
    ///
    /// # Errors
    /// It cannot be read where it stands.
    pub(super) fn find(&mut self, number: Number) -> Outcome<Option<Arc<Node>>> {
        let view = &self.filesystem.view;
        if number == Number::ROOT {
            return Ok(Some(self.filesystem.root.clone()));
        }
        if view.is_indexed(number) {
            let item = lookup::indexed(view, number)?;
            let root = &self.filesystem.root;
            return Ok(Some(self.filesystem.node_of(root, b"", &item)));
        }
        if let Some(Standing { above, name }) = self.tree.of(number) {
            let name: Box<[u8]> = name.into();
            let directory = self.directory(above)?;
            let found = self.child(directory.as_ref(), &name, |node| node.number == number)?;
            // What the shared layer has under that number it is not.
            return found.map(Some).ok_or(Errno::STALE.into());
        }
        let names = view.shared.catalog().names_of(view.shared_of(number))?;
        for (directory, name) in names {
            let directory = self.showing(directory)?;
            let found = self.child(directory.as_ref(), &name, |node| node.number == number)?;
            if found.is_some() {
                return Ok(found);
            }
        }
        match &self.unread {
            // It may be a private entry, or in a directory that is one: it has a name nevertheless.
            Some(error) => Err(Failure::from(error.clone())),
            None => Ok(None),
        }
    }

    /// In which order numbers are found at the least cost: as the walk came to them, so that directories that are
    /// needed are open. Guests choose the order in which they ask for something.
    pub(super) fn order(&self, number: Number) -> usize {
        self.tree.of(number).map_or(usize::MAX, |found| found.above)
    }

    /// Why not all could be read, if that may pass.
    pub(super) fn shortage(&self) -> Option<Failure> {
        let unread = self.unread.clone().map(Failure::from);
        unread.filter(Failure::is_shortage)
    }

    /// A private directory.
    fn directory(&mut self, index: usize) -> Outcome<Option<Arc<Node>>> {
        let mut below = Vec::new();
        let mut at = index;
        let mut node = loop {
            if let Some(node) = self.private.get(&at) {
                break node.clone();
            }
            below.push(at);
            at = self.tree.directory(at).above;
        };
        while let Some(at) = below.pop() {
            let name: Box<[u8]> = self.tree.directory(at).name.into();
            node = self.child(node.as_ref(), &name, |_| true)?;
            self.held.extend(node.clone());
            self.private.insert(at, node.clone());
        }
        Ok(node)
    }

    /// What shows a directory of the shared layer.
    fn showing(&mut self, directory: Number) -> Outcome<Option<Arc<Node>>> {
        let mut below = Vec::new();
        let found = self.show(directory, &mut below);
        if found.is_err() {
            below.iter().for_each(|at| drop(self.shared.remove(at)));
        }
        found
    }

    /// `below`: of which directories it is not known in the end.
    fn show(&mut self, directory: Number, below: &mut Vec<Number>) -> Outcome<Option<Arc<Node>>> {
        let mut names: Vec<Box<[u8]>> = Vec::new();
        let mut at = directory;
        let mut node = loop {
            if let Some(node) = self.shared.get(&at) {
                break node.clone();
            }
            // Until it is found; a damaged catalog leads back here.
            self.shared.insert(at, None);
            below.push(at);
            let view = &self.filesystem.view;
            let catalog = view.shared.catalog();
            let above = match view.is_redirected(at) {
                true => None,
                false => catalog.names_of(at)?.into_iter().next(),
            };
            if let Some((above, name)) = above {
                names.push(name);
                at = above;
                continue;
            }
            let standing = self.tree.merging_with(at);
            let Some((above, name)) = standing.map(|it| (it.above, it.name.into())) else {
                break None;
            };
            names.push(name);
            break self.directory(above)?;
        };
        // What has no name is not shown, and `None` already.
        below.truncate(names.len());
        while let (Some(&at), Some(name)) = (below.last(), names.pop()) {
            let is_it = |node: &Node| node.shared_directory() == Some(at);
            node = self.child(node.as_ref(), &name, is_it)?;
            self.held.extend(node.clone());
            self.shared.insert(at, node.clone());
            below.pop();
        }
        Ok(node)
    }

    fn child(
        &self,
        directory: Option<&Arc<Node>>,
        name: &[u8],
        is_it: impl FnOnce(&Node) -> bool,
    ) -> Outcome<Option<Arc<Node>>> {
        let Some(directory) = directory else {
            return Ok(None);
        };
        let child = match self.filesystem.child(directory, name) {
            Err(failure) if failure.errno() == Errno::NOTDIR => None,
            child => child?,
        };
        match child {
            Some(node) if is_it(&node) => Ok(Some(node)),
            Some(node) => {
                self.filesystem.done(node);
                Ok(None)
            }
            None => Ok(None),
        }
    }
}

impl Drop for Finder<'_> {
    fn drop(&mut self) {
        self.private.clear();
        self.shared.clear();
        while let Some(node) = self.held.pop() {
            self.filesystem.done(node);
        }
    }
}
