//! The store's one counter of inode numbers, and the ids of images.

use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;
use rusqlite::params;

use super::Catalog;
use super::read::Reads;
use super::transaction::Transaction;
use crate::error::{Error, Result};
use crate::store::number::{ImageId, Number};

/// How many numbers [`Numbers`] reserves at a time.
const BLOCK: u64 = 1024;

impl Transaction<'_> {
    /// Reserves numbers that become usable when the transaction is committed. (Rows written in
    /// the same transaction may use them at once.)
    ///
    /// # Errors
    /// When the numbers are used up (2^56), and where SQLite fails.
    pub fn reserve_numbers(&self, count: u64) -> Result<Range<u64>> {
        let start = self.next_number()?;
        let end = start.checked_add(count).filter(|&end| end <= Number::END);
        let end = end.ok_or_else(|| Error::failed("catalog.db", "inode numbers are used up"))?;
        self.run_one(
            "counter",
            1,
            "UPDATE counter SET next_number = ?1 WHERE id = 1",
            params![end],
        )?;
        Ok(start..end)
    }

    /// Raises the catalog's generation; the new one.
    ///
    /// # Errors
    /// Where SQLite fails.
    pub fn raise_generation(&self) -> Result<u64> {
        let generation = self.generation()? + 1;
        self.set_generation(generation)?;
        Ok(generation)
    }

    /// Sets the catalog's generation.
    ///
    /// # Errors
    /// Where SQLite fails.
    pub fn set_generation(&self, generation: u64) -> Result<()> {
        let update = "UPDATE sqlite_sequence SET seq = ?1 WHERE name = 'generation'";
        if self.run(update, params![generation])? == 0 {
            let insert = "INSERT INTO sqlite_sequence (name, seq) VALUES ('generation', ?1)";
            self.run(insert, params![generation])?;
        }
        Ok(())
    }
}

impl Catalog {
    /// Reserves numbers; durable before it returns, and never handed out again.
    ///
    /// # Errors
    /// As [`Catalog::transaction`]; when the numbers are used up.
    #[track_caller]
    pub fn reserve_numbers(&self, count: u64) -> Result<Range<u64>> {
        let transaction = self.transaction()?;
        let range = transaction.reserve_numbers(count)?;
        transaction.commit()?;
        Ok(range)
    }
}

impl Catalog {
    /// The generation of a copy that nobody writes to.
    ///
    /// # Errors
    /// It is not there, or damaged.
    pub fn generation_of_copy(path: &std::path::Path) -> Result<u64> {
        Self::open(path, super::CatalogMode::ReadOnlyMedium)?.generation()
    }

    /// Reserves the id of a new image; durable before it returns, and never given again. So
    /// `images/ID` can be made before the row: without one it is debris.
    ///
    /// # Errors
    /// As [`Catalog::transaction`].
    #[track_caller]
    pub fn reserve_image_id(&self) -> Result<ImageId> {
        let transaction = self.transaction()?;
        transaction.run_one(
            "sqlite_sequence",
            "images",
            "UPDATE sqlite_sequence SET seq = seq + 1 WHERE name = 'images'",
            [],
        )?;
        let id = transaction.last_image_id()?;
        transaction.commit()?;
        Ok(id)
    }
}

/// A source of numbers for many threads. A block that is not used up is lost: numbers are plenty.
///
/// Lock order: the block's lock before the catalog's writer. So never ask for a number while a
/// [`Transaction`] is open in the same thread: it fails when the block has run dry. Reserve from
/// the transaction there.
pub struct Numbers {
    catalog: Arc<Catalog>,
    block: Mutex<Range<u64>>,
}

impl Numbers {
    /// A source that reserves its first block when it is first asked.
    pub fn new(catalog: Arc<Catalog>) -> Self {
        Self {
            catalog,
            block: Mutex::new(0..0),
        }
    }

    /// A number that nothing has and nothing will be given again.
    ///
    /// # Errors
    /// As [`Catalog::reserve_numbers`].
    pub fn next(&self) -> Result<Number> {
        let mut block = self.block.lock();
        if block.is_empty() {
            *block = self.catalog.reserve_numbers(BLOCK)?;
        }
        let number = Number::new(block.start)
            .ok_or_else(|| Error::failed("catalog.db", "an inode number out of range"))?;
        block.start += 1;
        Ok(number)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Fixture;
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn numbers_are_reserved_in_blocks_and_survive_reopening() {
        let fixture = Fixture::new();
        let numbers = Numbers::new(Arc::new(fixture.open()));
        assert_eq!(numbers.next().unwrap(), Number::FIRST);
        assert_eq!(fixture.open().next_number().unwrap(), 16 + BLOCK);
        let reopened = Numbers::new(Arc::new(fixture.open()));
        assert_eq!(reopened.next().unwrap().get(), 16 + BLOCK);
        assert_eq!(numbers.next().unwrap().get(), 17);
    }

    #[test]
    fn threads_get_distinct_numbers() {
        let fixture = Fixture::new();
        let numbers = Numbers::new(Arc::new(fixture.open()));
        let seen = Mutex::new(HashSet::new());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        let number = numbers.next().unwrap();
                        assert!(seen.lock().insert(number));
                    }
                });
            }
        });
        assert_eq!(seen.lock().len(), 4000);
    }

    #[test]
    fn the_counter_ends_below_2_to_the_56() {
        let fixture = Fixture::new();
        let catalog = fixture.open();
        catalog.reserve_numbers(Number::END - 16).unwrap();
        let error = catalog.reserve_numbers(1).unwrap_err();
        assert!(error.to_string().contains("used up"), "{error}");
    }

    #[test]
    fn a_rolled_back_reservation_is_handed_out_again() {
        let fixture = Fixture::new();
        let catalog = fixture.open();
        let transaction = catalog.transaction().unwrap();
        assert_eq!(transaction.reserve_numbers(10).unwrap(), 16..26);
        let within = catalog.reserve_numbers(1).unwrap_err();
        assert!(within.to_string().contains("within"), "{within}");
        drop(transaction);
        assert_eq!(catalog.reserve_numbers(10).unwrap(), 16..26);
    }
}
