//! The store as a whole: init, list, status, check, collect.

use std::path::PathBuf;

use clap::Args;

use super::Outcome;
use super::arguments::DryRun;
use super::session::{Session, while_busy};
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
    /// If no copy of the catalog is of the images' age, take an older one: what has changed in
    /// shared layers since is lost
    #[arg(long, requires = "repair")]
    older_catalog: bool,
    /// With --repair, only report what would be done
    #[arg(long, requires = "repair")]
    dry_run: bool,
}

impl Check {
    pub fn run(self, session: &Session) -> Result<Outcome> {
        let content = self.content;
        if self.repair {
            return self.repair(session);
        }
        session.run(Request::Check { content }, false)
    }

    fn repair(self, session: &Session) -> Result<Outcome> {
        let options = repair::Options {
            content: self.content,
            from: self.from,
            older_catalog: self.older_catalog,
        };
        session.refuse_daemon()?;
        let store = session.store();
        if self.dry_run {
            let report = match repair::plan_catalog(store)? {
                Some(report) => report,
                None => repair::plan(&session.open(false)?, &options, &*session.progress())?,
            };
            return session.show(&Report::Check(report), true);
        }
        let mut repairs = while_busy(|| repair::catalog(store, &options))?;
        let apply = || {
            let context = while_busy(|| session.open(true))?;
            repair::apply(&context, &options, &*session.progress())
        };
        let mut report = apply()?;
        if repairs.is_empty()
            && let Some(restored) = while_busy(|| repair::catalog_again(store, &report))?
        {
            repairs = std::mem::take(&mut report.repairs);
            repairs.extend(restored);
            report = apply()?;
        }
        report.repairs.splice(0..0, repairs);
        session.show(&Report::Check(report), false)
    }
}

/// Remove the objects that nothing refers to
///
/// What the newest changes of a family took away stays: they can be taken back.
#[derive(Debug, Args)]
pub struct Collect {
    /// How many changes of each family [default: the configuration's `keep_changes`, 10]
    #[arg(long, value_name = "N")]
    keep_changes: Option<u64>,
    #[command(flatten)]
    dry: DryRun,
}

impl Collect {
    pub fn run(self, session: &Session) -> Result<Outcome> {
        let keep_changes = self.keep_changes.unwrap_or(session.config.keep_changes);
        session.run(Request::Collect { keep_changes }, self.dry.dry_run)
    }
}
