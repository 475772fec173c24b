//! Cover: private entries that make a view independent of what is about to change in the shared
//! layer (docs/format.md). Nothing of it shows; a guest may work at the same places at any time.

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::RenameFlags;
use rustix::io::Errno;

use super::Filesystem;
use super::failure::Outcome;
use super::node::{Node, Place, Source};
use crate::merge::lookup::Item;
use crate::merge::private_directories::{PrivatePath, path_merging_with};
use crate::store::catalog::Reads;
use crate::store::draft::Draft;
use crate::store::layer::{self, Layer};
use crate::store::mark::{DirectoryRole, Mark, Role};
use crate::store::number::Number;
use crate::sys::durable;

/// Names covered without letting a guest in between.
const AT_ONCE: usize = 64;

impl Filesystem {
    /// Makes names of a shared directory private in this image, wherever the image shows the
    /// directory; what is private already stays.
    ///
    /// # Errors
    /// ENOSPC and other errors of the host, of which the view shows nothing.
    pub fn cover(&self, directory: Number, names: &[&[u8]]) -> Outcome<()> {
        for some in names.chunks(AT_ONCE) {
            let _change = self.change.read();
            let _names = self.names.write();
            self.at_shared(directory, |node| {
                some.iter().try_for_each(|name| self.cover_name(node, name))
            })?;
        }
        Ok(())
    }

    /// Makes the directory that shows shared directory `directory` independent of it: metadata of
    /// its own, every name private.
    ///
    /// # Errors
    /// As [`Filesystem::cover`].
    pub fn cover_directory(&self, directory: Number) -> Outcome<()> {
        let _change = self.change.read();
        let _names = self.names.write();
        self.at_shared(directory, |node| {
            self.own_directory(node)?;
            let shared = self.view.shared.directory(directory)?;
            for (name, _) in shared.iter() {
                self.cover_name(node, name)?;
            }
            // What is below them stands no longer below their shared parent.
            for name in shared.subdirectories() {
                if let Some(child) = self.child(node, name)? {
                    let marked = self.redirect(&child);
                    self.done(child);
                    marked?;
                }
            }
            self.change_role(node, DirectoryRole::Own)
        })
    }

    /// Makes the metadata of shared directory `directory` this image's own, wherever it shows it.
    ///
    /// # Errors
    /// As [`Filesystem::cover`].
    pub fn cover_metadata(&self, directory: Number) -> Outcome<()> {
        let _change = self.change.read();
        let _names = self.names.write();
        self.at_shared(directory, |node| self.own_directory(node))
    }

    /// Gives a private directory with metadata of its own another role; its times stay. With
    /// `names` held for writing.
    pub(super) fn change_role(&self, node: &Arc<Node>, role: DirectoryRole) -> Outcome<()> {
        self.keep_times(node, || {
            let (_, mark) = self.host_inode(node)?;
            let role = Role::Directory(role);
            self.write_mark(node, &Mark { role, ..mark })
        })
    }

