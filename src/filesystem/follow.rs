//! What an applied change does to an image: names get versions that somebody else has made, all of them
//! between two look-ups of whoever uses the image.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::RwLockWriteGuard;
use rustix::fs::RenameFlags;
use rustix::io::Errno;

use super::Filesystem;
use super::failure::{Failure, Outcome};
use super::node::{Node, Place, Source};
use super::resolve::check_name;
use crate::merge::private_directories::PrivatePath;
use crate::store::draft::{self, Draft};
use crate::store::layer::Layer;
use crate::store::mark::{DirectoryRole, Mark, Role};
use crate::store::metadata::{Content, FileType, Metadata, SharedInode, Time};
use crate::store::number::Number;
use crate::sys::durable;

/// As long as it lives nobody else sees or changes a name of the image. Who alters something with it holds
/// the family's change lock exclusively since before, or knows that nobody uses the image. Paths have no
/// leading '/'; the root's is empty.
pub struct Alteration<'a> {
    filesystem: &'a Filesystem,
    is_begun: bool,
    /// What it took away or has looked at, which is let go of without the lock.
    done_with: Vec<Arc<Node>>,
    /// What is about to leave the shared layer, and lies in `orphans/`, too.
    parting: Vec<Arc<Node>>,
    names: Option<RwLockWriteGuard<'a, ()>>,
}

impl Filesystem {
    /// Waits for those who look, and keeps them waiting.
    pub fn alter(&self) -> Alteration<'_> {
        Alteration {
            filesystem: self,
            is_begun: false,
            done_with: Vec::new(),
            parting: Vec::new(),
            names: Some(self.names.write()),
        }
    }

    /// Refuses to show names while a change is carried out in part, in which the image is neither old nor
    /// new. With `names` held.
    pub(super) fn refuse_in_part(&self) -> Outcome<()> {
        match self.settling.in_part.load(Ordering::Acquire) {
            true => Err(Errno::IO.into()),
            false => Ok(()),
        }
    }
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

