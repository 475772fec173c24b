//! What stat(2) of a node gives.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{self, AtFlags, Stat};
use rustix::io::Errno;

use super::Filesystem;
use super::failure::Outcome;
use super::node::{Node, Place, Source};
use super::transport::Identity;
use crate::merge::locate;
use crate::merge::lookup::Item;
use crate::store::entry;
use crate::store::layer::{self, Layer, PrivateEntry};
use crate::store::mark::{DirectoryRole, Mark, Role};
use crate::store::metadata::{Content, FileType, SharedInode, Time};
use crate::store::number::Number;

/// The attributes of an inode in a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// st_ino.
    pub number: Number,
    /// The type.
    pub file_type: FileType,
    /// 07777 of st_mode.
    pub mode: u32,
    /// st_nlink.
    pub links: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// st_rdev.
    pub rdev: u64,
    /// Bytes.
    pub size: u64,
    /// Blocks of 512 bytes.
    pub blocks: u64,
    /// Last access.
    pub atime: Time,
    /// Last modification of content.
    pub mtime: Time,
    /// Last change of the inode.
    pub ctime: Time,
    /// How the kernel knows it.
    pub identity: Identity,
}

fn time(seconds: i64, nanoseconds: impl TryInto<u32>) -> Time {
    Time {
        seconds,
        nanoseconds: nanoseconds.try_into().unwrap_or(0),
    }
}

impl Filesystem {
    /// stat(2) of a node.
    pub fn attributes(&self, node: &Arc<Node>) -> Outcome<Attributes> {
        let _names = self.names.read();
        self.attributes_of(node)
    }

    /// [`Filesystem::attributes`] with `names` held.
    pub(super) fn attributes_of(&self, node: &Arc<Node>) -> Outcome<Attributes> {
        match node.source() {
            Source::Shared(shared) | Source::SharedDirectory(shared) => {
                let inode = self.shared_inode(node, shared)?;
                Ok(self.shared_attributes(node, &inode))
            }
            Source::Private | Source::PrivateDirectory(_) => {
                let (stat, mark) = self.host_inode(node)?;
                self.private_attributes(node, &stat, &mark)
            }
        }
    }

    /// The same of the node that [`Filesystem::node_of`] made of an item: nothing is read again. With
    /// `names` held since the item was read.
    pub(super) fn attributes_of_item(&self, node: &Arc<Node>, item: &Item) -> Outcome<Attributes> {
        match item {
            Item::Private { stat, mark, .. } => self.private_attributes(node, stat, mark),
            Item::Shared { inode, .. } => Ok(self.shared_attributes(node, inode)),
        }
    }

    /// The host inode of a private node and its mark. With `names` held.
    pub(super) fn host_inode(&self, node: &Arc<Node>) -> Outcome<(Stat, Mark)> {
        let host = self.host(node)?.ok_or(Errno::IO)?;
        match layer::read_entry(host.directory(self), host.name())? {
            Some(PrivateEntry::Marked { stat, mark }) => Ok((stat, mark)),
            _ => Err(Errno::BADMSG.into()),
        }
    }

    fn shared_attributes(&self, node: &Node, inode: &SharedInode) -> Attributes {
        let shown = self.view.shown_as(inode.number, inode.ctime);
        let size = inode.content.size();
        let (links, ctime, identity) = {
            let state = node.state.lock();
            let identity = state.identity();
            match state.place {
                Place::Unlinked => (0, state.unlinked, identity),
                _ => (inode.links, shown.ctime, identity),
            }
        };
        Attributes {
            number: node.number,
            file_type: inode.content.file_type(),
            mode: inode.metadata.mode,
            links,
            uid: inode.metadata.uid,
            gid: inode.metadata.gid,
            rdev: inode.content.rdev(),
            size,
            blocks: blocks_of(&inode.content),
            atime: inode.metadata.mtime,
            mtime: inode.metadata.mtime,
            ctime,
            identity,
        }
    }

