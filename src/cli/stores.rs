//! The store as a whole: init, list, status, check, collect.

use std::path::PathBuf;

use clap::Args;

use super::Outcome;
use super::arguments::DryRun;
use super::session::Session;
use crate::error::Result;
use crate::ops::repair;
use crate::ops::report::Report;
use crate::ops::request::Request;

/// Make an empty store
#[derive(Debug, Args)]
pub struct Init {
    #[command(flatten)]
    dry: DryRun,
}

impl Init {
    pub fn run(self, session: &Session) -> Result<Outcome> {
        session.init(self.dry.dry_run)
    }
}

/// List the families and images, and where they are mounted
#[derive(Debug, Args)]
pub struct List {}

impl List {
    pub fn run(self, session: &Session) -> Result<Outcome> {
        session.run(Request::List, false)
    }
}

/// Show how many bytes images show, share and keep, and what the store saves
#[derive(Debug, Args)]
pub struct Status {
    /// An image or a family; without it, all of them
    name: Option<String>,
}

impl Status {
    pub fn run(self, session: &Session) -> Result<Outcome> {
        session.run(Request::Status { name: self.name }, false)
    }
}

/// Prove that the store is sound; exit code 3 if it is not
#[derive(Debug, Args)]
pub struct Check {
    /// Read every object and compare it with its digest
    #[arg(long)]
    content: bool,
    /// Mend what another copy can mend, and move aside what is not foldfs's: nothing is deleted.
    /// The store must not be in use
    #[arg(long)]
    repair: bool,
    /// Look for lost contents in this directory, too: a backup, or what an image was made of
    #[arg(long, value_name = "DIR", requires = "repair")]
    from: Option<PathBuf>,
    /// With --repair, only report what would be done
    #[arg(long, requires = "repair")]
    dry_run: bool,
}

impl Check {
    pub fn run(self, session: &Session) -> Result<Outcome> {
        let content = self.content;
        if self.repair {
            let from = self.from;
            let context = session.open_alone(!self.dry_run)?;
            let progress = session.progress();
            let options = repair::Options { content, from };
            let report = match self.dry_run {
                true => repair::plan(&context, &options, &*progress)?,
                false => repair::apply(&context, &options, &*progress)?,
            };
            drop(progress);
            return session.show(&Report::Check(report), self.dry_run);
        }
        session.run(Request::Check { content }, false)
    }
}

/// Remove the objects that nothing refers to
#[derive(Debug, Args)]
pub struct Collect {
    #[command(flatten)]
    dry: DryRun,
}

impl Collect {
    pub fn run(self, session: &Session) -> Result<Outcome> {
        session.run(Request::Collect, self.dry.dry_run)
    }
}
