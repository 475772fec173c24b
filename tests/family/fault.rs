//! One fault at a durable step.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use foldfs::sys::durable;
use parking_lot::{Mutex, MutexGuard};
use rustix::io::Errno;

/// Keeps the other tests of this process waiting: the hook sees the steps of all threads.
pub fn alone() -> MutexGuard<'static, ()> {
    static HOOK: Mutex<()> = Mutex::new(());
    HOOK.lock()
}

/// How a run is disturbed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is done from this step on: the process was killed.
    Killed(usize),
    /// This step fails.
    Fails(usize),
}

/// Runs something under a fault; whether its step was reached. The caller is [`alone`].
pub fn disturbed(fault: Fault, run: impl FnOnce()) -> bool {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    durable::set_hook(Some(Arc::new(move |_, _| {
        let step = counted.fetch_add(1, Ordering::SeqCst);
        match fault {
            Fault::Killed(at) if step >= at => Err(Errno::IO),
            Fault::Fails(at) if step == at => Err(Errno::NOSPC),
            _ => Ok(()),
        }
    })));
    run();
    durable::set_hook(None);
    let (Fault::Killed(at) | Fault::Fails(at)) = fault;
    count.load(Ordering::SeqCst) > at
}
