//! The store as a whole: init, list, status, check, collect.

use clap::Args;

use super::Outcome;
use super::arguments::DryRun;
use super::session::Session;
use crate::error::Result;
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
}

impl Check {
    pub fn run(self, session: &Session) -> Result<Outcome> {
        let content = self.content;
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
