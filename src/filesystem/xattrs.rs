//! Extended attributes and ACLs, as ext4 has them.
//!
//! The kernel refuses trusted.* and security.* to whom they are not open, and user.* on what is
//! neither file nor directory; but it does not hide the names of trusted.* from a list.

use std::sync::Arc;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::acl;
use super::failure::Outcome;
use super::node::{Node, Source};
use super::resolve::Host;
use super::{Caller, Filesystem};
use crate::store::guest_xattr;
use crate::store::mark::{DirectoryRole, Shown};
use crate::store::metadata::{FileType, SharedInode};
use crate::sys::{durable, xattr};

/// XATTR_NAME_MAX
const NAME_MAX: usize = 255;
/// XATTR_SIZE_MAX
const VALUE_MAX: usize = 65536;

/// What setxattr(2) asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetXattr {
    /// Whether it exists or not.
    Any,
    /// XATTR_CREATE
    Create,
    /// XATTR_REPLACE
    Replace,
}

/// Refuses names that ext4 has no handler for, as the kernel does for it.
fn check_name(name: &[u8]) -> Outcome<()> {
    if name == acl::ACCESS || name == acl::DEFAULT {
        return Ok(());
    }
    for space in [&b"user."[..], b"trusted.", b"security."] {
        match name.strip_prefix(space) {
            Some(b"") => return Err(Errno::INVAL.into()),
            Some(_) => return Ok(()),
            None => {}
        }
    }
    Err(Errno::OPNOTSUPP.into())
}

fn is_acl(name: &[u8]) -> bool {
    name == acl::ACCESS || name == acl::DEFAULT
}

impl Filesystem {
    /// getxattr(2): the value.
    ///
    /// # Errors
    /// ENODATA, EOPNOTSUPP for a name of no known kind. ERANGE is for the caller to give, who knows
    /// what room there is.
    pub fn xattr(&self, node: &Arc<Node>, name: &[u8]) -> Outcome<Vec<u8>> {
        check_name(name)?;
        let _names = self.names.read();
        Ok(self.xattr_of(node, name)?.ok_or(Errno::NODATA)?)
    }

    /// listxattr(2): the names that the caller may see.
    pub fn xattr_names(&self, node: &Arc<Node>, caller: &Caller) -> Outcome<Vec<Vec<u8>>> {
        let mut names = {
            let _names = self.names.read();
            self.xattr_names_of(node)?
        };
        let trusted = |name: &Vec<u8>| name.starts_with(b"trusted.");
        if names.iter().any(trusted) && !caller.sees_trusted() {
            names.retain(|name| !trusted(name));
        }
        Ok(names)
    }

    /// setxattr(2). An access ACL changes the mode, too.
    ///
    /// # Errors
    /// EPERM for what is locked; EEXIST, ENODATA, EOPNOTSUPP, E2BIG; ENOSPC where it does not fit into the host's inode;
    /// ERANGE for a name of 254 or 255 bytes that begins with `trusted.foldfs`.
    pub fn set_xattr(
        &self,
        node: &Arc<Node>,
        name: &[u8],
        value: &[u8],
        how: SetXattr,
        caller: &Caller,
    ) -> Outcome<()> {
        check_name(name)?;
        if value.len() > VALUE_MAX {
            return Err(Errno::TOOBIG.into());
        }
        match (name, node.file_type) {
            (_, FileType::Symlink) if is_acl(name) => return Err(Errno::OPNOTSUPP.into()),
            (_, FileType::Directory) => {}
            (acl::DEFAULT, _) if !value.is_empty() => return Err(Errno::ACCESS.into()),
            _ => {}
        }
        let host_name = guest_xattr::escape(name);
        if host_name.len() > NAME_MAX {
            return Err(Errno::RANGE.into());
        }
        let _change = self.change.read();
        let _names = self.names.write();
        self.refuse_locked(node)?;
        let (existing, is_untouched) = (self.xattr_of(node, name)?, self.is_untouched(node)?);
        let flags = match (how, existing.is_some()) {
            (SetXattr::Create, true) => return Err(Errno::EXIST.into()),
            (SetXattr::Replace, false) => return Err(Errno::NODATA.into()),
            (SetXattr::Any, _) => XattrFlags::empty(),
            (SetXattr::Create, false) => XattrFlags::CREATE,
            (SetXattr::Replace, true) => XattrFlags::REPLACE,
        };
        if is_untouched && existing.is_some_and(|existing| existing == value) {
            return Ok(());
        }
        let set = |host: &Host| {
            let (directory, file) = (host.directory(self), host.name());
            Ok(durable::set_xattr(
                directory, file, &host_name, value, flags,
            )?)
        };
        if name != acl::ACCESS {
            return self.change_metadata(node, set);
        }
        let looks = || -> Outcome<_> {
            let attributes = self.attributes_of(node)?;
            Ok((attributes, self.xattr_of(node, name)?))
        };
        let before = looks()?;
        self.change_metadata(node, set)?;
        self.withdraw_set_gid(node, caller)?;
        let after = looks()?;
        if is_untouched && (after.0.mode, &after.1) == (before.0.mode, &before.1) {
            // An ACL that says what the mode says already.
            let (_, mut mark) = self.host_inode(node)?;
            mark.shown.ctime = Some(before.0.ctime);
            self.write_mark(node, &mark)?;
        }
        Ok(())
    }

