//! What was done: log, metrics.

use clap::Args;

use super::session::Session;
use super::units::{bytes, count, counted, date};
use super::{Outcome, diff};
use crate::error::Result;
use crate::ops::report::{ChangeReport, ChangesReport, LogEntry, LogReport};
use crate::ops::request::Request;

/// Show the changes of a family, or what passes and folds did, the newest last
///
/// Passes that found nothing altered are left out. Times are UTC.
#[derive(Debug, Args)]
pub struct Log {
    /// The family whose changes are shown
    #[arg(value_name = "FAMILY")]
    family: Option<String>,
    /// Only the newest ones
    #[arg(short = 'n', long = "lines", value_name = "N")]
    last: Option<u64>,
    /// Only this change, with all paths that it is about
    #[arg(long, value_name = "CHANGE", requires = "family")]
    change: Option<i64>,
    /// Of that, only how many paths there are, and their bytes
    #[arg(long, requires = "change")]
    stat: bool,
}

impl Log {
    pub fn run(self, session: &Session) -> Result<Outcome> {
        let Log {
            family,
            last,
            change,
            stat,
        } = self;
        let request = match family {
            None => Request::Log { last },
            Some(family) => Request::Changes {
                family,
                last,
                change,
                stat,
            },
        };
        session.run(request, false)
    }
}

/// Print what the daemon did since it began, as OpenMetrics text
///
/// The configuration's `metrics` has the daemon serve it over HTTP, too.
#[derive(Debug, Args)]
pub struct Metrics {}

impl Metrics {
    pub fn run(self, session: &Session) -> Result<Outcome> {
        session.run(Request::Metrics, false)
    }
}

/// The text for standard output.
pub fn render(report: &LogReport) -> String {
    report.entries.iter().map(line).collect()
}

/// The changes of a family.
pub fn render_changes(report: &ChangesReport) -> String {
    report.changes.iter().map(change).collect()
}

fn change(report: &ChangeReport) -> String {
    let clean = |text: &str| -> String { text.chars().map(printable).collect() };
    let mut out = format!(
        "{}  {}  {}  {} {}",
        report.change,
        moment(report.time),
        clean(&report.who),
        report.kind,
        clean(&report.source)
    );
    if !report.why.is_empty() {
        out.push_str(&format!(": {}", clean(&report.why)));
    }
    match &report.kept {
        Some(kept) => out.push_str(&format!(
            "\n    {} in {}\n",
            counted(kept.paths, "path"),
            kept.images.join(", ")
        )),
        None => out.push_str("\n    it cannot be taken back any more\n"),
    }
    let changes = report.kept.as_ref().and_then(|kept| kept.changes.as_ref());
    if let Some(changes) = changes {
        out.push('\n');
        out.push_str(&diff::render(changes));
    }
    out
}

/// A date with the seconds.
fn moment(seconds: i64) -> String {
    format!("{}:{:02}", date(seconds), seconds.rem_euclid(60))
}

fn line(entry: &LogEntry) -> String {
    let done = &entry.done;
    let mut out = format!("{}  {}", moment(done.started), entry.by);
    if let Some(family) = &entry.family {
        out.push_str(&format!(" {family}"));
    }
    if let Some(error) = &entry.error {
        let error: String = error.chars().map(printable).collect();
        out.push_str(&format!(
            "  failed after {} ms: {error}\n",
            count(done.milliseconds)
        ));
        return out;
    }
    out.push_str(&format!(
        "  {} looked at, {} folded ({}, {} freed)",
        counted(done.examined, "file"),
        count(done.folded_files),
        bytes(done.folded_bytes),
        bytes(done.freed_bytes)
    ));
    let left = [
        (done.busy_files, "in use"),
        (done.damaged_files, "unreadable"),
        (done.recent_files, "altered a moment ago"),
        (done.held_files, "held"),
        (done.shared_paths, "paths into the shared layer"),
        (done.unshared_paths, "out of it"),
        (done.left_out.len() as u64, "left out, being damaged"),
    ];
    for (number, what) in left.into_iter().filter(|(number, _)| *number > 0) {
        out.push_str(&format!(", {} {what}", count(number)));
    }
    out.push_str(&format!(", {} ms", count(done.milliseconds)));
    if done.interrupted {
        out.push_str(", interrupted");
    }
    out.push('\n');
    out
}

/// An error may name a file of a guest.
fn printable(letter: char) -> char {
    if letter.is_control() { '?' } else { letter }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::report::PassReport;

    #[test]
    fn a_line_each() {
        let pass = LogEntry {
            by: "pass".into(),
            family: None,
            done: PassReport {
                started: 61,
                milliseconds: 1500,
                examined: 2000,
                folded_files: 3,
                folded_bytes: 2048,
                freed_bytes: 1024,
                busy_files: 1,
                held_files: 2,
                interrupted: true,
                ..PassReport::default()
            },
            error: None,
        };
        let fold = LogEntry {
            by: "fold".into(),
            family: Some("debian".into()),
            done: PassReport::default(),
            error: Some("web: \x1b[2J\nno space".into()),
        };
        let report = LogReport {
            entries: vec![pass, fold],
        };
        assert_eq!(
            render(&report),
            "1970-01-01 00:01:01  pass  2,000 files looked at, 3 folded (2.0 KiB, 1.0 KiB freed), \
             1 in use, 2 held, 1,500 ms, interrupted\n\
             1970-01-01 00:00:00  fold debian  failed after 0 ms: web: ?[2J?no space\n"
        );
    }
}
