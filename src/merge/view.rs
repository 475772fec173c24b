//! A view: one image's private layer, the shared layer, and what binds the two.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use parking_lot::RwLock;

use crate::error::{Context, Result};
use crate::store::catalog::Reads;
use crate::store::layer::Layer;
use crate::store::metadata::{SharedInode, Time};
use crate::store::number::{ImageId, Number};
use crate::store::shared::SharedLayer;

/// How an image shows a shared inode when it is not under the inode's own number and ctime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShownAs {
    /// st_ino in this image.
    pub number: Number,
    /// ctime in this image.
    pub ctime: Time,
    /// mtime in this image, where it is not the shared inode's.
    pub mtime: Option<Time>,
}

/// Everything that a look at an image needs.
pub struct View {
    /// The private layer.
    pub layer: Layer,
    /// The shared layer.
    pub shared: Arc<SharedLayer>,
    /// Number of the family's shared root directory.
    pub root: Number,
    aliases: RwLock<Aliases>,
    /// The numbers in `index/`: who adds or removes a file there calls [`View::index_added`] or
    /// [`View::index_removed`].
    indexed: RwLock<HashSet<Number>>,
    /// The numbers in `redirects/`, kept likewise.
    redirected: RwLock<HashSet<Number>>,
}

#[derive(Default)]
struct Aliases {
    by_shared: HashMap<Number, ShownAs>,
    by_number: HashMap<Number, Number>,
}

impl View {
    /// Opens the view of an image whose `images/ID` is `directory`.
    pub fn open(
        directory: OwnedFd,
        image: ImageId,
        root: Number,
        shared: Arc<SharedLayer>,
    ) -> Result<Self> {
        Self::open_copy(directory, image, root, shared, image)
    }

    /// The same of an image that has no rows yet: it will have those of `origin`, of whose private layer its own
    /// is a copy.
    pub fn open_copy(
        directory: OwnedFd,
        image: ImageId,
        root: Number,
        shared: Arc<SharedLayer>,
        origin: ImageId,
    ) -> Result<Self> {
        let layer = Layer::open(directory.as_fd(), image).about(format!("images/{image}"))?;
        let indexed = layer.index_numbers()?;
        let redirected = layer.redirect_numbers()?;
        let view = Self {
            layer,
            shared,
            root,
            aliases: RwLock::default(),
            indexed: RwLock::new(indexed.into_iter().collect()),
            redirected: RwLock::new(redirected.into_iter().collect()),
        };
        view.read_aliases(origin)?;
        Ok(view)
    }

    /// Reads the aliases again, after a commit has changed them.
    pub fn reload_aliases(&self) -> Result<()> {
        self.read_aliases(self.layer.image())
    }

    fn read_aliases(&self, image: ImageId) -> Result<()> {
        let mut aliases = Aliases::default();
        for alias in self.shared.catalog().aliases(image)? {
            let shown = ShownAs {
                number: alias.number,
                ctime: alias.ctime,
                mtime: alias.mtime,
            };
            aliases.by_shared.insert(alias.shared, shown);
            aliases.by_number.insert(alias.number, alias.shared);
        }
        *self.aliases.write() = aliases;
        Ok(())
    }

    /// How this image shows shared inode `shared`, whose own ctime is `ctime`.
    pub fn shown_as(&self, shared: Number, ctime: Time) -> ShownAs {
        let aliases = self.aliases.read();
        aliases.by_shared.get(&shared).copied().unwrap_or(ShownAs {
            number: shared,
            ctime,
            mtime: None,
        })
    }

    /// The shared inodes that this image shows with an mtime of its own.
    pub fn with_own_mtime(&self) -> Vec<Number> {
        let aliases = self.aliases.read();
        let own = aliases
            .by_shared
            .iter()
            .filter(|(_, shown)| shown.mtime.is_some());
        own.map(|(&shared, _)| shared).collect()
    }

    /// A shared inode with the mtime that this image shows.
    pub fn as_shown(&self, inode: &Arc<SharedInode>) -> Arc<SharedInode> {
        let Some(mtime) = self.shown_as(inode.number, inode.ctime).mtime else {
            return inode.clone();
        };
        let mut inode = (**inode).clone();
        inode.metadata.mtime = mtime;
        Arc::new(inode)
    }

    /// The shared inode that this image shows as `number`: the inverse of [`View::shown_as`].
    pub fn shared_of(&self, number: Number) -> Number {
        self.aliases
            .read()
            .by_number
            .get(&number)
            .copied()
            .unwrap_or(number)
    }

    /// Whether `index/NUMBER` exists.
    pub fn is_indexed(&self, number: Number) -> bool {
        self.indexed.read().contains(&number)
    }

    /// `index/NUMBER` has been made.
    pub fn index_added(&self, number: Number) {
        self.indexed.write().insert(number);
    }

    /// `index/NUMBER` has been removed.
    pub fn index_removed(&self, number: Number) {
        self.indexed.write().remove(&number);
    }

    /// Whether `redirects/NUMBER` exists: the shared directory may stand elsewhere in this image.
    pub fn is_redirected(&self, directory: Number) -> bool {
        self.redirected.read().contains(&directory)
    }

    /// `redirects/NUMBER` has been made.
    pub fn redirect_added(&self, directory: Number) {
        self.redirected.write().insert(directory);
    }
}