    /// Whether a node's times are not yet the guest's own, so that what is no change to ext4 must
    /// not become one.
    fn is_untouched(&self, node: &Arc<Node>) -> Outcome<bool> {
        Ok(self.shown_metadata(node)?.is_some()
            || self.host_inode(node)?.1.shown != Shown::default())
    }

    /// removexattr(2).
    ///
    /// # Errors
    /// EPERM for what is locked; ENODATA (but for an ACL, whose absence is as good), EOPNOTSUPP.
    pub fn remove_xattr(&self, node: &Arc<Node>, name: &[u8]) -> Outcome<()> {
        check_name(name)?;
        let _change = self.change.read();
        let _names = self.names.write();
        self.refuse_locked(node)?;
        if self.xattr_of(node, name)?.is_none() {
            return match is_acl(name) {
                true => Ok(()),
                false => Err(Errno::NODATA.into()),
            };
        }
        self.change_metadata(node, |host| {
            let (directory, file) = (host.directory(self), host.name());
            let host_name = guest_xattr::escape(name);
            Ok(durable::remove_xattr(directory, file, &host_name)?)
        })
    }

    /// Setting an access ACL takes the set-gid bit away unless the caller is in the group or has
    /// CAP_FSETID. The kernel would say so with FUSE_ACL_KILL_SGID, which fuser cannot receive; the
    /// host asks about the daemon, which has the capability.
    fn withdraw_set_gid(&self, node: &Arc<Node>, caller: &Caller) -> Outcome<()> {
        let (stat, _) = self.host_inode(node)?;
        let mode = stat.st_mode & 0o7777;
        if mode & libc::S_ISGID == 0 || caller.is_in_group_or_capable(stat.st_gid) {
            return Ok(());
        }
        let host = self.host(node)?.ok_or(Errno::IO)?;
        let mode = mode & !libc::S_ISGID;
        Ok(durable::chmod(host.directory(self), host.name(), mode)?)
    }

    /// The shared inode whose metadata a node shows; `None` where the host inode's is shown.
    fn shown_metadata(&self, node: &Arc<Node>) -> Outcome<Option<Arc<SharedInode>>> {
        match node.source() {
            Source::Shared(shared)
            | Source::SharedDirectory(shared)
            | Source::PrivateDirectory(DirectoryRole::Transparent { shared }) => {
                self.shared_inode(node, shared).map(Some)
            }
            Source::Private | Source::PrivateDirectory(_) => Ok(None),
        }
    }

    fn xattr_of(&self, node: &Arc<Node>, name: &[u8]) -> Outcome<Option<Vec<u8>>> {
        if let Some(inode) = self.shown_metadata(node)? {
            let value = inode.metadata.xattrs.get(name);
            return Ok(value.map(|value| value.to_vec()));
        }
        let host_name = guest_xattr::escape(name);
        if host_name.len() > NAME_MAX {
            return Ok(None);
        }
        let host = self.host(node)?.ok_or(Errno::IO)?;
        Ok(xattr::get(host.directory(self), host.name(), &host_name)?)
    }

    fn xattr_names_of(&self, node: &Arc<Node>) -> Outcome<Vec<Vec<u8>>> {
        if let Some(inode) = self.shown_metadata(node)? {
            let names = inode.metadata.xattrs.keys();
            return Ok(names.map(|name| name.to_vec()).collect());
        }
        let host = self.host(node)?.ok_or(Errno::IO)?;
        let names = xattr::list(host.directory(self), host.name())?;
        let guest = names.iter().filter_map(|name| guest_xattr::unescape(name));
        Ok(guest.map(|name| name.into_owned()).collect())
    }
}

#[cfg(test)]
mod tests;
