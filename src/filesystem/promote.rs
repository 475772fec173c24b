//! Giving an image something private, invisibly: a directory, a stub, a file with several names.
//!
//! Everything here is called with `change` held shared and `names` for writing. It is built in
//! `work/` and published by one rename, so that at every point between two system calls the view
//! is the one before or the one after, which look alike.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{AtFlags, RenameFlags, statat};
use rustix::io::Errno;

use super::Filesystem;
use super::failure::Outcome;
use super::node::{Node, Place, Source};
use crate::store::draft::{self, Draft};
use crate::store::entry;
use crate::store::layer::{self, Layer, PrivateEntry};
use crate::store::mark::{DirectoryRole, Mark, Role, Shown};
use crate::store::metadata::{Content, FileType, SharedInode};
use crate::store::number::Number;
use crate::sys::durable;

impl Filesystem {
    /// The private part of a directory. A shared one gets an empty, transparent one, and so do the
    /// directories above it.
    pub(super) fn ensure_private_directory(&self, node: &Arc<Node>) -> Outcome<Arc<OwnedFd>> {
        let mut missing = Vec::new();
        let mut current = node.clone();
        while let Source::SharedDirectory(shared) = current.source() {
            let place = current.place();
            missing.push((current, shared));
            match place {
                Place::Entry { parent, .. } => current = parent,
                Place::Root | Place::Index | Place::Unlinked => break,
            }
        }
        for (node, shared) in missing.into_iter().rev() {
            let role = DirectoryRole::Transparent { shared };
            let draft = Draft::new(&self.view.layer, &Content::Directory)?;
            draft.mark(&Mark::new(node.number, Role::Directory(role)))?;
            self.place_at(&node, draft)?;
            node.state.lock().source = Source::PrivateDirectory(role);
        }
        Ok(self.private_directory(node)?.ok_or(Errno::STALE)?)
    }

    /// Puts a draft where a shared node stands, so that it becomes what the node is.
    fn place_at(&self, node: &Arc<Node>, draft: Draft<'_>) -> Outcome<()> {
        match node.place() {
            Place::Entry { parent, name } => {
                let directory = self.ensure_private_directory(&parent)?;
                self.keep_times(&parent, || {
                    Ok(draft.place(&directory, &name, RenameFlags::NOREPLACE)?)
                })
            }
            Place::Unlinked => {
                let name = Layer::number_name(node.number);
                Ok(draft.place(self.view.layer.orphans(), &name, RenameFlags::NOREPLACE)?)
            }
            Place::Root | Place::Index => Err(Errno::STALE.into()),
        }
    }

    /// A change of the entries of a private directory that must not show in its times: the mark
    /// says them first, if it does not yet.
    pub(super) fn keep_times<T>(
        &self,
        directory: &Arc<Node>,
        change: impl FnOnce() -> Outcome<T>,
    ) -> Outcome<T> {
        let transparent = matches!(
            directory.source(),
            Source::PrivateDirectory(DirectoryRole::Transparent { .. })
        );
        if !transparent {
            let (stat, mark) = self.host_inode(directory)?;
            let kept = Shown {
                ctime: Some(entry::shown_ctime(&stat, &mark)),
                mtime: Some(entry::shown_mtime(&stat, &mark)),
            };
            if mark.shown != kept {
                self.write_mark(
                    directory,
                    &Mark {
                        shown: kept,
                        ..mark
                    },
                )?;
            }
        }
        change()
    }

    /// A change of a private non-directory's host inode that must not show in its ctime.
    pub(super) fn keep_ctime(&self, node: &Arc<Node>) -> Outcome<()> {
        let (stat, mut mark) = self.host_inode(node)?;
        if mark.shown.ctime.is_none() {
            mark.shown.ctime = Some(entry::host_ctime(&stat));
            self.write_mark(node, &mark)?;
        }
        Ok(())
    }

