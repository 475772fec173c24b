//! The daemon's thread that folds.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;

use crate::error::{Context as _, Error, Result};
use crate::ops::Context;
use crate::ops::passes::{self, Schedule};

use super::stop::Stop;

/// A thread that makes passes until it is dropped; that waits for the file, or the family's placement,
/// that it has in its hands.
pub(super) struct Folding {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

impl Folding {
    /// Starts the thread, if the schedule has passes at all.
    ///
    /// # Errors
    /// The system has no threads left.
    pub(super) fn start(context: Arc<Context>, schedule: Schedule) -> Result<Self> {
        let stop = Arc::new(Stop::default());
        let Some(interval) = schedule.interval else {
            return Ok(Self { stop, thread: None });
        };
        let stopped = stop.clone();
        let work = move || {
            // What changed while no daemon ran is found soon, but guests come first.
            let mut pause = interval.min(schedule.quiet);
            loop {
                context.passes.plan_next(&schedule, pause);
                if !stopped.wait(pause) {
                    return;
                }
                make_pass(&context, &schedule, stopped.flag());
                pause = interval;
            }
        };
        let thread = std::thread::Builder::new()
            .name("passes".into())
            .spawn(work)
            .about("a thread")?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Folding {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("{}", Error::failed("the thread that folds", "it panicked"));
        }
    }
}

fn make_pass(context: &Context, schedule: &Schedule, stop: &AtomicBool) {
    // What it did is logged; if it failed the next one tries again.
    if let Ok(None) = passes::pass(context, schedule, stop) {
        log::debug!("pass: nothing was altered");
    }
}
