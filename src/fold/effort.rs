//! How much a fold may ask of the host, and when it gives way.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::sys::priority::Idle;

/// Of a fold that somebody waits for.
static NEVER: AtomicBool = AtomicBool::new(false);

/// Threads for each core that read where nothing is said.
const READERS: usize = 4;

/// Between two looks whether to end.
const NAP: Duration = Duration::from_millis(20);

/// How much a fold may ask of the host, and when it gives way.
#[derive(Debug)]
pub struct Effort<'a> {
    threads: usize,
    stop: &'a AtomicBool,
    /// In the background; how many wait for what it holds.
    awaited: Option<&'a AtomicUsize>,
    /// Bytes in a second.
    rate: Option<NonZeroU64>,
    /// When what was read so far may have been read.
    due: Mutex<Instant>,
}

impl<'a> Effort<'a> {
    /// As fast as it goes, on so many threads (0: one for each core): somebody waits for it.
    pub fn full(threads: usize) -> Effort<'static> {
        Effort {
            threads,
            stop: &NEVER,
            awaited: None,
            rate: None,
            due: Mutex::new(Instant::now()),
        }
    }

    /// In the background, until `stop` is set: then it ends between two files. It reads when nobody
    /// else wants the disk or the core, unless `awaited` says that somebody waits for what it holds; so
    /// many bytes in a second on the average.
    pub fn background(
        threads: usize,
        rate: Option<NonZeroU64>,
        stop: &'a AtomicBool,
        awaited: &'a AtomicUsize,
    ) -> Effort<'a> {
        Effort {
            threads: threads.max(1),
            stop,
            awaited: Some(awaited),
            rate,
            due: Mutex::new(Instant::now()),
        }
    }

    /// Whether to end.
    pub fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Waits until so many bytes may have been read, or it is time to end.
    pub fn pay(&self, bytes: u64) {
        let Some(rate) = self.rate else {
            return;
        };
        let price = Duration::from_secs_f64(bytes as f64 / rate.get() as f64);
        let due = {
            let mut due = self.due.lock();
            // What was not used is lost.
            *due = (*due).max(Instant::now()) + price;
            *due
        };
        while let Some(left) = due.checked_duration_since(Instant::now())
            && !self.is_over()
        {
            std::thread::sleep(left.min(NAP));
        }
    }

    /// To be kept while this thread reads and nobody waits for it.
    pub(super) fn idle(&self) -> Option<Idle> {
        self.awaited.map(|_| Idle::begin())
    }

    /// Whether somebody waits for what the fold holds, or for its end.
    pub(super) fn is_awaited(&self) -> bool {
        let waits = |count: &AtomicUsize| count.load(Ordering::Relaxed) > 0;
        self.awaited.is_none_or(waits) || self.is_over()
    }

    /// The threads.
    ///
    /// # Errors
    /// The system has none left.
    pub(super) fn pool(&self) -> Result<rayon::ThreadPool> {
        Self::pool_of(self.threads)
    }

    /// The threads that read: where it is not said how many, more than there are cores, since most of them
    /// wait for the disk.
    ///
    /// # Errors
    /// As [`Effort::pool`].
    pub(super) fn reading_pool(&self) -> Result<rayon::ThreadPool> {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        Self::pool_of(match self.threads {
            0 => cores() * READERS,
            said => said,
        })
    }

    fn pool_of(threads: usize) -> Result<rayon::ThreadPool> {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|number| format!("fold-{number}"))
            .build()
            .map_err(|error| Error::failed("threads", error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_bounds_what_is_read_until_it_is_time_to_end() {
        let (stop, awaited) = (AtomicBool::new(false), AtomicUsize::new(0));
        let effort = Effort::background(1, NonZeroU64::new(1000), &stop, &awaited);
        let begun = Instant::now();
        for _ in 0..4 {
            effort.pay(50);
        }
        assert!(begun.elapsed() >= Duration::from_millis(200));
        stop.store(true, Ordering::Relaxed);
        // Would take a day.
        effort.pay(86_400_000);
        assert!(begun.elapsed() < Duration::from_secs(3600));
        Effort::full(1).pay(u64::MAX);
    }
}
