//! Threads for work that may take long (promotions, syncs), shared by all mounts of the process.

use std::sync::Arc;

use crate::error::{Context, Result};

const LONG_WORKERS: usize = 8;

/// The pool that all adapters of this process share.
pub fn pool() -> Result<Arc<rayon::ThreadPool>> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(LONG_WORKERS)
        .thread_name(|index| format!("long-{index}"))
        .build()
        .map(Arc::new)
        .map_err(std::io::Error::other)
        .about("threads for long work")
}
