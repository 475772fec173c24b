//! New names: files, directories, nodes, symlinks, and links of what there is.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, RenameFlags, XattrFlags, statat};
use rustix::io::Errno;

use super::acl;
use super::attributes::Attributes;
use super::failure::Outcome;
use super::node::{Node, Place, Source};
use super::resolve::check_name;
use super::{Caller, Filesystem};
use crate::store::draft::Draft;
use crate::store::layer::{self, Layer, PrivateEntry};
use crate::store::mark::{DirectoryRole, Mark, Role};
use crate::store::metadata::{Content, FileType};
use crate::store::number::Number;
use crate::sys::{durable, xattr};

/// With which permissions, and for whom, an inode is made.
#[derive(Debug, Clone, Copy)]
pub struct Permissions {
    /// 07777 of st_mode, before the umask.
    pub mode: u32,
    /// Counts where the directory has no default ACL.
    pub umask: u32,
    /// Who becomes the owner.
    pub caller: Caller,
}

/// What is in a private directory where a name is to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// Nothing.
    Free,
    /// A whiteout.
    Whiteout,
}

impl Filesystem {
    /// Makes an empty regular file. The kernel knows its node then, as after a lookup; that holds
    /// for all operations of this module.
    ///
    /// # Errors
    /// EEXIST, ENOENT in a removed directory, ENAMETOOLONG, EPERM for what is locked, what the host gives
    /// (ENOSPC).
    pub fn create(
        &self,
        parent: &Arc<Node>,
        name: &[u8],
        permissions: &Permissions,
    ) -> Outcome<Attributes> {
        let empty = Content::Regular {
            size: 0,
            digest: None,
        };
        self.make(parent, name, &empty, permissions)
    }

    /// mkdir(2).
    ///
    /// # Errors
    /// As [`Filesystem::create`].
    pub fn make_directory(
        &self,
        parent: &Arc<Node>,
        name: &[u8],
        permissions: &Permissions,
    ) -> Outcome<Attributes> {
        self.make(parent, name, &Content::Directory, permissions)
    }

    /// mknod(2) of any type but directory and symlink.
    ///
    /// # Errors
    /// As [`Filesystem::create`]; EINVAL for those types.
    pub fn make_node(
        &self,
        parent: &Arc<Node>,
        name: &[u8],
        file_type: FileType,
        rdev: u64,
        permissions: &Permissions,
    ) -> Outcome<Attributes> {
        let content = match file_type {
            FileType::Regular => return self.create(parent, name, permissions),
            FileType::CharDevice => Content::CharDevice { rdev },
            FileType::BlockDevice => Content::BlockDevice { rdev },
            FileType::Fifo => Content::Fifo,
            FileType::Socket => Content::Socket,
            FileType::Directory | FileType::Symlink => return Err(Errno::INVAL.into()),
        };
        self.make(parent, name, &content, permissions)
    }

    /// symlink(2).
    ///
    /// # Errors
    /// As [`Filesystem::create`].
    pub fn make_symlink(
        &self,
        parent: &Arc<Node>,
        name: &[u8],
        target: &[u8],
        caller: Caller,
    ) -> Outcome<Attributes> {
        let permissions = Permissions {
            mode: 0o777,
            umask: 0,
            caller,
        };
        let target = target.into();
        self.make(parent, name, &Content::Symlink { target }, &permissions)
    }

    /// What all of them have in common: nothing shows before the one rename.
    fn make(
        &self,
        parent: &Arc<Node>,
        name: &[u8],
        content: &Content,
        permissions: &Permissions,
    ) -> Outcome<Attributes> {
        check_name(name)?;
        // May wait for the catalog's writer, who may wait for us once we hold `change`.
        let number = self.store.numbers().next()?;
        let _change = self.change.read();
        let _names = self.names.write();
        self.refuse_locked_name(parent, name, content.file_type())?;
        let (directory, room) = self.room(parent, name)?;
        let draft = Draft::new(&self.view.layer, content)?;
        let (role, source) = match content {
            Content::Directory => {
                let own = DirectoryRole::Own;
                (Role::Directory(own), Source::PrivateDirectory(own))
            }
            _ => (Role::File, Source::Private),
        };
        let mark = Mark::new(number, role);
        draft.mark(&mark)?;
        self.give_owner(parent, &draft, content, permissions)?;

        self.change_names(&[parent], || {
            self.fill(room, draft, &directory, name, content.file_type())
        })?;

        let node = self.table.get_or_insert(number, || {
            let (parent, name) = (parent.clone(), name.into());
            Node::new(
                number,
                content.file_type(),
                Place::Entry { parent, name },
                source,
            )
        });
        let stat = statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let attributes = self.private_attributes(&node, &stat, &mark)?;
        self.table.remember(&node);
        Ok(attributes)
    }

    /// The private part of a directory, made if need be, with room for a new name.
    ///
    /// # Errors
    /// EEXIST if the view has the name; ENOENT in a removed directory.
    pub(super) fn room(&self, parent: &Arc<Node>, name: &[u8]) -> Outcome<(Arc<OwnedFd>, Room)> {
        if parent.file_type != FileType::Directory {
            return Err(Errno::NOTDIR.into());
        }
        if matches!(parent.place(), Place::Unlinked) {
            return Err(Errno::NOENT.into());
        }
        self.refuse_in_part()?;
        if self.private_directory(parent)?.is_none() && self.shared_holds(parent, name)? {
            return Err(Errno::EXIST.into());
        }
        let directory = self.ensure_private_directory(parent)?;
        match layer::read_entry(directory.as_fd(), name)? {
            Some(PrivateEntry::Whiteout) => Ok((directory, Room::Whiteout)),
            None if !self.shared_holds(parent, name)? => Ok((directory, Room::Free)),
            _ => Err(Errno::EXIST.into()),
        }
    }

