//! What a guest does in a live image, by path.

use std::sync::Arc;

use foldfs::filesystem::data::SetId;
use foldfs::filesystem::failure::Outcome;
use foldfs::filesystem::node::Node;
use foldfs::filesystem::open::OpenFlags;
use foldfs::filesystem::rename::Entry;
use foldfs::filesystem::set_attributes::{Changes, NewTime};
use foldfs::filesystem::xattrs::SetXattr;
use foldfs::filesystem::{Caller, Filesystem};
use foldfs::store::metadata::{FileType, Time};
use rustix::fs::RenameFlags;
use rustix::io::Errno;

use super::live::{ROOT, WRITE, permissions};

/// In no group of root's, and no process.
pub const USER: Caller = Caller {
    uid: 1000,
    gid: 1000,
    pid: 0,
};

/// A guest in an image at work: root, unless a name says otherwise.
pub struct Guest(pub Arc<Filesystem>);

/// Names.
impl Guest {
    fn node(&self, path: &str) -> Outcome<Arc<Node>> {
        match super::find(&self.0, path) {
            Some((node, _)) => Ok(node),
            None => Err(Errno::NOENT.into()),
        }
    }

    fn parent<'a>(&self, path: &'a str) -> Outcome<(Arc<Node>, &'a [u8])> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((self.node(parent)?, name.as_bytes()))
    }

    pub fn create(&self, path: &str) -> Outcome<()> {
        self.create_by(path, ROOT)
    }

    pub fn create_as_user(&self, path: &str) -> Outcome<()> {
        self.create_by(path, USER)
    }

    fn create_by(&self, path: &str, caller: Caller) -> Outcome<()> {
        let (parent, name) = self.parent(path)?;
        let mut permissions = permissions(0o644);
        permissions.caller = caller;
        self.0.create(&parent, name, &permissions)?;
        Ok(())
    }

    pub fn mkdir(&self, path: &str) -> Outcome<()> {
        let (parent, name) = self.parent(path)?;
        self.0.make_directory(&parent, name, &permissions(0o755))?;
        Ok(())
    }

    pub fn mknod(&self, path: &str, file_type: FileType) -> Outcome<()> {
        let (parent, name) = self.parent(path)?;
        let permissions = permissions(0o600);
        self.0
            .make_node(&parent, name, file_type, 0, &permissions)?;
        Ok(())
    }

    pub fn symlink(&self, target: &str, path: &str) -> Outcome<()> {
        let (parent, name) = self.parent(path)?;
        self.0
            .make_symlink(&parent, name, target.as_bytes(), ROOT)?;
        Ok(())
    }

    pub fn link(&self, old: &str, new: &str) -> Outcome<()> {
        let node = self.node(old)?;
        let (parent, name) = self.parent(new)?;
        self.0.link(&node, &parent, name)?;
        Ok(())
    }

    pub fn unlink(&self, path: &str) -> Outcome<()> {
        let (parent, name) = self.parent(path)?;
        self.0.unlink(&parent, name)
    }

    pub fn rmdir(&self, path: &str) -> Outcome<()> {
        let (parent, name) = self.parent(path)?;
        self.0.rmdir(&parent, name)
    }

    pub fn rename(&self, old: &str, new: &str) -> Outcome<()> {
        self.rename_with(old, new, RenameFlags::empty())
    }

    pub fn exchange(&self, old: &str, new: &str) -> Outcome<()> {
        self.rename_with(old, new, RenameFlags::EXCHANGE)
    }

    pub fn rename_with(&self, old: &str, new: &str, flags: RenameFlags) -> Outcome<()> {
        let (old_parent, old_name) = self.parent(old)?;
        let (new_parent, new_name) = self.parent(new)?;
        let old = Entry {
            parent: &old_parent,
            name: old_name,
        };
        let new = Entry {
            parent: &new_parent,
            name: new_name,
        };
        self.0.rename(old, new, flags, ROOT)
    }

    /// fsync(2) of a directory.
    pub fn sync_directory(&self, path: &str) -> Outcome<()> {
        self.0.sync_directory(&self.node(path)?)
    }
}

/// Metadata.
impl Guest {
    fn change(&self, path: &str, changes: Changes) -> Outcome<()> {
        self.0.set_attributes(&self.node(path)?, &changes)?;
        Ok(())
    }

    pub fn chmod(&self, path: &str, mode: u32) -> Outcome<()> {
        let changes = Changes {
            mode: Some(mode),
            ..Changes::default()
        };
        self.change(path, changes)
    }

    /// chmod(2) to set-gid by somebody who is not in the file's group.
    pub fn chmod_as_user(&self, path: &str) -> Outcome<()> {
        let changes = Changes {
            mode: Some(0o2755),
            set_id: SetId::ClearFor(USER),
            ..Changes::default()
        };
        self.change(path, changes)
    }

    pub fn chown(&self, path: &str) -> Outcome<()> {
        let changes = Changes {
            uid: Some(5),
            gid: Some(6),
            ..Changes::default()
        };
        self.change(path, changes)
    }