    pub(super) fn private_attributes(
        &self,
        node: &Arc<Node>,
        stat: &Stat,
        mark: &Mark,
    ) -> Outcome<Attributes> {
        // As if nothing were private: what a directory takes on the host is no part of the view, and
        // a stub takes what its object takes.
        let size = match node.file_type {
            FileType::Directory => Content::Directory.size(),
            _ => stat.st_size as u64,
        };
        let blocks = match (node.file_type, mark.role) {
            (FileType::Directory, _) => blocks_of(&Content::Directory),
            (_, Role::Stub { .. }) => whole_blocks(size),
            _ => stat.st_blocks as u64,
        };
        let attributes = Attributes {
            number: node.number,
            file_type: node.file_type,
            mode: stat.st_mode & 0o7777,
            links: self.links(node, stat)?,
            uid: stat.st_uid,
            gid: stat.st_gid,
            rdev: stat.st_rdev,
            size,
            blocks,
            atime: time(stat.st_atime, stat.st_atime_nsec),
            mtime: entry::shown_mtime(stat, mark),
            ctime: entry::shown_ctime(stat, mark),
            identity: self.private_identity(node)?,
        };
        let Source::PrivateDirectory(DirectoryRole::Transparent { shared }) = node.source() else {
            return Ok(attributes);
        };
        let inode = self.shared_inode(node, shared)?;
        Ok(Attributes {
            links: attributes.links,
            ..self.shared_attributes(node, &inode)
        })
    }

    /// st_nlink of a private node. With `names` held.
    fn links(&self, node: &Arc<Node>, stat: &Stat) -> Outcome<u32> {
        match (node.place(), node.source()) {
            (Place::Unlinked, _) => Ok(0),
            (Place::Index, _) => self.indexed_links(node.number),
            (_, Source::PrivateDirectory(role)) => match role.shared() {
                Some(shared) => {
                    let private = self.private_directory(node)?.ok_or(Errno::STALE)?;
                    self.merged_directory_links(&private, shared, stat)
                }
                None => Ok(stat.st_nlink as u32),
            },
            _ => Ok(1),
        }
    }

    /// Names of the file `index/NUMBER`: shared ones that are shown, and links of its token.
    pub(super) fn indexed_links(&self, number: Number) -> Outcome<u32> {
        let shared = locate::shared_names_shown(&self.view, self.view.shared_of(number))?;
        let token = Layer::token_name(number);
        let private = match fs::statat(self.view.layer.index(), token, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat.st_nlink as u32 - 1,
            Err(Errno::NOENT) => 0,
            Err(error) => return Err(error.into()),
        };
        Ok(shared + private)
    }

    /// 2 + subdirectories: the host counts the private ones, the shared ones that nothing private
    /// hides come on top.
    fn merged_directory_links(
        &self,
        private: &OwnedFd,
        shared: Number,
        stat: &Stat,
    ) -> Outcome<u32> {
        let directory = self.view.shared.directory(shared)?;
        let subdirectories = directory.subdirectories();
        let mut links = stat.st_nlink as u32;
        // To ask for each costs less than to list many.
        if subdirectories.len() as i64 * BYTES_A_NAME <= stat.st_size {
            for name in subdirectories {
                match fs::statat(private, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(_) => {}
                    Err(Errno::NOENT) => links += 1,
                    Err(error) => return Err(error.into()),
                }
            }
            return Ok(links);
        }
        let names = layer::names_in(private.as_fd())?.into_iter();
        let names: HashSet<_> = names.collect();
        Ok(links + subdirectories.filter(|name| !names.contains(*name)).count() as u32)
    }
}

/// About what a name takes in a directory of the host.
const BYTES_A_NAME: i64 = 32;

/// What a plain file system would say of content without holes.
fn blocks_of(content: &Content) -> u64 {
    match content {
        Content::Regular { size, .. } => whole_blocks(*size),
        Content::Directory => 8,
        _ => 0,
    }
}

fn whole_blocks(size: u64) -> u64 {
    size.div_ceil(4096) * 8
}
