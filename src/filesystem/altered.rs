//! Which files of an image may have new content since somebody last asked: what a pass looks at.
//! Kept in memory only; a process that knows nothing looks at everything.

use std::collections::HashSet;

use parking_lot::Mutex;

use crate::store::number::Number;

/// So many files of one image are told apart, which bounds the memory that a guest can make us use;
/// where there are more, the whole image is looked at.
const MOST: usize = 16_384;

/// What is to be looked at of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Altered {
    /// All private files.
    All,
    /// At most the files of these numbers, without repetition, in no order.
    Numbers(Vec<Number>),
}

impl Altered {
    /// There is nothing to look at.
    pub fn is_empty(&self) -> bool {
        matches!(self, Altered::Numbers(numbers) if numbers.is_empty())
    }
}

/// The list of one image. A leaf lock.
#[derive(Debug)]
pub(super) struct Journal {
    /// `None`: all.
    numbers: Mutex<Option<HashSet<Number>>>,
}

impl Default for Journal {
    /// Nobody has looked at anything yet.
    fn default() -> Self {
        Self {
            numbers: Mutex::new(None),
        }
    }
}

impl Journal {
    /// A file may have been altered. To be called after the last alteration.
    pub(super) fn add(&self, number: Number) {
        let mut slot = self.numbers.lock();
        let Some(numbers) = &mut *slot else {
            return;
        };
        if numbers.len() < MOST || numbers.contains(&number) {
            numbers.insert(number);
        } else {
            *slot = None;
        }
    }

    /// A file has no name any more.
    pub(super) fn remove(&self, number: Number) {
        if let Some(numbers) = &mut *self.numbers.lock() {
            numbers.remove(&number);
        }
    }

    /// Everything is to be looked at.
    pub(super) fn add_all(&self) {
        *self.numbers.lock() = None;
    }

    /// What came together since the last call. To be called before anything is looked at.
    pub(super) fn take(&self) -> Altered {
        match self.numbers.lock().replace(HashSet::new()) {
            Some(numbers) => Altered::Numbers(numbers.into_iter().collect()),
            None => Altered::All,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(value: u64) -> Number {
        Number::new(value).unwrap()
    }

    #[test]
    fn at_first_and_when_it_is_too_much_everything_is_to_be_looked_at() {
        let journal = Journal::default();
        journal.add(number(20));
        assert_eq!(journal.take(), Altered::All);
        assert!(journal.take().is_empty());

        journal.add(number(20));
        journal.add(number(21));
        journal.add(number(20));
        journal.remove(number(21));
        assert_eq!(journal.take(), Altered::Numbers(vec![number(20)]));

        for value in 0..MOST as u64 {
            journal.add(number(100 + value));
        }
        journal.add(number(100));
        assert!(matches!(journal.take(), Altered::Numbers(numbers) if numbers.len() == MOST));
        for value in 0..=MOST as u64 {
            journal.add(number(100 + value));
        }
        assert_eq!(journal.take(), Altered::All);
        journal.add_all();
        assert!(!journal.take().is_empty());
    }
}
