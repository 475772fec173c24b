//! What no guest may alter (`foldfs lock`): judged by name, and by inode where a file has several names.
//!
//! Who locks sets the locks with `family.change` held exclusively, and then looks for those who have a
//! locked file open for writing. Changes of names and metadata are judged with `family.change` held shared;
//! who is about to write counts as a writer before it is judged. So whatever is not judged by the new locks
//! is over when they are set, or is found.
//!
//! Locks do not keep from a family's changes, folds and placement: these don't come from a guest.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, RwLock};
use rustix::fs::RenameFlags;
use rustix::io;

use super::Filesystem;
use super::failure::{Failure, Locked, Outcome};
use super::node::{Node, Place, Source};
use super::rename::Entry;
use crate::merge::locked;
use crate::merge::locks::Locks;
use crate::merge::lookup::{Item, OpenDirectory, Site};
use crate::store::metadata::FileType;
use crate::store::number::Number;

/// What is locked in a family. All its live images have the same one.
#[derive(Debug, Default)]
pub(super) struct FamilyLocks {
    /// Most families have none: no request of theirs takes a lock for it.
    is_any: AtomicBool,
    now: RwLock<Arc<Locks>>,
}

impl FamilyLocks {
    pub(super) fn new(locks: Locks) -> Self {
        Self {
            is_any: AtomicBool::new(!locks.is_empty()),
            now: RwLock::new(Arc::new(locks)),
        }
    }

    pub(super) fn set(&self, locks: Arc<Locks>) {
        let mut now = self.now.write();
        self.is_any.store(!locks.is_empty(), Ordering::SeqCst);
        *now = locks;
    }

    fn now(&self) -> Option<Arc<Locks>> {
        match self.is_any.load(Ordering::SeqCst) {
            true => Some(self.now.read().clone()),
            false => None,
        }
    }
}

/// What of it a live image has to do with.
#[derive(Debug, Default)]
pub(super) struct LocksInForce {
    family: Arc<FamilyLocks>,
    links: Mutex<Option<LockedLinks>>,
}

impl LocksInForce {
    /// From now on these are in force. Nobody uses the image yet.
    pub(super) fn enforce(&mut self, locks: Arc<FamilyLocks>) {
        self.family = locks;
    }
}

/// The files of several names one of which is locked. No guest can make one, or end one: a name of it that
/// comes or goes alters it, and a locked name neither comes nor goes.
#[derive(Debug)]
struct LockedLinks {
    of: Arc<Locks>,
    by_number: Arc<HashMap<Number, Locked>>,
}

fn locked_by(locks: &Locks, path: &[u8], is_directory: bool) -> Option<Locked> {
    let pattern = locks.of(path, is_directory)?.to_owned();
    let path = path.to_vec();
    Some(Locked { path, pattern })
}

fn refuse(locked: Option<Locked>) -> Outcome<()> {
    match locked {
        Some(locked) => Err(Failure::Locked(Box::new(locked))),
        None => Ok(()),
    }
}

fn judge(locks: &Locks, path: &[u8], file_type: FileType) -> Outcome<()> {
    refuse(locked_by(locks, path, file_type == FileType::Directory))
}

/// The path of a name; `None` in a directory that has none.
fn path_of(entry: Entry<'_>) -> Option<Vec<u8>> {
    let mut path = entry.parent.path()?;
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(entry.name);
    Some(path)
}

impl Filesystem {
    /// Before an inode is altered for a guest: with `names` held, and `change` or as a writer of it.
    ///
    /// # Errors
    /// It is locked: EPERM.
    pub(super) fn refuse_locked(&self, node: &Arc<Node>) -> Outcome<()> {
        match self.locks.family.now() {
            Some(locks) => self.refuse_by(&locks, node),
            None => Ok(()),
        }
    }

    /// Likewise without `names` held.
    pub(super) fn refuse_locked_now(&self, node: &Arc<Node>) -> Outcome<()> {
        let Some(locks) = self.locks.family.now() else {
            return Ok(());
        };
        let _names = self.names.read();
        self.refuse_by(&locks, node)
    }

    fn refuse_by(&self, locks: &Arc<Locks>, node: &Arc<Node>) -> Outcome<()> {
        if let Some(path) = node.path() {
            judge(locks, &path, node.file_type)?;
        }
        match self.may_have_several_names(node)? {
            true => refuse(self.locked_links(locks)?.get(&node.number).cloned()),
            false => Ok(()),
        }
    }