    /// chown(2) to the user's own group.
    pub fn chown_as_user(&self, path: &str) -> Outcome<()> {
        let changes = Changes {
            gid: Some(USER.gid),
            set_id: SetId::ClearFor(USER),
            ..Changes::default()
        };
        self.change(path, changes)
    }

    pub fn set_mtime(&self, path: &str) -> Outcome<()> {
        let mtime = Time {
            seconds: 1_234_567_890,
            nanoseconds: 5,
        };
        let changes = Changes {
            mtime: Some(NewTime::At(mtime)),
            ..Changes::default()
        };
        self.change(path, changes)
    }

    pub fn truncate(&self, path: &str, size: u64) -> Outcome<()> {
        let changes = Changes {
            size: Some(size),
            ..Changes::default()
        };
        self.change(path, changes)
    }

    pub fn set_xattr(&self, path: &str, name: &[u8], value: &[u8]) -> Outcome<()> {
        let node = self.node(path)?;
        self.0.set_xattr(&node, name, value, SetXattr::Any, &ROOT)
    }

    pub fn set_acl_as_user(&self, path: &str, value: &[u8]) -> Outcome<()> {
        let node = self.node(path)?;
        let name = b"system.posix_acl_access";
        self.0.set_xattr(&node, name, value, SetXattr::Any, &USER)
    }

    pub fn remove_xattr(&self, path: &str, name: &[u8]) -> Outcome<()> {
        self.0.remove_xattr(&self.node(path)?, name)
    }
}

/// Content.
impl Guest {
    /// Opens a file for writing.
    pub fn open(&self, path: &str) -> Outcome<u64> {
        self.0.open(&self.node(path)?, WRITE)
    }

    /// Does something with an open file.
    fn opened<T>(
        &self,
        path: &str,
        flags: OpenFlags,
        act: impl FnOnce(u64) -> Outcome<T>,
    ) -> Outcome<T> {
        let handle = self.0.open(&self.node(path)?, flags)?;
        let done = act(handle);
        self.0.release(handle);
        done
    }

    /// Does something while a file is open for writing.
    pub fn while_open<T>(&self, path: &str, act: impl FnOnce() -> T) -> Outcome<T> {
        self.opened(path, WRITE, |_| Ok(act()))
    }

    /// Writes at the beginning of a file.
    pub fn write(&self, path: &str, bytes: &[u8]) -> Outcome<()> {
        self.write_at(path, 0, bytes)
    }

    pub fn write_at(&self, path: &str, offset: u64, bytes: &[u8]) -> Outcome<()> {
        self.write_by(path, offset, bytes, SetId::Keep)
    }

    /// A write by an ordinary user, which clears set-id bits.
    pub fn write_as_user(&self, path: &str) -> Outcome<()> {
        self.write_by(path, 0, b"x", SetId::ClearFor(USER))
    }

    fn write_by(&self, path: &str, offset: u64, bytes: &[u8], set_id: SetId) -> Outcome<()> {
        self.opened(path, WRITE, |handle| {
            let written = self.0.write(handle, offset, bytes, set_id)?;
            assert_eq!(written, bytes.len(), "{path}: a short write");
            Ok(())
        })
    }

    /// A new file with content.
    pub fn put(&self, path: &str, bytes: &[u8]) -> Outcome<()> {
        self.create(path)?;
        self.write(path, bytes)
    }

    /// open(2) with O_TRUNC.
    pub fn open_truncated(&self, path: &str) -> Outcome<()> {
        let flags = OpenFlags {
            truncate: true,
            set_id: SetId::Keep,
            ..WRITE
        };
        self.opened(path, flags, |_| Ok(()))
    }

    /// fallocate(2): its mode, offset and length.
    pub fn fallocate(&self, path: &str, mode: u32, offset: u64, length: u64) -> Outcome<()> {
        self.opened(path, WRITE, |handle| {
            self.0.fallocate(handle, mode, offset, length, SetId::Keep)
        })
    }

    pub fn copy_range(&self, from: &str, to: &str) -> Outcome<()> {
        self.opened(from, OpenFlags::default(), |source| {
            self.opened(to, WRITE, |target| {
                self.0
                    .copy_range((source, 0), (target, 0), 4000, SetId::Keep)?;
                Ok(())
            })
        })
    }

    /// Removes a file, and writes to it while it is open.
    pub fn unlink_open(&self, path: &str) -> Outcome<()> {
        self.opened(path, WRITE, |handle| {
            self.unlink(path)?;
            self.0.write(handle, 0, b"unseen", SetId::Keep)?;
            Ok(())
        })
    }

    /// fsync(2) or fdatasync(2) of a file.
    pub fn sync(&self, path: &str, data_only: bool) -> Outcome<()> {
        self.opened(path, OpenFlags::default(), |handle| {
            self.0.sync_file(handle, data_only)
        })
    }
}