impl Alteration<'_> {
    /// What it is of.
    pub fn filesystem(&self) -> &Filesystem {
        self.filesystem
    }

    /// Something is about to be altered. Until [`Alteration::finish`] nobody gets to see a name, also when
    /// this is dropped.
    pub fn begin(&mut self) {
        self.is_begun = true;
        self.filesystem
            .settling
            .in_part
            .store(false, Ordering::Release);
    }

    /// A non-directory is about to leave the shared layer, under the only name that it has there. Who has it
    /// open keeps it, as a file of the image's own without a name. `goes`: the image shows that name, and
    /// loses it; nothing of that shows before [`Alteration::parted`]. The answer is whether the image will do
    /// without it.
    ///
    /// # Errors
    /// Those of the host, ENOSPC for one.
    pub fn part_with(&mut self, leaving: &SharedInode, goes: bool) -> Outcome<bool> {
        let filesystem = self.filesystem;
        for node in self.unlinked_shared() {
            if node.source() == Source::Shared(leaving.number) {
                filesystem.stub(&node)?;
            }
        }
        let shown = filesystem.view.shown_as(leaving.number, leaving.ctime);
        let number = shown.number;
        let Some(node) = filesystem.table.get(number) else {
            return Ok(true);
        };
        self.done_with.push(node.clone());
        if node.source() != Source::Shared(leaving.number) {
            return Ok(true);
        }
        if !goes {
            return Ok(false);
        }
        let draft = filesystem.draft_of(number, leaving)?;
        let name = Layer::number_name(number);
        draft.place(
            filesystem.view.layer.orphans(),
            &name,
            RenameFlags::NOREPLACE,
        )?;
        self.parting.push(node);
        Ok(true)
    }

    /// A shared directory is about to get other metadata: one that has no name here any more, but is open, keeps
    /// its own.
    ///
    /// # Errors
    /// Those of the host, ENOSPC for one.
    pub fn keep_unlinked_metadata(&mut self, directory: Number) -> Outcome<()> {
        for node in self.unlinked_shared() {
            if node.shared_directory() == Some(directory) {
                self.filesystem.own_directory(&node)?;
            }
        }
        Ok(())
    }

    /// Nodes without a name that had something of the shared layer when they lost it.
    fn unlinked_shared(&mut self) -> Vec<Arc<Node>> {
        let numbers = self.filesystem.unlinked_shared.lock();
        let nodes = numbers.iter();
        let nodes = nodes.filter_map(|&number| self.filesystem.table.get(number));
        let nodes: Vec<_> = nodes
            .filter(|node| matches!(node.place(), Place::Unlinked))
            .collect();
        drop(numbers);
        self.done_with.extend(nodes.iter().cloned());
        nodes
    }

    /// The shared layer has changed: what left it has no name any more.
    pub fn parted(&mut self) {
        for node in self.parting.drain(..) {
            {
                let mut state = node.state.lock();
                state.source = Source::Private;
                state.is_replaced = true;
            }
            self.filesystem.unlinked(&node);
        }
    }

    /// All is altered.
    pub fn finish(&mut self) {
        self.is_begun = false;
        self.filesystem.forget_locked_links();
        let notes = self.filesystem.change.notes();
        notes.changes.fetch_add(1, Ordering::Release);
    }

    /// Whether somebody has an inode open for writing.
    pub fn is_written(&self, number: Number) -> bool {
        let Some(node) = self.filesystem.table.get(number) else {
            return false;
        };
        let is_written = node.writers.load(Ordering::SeqCst) > 0;
        self.filesystem.done(node);
        is_written
    }

    /// How many names the image shows of a file that it has in `index/`.
    ///
    /// # Errors
    /// Those of the host and the catalog.
    pub fn names_of_indexed(&self, number: Number) -> Outcome<u32> {
        self.filesystem.indexed_links(number)
    }

    fn find(&mut self, path: &[u8]) -> Outcome<Arc<Node>> {
        let names = path.split(|&byte| byte == b'/');
        let names: PrivatePath = names
            .filter(|name| !name.is_empty())
            .map(Box::from)
            .collect();
        let found = self.filesystem.descend(&names)?.ok_or(Errno::NOENT)?;
        self.done_with.push(found.clone());
        Ok(found)
    }

    fn parent<'p>(&mut self, path: &'p [u8]) -> Outcome<(Arc<Node>, &'p [u8])> {
        let (above, name) = split(path);
        check_name(name)?;
        Ok((self.find(above)?, name))
    }

    /// Removes a name, of a directory too, if it is empty. Who has it open keeps it; who comes back to open
    /// it for writing is sent to what has its name then.
    ///
    /// # Errors
    /// As unlink(2) and rmdir(2).
    pub fn remove(&mut self, path: &[u8]) -> Outcome<()> {
        let (parent, name) = self.parent(path)?;
        let filesystem = self.filesystem;
        let node = filesystem.child(&parent, name)?.ok_or(Errno::NOENT)?;
        self.done_with.push(node.clone());
        match node.file_type {
            FileType::Directory if !filesystem.is_empty(&node)? => {
                return Err(Errno::NOTEMPTY.into());
            }
            FileType::Directory => {}
            _ => filesystem.index_if_linked(&node)?,
        }
        filesystem.take_name(&parent, name, &node)?;
        let mut state = node.state.lock();
        state.is_replaced = matches!(state.place, Place::Unlinked);
        state.note();
        Ok(())
    }

    /// Makes a name: the inode `number` of this content, whose bytes are an object, and with this metadata.
    /// A directory is empty.
    ///
    /// # Errors
    /// As [`Filesystem::create`].
    pub fn put(
        &mut self,
        path: &[u8],
        number: Number,
        content: &Content,
        metadata: &Metadata,
    ) -> Outcome<()> {
        let (parent, name) = self.parent(path)?;
        let filesystem = self.filesystem;
        let (directory, room) = filesystem.room(&parent, name)?;
        let draft = Draft::new(&filesystem.view.layer, content)?;
        let role = match content {
            Content::Directory => Role::Directory(DirectoryRole::Own),
            Content::Regular {
                digest: Some(digest),
                ..
            } => Role::Stub { digest: *digest },
            _ => Role::File,
        };
        draft.mark(&Mark::new(number, role))?;
        draft.describe(metadata)?;
        filesystem.change_names(&[&parent], || {
            filesystem.fill(room, draft, &directory, name, content.file_type())
        })
    }

    /// Makes another name of a file.
    ///
    /// # Errors
    /// As [`Filesystem::link`].
    pub fn link(&mut self, file: &[u8], path: &[u8]) -> Outcome<()> {
        let node = self.find(file)?;
        let (parent, name) = self.parent(path)?;
        self.filesystem.link_name(&node, &parent, name)
    }

    /// Gives an inode this metadata, and no other xattrs.
    ///
    /// # Errors
    /// Those of the host.
    pub fn describe(&mut self, path: &[u8], metadata: &Metadata) -> Outcome<()> {
        let node = self.find(path)?;
        let filesystem = self.filesystem;
        filesystem.change_metadata(&node, |host| {
            let (directory, name) = (host.directory(filesystem), host.name());
            Ok(draft::describe(directory, name, node.file_type, metadata)?)
        })
    }

    /// Gives an inode this mtime.
    ///
    /// # Errors
    /// Those of the host.
    pub fn set_mtime(&mut self, path: &[u8], time: Time) -> Outcome<()> {
        let node = self.find(path)?;
        let filesystem = self.filesystem;
        if filesystem.attributes_of(&node)?.mtime == time {
            return Ok(());
        }
        filesystem.change_metadata(&node, |host| {
            let (directory, name) = (host.directory(filesystem), host.name());
            let times = draft::mtime_only(time);
            Ok(durable::set_times(directory, name, &times)?)
        })
    }
}

impl Drop for Alteration<'_> {
    fn drop(&mut self) {
        if self.is_begun {
            self.filesystem
                .settling
                .in_part
                .store(true, Ordering::Release);
            self.finish();
        }
        for node in self.parting.drain(..) {
            let name = Layer::number_name(node.number);
            let orphans = self.filesystem.view.layer.orphans();
            let removed = durable::unlink(orphans, &name);
            self.filesystem.afterwards(removed.map_err(Failure::from));
        }
        self.names = None;
        for node in self.done_with.drain(..) {
            self.filesystem.done(node);
        }
    }
}
