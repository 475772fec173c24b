//! What guests do, by path.

use std::sync::Arc;

use foldfs::filesystem::data::SetId;
use foldfs::filesystem::failure::Failure;
use foldfs::filesystem::node::Node;
use foldfs::filesystem::open::OpenFlags;
use foldfs::filesystem::rename::Entry;
use foldfs::filesystem::set_attributes::{Changes, NewTime};
use foldfs::filesystem::xattrs::SetXattr;
use foldfs::filesystem::{Caller, Filesystem};
use foldfs::store::metadata::{FileType, Time};
use rustix::fs::RenameFlags;
use rustix::io::Errno;

use super::common::op;
use super::family::find;
use super::family::live::{ROOT, WRITE, permissions};
use super::world::{Done, World, refused};

/// In no group of root's, and no process.
const USER: Caller = Caller {
    uid: 1000,
    gid: 1000,
    pid: 0,
};

/// A guest in an image.
pub struct Hands(pub Arc<Filesystem>);

type Outcome<T> = Result<T, String>;

fn gone() -> String {
    refused(Failure::from(Errno::NOENT))
}

impl Hands {
    /// A guest of this image.
    pub fn on(world: &World, image: &str) -> Outcome<Hands> {
        Ok(Hands(world.filesystem(image)?))
    }

    fn node(&self, path: &str) -> Outcome<Arc<Node>> {
        Ok(find(&self.0, path).ok_or_else(gone)?.0)
    }