    fn may_have_several_names(&self, node: &Arc<Node>) -> Outcome<bool> {
        Ok(match (node.place(), node.source()) {
            (Place::Index, _) => true,
            (Place::Entry { .. }, Source::Shared(shared)) => {
                self.shared_inode(node, shared)?.links > 1
            }
            _ => false,
        })
    }

    fn locked_links(&self, locks: &Arc<Locks>) -> Outcome<Arc<HashMap<Number, Locked>>> {
        let is_of_these = |known: &&LockedLinks| Arc::ptr_eq(&known.of, locks);
        if let Some(known) = self.locks.links.lock().as_ref().filter(is_of_these) {
            return Ok(known.by_number.clone());
        }
        let mut by_number = HashMap::new();
        locked::visit(&self.view, locks, &mut |visit| {
            let several_names = match visit.item {
                Item::Private { site, .. } => *site == Site::Index,
                Item::Shared { inode, .. } => inode.links > 1,
            };
            if several_names
                && visit.item.directory().is_none()
                && let Some(locked) = locked_by(locks, visit.path, false)
            {
                by_number.insert(visit.item.number(), locked);
            }
            Ok(())
        })?;
        let by_number = Arc::new(by_number);
        *self.locks.links.lock() = Some(LockedLinks {
            of: locks.clone(),
            by_number: by_number.clone(),
        });
        Ok(by_number)
    }

    /// Somebody who is no guest has altered names.
    pub(super) fn forget_locked_links(&self) {
        *self.locks.links.lock() = None;
    }

    /// Before a name of a directory comes, goes, or leads elsewhere: with `change` and `names` held.
    ///
    /// # Errors
    /// It is locked: EPERM.
    pub(super) fn refuse_locked_name(
        &self,
        parent: &Arc<Node>,
        name: &[u8],
        file_type: FileType,
    ) -> Outcome<()> {
        let Some(locks) = self.locks.family.now() else {
            return Ok(());
        };
        match path_of(Entry { parent, name }) {
            Some(path) => judge(&locks, &path, file_type),
            None => Ok(()),
        }
    }

    /// Before a rename: neither of both may be locked where it is or where it comes to, nor may anything
    /// below them.
    ///
    /// # Errors
    /// EPERM.
    pub(super) fn refuse_locked_rename(
        &self,
        (old, source): (Entry<'_>, &Arc<Node>),
        (new, target): (Entry<'_>, Option<&Arc<Node>>),
        flags: RenameFlags,
    ) -> Outcome<()> {
        let Some(locks) = self.locks.family.now() else {
            return Ok(());
        };
        let (Some(from), Some(to)) = (path_of(old), path_of(new)) else {
            return Ok(());
        };
        self.refuse_by(&locks, source)?;
        for path in [&from, &to] {
            judge(&locks, path, source.file_type)?;
        }
        if flags.contains(RenameFlags::WHITEOUT) {
            judge(&locks, &from, FileType::CharDevice)?;
        }
        self.refuse_locked_below(&locks, source, [&from, &to])?;
        let Some(target) = target else {
            return Ok(());
        };
        self.refuse_by(&locks, target)?;
        judge(&locks, &to, target.file_type)?;
        if flags.contains(RenameFlags::EXCHANGE) {
            judge(&locks, &from, target.file_type)?;
            self.refuse_locked_below(&locks, target, [&to, &from])?;
        }
        Ok(())
    }

    fn refuse_locked_below(
        &self,
        locks: &Locks,
        directory: &Arc<Node>,
        [from, to]: [&[u8]; 2],
    ) -> Outcome<()> {
        let may_be = locks.may_reach_below(from) || locks.may_reach_below(to);
        if directory.file_type != FileType::Directory || !may_be {
            return Ok(());
        }
        let private = self.private_directory(directory)?;
        let private = private.map(|private| io::fcntl_dupfd_cloexec(&*private, 0));
        let top = OpenDirectory {
            private: private.transpose()?,
            shared: directory.shared_directory(),
        };
        let found = locked::first_below(&self.view, top, locks, [from, to])?;
        refuse(found.map(|(path, pattern)| Locked { path, pattern }))
    }

    /// A file that these locks lock, in force or not, and that somebody has open for writing: its path.
    ///
    /// # Errors
    /// Those of reading the view.
    pub fn locked_writer(&self, locks: &Arc<Locks>) -> Outcome<Option<Vec<u8>>> {
        for node in self.table.all() {
            if node.writers.load(Ordering::SeqCst) == 0 {
                continue;
            }
            let _names = self.names.read();
            match self.refuse_by(locks, &node) {
                Err(Failure::Locked(locked)) => return Ok(Some(locked.path)),
                judged => judged?,
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
