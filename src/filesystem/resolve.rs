//! From names to nodes, and from nodes to the host.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::Filesystem;
use super::attributes::Attributes;
use super::failure::Outcome;
use super::node::{Node, Place, Source};
use crate::merge::lookup::{self, Item, Parts, Site};
use crate::store::layer::{self, Layer};
use crate::store::mark::Role;
use crate::store::metadata::{Content, FileType, SharedInode};
use crate::store::number::Number;
use crate::store::tree;

/// The longest name, as on every file system of the host that serves (ext4, xfs, btrfs).
pub const NAME_MAX: usize = 255;

/// Where a node's host inode lies: a directory of the private layer and a name in it.
pub(super) enum Host {
    /// In a private directory of the view.
    Entry(Arc<OwnedFd>, Box<[u8]>),
    /// In `index/`.
    Index(Vec<u8>),
    /// In `orphans/`.
    Orphan(Vec<u8>),
}

impl Host {
    /// The directory; `filesystem` is whose node it is.
    pub(super) fn directory<'a>(&'a self, filesystem: &'a Filesystem) -> BorrowedFd<'a> {
        match self {
            Host::Entry(directory, _) => directory.as_fd(),
            Host::Index(_) => filesystem.view.layer.index(),
            Host::Orphan(_) => filesystem.view.layer.orphans(),
        }
    }

    /// The name in it.
    pub(super) fn name(&self) -> &[u8] {
        match self {
            Host::Entry(_, name) => name,
            Host::Index(name) | Host::Orphan(name) => name,
        }
    }
}

impl Filesystem {
    /// Looks a name up for the kernel, which then holds one more reference to the node.
    ///
    /// # Errors
    /// ENOENT, ENOTDIR, ENAMETOOLONG; EINVAL for what is no name of one component.
    pub fn lookup(&self, parent: &Arc<Node>, name: &[u8]) -> Outcome<Attributes> {
        check_name(name)?;
        let _names = self.names.read();
        let item = self.item(parent, name)?.ok_or(Errno::NOENT)?;
        let node = self.node_of(parent, name, &item);
        let attributes = self.attributes_of_item(&node, &item);
        match attributes {
            Ok(_) => self.table.remember(&node),
            Err(_) => self.done(node),
        }
        attributes
    }

    /// The kernel forgets `count` lookups of a number.
    pub fn forget(&self, number: Number, count: u64) {
        for unlinked in self.table.forget(number, count) {
            self.discard_orphan(&unlinked);
        }
    }

    /// A node that was unlinked has no reference left: what `orphans/` keeps of it goes.
    pub(super) fn discard_orphan(&self, node: &Node) {
        self.directories.lock().pop(&node.number);
        self.unlinked_shared.lock().remove(&node.number);
        if self.replaced.lock().remove(&node.number).is_some() {
            return;
        }
        if let Source::Private | Source::PrivateDirectory(_) = node.source() {
            let name = Layer::number_name(node.number);
            let orphans = format!("images/{}/orphans", self.view.layer.image());
            if let Err(error) = tree::remove(self.view.layer.orphans(), &name, &orphans) {
                log::warn!("{error}");
            }
        }
    }

    /// The node of a name, `None` if there is no such name. With `names` held.
    pub(super) fn child(&self, parent: &Arc<Node>, name: &[u8]) -> Outcome<Option<Arc<Node>>> {
        check_name(name)?;
        Ok(self
            .item(parent, name)?
            .map(|item| self.node_of(parent, name, &item)))
    }

    /// What a name is, `None` if there is no such name. With `names` held.
    pub(super) fn item(&self, parent: &Arc<Node>, name: &[u8]) -> Outcome<Option<Item>> {
        if parent.file_type != FileType::Directory {
            return Err(Errno::NOTDIR.into());
        }
        if matches!(parent.place(), Place::Unlinked) {
            return Ok(None);
        }
        self.refuse_in_part()?;
        let private = self.private_directory(parent)?;
        let parts = Parts {
            private: private.as_ref().map(|directory| directory.as_fd()),
            shared: parent.shared_directory(),
        };
        Ok(lookup::lookup(&self.view, parts, name)?)
    }

    /// The node of an item that stands at `name` in `parent`. With `names` held.
    pub(super) fn node_of(&self, parent: &Arc<Node>, name: &[u8], item: &Item) -> Arc<Node> {
        self.table.get_or_insert(item.number(), || {
            let entry = || Place::Entry {
                parent: parent.clone(),
                name: name.into(),
            };
            let (place, source, file_type) = match item {
                Item::Private { stat, mark, site } => {
                    let place = match site {
                        Site::Entry => entry(),
                        Site::Index => Place::Index,
                    };
                    let source = match mark.role {
                        Role::Directory(role) => Source::PrivateDirectory(role),
                        _ => Source::Private,
                    };
                    let file_type = FileType::from_mode(stat.st_mode);
                    (place, source, file_type.unwrap_or(FileType::Regular))
                }
                Item::Shared { inode, .. } => {
                    let source = match inode.content {
                        Content::Directory => Source::SharedDirectory(inode.number),
                        _ => Source::Shared(inode.number),
                    };
                    (entry(), source, inode.content.file_type())
                }
            };
            Node::new(item.number(), file_type, place, source)
        })
    }

