//! The shared layer as the live images read it: directories of the catalog, cached.

use std::sync::Arc;

use lru::LruCache;
use parking_lot::Mutex;

use super::catalog::{Catalog, Reads};
use super::metadata::{Content, SharedInode};
use super::number::Number;
use crate::error::Result;

/// A directory of the shared layer; its entries sorted by name. Never changes: a commit makes the
/// cache forget it.
#[derive(Debug)]
pub struct SharedDirectory {
    entries: Vec<(Box<[u8]>, Arc<SharedInode>)>,
    /// Positions of the subdirectories.
    subdirectories: Box<[u32]>,
}

impl SharedDirectory {
    fn new(entries: Vec<(Box<[u8]>, SharedInode)>) -> Self {
        let is_directory = |inode: &SharedInode| inode.content == Content::Directory;
        let subdirectories = (0..).zip(&entries);
        let subdirectories = subdirectories.filter(|(_, (_, inode))| is_directory(inode));
        let subdirectories = subdirectories.map(|(position, _)| position).collect();
        let entries = entries.into_iter();
        let entries = entries
            .map(|(name, inode)| (name, Arc::new(inode)))
            .collect();
        Self {
            entries,
            subdirectories,
        }
    }

    /// The names of the subdirectories, sorted.
    pub fn subdirectories(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        let positions = self.subdirectories.iter();
        positions.map(|&position| &*self.entries[position as usize].0)
    }

    /// The entry of that name.
    pub fn find(&self, name: &[u8]) -> Option<&Arc<SharedInode>> {
        let position = self
            .entries
            .binary_search_by(|(entry, _)| (**entry).cmp(name))
            .ok()?;
        Some(&self.entries[position].1)
    }

    /// All entries, sorted by the bytes of their names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&[u8], &Arc<SharedInode>)> {
        self.entries.iter().map(|(name, inode)| (&**name, inode))
    }
}

/// How many entries of directories are kept, over all images of the store (about 250 bytes each).
const ENTRIES_KEPT: usize = 40_000;

/// Reads the shared layers of a store through a cache. One for each process; whoever commits a
/// change of the shared layer calls [`SharedLayer::forget`] before anybody may read it again.
pub struct SharedLayer {
    catalog: Arc<Catalog>,
    cache: Mutex<Cache>,
}

struct Cache {
    directories: LruCache<Number, Arc<SharedDirectory>>,
    entries: usize,
    /// Counts `forget`, so that a directory read before it is not put into the cache after it.
    epoch: u64,
}

impl SharedLayer {
    /// An empty cache over the catalog.
    pub fn new(catalog: Arc<Catalog>) -> Self {
        let cache = Cache {
            directories: LruCache::unbounded(),
            entries: 0,
            epoch: 0,
        };
        Self {
            catalog,
            cache: Mutex::new(cache),
        }
    }

    /// The catalog it reads.
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// The entries of a shared directory; empty for one that is not there (any more).
    pub fn directory(&self, number: Number) -> Result<Arc<SharedDirectory>> {
        let epoch = {
            let mut cache = self.cache.lock();
            if let Some(directory) = cache.directories.get(&number) {
                return Ok(directory.clone());
            }
            cache.epoch
        };
        let directory = Arc::new(SharedDirectory::new(self.catalog.directory(number)?));
        let mut cache = self.cache.lock();
        if cache.epoch == epoch {
            cache.insert(number, directory.clone());
        }
        Ok(directory)
    }

    /// A shared inode by its number alone: a query.
    pub fn inode(&self, number: Number) -> Result<Option<SharedInode>> {
        self.catalog.inode(number)
    }

    /// Forgets what is cached, because the shared layer has changed.
    pub fn forget(&self) {
        let mut cache = self.cache.lock();
        cache.directories.clear();
        cache.entries = 0;
        cache.epoch += 1;
    }
}

impl Cache {
    fn insert(&mut self, number: Number, directory: Arc<SharedDirectory>) {
        self.entries += directory.entries.len() + 1;
        if let Some(old) = self.directories.put(number, directory) {
            self.entries -= old.entries.len() + 1;
        }
        while self.entries > ENTRIES_KEPT && self.directories.len() > 1 {
            if let Some((_, old)) = self.directories.pop_lru() {
                self.entries -= old.entries.len() + 1;
            }
        }
    }
}
