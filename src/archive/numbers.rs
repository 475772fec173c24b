//! Numbers for an import: from the store's counter, in blocks that grow.

use std::sync::Arc;

use parking_lot::Mutex;

use super::staging::Purpose;
use crate::error::{Error, Result};
use crate::store::catalog::{Catalog, CatalogMode};
use crate::store::number::Number;
use crate::store::{Access, Store, layout};

const FIRST_BLOCK: u64 = 4096;
const LARGEST_BLOCK: u64 = 1 << 18;

/// Hands out numbers to the threads of one import. Each block costs one durable transaction; what
/// is left of the last one is lost (numbers are never used again).
pub(super) struct ImportNumbers {
    /// `None` in a dry run: its numbers mean nothing outside of it.
    catalog: Option<Arc<Catalog>>,
    block: Mutex<Block>,
}

struct Block {
    next: u64,
    end: u64,
    size: u64,
}

impl ImportNumbers {
    /// Beside a daemon, which holds the store's lock, the counter is advanced through a connection
    /// of our own: SQLite keeps the two apart.
    pub(super) fn new(store: &Store, purpose: Purpose) -> Result<Self> {
        let catalog = match (purpose, store.access()) {
            (Purpose::DryRun, _) => None,
            (Purpose::Commit, Access::Write) => Some(Arc::clone(store.catalog())),
            (Purpose::Commit, Access::Read) => {
                let path = store.path().join(layout::CATALOG);
                Some(Arc::new(Catalog::open(&path, CatalogMode::Write)?))
            }
        };
        let block = Block {
            next: Number::FIRST.get(),
            end: match catalog {
                Some(_) => Number::FIRST.get(),
                None => Number::END,
            },
            size: FIRST_BLOCK,
        };
        Ok(Self {
            catalog,
            block: Mutex::new(block),
        })
    }

    /// A number that nothing else has or will have.
    pub(super) fn next(&self) -> Result<Number> {
        let mut block = self.block.lock();
        if block.next == block.end
            && let Some(catalog) = &self.catalog
        {
            let range = catalog.reserve_numbers(block.size)?;
            (block.next, block.end) = (range.start, range.end);
            block.size = (block.size * 4).min(LARGEST_BLOCK);
        }
        let number = Number::new(block.next)
            .ok_or_else(|| Error::failed("catalog.db", "an inode number out of range"))?;
        block.next += 1;
        Ok(number)
    }
}