    /// Whether the shared part of a directory has the name: then a whiteout must be where nothing
    /// private is to be.
    pub(super) fn shared_holds(&self, parent: &Arc<Node>, name: &[u8]) -> Outcome<bool> {
        let Some(shared) = parent.shared_directory() else {
            return Ok(false);
        };
        Ok(self.view.shared.directory(shared)?.find(name).is_some())
    }

    /// Owner, mode and ACLs of a new inode (inode_init_owner() and posix_acl_create() of the
    /// kernel).
    pub(super) fn give_owner(
        &self,
        parent: &Arc<Node>,
        draft: &Draft<'_>,
        content: &Content,
        permissions: &Permissions,
    ) -> Outcome<()> {
        let above = self.inheritance(parent)?;
        let is_directory = *content == Content::Directory;
        let is_set_gid = above.mode & libc::S_ISGID != 0;
        let uid = permissions.caller.uid;
        let gid = if is_set_gid {
            above.gid
        } else {
            permissions.caller.gid
        };
        let (directory, name) = (draft.directory(), draft.name());
        if (uid, gid) != (0, 0) {
            durable::chown(directory, name, Some(uid), Some(gid))?;
        }
        if content.file_type() == FileType::Symlink {
            return Ok(());
        }
        let mode = permissions.mode;
        let inherited = acl::inherit(
            above.default_acl.as_deref(),
            mode,
            permissions.umask,
            is_directory,
        )?;
        let none = XattrFlags::empty();
        if let Some(access) = &inherited.access {
            durable::set_xattr(directory, name, acl::ACCESS, access, none)?;
        }
        if let Some(default) = &inherited.default {
            durable::set_xattr(directory, name, acl::DEFAULT, default, none)?;
        }
        let set_gid = match is_directory && is_set_gid {
            true => libc::S_ISGID,
            false => 0,
        };
        Ok(durable::chmod(directory, name, inherited.mode | set_gid)?)
    }

    /// What new entries take from their directory.
    fn inheritance(&self, parent: &Arc<Node>) -> Outcome<Inheritance> {
        if let Source::PrivateDirectory(DirectoryRole::Transparent { shared }) = parent.source() {
            let inode = self.shared_inode(parent, shared)?;
            return Ok(Inheritance {
                mode: inode.metadata.mode,
                gid: inode.metadata.gid,
                default_acl: inode
                    .metadata
                    .xattrs
                    .get(acl::DEFAULT)
                    .map(|acl| acl.to_vec()),
            });
        }
        let directory = self.private_directory(parent)?.ok_or(Errno::STALE)?;
        let stat = statat(&directory, c".", AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(Inheritance {
            mode: stat.st_mode,
            gid: stat.st_gid,
            default_acl: xattr::get(directory.as_fd(), b".", acl::DEFAULT)?,
        })
    }

    /// Puts a draft where there is room for it.
    pub(super) fn fill(
        &self,
        room: Room,
        draft: Draft<'_>,
        directory: &OwnedFd,
        name: &[u8],
        file_type: FileType,
    ) -> Outcome<()> {
        let flags = match room {
            Room::Free => RenameFlags::NOREPLACE,
            // A directory cannot replace a device; the whiteout goes with the draft.
            Room::Whiteout if file_type == FileType::Directory => RenameFlags::EXCHANGE,
            Room::Whiteout => RenameFlags::empty(),
        };
        Ok(draft.place(directory, name, flags)?)
    }

    /// link(2).
    ///
    /// # Errors
    /// As [`Filesystem::create`]; EPERM for a directory, ENOENT for a removed file, EMLINK.
    pub fn link(&self, node: &Arc<Node>, parent: &Arc<Node>, name: &[u8]) -> Outcome<Attributes> {
        check_name(name)?;
        if node.file_type == FileType::Directory {
            return Err(Errno::PERM.into());
        }
        let _change = self.change.read();
        let _names = self.names.write();
        if matches!(node.place(), Place::Unlinked) {
            return Err(Errno::NOENT.into());
        }
        self.refuse_locked(node)?;
        self.refuse_locked_name(parent, name, node.file_type)?;
        self.link_name(node, parent, name)?;
        let attributes = self.attributes_of(node)?;
        self.table.remember(node);
        Ok(attributes)
    }

    /// Gives a file another name. With `change` and `names` held.
    pub(super) fn link_name(
        &self,
        node: &Arc<Node>,
        parent: &Arc<Node>,
        name: &[u8],
    ) -> Outcome<()> {
        let (directory, room) = self.room(parent, name)?;
        self.index(node)?;
        self.ensure_token(node.number)?;
        let draft = self.token_link(node.number)?;
        self.change_names(&[parent], || {
            self.fill(room, draft, &directory, name, FileType::Regular)
        })?;
        self.afterwards(self.touch_ctime(node));
        Ok(())
    }

    /// A new link of the token of a file in `index/`.
    pub(super) fn token_link(&self, number: Number) -> Outcome<Draft<'_>> {
        let layer = &self.view.layer;
        let token = Layer::token_name(number);
        Ok(Draft::link(
            layer,
            FileType::Regular,
            layer.index(),
            &token,
        )?)
    }
}

struct Inheritance {
    mode: u32,
    gid: u32,
    default_acl: Option<Vec<u8>>,
}
