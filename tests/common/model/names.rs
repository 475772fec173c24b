//! Making, removing and renaming names.

use std::collections::BTreeMap;

use rustix::fs::{FileType, makedev};
use rustix::io::Errno;

use super::super::UMASK;
use super::super::op::{self, Op, Renaming, Special};
use super::{Body, Id, Model, Modified, Node, Outcome, Result};

const SETGID: u32 = 0o2000;

/// Type and device of what mknod makes.
pub fn special(what: Special) -> (FileType, u64) {
    match what {
        Special::Fifo => (FileType::Fifo, 0),
        Special::Socket => (FileType::Socket, 0),
        Special::Null => (FileType::CharacterDevice, makedev(1, 3)),
        Special::Zero => (FileType::CharacterDevice, 0),
        Special::Block => (FileType::BlockDevice, makedev(7, 200)),
    }
}

impl Model {
    pub(super) fn perform_names(&mut self, op: &Op<Vec<u8>>) -> Option<Result<Outcome>> {
        let done = |result: Result<()>| result.map(|()| Outcome::Done);
        Some(match op {
            Op::Mkdir { at, mode } => {
                done(self.make(at, Body::Directory(BTreeMap::new()), mode & 0o1777))
            }
            Op::Symlink { at, target } => {
                done(self.make(at, Body::Symlink(op::target(*target)), 0o777))
            }
            Op::Mknod { at, what, mode } => {
                let (file_type, device) = special(*what);
                done(self.make(at, Body::Special(file_type, device), *mode))
            }
            Op::Link { from, to } => done(self.link(from, to)),
            Op::Unlink { at } => done(self.unlink(at)),
            Op::Rmdir { at } => done(self.rmdir(at)),
            Op::Rename { from, to, how } => done(self.rename(from, to, *how)),
            Op::Readdir { at } => self.find(at).and_then(|id| match &self.nodes[&id].body {
                Body::Directory(entries) => Ok(Outcome::Names(entries.keys().cloned().collect())),
                _ => Err(Errno::NOTDIR),
            }),
            Op::Readlink { at } => self.find(at).and_then(|id| match &self.nodes[&id].body {
                Body::Symlink(target) => Ok(Outcome::Bytes(target.clone())),
                _ => Err(Errno::INVAL),
            }),
            Op::Stat { at } => done(self.find(at).map(|_| ())),
            _ => return None,
        })
    }

    fn make(&mut self, at: &[u8], body: Body, mode: u32) -> Result<()> {
        let (directory, name) = self.locate(at)?;
        if self.child(directory, name)?.is_some() {
            return Err(Errno::EXIST);
        }
        self.make_in(directory, name, body, mode);
        Ok(())
    }

    /// Makes an entry that does not exist yet, as inode_init_owner and posix_acl_create do.
    pub(super) fn make_in(&mut self, directory: Id, name: &[u8], body: Body, mode: u32) -> Id {
        let parent = &self.nodes[&directory];
        let is_directory = matches!(body, Body::Directory(_));
        let symlink = matches!(body, Body::Symlink(_));
        let inherits = parent.mode & SETGID != 0;
        let gid = if inherits { parent.gid } else { 0 };
        let mut mode = mode;
        if inherits && is_directory {
            mode |= SETGID;
        }
        let mut acl = None;
        let mut default_acl = None;
        match &parent.default_acl {
            _ if symlink => {}
            Some(default) => {
                let (inherited, masked) = default.inherited(mode);
                acl = inherited;
                mode = masked;
                default_acl = is_directory.then(|| default.clone());
            }
            None => mode &= !UMASK,
        }
        let tick = self.tick;
        let node = Node {
            body,
            mode,
            uid: 0,
            gid,
            names: 1,
            xattrs: BTreeMap::new(),
            acl,
            default_acl,
            mtime: Modified::By(tick),
            ctime: tick,
            ctime_maybe: 0,
        };
        let id = self.fresh_id();
        self.nodes.insert(id, node);
        self.entries_mut(directory).insert(name.to_vec(), id);
        self.touch(directory);
        id
    }

