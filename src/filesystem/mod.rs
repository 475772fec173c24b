//! The live image: what a mount, a fold or a test works on. It knows neither FUSE nor virtio.
//!
//! # Locks, outermost first
//!
//! ```text
//! settling.answers      shared: an answer that the kernel may keep is on its way
//! node.content          content of one file is promoted, folded or truncated    (long)
//!   family.change       shared: any change of names or metadata; exclusive: a commit
//!     names             the image's names, places and sources                    (short: no data is copied)
//!       table           number to node
//!       directories     open private directories
//!       replaced        open private directories without a name
//!       listings        names of directories that are being read
//!         node.state    a leaf; handles, synced and locks, too
//! ```
//! Never two of one kind at a time, but for the names of a family's images where `change` is held
//! exclusively. A change of names: `change.read()`, then `names.write()`; a look: `names.read()`.

pub mod acl;
pub mod altered;
pub mod attributes;
mod caller;
mod change;
pub mod clone;
mod cover;
pub mod create;
pub mod data;
pub mod directory;
mod durability;
pub mod failure;
pub mod fold_file;
pub mod follow;
pub mod handles;
pub mod hold;
pub mod images;
pub mod inherit;
mod kept;
pub mod ledger;
pub mod locks;
#[cfg(test)]
mod name_tests;
pub mod node;
pub mod open;
pub mod passthrough;
#[cfg(test)]
mod passthrough_tests;
mod promote;
mod promote_content;
mod recall;
mod recover;
mod refusals;
pub mod remove;
pub mod rename;
mod resolve;
pub mod set_attributes;
pub mod settling;
pub mod statfs;
mod symlink;
pub mod table;
#[cfg(test)]
mod test_image;
pub mod transport;
mod uncover;
pub mod whereabouts;
pub mod xattrs;

use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use lru::LruCache;
use parking_lot::{Mutex, RwLock};

use crate::error::Result;
use crate::merge::lookup::{self, Item};
use crate::merge::view::View;
use crate::store::mark::{DirectoryRole, Role};
use crate::store::metadata::FileType;
use crate::store::number::Number;
use crate::store::open::Store;
pub use caller::Caller;
use change::Change;
pub use change::ChangeLock;
use directory::Listings;
use durability::SyncedDirectories;
use failure::Outcome;
use handles::Handles;
use node::{Node, Place, Source};
use table::Table;
use transport::Registered;

/// Private directories kept open for each image.
const DIRECTORIES_OPEN: NonZeroUsize = NonZeroUsize::MIN.saturating_add(511);

/// A live image. One for each image that is mounted or worked on in this process.
pub struct Filesystem {
    /// The store it lies in.
    pub store: Arc<Store>,
    /// The image's layers. Changed under `names` held for writing.
    pub view: View,
    change: Change,
    pub(super) names: RwLock<()>,
    pub(super) table: Table,
    pub(super) directories: Mutex<LruCache<Number, Arc<OwnedFd>>>,
    pub(super) root: Arc<Node>,
    /// Private directories that another one was renamed over: only the descriptor leads to them.
    pub(super) replaced: Mutex<HashMap<Number, Arc<OwnedFd>>>,
    /// Numbers of nodes that had something of the shared layer when they lost their last name.
    pub(super) unlinked_shared: Mutex<HashSet<Number>>,
    handles: Handles,
    listings: Listings,
    synced: SyncedDirectories,
    transport: RwLock<passthrough::Serving>,
    settling: settling::Settling,
    locks: locks::LocksInForce,
    /// Of what was taken over: files that nobody has open, until it is served.
    unused: Mutex<Vec<Registered>>,
}

impl Filesystem {
    /// Brings an image to life. At most one for each image in a process: see [`super::filesystem`].
    pub fn new(store: Arc<Store>, view: View, change: ChangeLock) -> Result<Self> {
        let role = match lookup::root(&view)? {
            Item::Private { mark, .. } => match mark.role {
                Role::Directory(role) => role,
                _ => DirectoryRole::Own,
            },
            Item::Shared { .. } => DirectoryRole::Transparent { shared: view.root },
        };
        let table = Table::default();
        let root = table.get_or_insert(Number::ROOT, || {
            Node::new(
                Number::ROOT,
                FileType::Directory,
                Place::Root,
                Source::PrivateDirectory(role),
            )
        });
        let directories = Mutex::new(LruCache::new(DIRECTORIES_OPEN));
        Ok(Self {
            store,
            view,
            change: Change::new(change),
            names: RwLock::new(()),
            table,
            directories,
            root,
            replaced: Mutex::default(),
            unlinked_shared: Mutex::default(),
            handles: Handles::default(),
            listings: Listings::default(),
            synced: SyncedDirectories::default(),
            transport: RwLock::default(),
            settling: settling::Settling::default(),
            locks: locks::LocksInForce::default(),
            unused: Mutex::default(),
        })
    }

    /// Held for reading, it keeps the names as they are: for who reads the layers themselves, and
    /// takes no other lock meanwhile.
    pub fn names_lock(&self) -> &RwLock<()> {
        &self.names
    }

    /// The root of the view.
    pub fn root(&self) -> &Arc<Node> {
        &self.root
    }

    /// The node of a number that the kernel was told of.
    ///
    /// # Errors
    /// ESTALE for one that it was not told of, or has forgotten.
    pub fn node(&self, number: Number) -> Outcome<Arc<Node>> {
        Ok(self.table.get(number).ok_or(rustix::io::Errno::STALE)?)
    }

    /// How many inodes are referred to.
    pub fn nodes(&self) -> usize {
        self.table.len()
    }
}
