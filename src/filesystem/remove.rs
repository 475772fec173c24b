//! Names that go: unlink, rmdir, and what becomes of an inode without a name.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use rustix::fs::RenameFlags;
use rustix::io::Errno;

use super::Filesystem;
use super::failure::Outcome;
use super::node::{Node, Place, Source};
use crate::merge::list;
use crate::merge::lookup::Parts;
use crate::store::draft::Draft;
use crate::store::layer::{self, Layer};
use crate::store::metadata::{FileType, Time};
use crate::sys::durable;

impl Filesystem {
    /// unlink(2).
    ///
    /// # Errors
    /// ENOENT, EISDIR, EPERM for what is locked, what the host gives (ENOSPC for a whiteout).
    pub fn unlink(&self, parent: &Arc<Node>, name: &[u8]) -> Outcome<()> {
        self.remove(parent, name, |node| {
            if node.file_type == FileType::Directory {
                return Err(Errno::ISDIR.into());
            }
            self.index_if_linked(node)
        })
    }

    /// rmdir(2).
    ///
    /// # Errors
    /// ENOENT, ENOTDIR, ENOTEMPTY, EPERM for what is locked, what the host gives.
    pub fn rmdir(&self, parent: &Arc<Node>, name: &[u8]) -> Outcome<()> {
        self.remove(parent, name, |node| {
            if node.file_type != FileType::Directory {
                return Err(Errno::NOTDIR.into());
            }
            match self.is_empty(node)? {
                true => Ok(()),
                false => Err(Errno::NOTEMPTY.into()),
            }
        })
    }

    fn remove(
        &self,
        parent: &Arc<Node>,
        name: &[u8],
        prepare: impl FnOnce(&Arc<Node>) -> Outcome<()>,
    ) -> Outcome<()> {
        let change = self.change.read();
        let names = self.names.write();
        let node = self.child(parent, name)?.ok_or(Errno::NOENT)?;
        let removed = self
            .refuse_locked_name(parent, name, node.file_type)
            .and_then(|()| self.refuse_locked(&node))
            .and_then(|()| prepare(&node))
            .and_then(|()| self.take_name(parent, name, &node));
        drop((names, change));
        self.done(node);
        removed
    }

    /// Removes one name of a node; the last one makes it unlinked.
    pub(super) fn take_name(
        &self,
        parent: &Arc<Node>,
        name: &[u8],
        node: &Arc<Node>,
    ) -> Outcome<()> {
        let directory = self.ensure_private_directory(parent)?;
        let directory = directory.as_fd();
        let leaves_whiteout = self.shared_holds(parent, name)?;
        let (source, place) = (node.source(), node.place());
        self.change_names(&[parent], || match (source, &place) {
            (Source::Shared(_) | Source::SharedDirectory(_), _) => self.whiteout(directory, name),
            (Source::Private, Place::Index) => {
                self.take_private_name(directory, name, leaves_whiteout)
            }
            (Source::Private | Source::PrivateDirectory(_), _) => {
                let orphans = self.view.layer.orphans();
                let orphan = Layer::number_name(node.number);
                let flags = match leaves_whiteout {
                    true => RenameFlags::WHITEOUT | RenameFlags::NOREPLACE,
                    false => RenameFlags::NOREPLACE,
                };
                Ok(durable::rename(directory, name, orphans, &orphan, flags)?)
            }
        })?;
        match (source, &place) {
            (Source::Shared(_) | Source::SharedDirectory(_), _) => self.unlinked(node),
            (Source::Private, Place::Index) => self.afterwards(self.name_gone(node)),
            (Source::Private | Source::PrivateDirectory(_), _) => {
                self.unlinked(node);
                // Its ctime is that of the removal, which the host has noted.
                self.afterwards(self.drop_shown(node));
            }
        }
        Ok(())
    }

    /// Hides a shared name, in whose place there is nothing private.
    fn whiteout(&self, directory: BorrowedFd<'_>, name: &[u8]) -> Outcome<()> {
        Ok(durable::mknod(directory, name, libc::S_IFCHR, 0)?)
    }

    /// Removes a name of a file in `index/`: a private one, a shared one, or a private one in the
    /// place of a shared one.
    fn take_private_name(
        &self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        leaves_whiteout: bool,
    ) -> Outcome<()> {
        let is_private = layer::read_entry(directory, name)?.is_some();
        match (is_private, leaves_whiteout) {
            (true, true) => {
                let whiteout = Draft::whiteout(&self.view.layer)?;
                Ok(whiteout.place(directory, name, RenameFlags::empty())?)
            }
            (true, false) => Ok(durable::unlink(directory, name)?),
            (false, _) => self.whiteout(directory, name),
        }
    }

    /// A name of a file in `index/` is gone: with the last one the file goes to `orphans/`.
    pub(super) fn name_gone(&self, node: &Arc<Node>) -> Outcome<()> {
        if self.indexed_links(node.number)? > 0 {
            return self.touch_ctime(node);
        }
        let index = self.view.layer.index();
        let number = Layer::number_name(node.number);
        let orphans = self.view.layer.orphans();
        durable::rename(index, &number, orphans, &number, RenameFlags::NOREPLACE)?;
        self.view.index_removed(node.number);
        self.unlinked(node);
        match durable::unlink(index, &Layer::token_name(node.number)) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        self.drop_shown(node).map(drop)
    }

    /// A file that has several names in the shared layer comes to lie in `index/`, so that they go
    /// on being one file.
    pub(super) fn index_if_linked(&self, node: &Arc<Node>) -> Outcome<()> {
        if let Source::Shared(shared) = node.source()
            && self.shared_inode(node, shared)?.links > 1
        {
            self.index(node)?;
        }
        Ok(())
    }

    /// Whether the view shows nothing in a directory.
    pub(super) fn is_empty(&self, node: &Arc<Node>) -> Outcome<bool> {
        let private = self.private_directory(node)?;
        let parts = Parts {
            private: private.as_ref().map(|directory| directory.as_fd()),
            shared: node.shared_directory(),
        };
        Ok(list::is_empty(&self.view, parts)?)
    }

    /// What fails when an operation has happened is not the caller's: it leaves debris or an old
    /// ctime.
    pub(super) fn afterwards<T>(&self, outcome: Outcome<T>) {
        if let Err(failure) = outcome {
            log::warn!("images/{}: {failure}", self.view.layer.image());
        }
    }

    /// Notes that a node has no name any more.
    pub(super) fn unlinked(&self, node: &Node) {
        let place = {
            let mut state = node.state.lock();
            state.unlinked = Time::now();
            let place = std::mem::replace(&mut state.place, Place::Unlinked);
            state.note();
            place
        };
        self.change.notes().altered.remove(node.number);
        self.note_unlinked(node);
        if let Place::Entry { parent, .. } = place {
            self.done(parent);
        }
    }

    /// An operation is done with a node.
    pub(super) fn done(&self, node: Arc<Node>) {
        for unlinked in self.table.release(node) {
            self.discard_orphan(&unlinked);
        }
    }
}
