//! What an administrator pins: hold, release.

use std::path::PathBuf;

use clap::Args;

use super::Outcome;
use super::arguments::DryRun;
use super::session::Session;
use super::units::{bytes, count, counted};
use crate::error::Result;
use crate::ops::report::{HoldReport, ReleaseReport};
use crate::ops::request::Request;

/// Keep paths of an image its own, although they equal what others share
///
/// Everything at the path and below it, but directories, becomes the image's own at once, content
/// included, and is never folded. Without a path, shows what is held.
#[derive(Debug, Args)]
pub struct Hold {
    /// The image
    image: String,
    /// Paths in the image, from its root: /etc/fstab. One that is not there is held once it is
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    dry: DryRun,
}

impl Hold {
    pub fn run(self, session: &Session) -> Result<Outcome> {
        let request = Request::Hold {
            image: self.image,
            paths: self.paths.into_iter().map(Into::into).collect(),
        };
        session.run(request, self.dry.dry_run)
    }
}

/// Let held paths of an image be folded again
#[derive(Debug, Args)]
pub struct Release {
    /// The image
    image: String,
    /// Paths as `foldfs hold IMAGE` shows them
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    dry: DryRun,
}

impl Release {
    pub fn run(self, session: &Session) -> Result<Outcome> {
        let request = Request::Release {
            image: self.image,
            paths: self.paths.into_iter().map(Into::into).collect(),
        };
        session.run(request, self.dry.dry_run)
    }
}

/// The text for standard output.
pub fn render_hold(report: &HoldReport, dry_run: bool) -> String {
    let would = dry_run && !report.listed;
    let mut out = String::new();
    for held in &report.paths {
        let verb = if would { "would be held" } else { "held" };
        out.push_str(&format!("{}:{} {verb}: ", report.image, held.path));
        if !held.exists {
            out.push_str("there is nothing yet (symbolic links are not followed)\n");
            continue;
        }
        out.push_str(&counted(held.inodes, "file"));
        if held.shared_inodes > 0 {
            let shared = count(held.shared_inodes);
            let bytes = bytes(held.shared_bytes);
            out.push_str(&match (report.listed, would) {
                (true, _) => format!(", {shared} of them of shared content since"),
                (_, true) => format!(", {shared} of them shared so far: {bytes} would be copied"),
                _ => format!(", {shared} of them shared so far: {bytes} copied"),
            });
        }
        out.push('\n');
    }
    if report.paths.is_empty() {
        out.push_str(&format!("{}: nothing is held\n", report.image));
    }
    out
}

/// The text for standard output.
pub fn render_release(report: &ReleaseReport, dry_run: bool) -> String {
    let verb = if dry_run {
        "would be released"
    } else {
        "released"
    };
    let lines = report.paths.iter();
    lines
        .map(|path| format!("{}:{path} {verb}\n", report.image))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::report::HeldPath;

    #[test]
    fn it_says_what_was_copied_and_what_is_not_there() {
        let held = |path: &[u8], exists, shared_inodes| HeldPath {
            path: path.into(),
            exists,
            inodes: 1,
            shared_inodes,
            shared_bytes: shared_inodes * 2048,
        };
        let mut report = HoldReport {
            image: "web".into(),
            listed: false,
            paths: vec![held(b"/etc", true, 1), held(b"/opt\n", false, 0)],
        };
        let rest = "web:/opt\\n held: there is nothing yet (symbolic links are not followed)\n";
        assert_eq!(
            render_hold(&report, false),
            format!("web:/etc held: 1 file, 1 of them shared so far: 2.0 KiB copied\n{rest}")
        );
        report.listed = true;
        assert_eq!(
            render_hold(&report, false),
            format!("web:/etc held: 1 file, 1 of them of shared content since\n{rest}")
        );
        report.paths.clear();
        assert_eq!(render_hold(&report, false), "web: nothing is held\n");
    }
}
