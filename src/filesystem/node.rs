//! A node: an inode of a live image that the kernel (or background work) refers to.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

use parking_lot::Mutex;

use super::ledger::Entry;
use super::transport::Transport;

use crate::store::digest::Digest;
use crate::store::mark::DirectoryRole;
use crate::store::metadata::{FileType, Time};
use crate::store::number::Number;

/// Where a node stands in the view. Changes under `Filesystem::names` held for writing.
#[derive(Debug, Clone)]
pub enum Place {
    /// The root of the view.
    Root,
    /// A name in a directory; of a shared file with several names, one of them.
    Entry {
        /// The directory. Keeps its node in the table.
        parent: Arc<Node>,
        /// The name.
        name: Box<[u8]>,
    },
    /// `index/NUMBER`: a private file that has (or had) several names.
    Index,
    /// It has no name any more. A private one lies in `orphans/NUMBER`.
    Unlinked,
}

/// Which layer a node's inode is in. Changes under `Filesystem::names` held for writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A non-directory of the shared layer, by its number there.
    Shared(Number),
    /// A private non-directory, at the place that [`Place`] says.
    Private,
    /// A directory of the shared layer with nothing private in its place.
    SharedDirectory(Number),
    /// A private directory.
    PrivateDirectory(DirectoryRole),
}

/// What an open file is on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    /// An object, open for reading: content must be promoted before it is altered.
    Object {
        /// Bytes.
        size: u64,
        /// Which; none where the size is 0.
        digest: Option<Digest>,
        /// When it was opened: [`crate::store::verification::Verification::epoch`].
        epoch: u64,
    },
    /// The private file, open for reading.
    Private,
    /// The private file, open for reading and writing: only while the node has writers.
    Writable,
}

/// The open file behind all handles of a node: there is one, so that every handle sees every write.
/// Whoever puts content elsewhere replaces it, with `Filesystem::names` held for writing.
#[derive(Debug)]
pub struct OpenFile {
    /// The host file.
    pub file: OwnedFd,
    /// What it is.
    pub backing: Backing,
    /// The mark may say times to show: they are dropped before the guest's first change.
    pub shown_times: AtomicBool,
}

impl OpenFile {
    /// The object that it is.
    pub(super) fn digest(&self) -> Option<Digest> {
        match self.backing {
            Backing::Object { digest, .. } => digest,
            Backing::Private | Backing::Writable => None,
        }
    }
}

/// What changes about a node. A leaf lock: nothing is locked or called while it is held.
#[derive(Debug)]
pub struct State {
    /// Where it stands.
    pub place: Place,
    /// When its last name went: the ctime of a shared inode that has none here any more.
    pub unlinked: Time,
    /// A change has put something else in its place.
    pub is_replaced: bool,
    /// Which layer it is in.
    pub source: Source,
    /// Of a directory: its mark is known to have no shown times.
    pub own_times: bool,
    /// The table looks at it again later.
    pub(super) queued: bool,
    /// Handles that are open.
    pub handles: u32,
    /// Those of them that execve(2) opened; the kernel closes one when the program has ended.
    pub programs: u32,
    /// The file behind them; `None` when none is open or none was needed yet.
    pub open: Option<Arc<OpenFile>>,
    /// How the kernel gets at it; `None` before it was first opened.
    pub(super) transport: Option<Box<Transport>>,
    /// What the ledger says of it, once the kernel was told of it.
    pub(super) known: Option<Entry>,
}

/// An inode of a live image. About 200 bytes with its name and its place in the table.
#[derive(Debug)]
pub struct Node {
    /// st_ino, and the nodeid but for its top byte.
    pub number: Number,
    /// The type never changes.
    pub file_type: FileType,
    /// How many lookups the kernel has not forgotten. Changes under the table's lock only.
    pub(super) lookups: AtomicU64,
    /// Handles and operations that write. Raised before anything else, which cancels a fold.
    pub(super) writers: AtomicU32,
    /// Held while content is promoted or folded; taken before `Filesystem::names`.
    pub(super) content: Mutex<()>,
    pub(super) state: Mutex<State>,
}

impl Node {
    /// A node that the kernel does not know yet.
    pub fn new(number: Number, file_type: FileType, place: Place, source: Source) -> Self {
        Self {
            number,
            file_type,
            lookups: AtomicU64::new(0),
            writers: AtomicU32::new(0),
            content: Mutex::new(()),
            state: Mutex::new(State {
                place,
                unlinked: Time::default(),
                is_replaced: false,
                source,
                own_times: false,
                queued: false,
                handles: 0,
                programs: 0,
                open: None,
                transport: None,
                known: None,
            }),
        }
    }

    /// Where it stands now.
    pub fn place(&self) -> Place {
        self.state.lock().place.clone()
    }

    /// Which layer it is in now.
    pub fn source(&self) -> Source {
        self.state.lock().source
    }

    /// Its path from the root, without a leading '/'; `None` if it has no name, or stands in `index/`. With
    /// `Filesystem::names` held.
    pub(super) fn path(&self) -> Option<Vec<u8>> {
        let mut names: Vec<Box<[u8]>> = Vec::new();
        let mut place = self.place();
        loop {
            match place {
                Place::Entry { parent, name } => {
                    names.push(name);
                    place = parent.place();
                }
                Place::Root => break,
                Place::Index | Place::Unlinked => return None,
            }
        }
        names.reverse();
        Some(names.join(&b'/'))
    }

    /// The shared directory that shows through a directory.
    pub fn shared_directory(&self) -> Option<Number> {
        match self.source() {
            Source::SharedDirectory(shared) => Some(shared),
            Source::PrivateDirectory(role) => role.shared(),
            Source::Shared(_) | Source::Private => None,
        }
    }
}

impl Drop for Node {
    /// The last reference to a directory may be its child's: not by recursion, for a guest makes
    /// trees as deep as it likes.
    fn drop(&mut self) {
        let mut place = std::mem::replace(&mut self.state.get_mut().place, Place::Unlinked);
        while let Place::Entry { parent, .. } = place {
            let Some(mut parent) = Arc::into_inner(parent) else {
                return;
            };
            place = std::mem::replace(&mut parent.state.get_mut().place, Place::Unlinked);
        }
    }
}
