//! What a guest does in a live image, by path.

use std::sync::Arc;

use foldfs::filesystem::Caller;
use foldfs::filesystem::Filesystem;
use foldfs::filesystem::create::Permissions;
use foldfs::filesystem::data::SetId;
use foldfs::filesystem::failure::Outcome;
use foldfs::filesystem::node::Node;
use foldfs::filesystem::open::OpenFlags;
use foldfs::filesystem::rename::Entry;
use foldfs::filesystem::set_attributes::Changes;
use rustix::fs::RenameFlags;
use rustix::io::Errno;

const ROOT: Caller = Caller {
    uid: 0,
    gid: 0,
    pid: 0,
};

/// An image at work.
pub struct Guest(pub Arc<Filesystem>);

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

    pub fn unlink(&self, path: &str) -> Outcome<()> {
        let (parent, name) = self.parent(path)?;
        self.0.unlink(&parent, name)
    }

    pub fn rmdir(&self, path: &str) -> Outcome<()> {
        let (parent, name) = self.parent(path)?;
        self.0.rmdir(&parent, name)
    }

    pub fn mkdir(&self, path: &str) -> Outcome<()> {
        let (parent, name) = self.parent(path)?;
        self.0.make_directory(&parent, name, &permissions())?;
        Ok(())
    }

    pub fn rename(&self, old: &str, new: &str) -> Outcome<()> {
        self.rename_with(old, new, RenameFlags::empty())
    }

    pub fn exchange(&self, old: &str, new: &str) -> Outcome<()> {
        self.rename_with(old, new, RenameFlags::EXCHANGE)
    }

    fn rename_with(&self, old: &str, new: &str, flags: RenameFlags) -> Outcome<()> {
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

    pub fn link(&self, old: &str, new: &str) -> Outcome<()> {
        let node = self.node(old)?;
        let (parent, name) = self.parent(new)?;
        self.0.link(&node, &parent, name)?;
        Ok(())
    }

    pub fn symlink(&self, target: &str, path: &str) -> Outcome<()> {
        let (parent, name) = self.parent(path)?;
        self.0
            .make_symlink(&parent, name, target.as_bytes(), ROOT)?;
        Ok(())
    }

    pub fn create(&self, path: &str) -> Outcome<()> {
        let (parent, name) = self.parent(path)?;
        self.0.create(&parent, name, &permissions())?;
        Ok(())
    }

    /// Writes at the beginning of a file.
    pub fn write(&self, path: &str, bytes: &[u8]) -> Outcome<()> {
        let handle = self.open(path)?;
        let written = self.0.write(handle, 0, bytes, SetId::Keep);
        self.0.release(handle);
        written.map(|_| ())
    }

    /// Opens a file for writing.
    pub fn open(&self, path: &str) -> Outcome<u64> {
        let flags = OpenFlags {
            write: true,
            truncate: None,
            execute: false,
        };
        self.0.open(&self.node(path)?, flags)
    }

    pub fn chmod(&self, path: &str, mode: u32) -> Outcome<()> {
        let changes = Changes {
            mode: Some(mode),
            ..Changes::default()
        };
        self.0.set_attributes(&self.node(path)?, &changes)?;
        Ok(())
    }
}

fn permissions() -> Permissions {
    Permissions {
        mode: 0o755,
        umask: 0o022,
        caller: ROOT,
    }
}
