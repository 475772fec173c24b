//! chmod(2), chown(2), utimensat(2), truncate(2).
//!
//! Who may do it is checked by the kernel (`default_permissions`), which also clears the set-gid bit
//! of a mode that comes from somebody outside the file's group. What chown(2) clears (set-id bits,
//! security.capability) the host clears, as it does for every caller.
//!
//! A request that changes nothing is what FUSE makes of chown(file, -1, -1), which clears set-id bits
//! and sets ctime, and of what precedes a write to a set-id file (with FUSE_HANDLE_KILLPRIV_V2). The
//! kernel has checked nobody's permission then.

use std::sync::Arc;

use rustix::fs::{Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use rustix::io::Errno;

use super::Filesystem;
use super::attributes::Attributes;
use super::data::SetId;
use super::failure::Outcome;
use super::node::Node;
use super::resolve::Host;
use crate::store::metadata::{FileType, Time};
use crate::sys::durable;

/// A time to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewTime {
    /// The host's time of the change.
    Now,
    /// This one.
    At(Time),
}

/// What is to be changed of an inode; `None` stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changes {
    /// 07777 of st_mode.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Bytes of a regular file.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<NewTime>,
    /// Last modification.
    pub mtime: Option<NewTime>,
    /// What becomes of set-id bits when size or owner are set.
    pub set_id: SetId,
}

impl Default for Changes {
    fn default() -> Self {
        Self {
            mode: None,
            uid: None,
            gid: None,
            size: None,
            atime: None,
            mtime: None,
            set_id: SetId::Keep,
        }
    }
}

impl Changes {
    fn of_metadata(&self) -> bool {
        self.mode.is_some()
            || self.uid.is_some()
            || self.gid.is_some()
            || self.atime.is_some()
            || self.mtime.is_some()
    }

    /// Nothing is what chown(2) asks for that keeps owner and group; it sets ctime and clears
    /// set-id bits all the same.
    fn is_chown(&self) -> bool {
        self.uid.is_some() || self.gid.is_some() || self.size.is_none() && !self.of_metadata()
    }
}

impl Filesystem {
    /// Changes attributes and gives the new ones. Works alike with and without a handle: what is
    /// open is reached through its node, unlinked or not. Setting the size may promote content
    /// ([`Filesystem::needs_promotion`]).
    ///
    /// # Errors
    /// EPERM for what is locked; EISDIR, EINVAL for the size of what has none; EOPNOTSUPP for the mode of a symlink; the
    /// host's.
    pub fn set_attributes(&self, node: &Arc<Node>, changes: &Changes) -> Outcome<Attributes> {
        if node.file_type == FileType::Symlink && changes.mode.is_some() {
            return Err(Errno::OPNOTSUPP.into());
        }
        if let Some(size) = changes.size {
            match node.file_type {
                FileType::Regular => self.resize_requested(node, size, changes.set_id)?,
                FileType::Directory => return Err(Errno::ISDIR.into()),
                _ => return Err(Errno::INVAL.into()),
            }
        }
        if !changes.of_metadata() && !changes.is_chown() {
            return self.attributes(node);
        }
        let _change = self.change.read();
        let _names = self.names.write();
        self.refuse_locked(node)?;
        if changes.of_metadata() || self.may_chown_to_itself(node, changes.set_id)? {
            self.change_metadata(node, |host| self.apply(node, host, changes))?;
        }
        self.attributes_of(node)
    }

    /// Whether chown(2) that keeps owner and group is to be done: not by others than the owner
    /// where it would clear set-id bits.
    fn may_chown_to_itself(&self, node: &Arc<Node>, set_id: SetId) -> Outcome<bool> {
        let SetId::ClearFor(caller) = set_id else {
            return Ok(true);
        };
        let attributes = self.attributes_of(node)?;
        let is_set_id = attributes.mode & (libc::S_ISUID | libc::S_ISGID) != 0;
        let is_owner = caller.uid == 0 || caller.uid == attributes.uid;
        Ok(is_owner || !is_set_id || node.file_type == FileType::Directory)
    }

    fn chown(&self, node: &Arc<Node>, host: &Host, changes: &Changes) -> Outcome<()> {
        let (directory, name) = (host.directory(self), host.name());
        let (before, _) = self.host_inode(node)?;
        durable::chown(directory, name, changes.uid, changes.gid)?;
        if before.st_mode & libc::S_ISGID == 0 {
            return Ok(());
        }
        // The one bit that the host leaves because the daemon has CAP_FSETID.
        let (after, _) = self.host_inode(node)?;
        let mode = after.st_mode & 0o7777;
        match changes.set_id {
            SetId::ClearFor(caller)
                if mode & libc::S_ISGID != 0
                    && node.file_type != FileType::Directory
                    && !caller.is_in_group_or_capable(before.st_gid) =>
            {
                Ok(durable::chmod(directory, name, mode & !libc::S_ISGID)?)
            }
            _ => Ok(()),
        }
    }

    fn apply(&self, node: &Arc<Node>, host: &Host, changes: &Changes) -> Outcome<()> {
        let (directory, name) = (host.directory(self), host.name());
        if changes.is_chown() {
            self.chown(node, host, changes)?;
        }
        // After the owner, which clears bits of it.
        if let Some(mode) = changes.mode {
            durable::chmod(directory, name, mode & 0o7777)?;
        }
        if changes.atime.is_some() || changes.mtime.is_some() {
            let times = Timestamps {
                last_access: timespec(changes.atime),
                last_modification: timespec(changes.mtime),
            };
            durable::set_times(directory, name, &times)?;
        }
        Ok(())
    }

    /// A change by the guest of a node's metadata, which becomes the image's own first. If it
    /// fails, nothing of that shows. With `change` held shared and `names` for writing.
    pub(super) fn change_metadata(
        &self,
        node: &Arc<Node>,
        change: impl FnOnce(&Host) -> Outcome<()>,
    ) -> Outcome<()> {
        match node.file_type {
            FileType::Directory => self.own_directory(node)?,
            _ => self.stub(node)?,
        }
        // First: after a crash in between, ctime is newer than it need be, not older.
        let shown = self.drop_shown(node)?;
        let host = self.host(node)?.ok_or(Errno::IO)?;
        let outcome = change(&host);
        if outcome.is_err() {
            self.show_again(node, shown)?;
        }
        outcome
    }
}

fn timespec(time: Option<NewTime>) -> Timespec {
    let (tv_sec, tv_nsec) = match time {
        None => (0, UTIME_OMIT),
        Some(NewTime::Now) => (0, UTIME_NOW),
        Some(NewTime::At(time)) => (time.seconds, time.nanoseconds.into()),
    };
    Timespec { tv_sec, tv_nsec }
}

#[cfg(test)]
mod failures;
#[cfg(test)]
mod tests;
