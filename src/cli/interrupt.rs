//! SIGINT and SIGTERM while an import is being staged: what it has staged goes with it.

use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use signal_hook::low_level::emulate_default_handler;

use crate::archive::IMPORT;
use crate::error::{Context, Error, Result};
use crate::store::{Store, staging};

/// Watches for signals for as long as it lives.
pub struct Interrupt {
    handle: Handle,
    /// The image is being made: a matter of moments, and either done or not.
    committing: Arc<Mutex<bool>>,
}

impl Interrupt {
    /// From now on a signal removes what this process has staged in `store`, says that `what` was
    /// interrupted (`json`: as JSON), and ends the process.
    ///
    /// # Errors
    /// No more threads or descriptors.
    pub fn watch(store: &Arc<Store>, what: &str, json: bool) -> Result<Self> {
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).about("signals")?;
        let handle = signals.handle();
        let committing = Arc::new(Mutex::new(false));
        let (store, seen, what) = (store.clone(), committing.clone(), what.to_owned());
        let wait = move || {
            for signal in signals.forever() {
                // Held to the end: who comes to the commit now does not get there.
                let committing = seen.lock();
                if !*committing {
                    end(&store, &what, json, signal);
                }
            }
        };
        thread::Builder::new()
            .name("signals".into())
            .spawn(wait)
            .about("a thread")?;
        Ok(Self { handle, committing })
    }

    /// From now on signals are left unanswered: what is left is short, and interrupting it would
    /// only leave open whether it was done.
    pub fn past_the_point(&self) {
        *self.committing.lock() = true;
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        self.handle.close();
    }
}

fn end(store: &Store, what: &str, json: bool, signal: i32) {
    match staging::abandon(store.staging(), IMPORT) {
        Ok(()) => {}
        // It goes when the store is opened for writing the next time.
        Err(error) => log::info!("{error}"),
    }
    let error = Error::failed(what, "it was interrupted").remedy("nothing was changed");
    super::output::print_error(&error, json);
    if let Err(error) = emulate_default_handler(signal) {
        log::error!("signal {signal}: {error}");
    }
}
