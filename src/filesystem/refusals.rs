//! What was refused because it is locked: counted, and told to the log.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Filesystem;
use super::failure::{Failure, Outcome};
use crate::sys::process;

/// A guest may try again and again: so many lines in such a time tell enough.
const LINES: u64 = 10;
const WINDOW: Duration = Duration::from_secs(10);

/// Those of one image.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    count: AtomicU64,
    lines: Mutex<Lines>,
}

#[derive(Debug, Default)]
struct Lines {
    since: Option<Instant>,
    asked: u64,
}

impl Refusals {
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Counts one. Whether it is to be told, and how many were not told since the last one that was.
    fn add(&self, now: Instant) -> Option<u64> {
        self.count.fetch_add(1, Ordering::Relaxed);
        let mut lines = self.lines.lock();
        let mut untold = 0;
        if lines.since.is_none_or(|since| now - since > WINDOW) {
            untold = lines.asked.saturating_sub(LINES);
            *lines = Lines {
                since: Some(now),
                asked: 0,
            };
        }
        lines.asked += 1;
        (lines.asked <= LINES).then_some(untold)
    }
}

impl Filesystem {
    /// Counts and tells what a thread was refused because it is locked. The outcome is given back.
    ///
    /// # Errors
    /// The outcome's.
    pub fn noting_refusal<T>(&self, thread: u32, outcome: Outcome<T>) -> Outcome<T> {
        if let Err(Failure::Locked(locked)) = &outcome
            && let Some(untold) = self.change.notes().refusals.add(Instant::now())
        {
            let (process, name) = process::of_thread(thread).unwrap_or_default();
            let path = locked.path.escape_ascii();
            let pattern = &*locked.pattern;
            log::warn!(
                image:% = self.view.layer.image(), path:% = format_args!("/{path}"), pattern, process, name, untold;
                "a locked path was not altered"
            );
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_cannot_flood_the_log() {
        let refusals = Refusals::default();
        let begun = Instant::now();
        let told = |at: Duration, times: u64| -> Vec<u64> {
            let told = (0..times).filter_map(|_| refusals.add(begun + at));
            told.collect()
        };
        assert_eq!(told(Duration::ZERO, 1000), [0; LINES as usize]);
        assert_eq!(told(WINDOW, 5), [0; 0]);
        let later = told(WINDOW * 2, 3);
        assert_eq!(later, [1005 - LINES, 0, 0]);
        assert_eq!(told(WINDOW * 4, 1), [0]);
        assert_eq!(refusals.count(), 1009);
    }
}