    /// Gives what was unlinked, but is still referred to, inodes of its own in place of the shared
    /// ones of these numbers.
    ///
    /// # Errors
    /// As [`Filesystem::cover`].
    pub fn cover_unlinked(&self, shared: &HashSet<Number>) -> Outcome<()> {
        let _change = self.change.read();
        let _names = self.names.write();
        for node in self.table.all() {
            if !matches!(node.place(), Place::Unlinked) {
                continue;
            }
            match node.source() {
                Source::Shared(number) if shared.contains(&number) => self.stub(&node)?,
                Source::SharedDirectory(number) if shared.contains(&number) => {
                    self.own_directory(&node)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Those of the shared inodes that a node of this image still shows.
    pub fn shown_of(&self, shared: &HashSet<Number>) -> HashSet<Number> {
        let shown = |node: Arc<Node>| match node.source() {
            Source::Shared(number) | Source::SharedDirectory(number) => Some(number),
            Source::PrivateDirectory(role) => role.shared(),
            Source::Private => None,
        };
        let shown = self.table.all().into_iter().filter_map(shown);
        shown.filter(|number| shared.contains(number)).collect()
    }

    /// Calls `action` with the node that shows a shared directory, if the image shows it.
    fn at_shared(
        &self,
        directory: Number,
        action: impl FnOnce(&Arc<Node>) -> Outcome<()>,
    ) -> Outcome<()> {
        let Some(node) = self.showing(directory)? else {
            return Ok(());
        };
        let done = action(&node);
        self.done(node);
        done
    }

    /// The node that shows a shared directory; to be given back with [`Filesystem::done`]. With `names` held.
    fn showing(&self, directory: Number) -> Outcome<Option<Arc<Node>>> {
        let mut names = Vec::new();
        let mut top = directory;
        while top != self.view.root && !self.view.is_redirected(top) {
            let found = self.view.shared.catalog().names_of(top)?;
            let Some((parent, name)) = found.into_iter().next() else {
                return Ok(None);
            };
            names.push(name);
            top = parent;
        }
        let mut path = PrivatePath::new();
        if top != self.view.root {
            match path_merging_with(&self.view, top)? {
                Some(found) => path = found,
                None => return Ok(None),
            }
        }
        path.extend(names.into_iter().rev());
        let node = self.descend(&path)?;
        match node {
            Some(node) if node.shared_directory() == Some(directory) => Ok(Some(node)),
            Some(node) => {
                self.done(node);
                Ok(None)
            }
            None => Ok(None),
        }
    }

    /// The directory that these names lead to from the root; to be given back with [`Filesystem::done`]. With
    /// `names` held.
    pub(super) fn descend(&self, path: &PrivatePath) -> Outcome<Option<Arc<Node>>> {
        let mut node = self.root.clone();
        for name in path {
            let child = match self.child(&node, name) {
                Err(failure) if failure.errno() == Errno::NOTDIR => None,
                child => child?,
            };
            let Some(child) = child else {
                self.done(node);
                return Ok(None);
            };
            // The child keeps its parent.
            node = child;
        }
        Ok(Some(node))
    }

    /// Makes a name of a directory private. With `names` held for writing.
    fn cover_name(&self, directory: &Arc<Node>, name: &[u8]) -> Outcome<()> {
        if let Some(private) = self.private_directory(directory)?
            && layer::read_entry(private.as_fd(), name)?.is_some()
        {
            return Ok(());
        }
        let Some(item) = self.item(directory, name)? else {
            return self.hide(directory, name);
        };
        let node = self.node_of(directory, name, &item);
        let covered = match &item {
            Item::Shared { inode, .. } if item.directory().is_none() && inode.links <= 1 => {
                self.stub(&node)
            }
            Item::Shared { .. } if item.directory().is_some() => {
                self.ensure_private_directory(&node).map(|_| ())
            }
            _ => self.cover_one_of_several(directory, name, &node),
        };
        self.done(node);
        covered
    }

    /// Puts a whiteout where the image shows nothing.
    pub(super) fn hide(&self, directory: &Arc<Node>, name: &[u8]) -> Outcome<()> {
        let private = self.ensure_private_directory(directory)?;
        let draft = Draft::whiteout(&self.view.layer)?;
        self.keep_times(directory, || {
            Ok(draft.place(&private, name, RenameFlags::NOREPLACE)?)
        })
    }

    /// A shared name of a file that has several becomes a private name of `index/NUMBER`.
    fn cover_one_of_several(
        &self,
        directory: &Arc<Node>,
        name: &[u8],
        node: &Arc<Node>,
    ) -> Outcome<()> {
        self.index(node)?;
        self.ensure_token(node.number)?;
        let private = self.ensure_private_directory(directory)?;
        let token = Layer::token_name(node.number);
        self.keep_times(directory, || {
            Ok(durable::link(
                self.view.layer.index(),
                &token,
                &private,
                name,
            )?)
        })
    }
}
