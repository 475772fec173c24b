//! What no image of a family may alter: lock, unlock.

use clap::Args;

use super::Outcome;
use super::arguments::DryRun;
use super::session::Session;
use super::units::counted;
use crate::error::Result;
use crate::ops::report::LockReport;
use crate::ops::request::Request;

/// Keep all images of a family from altering, adding or removing paths
///
/// Patterns are those of gitignore(5), from the images' root: /etc/ssl, *.pem, /boot/, and !/etc/ssl/own to
/// leave something out. What is locked gives EPERM, to root as well; changes of the family go on. Without a
/// pattern, shows what is locked.
#[derive(Debug, Args)]
pub struct Lock {
    /// The family
    family: String,
    /// Patterns; later ones count more
    #[arg(value_name = "PATTERN")]
    patterns: Vec<String>,
    /// Lock although images differ from the family's base there: tell where, and keep it so
    #[arg(long)]
    adopt: bool,
    #[command(flatten)]
    dry: DryRun,
}

impl Lock {
    pub fn run(self, session: &Session) -> Result<Outcome> {
        let request = Request::Lock {
            family: self.family,
            patterns: self.patterns,
            adopt: self.adopt,
        };
        session.run(request, self.dry.dry_run)
    }
}

/// Let images of a family alter paths again
#[derive(Debug, Args)]
pub struct Unlock {
    /// The family
    family: String,
    /// Patterns as `foldfs lock FAMILY` shows them
    #[arg(value_name = "PATTERN", required = true)]
    patterns: Vec<String>,
    /// As with lock, if a pattern with a "!" goes and more is locked for it
    #[arg(long)]
    adopt: bool,
    #[command(flatten)]
    dry: DryRun,
}

impl Unlock {
    pub fn run(self, session: &Session) -> Result<Outcome> {
        let request = Request::Unlock {
            family: self.family,
            patterns: self.patterns,
            adopt: self.adopt,
        };
        session.run(request, self.dry.dry_run)
    }
}

/// The text for standard output. `verb`: what becomes of the patterns.
pub fn render(report: &LockReport, verb: &str) -> String {
    let LockReport {
        family,
        patterns,
        changed,
        ..
    } = report;
    let mut out = String::new();
    for pattern in changed {
        out.push_str(&format!("{family}: {pattern} {verb}\n"));
    }
    if report.listed {
        for pattern in patterns {
            out.push_str(&format!("{family}: {pattern}\n"));
        }
    }
    if patterns.is_empty() {
        out.push_str(&format!("{family}: nothing is locked\n"));
    } else {
        let paths = counted(report.paths, "path");
        out.push_str(&format!("{family}: {paths} of its base locked\n"));
    }
    for difference in &report.differences {
        out.push_str(&format!(
            "{}:{} stays as it is: {}\n",
            difference.image, difference.path, difference.kind
        ));
    }
    if report.more_differences > 0 {
        out.push_str(&format!("and {} more\n", report.more_differences));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::report::LockedDifference;

    #[test]
    fn it_says_what_is_locked_and_what_stays() {
        let mut report = LockReport {
            family: "debian".into(),
            listed: false,
            changed: vec!["/etc/ssl".into()],
            patterns: vec!["*.pem".into(), "/etc/ssl".into()],
            paths: 2,
            differences: vec![LockedDifference {
                image: "web".into(),
                path: b"/etc/ssl/x\n"[..].into(),
                kind: "added".into(),
            }],
            more_differences: 0,
        };
        let text = "debian: /etc/ssl locked\ndebian: 2 paths of its base locked\n\
                    web:/etc/ssl/x\\n stays as it is: added\n";
        assert_eq!(render(&report, "locked"), text);
        report.differences.clear();
        (report.listed, report.changed) = (true, Vec::new());
        let text = "debian: *.pem\ndebian: /etc/ssl\ndebian: 2 paths of its base locked\n";
        assert_eq!(render(&report, "locked"), text);
        report.patterns.clear();
        assert_eq!(render(&report, "locked"), "debian: nothing is locked\n");
    }
}
