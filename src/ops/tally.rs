//! Sums over what passes and folds of this process did, for its metrics.

use parking_lot::Mutex;

use super::report::{LogEntry, PassReport};
use crate::store::metadata::Time;

/// The sums over all folds of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sum {
    /// `pass` or `fold`.
    pub by: String,
    /// How many there were.
    pub count: u64,
    /// How many of them failed.
    pub failed: u64,
    /// What all of them did; what cannot be added up is left out.
    pub done: PassReport,
    /// When the last one ended; seconds since 1970.
    pub last_ended: i64,
}

fn add(sum: &mut PassReport, done: &PassReport) {
    sum.milliseconds += done.milliseconds;
    sum.whole_images += done.whole_images;
    sum.examined += done.examined;
    sum.folded_files += done.folded_files;
    sum.folded_bytes += done.folded_bytes;
    sum.freed_bytes += done.freed_bytes;
    sum.busy_files += done.busy_files;
    sum.damaged_files += done.damaged_files;
    sum.recent_files += done.recent_files;
    sum.held_files += done.held_files;
    sum.shared_paths += done.shared_paths;
    sum.unshared_paths += done.unshared_paths;
}

/// The sums so far.
#[derive(Debug, Default)]
pub struct Tally(Mutex<Vec<Sum>>);

impl Tally {
    /// Adds what a pass or a fold did.
    pub(super) fn add(&self, entry: &LogEntry) {
        let mut sums = self.0.lock();
        let known = sums.iter().position(|sum| sum.by == entry.by);
        let position = known.unwrap_or_else(|| {
            sums.push(Sum {
                by: entry.by.clone(),
                ..Sum::default()
            });
            sums.len() - 1
        });
        let sum = &mut sums[position];
        sum.count += 1;
        sum.failed += u64::from(entry.error.is_some());
        add(&mut sum.done, &entry.done);
        sum.last_ended = Time::now().seconds;
    }

    /// One for each kind of which there was one.
    pub fn sums(&self) -> Vec<Sum> {
        self.0.lock().clone()
    }
}
