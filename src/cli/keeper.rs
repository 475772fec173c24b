//! The keeper's command line: nobody but `foldfs mount` starts one.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use super::background;
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
