//! The log, and the sums over it: what passes and folds did, also before the daemon that runs now.

use std::time::Instant;

use super::context::Context;
use super::report::{FoldReport, LogEntry, LogReport, PassReport};
use crate::error::{Context as _, Result};
use crate::store::history::History;
use crate::store::metadata::Time;

/// Characters that are kept of an error.
const ERROR_MAX: usize = 1000;

/// A pass or fold that has begun.
pub struct Begun {
    started: i64,
    at: Instant,
}

impl Begun {
    /// Just now.
    pub fn now() -> Self {
        Self {
            started: Time::now().seconds,
            at: Instant::now(),
        }
    }

    /// When it began and how long it took.
    fn ended(&self) -> PassReport {
        PassReport {
            started: self.started,
            milliseconds: u64::try_from(self.at.elapsed().as_millis()).unwrap_or(u64::MAX),
            ..PassReport::default()
        }
    }

    /// Notes how a daemon's pass ended; nothing if there was nothing to do.
    pub fn pass(&self, context: &Context, outcome: &Result<Option<PassReport>>) {
        let (done, error) = match outcome {
            Ok(None) => return,
            Ok(Some(report)) => (report.clone(), None),
            Err(error) => (self.ended(), Some(error.to_string())),
        };
        note(context, "pass", None, done, error);
    }

    /// Notes how a fold that somebody asked for ended.
    pub fn fold(&self, context: &Context, family: Option<&str>, outcome: &Result<FoldReport>) {
        let mut done = self.ended();
        done.left_out = (outcome.iter())
            .flat_map(|report| report.left_out.clone())
            .collect();
        for family in outcome.iter().flat_map(|report| &report.families) {
            done.examined += family.examined;
            done.folded_files += family.folded_files;
            done.folded_bytes += family.folded_bytes;
            done.freed_bytes += family.freed_bytes;
            done.busy_files += family.busy_files;
            done.damaged_files += family.damaged_files;
            done.held_files += family.held_files;
            done.shared_paths += family.shared_paths;
            done.unshared_paths += family.unshared_paths;
        }
        let error = outcome.as_ref().err().map(ToString::to_string);
        note(context, "fold", family, done, error);
    }
}

/// Whether it can be noted or not, what was done is done.
fn note(
    context: &Context,
    by: &str,
    family: Option<&str>,
    done: PassReport,
    error: Option<String>,
) {
    let entry = LogEntry {
        by: by.to_owned(),
        family: family.map(str::to_owned),
        done,
        error: error.map(|error| error.chars().take(ERROR_MAX).collect()),
    };
    say(&entry);
    context.tally.add(&entry);
    let noted = serde_json::to_vec(&entry).map_err(std::io::Error::from);
    let noted = noted.and_then(|line| Ok(History::new(context.store.run()).add(&line)?));
    if let Err(error) = noted {
        log::warn!(error:% = error; "run/folds.log: an entry is missing");
    }
}

/// Says it in the process's own log.
fn say(entry: &LogEntry) {
    let (by, family) = (&*entry.by, entry.family.as_deref().unwrap_or("all"));
    let done = &entry.done;
    if let Some(error) = &entry.error {
        log::warn!(family, error = error.as_str(), milliseconds = done.milliseconds; "{by} failed");
        return;
    }
    for sentence in &done.left_out {
        log::warn!(family; "{by} left out: {sentence}");
    }
    let level = match done.folded_files + done.shared_paths + done.unshared_paths {
        0 => log::Level::Debug,
        _ => log::Level::Info,
    };
    log::log!(
        level,
        family,
        examined = done.examined,
        folded_files = done.folded_files,
        folded_bytes = done.folded_bytes,
        freed_bytes = done.freed_bytes,
        busy_files = done.busy_files,
        damaged_files = done.damaged_files,
        recent_files = done.recent_files,
        held_files = done.held_files,
        shared_paths = done.shared_paths,
        unshared_paths = done.unshared_paths,
        milliseconds = done.milliseconds,
        interrupted = done.interrupted;
        "{by}"
    );
}

/// The newest entries of the log, at most `last` of them, the newest last.
///
/// # Errors
/// Those of the host.
pub fn log(context: &Context, last: Option<u64>) -> Result<LogReport> {
    let lines = History::new(context.store.run()).lines();
    let remedy = "remove it: it is made anew, and nothing else needs it";
    let lines = lines
        .about("run/folds.log")
        .map_err(|error| error.remedy(remedy))?;
    // What is no entry was torn by a crash.
    let entries = lines
        .iter()
        .filter_map(|line| serde_json::from_slice(line).ok());
    let mut entries: Vec<LogEntry> = entries.collect();
    let last = last.and_then(|last| usize::try_from(last).ok());
    let first = entries.len().saturating_sub(last.unwrap_or(usize::MAX));
    Ok(LogReport {
        entries: entries.split_off(first),
    })
}
