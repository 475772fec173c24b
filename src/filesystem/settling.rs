//! What the kernel may keep of the names it is told while many of them are about to change together.
//!
//! A look-up mostly ends in the kernel's cache, which no lock of ours covers. So before such a change the
//! kernel is told to ask about each of the names again ([`Filesystem::unsettle`]), and until it is made
//! every answer holds for once only. A look-up then comes before the change, of which it sees nothing, or
//! after it, and sees all.

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::{RwLock, RwLockReadGuard};

use super::Filesystem;
use crate::store::number::Number;

/// What the kernel is told while something is about to change.
#[derive(Default)]
pub(super) struct Settling {
    /// Held shared by who answers, until the kernel has got it. Outermost of all locks.
    answers: RwLock<()>,
    /// How many changes are on their way.
    unsettled: AtomicUsize,
    /// A change is carried out in part: no name is shown until all of it is.
    pub(super) in_part: AtomicBool,
}

/// As long as it lives an answer to the kernel is on its way.
pub struct Answering<'a> {
    keeps: bool,
    _answers: RwLockReadGuard<'a, ()>,
}

impl Answering<'_> {
    /// Whether the kernel may keep what the answer says of names and attributes.
    pub fn keeps(&self) -> bool {
        self.keeps
    }
}

/// What a change of many names alters of what the kernel may know.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Affected {
    /// Names that will lead elsewhere, and their directories.
    pub names: BTreeSet<(Number, Box<[u8]>)>,
    /// Directories that get other names or metadata.
    pub directories: BTreeSet<Number>,
    /// Other inodes that lose names.
    pub files: BTreeSet<Number>,
}

impl Affected {
    /// Whether who has been told to ask about `all` asks about this.
    pub fn is_within(&self, all: &Affected) -> bool {
        self.names.is_subset(&all.names) && self.directories.is_subset(&all.directories)
    }
}

/// Directories of which the kernel may know something.
struct Known(HashSet<Number>);

impl Known {
    fn names<'a>(&self, affected: &'a Affected) -> impl Iterator<Item = &'a (Number, Box<[u8]>)> {
        let names = affected.names.iter();
        names.filter(|(directory, _)| self.0.contains(directory))
    }

    fn directories<'a>(&self, affected: &'a Affected) -> impl Iterator<Item = &'a Number> {
        let directories = affected.directories.iter();
        directories.filter(|directory| self.0.contains(directory))
    }
}

/// While it lives the kernel keeps nothing that it is told.
pub struct Unsettled<'a>(&'a Settling);

impl Drop for Unsettled<'_> {
    fn drop(&mut self) {
        self.0.unsettled.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Filesystem {
    /// To be called before what an answer says is looked up.
    pub fn answering(&self) -> Answering<'_> {
        let answers = self.settling.answers.read();
        Answering {
            keeps: self.settling.unsettled.load(Ordering::SeqCst) == 0,
            _answers: answers,
        }
    }

    /// Has the kernel ask about all of this each time from now on. No lock is held: requests in these
    /// directories are waited for.
    pub fn unsettle(&self, affected: &Affected) -> Unsettled<'_> {
        self.settling.unsettled.fetch_add(1, Ordering::SeqCst);
        let unsettled = Unsettled(&self.settling);
        // What was answered before is with the kernel now, and can be forgotten.
        drop(self.settling.answers.write());
        let known = self.known_of(affected);
        self.tell(|upcall| {
            for (directory, name) in known.names(affected) {
                upcall.forget_entry(directory.get(), name);
            }
            for directory in known.directories(affected) {
                upcall.forget_attributes(directory.get());
            }
        });
        unsettled
    }

    /// What of it is in the table: the kernel knows nothing of another directory, or in it, and keeps nothing of
    /// an answer that is on its way while something is unsettled.
    fn known_of(&self, affected: &Affected) -> Known {
        let directories = affected.directories.iter().copied();
        let directories = directories.chain(affected.names.iter().map(|(directory, _)| *directory));
        Known(
            directories
                .filter(|&directory| self.table.has(directory))
                .collect(),
        )
    }

    /// Tells the kernel that all of this has changed. No lock is held.
    pub fn tell_changed(&self, affected: &Affected) {
        let files = affected.files.iter().filter_map(|&number| {
            let node = self.table.get(number)?;
            let nodeid = node.state.lock().identity().nodeid(number);
            self.done(node);
            Some(nodeid)
        });
        let files: Vec<u64> = files.collect();
        let known = self.known_of(affected);
        self.tell(|upcall| {
            for (directory, name) in known.names(affected) {
                upcall.forget_entry(directory.get(), name);
            }
            for directory in known.directories(affected) {
                upcall.forget_directory(directory.get());
            }
            files
                .iter()
                .for_each(|&file| upcall.forget_attributes(file));
        });
    }
}
