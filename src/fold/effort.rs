//! How much a fold may ask of the host, and when it gives way.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

/// Of a fold that somebody waits for.
static NEVER: AtomicBool = AtomicBool::new(false);

/// How much a fold may ask of the host, and when it gives way.
#[derive(Debug, Clone, Copy)]
pub struct Effort<'a> {
    threads: usize,
    stop: &'a AtomicBool,
}

impl<'a> Effort<'a> {
    /// As fast as it goes, on so many threads (0: one for each core): somebody waits for it.
    pub fn full(threads: usize) -> Effort<'static> {
        Effort {
            threads,
            stop: &NEVER,
        }
    }

    /// In the background, until `stop` is set: then it ends between two files. On one thread, so
    /// that cores are left to the guests; not at a lower priority, because a guest that opens a
    /// file for writing waits until that thread lets go of its lease.
    pub fn background(stop: &'a AtomicBool) -> Effort<'a> {
        Effort { threads: 1, stop }
    }

    /// Whether to end.
    pub fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The threads.
    ///
    /// # Errors
    /// The system has none left.
    pub(super) fn pool(&self) -> Result<rayon::ThreadPool> {
        rayon::ThreadPoolBuilder::new()
            .num_threads(self.threads)
            .thread_name(|number| format!("fold-{number}"))
            .build()
            .map_err(|error| Error::failed("threads", error))
    }
}