    /// Gives a private node another mark. The only way to write the mark of what may have a node.
    pub(super) fn write_mark(&self, node: &Arc<Node>, mark: &Mark) -> Outcome<()> {
        let host = self.host(node)?.ok_or(Errno::IO)?;
        draft::write_mark(host.directory(self), host.name(), mark)?;
        let own_times = mark.shown == Shown::default();
        let mut state = node.state.lock();
        if let Role::Directory(role) = mark.role {
            state.source = Source::PrivateDirectory(role);
            state.own_times = own_times;
        } else if let Some(open) = state.open.as_ref().filter(|_| !own_times) {
            open.shown_times.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Gives a directory metadata of its own (role merged), as the guest is about to change it. Its
    /// ctime stays until [`Filesystem::drop_shown`].
    pub(super) fn own_directory(&self, node: &Arc<Node>) -> Outcome<()> {
        if let Source::SharedDirectory(_) = node.source() {
            self.ensure_private_directory(node)?;
        }
        let Source::PrivateDirectory(DirectoryRole::Transparent { shared }) = node.source() else {
            return Ok(());
        };
        let inode = self.shared_inode(node, shared)?;
        let host = self.host(node)?.ok_or(Errno::IO)?;
        // Not visible before the mark says that it is the directory's own.
        let directory = FileType::Directory;
        draft::describe(
            host.directory(self),
            host.name(),
            directory,
            &inode.metadata,
        )?;
        let ctime = self.view.shown_as(shared, inode.ctime).ctime;
        let role = Role::Directory(DirectoryRole::Merged { shared });
        let mut mark = Mark::new(node.number, role);
        mark.shown.ctime = Some(ctime);
        self.write_mark(node, &mark)
    }

    /// A change by the guest of the names of directories: from then on their metadata is their own
    /// and the times are the host's. If it fails, nothing of that shows.
    pub(super) fn change_names<T>(
        &self,
        directories: &[&Arc<Node>],
        change: impl FnOnce() -> Outcome<T>,
    ) -> Outcome<T> {
        let mut prepared = Vec::with_capacity(directories.len());
        let mut prepare = || {
            for directory in directories {
                prepared.push((directory, self.guest_changes(directory)?));
            }
            Ok(())
        };
        let outcome = prepare().and_then(|()| change());
        if outcome.is_err() {
            // Of one that stands there twice the first entry counts.
            for (directory, shown) in prepared.into_iter().rev() {
                self.afterwards(self.show_again(directory, shown));
            }
        }
        outcome
    }

    /// Gives a directory metadata of its own and the host's times; what it showed instead.
    fn guest_changes(&self, directory: &Arc<Node>) -> Outcome<Shown> {
        self.own_directory(directory)?;
        self.drop_shown(directory)
    }

    /// After [`Filesystem::drop_shown`], whose answer `shown` is, when what it was for has failed.
    pub(super) fn show_again(&self, node: &Arc<Node>, shown: Shown) -> Outcome<()> {
        if shown == Shown::default() {
            return Ok(());
        }
        let (_, mark) = self.host_inode(node)?;
        self.write_mark(node, &Mark { shown, ..mark })
    }

    /// The guest is about to change a private node for the first time since background work did:
    /// the times are the host's again, mtime with the value that is shown. The answer is what was
    /// shown instead of them.
    pub(super) fn drop_shown(&self, node: &Arc<Node>) -> Outcome<Shown> {
        if node.state.lock().own_times {
            return Ok(Shown::default());
        }
        let (_, mark) = self.host_inode(node)?;
        if let Some(mtime) = mark.shown.mtime {
            let host = self.host(node)?.ok_or(Errno::IO)?;
            let times = draft::mtime_only(mtime);
            durable::set_times(host.directory(self), host.name(), &times)?;
        }
        let before = mark.shown;
        let shown = Shown::default();
        if before != shown {
            self.write_mark(node, &Mark { shown, ..mark })?;
        }
        node.state.lock().own_times = node.file_type == FileType::Directory;
        Ok(before)
    }

    /// The guest changed the names of a file in `index/`: its ctime is now.
    pub(super) fn touch_ctime(&self, node: &Arc<Node>) -> Outcome<()> {
        self.drop_shown(node)?;
        let host = self.host(node)?.ok_or(Errno::IO)?;
        // Making and removing a link changes ctime and nothing else, even while it is written to.
        let (directory, name) = (host.directory(self), host.name());
        drop(Draft::link(
            &self.view.layer,
            node.file_type,
            directory,
            name,
        )?);
        Ok(())
    }

    /// A draft of a shared non-directory, all but its content, that is shown as `number`.
    pub(super) fn draft_of(&self, number: Number, inode: &SharedInode) -> Outcome<Draft<'_>> {
        let role = match inode.content {
            Content::Regular {
                digest: Some(digest),
                ..
            } => Role::Stub { digest },
            _ => Role::File,
        };
        let mut mark = Mark::new(number, role);
        mark.shown.ctime = Some(self.view.shown_as(inode.number, inode.ctime).ctime);
        let draft = Draft::new(&self.view.layer, &inode.content)?;
        draft.mark(&mark)?;
        draft.describe(&inode.metadata)?;
        Ok(draft)
    }

    /// Makes a shared non-directory private: a stub, or a copy of a symlink, device, fifo or
    /// socket. Nothing of it shows.
    pub(super) fn stub(&self, node: &Arc<Node>) -> Outcome<()> {
        let Source::Shared(shared) = node.source() else {
            return Ok(());
        };
        let inode = self.shared_inode(node, shared)?;
        if inode.links > 1 && !matches!(node.place(), Place::Unlinked) {
            return self.index(node);
        }
        self.place_at(node, self.draft_of(node.number, &inode)?)?;
        node.state.lock().source = Source::Private;
        Ok(())
    }

    /// Makes a non-directory the file `index/NUMBER`, because it has or gets several names. Nothing
    /// of it shows.
    pub(super) fn index(&self, node: &Arc<Node>) -> Outcome<()> {
        let index = self.view.layer.index();
        let file = Layer::number_name(node.number);
        match (node.source(), node.place()) {
            (Source::Shared(shared), Place::Entry { .. }) => {
                let inode = self.shared_inode(node, shared)?;
                let draft = self.draft_of(node.number, &inode)?;
                draft.place(index, &file, RenameFlags::NOREPLACE)?;
            }
            (Source::Private, Place::Entry { parent, name }) => {
                let moved = self.exchange_into_index(node, &parent, &name);
                if moved.is_err() {
                    self.afterwards(self.remove_placeholder(node.number));
                }
                moved?;
            }
            (Source::Private, Place::Index) => return Ok(()),
            _ => return Err(Errno::STALE.into()),
        }
        self.view.index_added(node.number);
        let before = {
            let mut state = node.state.lock();
            state.source = Source::Private;
            std::mem::replace(&mut state.place, Place::Index)
        };
        if let Place::Entry { parent, .. } = before {
            self.done(parent);
        }
        Ok(())
    }

    /// Moves a private file into `index/`; a link of its token takes its place.
    fn exchange_into_index(
        &self,
        node: &Arc<Node>,
        parent: &Arc<Node>,
        name: &[u8],
    ) -> Outcome<()> {
        let directory = self.ensure_private_directory(parent)?;
        self.keep_ctime(node)?;
        self.ensure_token(node.number)?;
        self.ensure_placeholder(node.number)?;
        self.keep_times(parent, || {
            let file = Layer::number_name(node.number);
            let (index, flags) = (self.view.layer.index(), RenameFlags::EXCHANGE);
            Ok(durable::rename(&directory, name, index, &file, flags)?)
        })
    }

    /// Removes what an attempt to move a file into `index/` left there.
    fn remove_placeholder(&self, number: Number) -> Outcome<()> {
        let index = self.view.layer.index();
        let file = Layer::number_name(number);
        if let Some(PrivateEntry::Marked { mark, .. }) = layer::read_entry(index, &file)?
            && mark.role == Role::Name
        {
            durable::unlink(index, &file)?;
        }
        let token = Layer::token_name(number);
        match statat(index, &token[..], AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if stat.st_nlink == 1 => Ok(durable::unlink(index, &token)?),
            Ok(_) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes the token of a file in `index/`, of which each private name is a link.
    pub(super) fn ensure_token(&self, number: Number) -> Outcome<()> {
        let index = self.view.layer.index();
        let token = Layer::token_name(number);
        match statat(index, &token[..], AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => return Ok(()),
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let (draft, _) = Draft::file(&self.view.layer)?;
        draft.mark(&Mark::new(number, Role::Name))?;
        Ok(draft.place(index, &token, RenameFlags::NOREPLACE)?)
    }

    /// Makes `index/NUMBER` a link of the token, to be exchanged for the file.
    fn ensure_placeholder(&self, number: Number) -> Outcome<()> {
        let index = self.view.layer.index();
        let file = Layer::number_name(number);
        match layer::read_entry(index, &file)? {
            None => Ok(durable::link(
                index,
                &Layer::token_name(number),
                index,
                &file,
            )?),
            // Left by an attempt that failed.
            Some(PrivateEntry::Marked { mark, .. }) if mark == Mark::new(number, Role::Name) => {
                Ok(())
            }
            Some(_) => Err(Errno::BADMSG.into()),
        }
    }
}