    fn parent<'a>(&self, path: &'a str) -> Outcome<(Arc<Node>, &'a [u8])> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((self.node(parent)?, name.as_bytes()))
    }

    pub fn create(&self, path: &str) -> Done {
        let (parent, name) = self.parent(path)?;
        let made = self.0.create(&parent, name, &permissions(0o644));
        made.map(drop).map_err(refused)
    }

    pub fn create_as_user(&self, path: &str) -> Done {
        let (parent, name) = self.parent(path)?;
        let mut permissions = permissions(0o644);
        permissions.caller = USER;
        let made = self.0.create(&parent, name, &permissions);
        made.map(drop).map_err(refused)
    }

    /// chmod(2) by somebody who is not in the file's group.
    pub fn chmod_as_user(&self, path: &str) -> Done {
        self.change(
            path,
            Changes {
                mode: Some(0o2755),
                set_id: SetId::ClearFor(USER),
                ..Changes::default()
            },
        )
    }

    /// chown(2) of a file that is set-gid without being a program.
    pub fn chown_as_user(&self, path: &str) -> Done {
        self.change(
            path,
            Changes {
                gid: Some(1000),
                set_id: SetId::ClearFor(USER),
                ..Changes::default()
            },
        )
    }

    pub fn set_acl_as_user(&self, path: &str, value: &[u8]) -> Done {
        let node = self.node(path)?;
        let name = b"system.posix_acl_access";
        let set = self.0.set_xattr(&node, name, value, SetXattr::Any, &USER);
        set.map_err(refused)
    }

    pub fn mkdir(&self, path: &str) -> Done {
        let (parent, name) = self.parent(path)?;
        let made = self.0.make_directory(&parent, name, &permissions(0o755));
        made.map(drop).map_err(refused)
    }

    pub fn mknod(&self, path: &str, file_type: FileType) -> Done {
        let (parent, name) = self.parent(path)?;
        let made = self
            .0
            .make_node(&parent, name, file_type, 0, &permissions(0o600));
        made.map(drop).map_err(refused)
    }

    pub fn symlink(&self, path: &str) -> Done {
        let (parent, name) = self.parent(path)?;
        let made = self.0.make_symlink(&parent, name, b"a/target", ROOT);
        made.map(drop).map_err(refused)
    }

    pub fn link(&self, old: &str, new: &str) -> Done {
        let node = self.node(old)?;
        let (parent, name) = self.parent(new)?;
        self.0.link(&node, &parent, name).map(drop).map_err(refused)
    }

    pub fn unlink(&self, path: &str) -> Done {
        let (parent, name) = self.parent(path)?;
        self.0.unlink(&parent, name).map_err(refused)
    }

    pub fn rmdir(&self, path: &str) -> Done {
        let (parent, name) = self.parent(path)?;
        self.0.rmdir(&parent, name).map_err(refused)
    }

    pub fn rename(&self, old: &str, new: &str, flags: RenameFlags) -> Done {
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
        self.0.rename(old, new, flags, ROOT).map_err(refused)
    }

    pub fn change(&self, path: &str, changes: Changes) -> Done {
        let node = self.node(path)?;
        self.0
            .set_attributes(&node, &changes)
            .map(drop)
            .map_err(refused)
    }

    pub fn chmod(&self, path: &str, mode: u32) -> Done {
        self.change(
            path,
            Changes {
                mode: Some(mode),
                ..Changes::default()
            },
        )
    }

    pub fn chown(&self, path: &str) -> Done {
        self.change(
            path,
            Changes {
                uid: Some(5),
                gid: Some(6),
                ..Changes::default()
            },
        )
    }

    pub fn set_mtime(&self, path: &str) -> Done {
        let mtime = Time {
            seconds: 1_234_567_890,
            nanoseconds: 5,
        };
        self.change(
            path,
            Changes {
                mtime: Some(NewTime::At(mtime)),
                ..Changes::default()
            },
        )
    }

    pub fn truncate(&self, path: &str, size: u64) -> Done {
        self.change(
            path,
            Changes {
                size: Some(size),
                ..Changes::default()
            },
        )
    }

    pub fn set_xattr(&self, path: &str, name: &[u8], value: &[u8]) -> Done {
        let node = self.node(path)?;
        let set = self.0.set_xattr(&node, name, value, SetXattr::Any, &ROOT);
        set.map_err(refused)
    }

    pub fn remove_xattr(&self, path: &str, name: &[u8]) -> Done {
        let node = self.node(path)?;
        self.0.remove_xattr(&node, name).map_err(refused)
    }

    /// Does something with a file that is open for writing.
    fn with<T>(&self, path: &str, act: impl FnOnce(u64) -> Outcome<T>) -> Outcome<T> {
        self.opened(path, WRITE, act)
    }

    fn opened<T>(
        &self,
        path: &str,
        flags: OpenFlags,
        act: impl FnOnce(u64) -> Outcome<T>,
    ) -> Outcome<T> {
        let node = self.node(path)?;
        let handle = self.0.open(&node, flags).map_err(refused)?;
        let done = act(handle);
        self.0.release(handle);
        done
    }

    pub fn write(&self, path: &str, offset: u64, bytes: &[u8]) -> Done {
        self.with(path, |handle| {
            let written = self.0.write(handle, offset, bytes, SetId::Keep);
            match written.map_err(refused)? == bytes.len() {
                true => Ok(()),
                false => Err("a short write".into()),
            }
        })
    }

    /// A write by an ordinary user, which clears set-id bits.
    pub fn write_as_user(&self, path: &str) -> Done {
        self.with(path, |handle| {
            let written = self.0.write(handle, 0, b"x", SetId::ClearFor(USER));
            written.map(drop).map_err(refused)
        })
    }

    pub fn open_truncated(&self, path: &str) -> Done {
        let flags = OpenFlags {
            truncate: Some(SetId::Keep),
            ..WRITE
        };
        self.opened(path, flags, |_| Ok(()))
    }

    pub fn fallocate(&self, path: &str) -> Done {
        self.with(path, |handle| {
            let done = self.0.fallocate(handle, 0, 0, 300_000, SetId::Keep);
            done.map_err(refused)
        })
    }

    pub fn copy_range(&self, from: &str, to: &str) -> Done {
        self.opened(from, OpenFlags::default(), |source| {
            self.with(to, |target| {
                let copied = self
                    .0
                    .copy_range((source, 0), (target, 0), 4000, SetId::Keep);
                copied.map(drop).map_err(refused)
            })
        })
    }

    /// fsync(2) of a file.
    pub fn sync(&self, path: &str, data_only: bool) -> Done {
        self.opened(path, OpenFlags::default(), |handle| {
            self.0.sync_file(handle, data_only).map_err(refused)
        })
    }

    /// fsync(2) of a directory.
    pub fn sync_directory(&self, path: &str) -> Done {
        let node = self.node(path)?;
        self.0.sync_directory(&node).map_err(refused)
    }

    /// Does something while a file is open for writing.
    pub fn while_open(&self, path: &str, act: impl FnOnce() -> Done) -> Done {
        self.with(path, |_| act())
    }

    /// Removes a file and writes to it while it is open.
    pub fn unlink_open(&self, path: &str) -> Done {
        self.with(path, |handle| {
            self.unlink(path)?;
            let written = self.0.write(handle, 0, b"unseen", SetId::Keep);
            written.map(drop).map_err(refused)
        })
    }

    /// A new file with content.
    pub fn put(&self, path: &str, bytes: &[u8]) -> Done {
        self.create(path)?;
        self.write(path, 0, bytes)
    }

    /// Leaves something of every kind in an image.
    pub fn live_in(&self) {
        let none = RenameFlags::empty();
        let act = || -> Done {
            self.mkdir("own")?;
            self.mkdir("own/empty")?;
            self.put("own/file", b"a private file")?;
            self.put("own/large", &op::pattern(9, 150_000))?;
            self.put("own/known", b"content of opt/z")?;
            self.put("own/one", b"a private file of two names")?;
            self.link("own/one", "own/two")?;
            self.put("own/last", b"the last of its names")?;
            self.link("own/last", "own/temporary")?;
            self.unlink("own/temporary")?;
            self.mknod("own/fifo", FileType::Fifo)?;
            self.mknod("own/device", FileType::CharDevice)?;
            self.mknod("own/socket", FileType::Socket)?;
            self.symlink("own/link")?;
            self.chown("own/fifo")?;
            self.put("own/setgid", b"locked as System V does")?;
            self.chmod("own/setgid", 0o2644)?;
            self.unlink("gone")?;
            self.unlink("emptied/file")?;
            self.chmod("stub", 0o600)?;
            self.rename("opt/x", "own/moved", none)?;
            self.write("usr/lib/a/d", 3, b"promoted")?;
            self.set_xattr("own/file", b"user.own", b"1")?;
            self.set_xattr("own/file", b"trusted.foldfs", b"2")?;
            // Opaque: made anew over a shared one.
            self.rmdir("hollow")?;
            self.mkdir("hollow")?;
            Ok(())
        };
        act().unwrap();
    }
}
