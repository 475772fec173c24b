//! The keeper's command line: `foldfs mount` starts one, and `foldfs daemon --keep` becomes one.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use super::background;
use super::session::Session;
use crate::error::Result;
use crate::serve::keeper;

/// Start a daemon, and start it again if it dies while images are mounted
#[derive(Debug, Args)]
pub struct Keeper {
    /// Where the store's daemon has its socket
    #[arg(value_name = "DIR")]
    runtime: PathBuf,
    /// The daemon's command line
    #[arg(last = true, required = true)]
    daemon: Vec<OsString>,
}

impl Keeper {
    /// The daemon's exit code.
    pub fn run(self) -> Result<u8> {
        background::leave_session()?;
        keeper::run(&self.runtime, self.daemon)
    }
}

/// Becomes the keeper of a daemon that serves the store until it is told to end; its exit code.
///
/// # Errors
/// The store cannot be opened, or the daemon cannot be started. What it cannot do then it says itself.
pub fn keep(session: &Session) -> Result<u8> {
    drop(session.open(false)?);
    let daemon = background::daemon_arguments(session, session.verbose);
    keeper::run(&session.make_runtime()?, daemon)
}
