//! Records of one kind in a ledger: places of the same size, taken and given back.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// Where the records of a kind lie, all numbers in words.
#[derive(Debug, Clone, Copy)]
pub(super) struct Area {
    /// The word that says how many places were ever in use.
    pub(super) used: usize,
    /// Where the first one begins.
    pub(super) start: usize,
    /// How long each is. Its first word is 0 while it is free.
    pub(super) length: usize,
    /// How many there can be.
    pub(super) most: u32,
}

impl Area {
    /// Behind the last one.
    pub(super) const fn end(self) -> usize {
        self.start + self.length * self.most as usize
    }

    /// The words of a place.
    pub(super) fn place(self, slot: u32) -> Range<usize> {
        let start = self.start + self.length * slot as usize;
        start..start + self.length
    }

    /// The places that may be in use, as far as they are believed: no more than there can be.
    pub(super) fn used(self, words: &[AtomicU64]) -> Range<u32> {
        let used = words[self.used].load(Ordering::Acquire);
        0..u32::try_from(used).map_or(self.most, |used| used.min(self.most))
    }
}

/// The free places of an area. The lowest ones that were given back last are taken first, so that few pages are
/// touched.
#[derive(Debug)]
pub(super) struct Slots {
    area: Area,
    free: Mutex<Vec<u32>>,
}

impl Slots {
    /// Those that are free in `words`.
    pub(super) fn of(area: Area, words: &[AtomicU64]) -> Self {
        let is_free = |slot: &u32| words[area.place(*slot).start].load(Ordering::Acquire) == 0;
        let free = area.used(words).rev().filter(is_free).collect();
        Self {
            area,
            free: Mutex::new(free),
        }
    }

    /// A place for a record, written from its last word to the first: a record that is there is there in
    /// full. `None` when there are too many.
    pub(super) fn take(&self, words: &[AtomicU64], record: &[u64]) -> Option<u32> {
        let mut free = self.free.lock();
        let slot = match free.pop() {
            Some(slot) => slot,
            None => {
                let next = self.area.used(words).end;
                if next == self.area.most {
                    return None;
                }
                words[self.area.used].store(u64::from(next) + 1, Ordering::Release);
                next
            }
        };
        drop(free);
        let place = &words[self.area.place(slot)];
        for (word, value) in place.iter().zip(record).rev() {
            word.store(*value, Ordering::Release);
        }
        Some(slot)
    }

    /// Gives a place back.
    pub(super) fn give_back(&self, words: &[AtomicU64], slot: u32) {
        words[self.area.place(slot).start].store(0, Ordering::Release);
        self.free.lock().push(slot);
    }
}