    /// The private part of a directory, open (O_PATH); `None` if it has none. With `names` held.
    pub(super) fn private_directory(&self, node: &Arc<Node>) -> Outcome<Option<Arc<OwnedFd>>> {
        if !matches!(node.source(), Source::PrivateDirectory(_)) {
            return Ok(None);
        }
        // Up to the nearest that is open, and down again.
        let mut closed = Vec::new();
        let mut current = node.clone();
        let mut directory = loop {
            if let Some(directory) = self.directories.lock().get(&current.number) {
                break directory.clone();
            }
            match current.place() {
                Place::Entry { parent, name } => {
                    closed.push((current.number, name));
                    current = parent;
                }
                place => break self.open_top(current.number, &place)?,
            }
        };
        for (number, name) in closed.into_iter().rev() {
            let opened = layer::open_directory(&directory, &name, OFlags::PATH)?;
            directory = self.keep_open(number, opened);
        }
        Ok(Some(directory))
    }

    /// A private directory that is in no other one.
    fn open_top(&self, number: Number, place: &Place) -> Outcome<Arc<OwnedFd>> {
        let opened = match place {
            Place::Root => layer::open_directory(self.view.layer.private(), b".", OFlags::PATH)?,
            Place::Unlinked => {
                if let Some(directory) = self.replaced.lock().get(&number) {
                    return Ok(directory.clone());
                }
                let name = Layer::number_name(number);
                layer::open_directory(self.view.layer.orphans(), &name, OFlags::PATH)?
            }
            Place::Entry { .. } | Place::Index => return Err(Errno::STALE.into()),
        };
        Ok(self.keep_open(number, opened))
    }

    fn keep_open(&self, number: Number, directory: OwnedFd) -> Arc<OwnedFd> {
        let directory = Arc::new(directory);
        self.directories.lock().put(number, directory.clone());
        directory
    }

    /// Where the host inode of a private node lies; `None` for a shared one. With `names` held.
    pub(super) fn host(&self, node: &Arc<Node>) -> Outcome<Option<Host>> {
        if !matches!(node.source(), Source::Private | Source::PrivateDirectory(_)) {
            return Ok(None);
        }
        let is_directory = node.file_type == FileType::Directory;
        Ok(Some(match node.place() {
            Place::Root => self.host_directory(node)?,
            Place::Unlinked if is_directory => self.host_directory(node)?,
            Place::Entry { parent, name } => {
                let parent = self.private_directory(&parent)?.ok_or(Errno::STALE)?;
                Host::Entry(parent, name)
            }
            Place::Index => Host::Index(Layer::number_name(node.number)),
            Place::Unlinked => Host::Orphan(Layer::number_name(node.number)),
        }))
    }

    /// A private directory by itself.
    fn host_directory(&self, node: &Arc<Node>) -> Outcome<Host> {
        let directory = self.private_directory(node)?.ok_or(Errno::STALE)?;
        Ok(Host::Entry(directory, Box::from(&b"."[..])))
    }

    /// The shared inode of a node in the shared layer: from the cached directory that holds its
    /// name, else by a query. With `names` held.
    ///
    /// # Errors
    /// EIO if the catalog has no such inode.
    pub(super) fn shared_inode(&self, node: &Node, shared: Number) -> Outcome<Arc<SharedInode>> {
        if let Place::Entry { parent, name } = node.place()
            && let Some(directory) = parent.shared_directory()
        {
            let directory = self.view.shared.directory(directory)?;
            if let Some(inode) = directory.find(&name).filter(|inode| inode.number == shared) {
                return Ok(self.view.as_shown(inode));
            }
        }
        let inode = self.view.shared.inode(shared)?.ok_or(Errno::IO)?;
        Ok(self.view.as_shown(&Arc::new(inode)))
    }
}

/// Every name that a request gives passes this before the host sees it: "../x" would lead out of
/// the view.
///
/// # Errors
/// ENAMETOOLONG; EINVAL for what no kernel asks for.
pub(super) fn check_name(name: &[u8]) -> Outcome<()> {
    if name.len() > NAME_MAX {
        return Err(Errno::NAMETOOLONG.into());
    }
    let is_special = matches!(name, b"" | b"." | b"..");
    if is_special || name.iter().any(|byte| matches!(byte, b'/' | 0)) {
        return Err(Errno::INVAL.into());
    }
    Ok(())
}