    fn link(&mut self, from: &[u8], to: &[u8]) -> Result<()> {
        let (source, source_name) = self.locate(from)?;
        let (directory, name) = self.locate(to)?;
        let id = self.child(source, source_name)?.ok_or(Errno::NOENT)?;
        if self.child(directory, name)?.is_some() {
            return Err(Errno::EXIST);
        }
        if self.is_directory(id) {
            return Err(Errno::PERM);
        }
        self.entries_mut(directory).insert(name.to_vec(), id);
        self.node(id).names += 1;
        self.change(id);
        self.touch(directory);
        Ok(())
    }

    fn unlink(&mut self, at: &[u8]) -> Result<()> {
        let (directory, name) = self.locate(at)?;
        let id = self.child(directory, name)?.ok_or(Errno::NOENT)?;
        if self.is_directory(id) {
            return Err(Errno::ISDIR);
        }
        self.entries_mut(directory).remove(name);
        self.touch(directory);
        self.drop_name(id);
        Ok(())
    }

    fn drop_name(&mut self, id: Id) {
        self.node(id).names -= 1;
        self.change(id);
    }

    fn is_empty(&self, id: Id) -> bool {
        matches!(&self.nodes[&id].body, Body::Directory(entries) if entries.is_empty())
    }

    fn rmdir(&mut self, at: &[u8]) -> Result<()> {
        let (directory, name) = self.locate(at)?;
        let id = self.child(directory, name)?.ok_or(Errno::NOENT)?;
        if !self.is_directory(id) {
            return Err(Errno::NOTDIR);
        }
        if !self.is_empty(id) {
            return Err(Errno::NOTEMPTY);
        }
        self.entries_mut(directory).remove(name);
        self.touch(directory);
        self.drop_name(id);
        Ok(())
    }

    /// Whether `below` is `id` or a directory somewhere in it.
    fn contains(&self, id: Id, below: Id) -> bool {
        id == below
            || match &self.nodes[&id].body {
                Body::Directory(entries) => entries.values().any(|e| self.contains(*e, below)),
                _ => false,
            }
    }

    /// As do_renameat2 and vfs_rename check, in their order.
    fn rename(&mut self, from: &[u8], to: &[u8], how: Renaming) -> Result<()> {
        let (source, source_name) = self.locate(from)?;
        let (target, target_name) = self.locate(to)?;
        let id = self.child(source, source_name)?.ok_or(Errno::NOENT)?;
        let replaced = self.child(target, target_name)?;
        match (how, replaced) {
            (Renaming::NoReplace, Some(_)) => return Err(Errno::EXIST),
            (Renaming::Exchange, None) => return Err(Errno::NOENT),
            _ => {}
        }
        if self.contains(id, target) {
            return Err(Errno::INVAL);
        }
        if let Some(replaced) = replaced
            && self.contains(replaced, source)
        {
            let exchange = how == Renaming::Exchange;
            return Err(if exchange {
                Errno::INVAL
            } else {
                Errno::NOTEMPTY
            });
        }
        if replaced == Some(id) {
            return Ok(());
        }
        if how == Renaming::Exchange {
            let other = replaced.ok_or(Errno::NOENT)?;
            self.entries_mut(source).insert(source_name.to_vec(), other);
            self.entries_mut(target).insert(target_name.to_vec(), id);
            self.change(other);
        } else {
            if let Some(replaced) = replaced {
                match (self.is_directory(id), self.is_directory(replaced)) {
                    (true, false) => return Err(Errno::NOTDIR),
                    (false, true) => return Err(Errno::ISDIR),
                    (true, true) if !self.is_empty(replaced) => return Err(Errno::NOTEMPTY),
                    _ => {}
                }
                self.drop_name(replaced);
            }
            self.entries_mut(source).remove(source_name);
            self.entries_mut(target).insert(target_name.to_vec(), id);
            if how == Renaming::Whiteout {
                let whiteout = Body::Special(FileType::CharacterDevice, 0);
                self.make_in(source, source_name, whiteout, 0);
            }
        }
        self.change(id);
        self.touch(source);
        self.touch(target);
        Ok(())
    }
}
