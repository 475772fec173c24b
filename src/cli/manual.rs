//! completions, man: generated from the grammar itself.

use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::arguments::Arguments;
use super::{Outcome, output};
use crate::error::{Context, Result};

/// Print a shell's completion script
///
/// For bash: foldfs completions bash > /usr/share/bash-completion/completions/foldfs
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell
    pub shell: Shell,
}

impl Completions {
    pub fn run(self) -> Result<Outcome> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Arguments::command(), "foldfs", &mut script);
        output::print(&script)?;
        Ok(Outcome::Done)
    }
}

/// Write the manual pages, one for each command
#[derive(Debug, Args)]
pub struct Man {
    /// An existing directory, such as /usr/local/share/man/man1
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
}

impl Man {
    pub fn run(self) -> Result<Outcome> {
        clap_mangen::generate_to(Arguments::command(), &self.directory)
            .about(self.directory.display())?;
        Ok(Outcome::Done)
    }
}
