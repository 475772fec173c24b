//! Working trees: mount --shared (in `mounts`), commit, discard, upgrade.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Args;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use super::Outcome;
use super::apply::How;
use super::arguments::DryRun;
use super::session::{self, Session};
use super::{background, mounts};
use crate::error::{Context as _, Error, Result};
use crate::ops::patch::Source;
use crate::ops::report::{Report, WorkingReport};
use crate::ops::request::{Call, MountOptions, Request};
use crate::path_bytes::PathBytes;

/// Bring what was done in a family's working tree into the family: its base and every image
///
/// `foldfs mount --shared FAMILY DIR` mounts that tree. Mounted images see the change at once, as a whole. What an
/// image has changed itself it keeps, which is reported; the command exits with 3 then. Once it is not mounted the
/// tree goes with the commit.
#[derive(Debug, Args)]
pub struct Commit {
    /// The family
    #[arg(value_name = "FAMILY")]
    family: String,
    #[command(flatten)]
    how: How,
}

impl Commit {
    /// Runs the command.
    pub fn run(self, session: &Session) -> Result<Outcome> {
        let source = Source::Working {
            family: self.family,
            upgrade: false,
        };
        self.how.run(session, source, None)
    }
}

/// Remove a family's working tree, with all that was done in it
#[derive(Debug, Args)]
pub struct Discard {
    /// The family
    #[arg(value_name = "FAMILY")]
    family: String,
    #[command(flatten)]
    dry: DryRun,
}

impl Discard {
    /// Runs the command.
    pub fn run(self, session: &Session) -> Result<Outcome> {
        let family = self.family;
        session.run(Request::Discard { family }, self.dry.dry_run)
    }
}

/// Upgrade a family's base, and bring every image along
///
/// COMMAND runs in a clone of the base, in namespaces of its own, with /proc, /sys (read-only), and a /dev, /run and
/// /tmp that go with it; names are resolved as on the host. What it changes becomes a change of the family: images
/// follow where they had what the base had, and keep what they have changed themselves, which is reported (exit
/// code 3). If COMMAND fails nothing changes, and its exit code is told.
#[derive(Debug, Args)]
pub struct Upgrade {
    /// The family
    #[arg(value_name = "FAMILY")]
    family: String,
    /// Instead of running a command, take what this image has otherwise than the base
    #[arg(long, value_name = "IMAGE", conflicts_with_all = ["keep", "finish"])]
    from: Option<String>,
    /// Leave the clone as the family's working tree, for a look before `--finish`, `commit` or `discard`
    #[arg(long, conflicts_with = "finish")]
    keep: bool,
    /// Bring what an upgrade with `--keep` has left into the family
    #[arg(long)]
    finish: bool,
    #[command(flatten)]
    how: How,
    /// The command with its arguments; with --from, paths from the root: only these, and what is below them
    #[arg(last = true, value_name = "COMMAND", required_unless_present_any = ["from", "finish"], conflicts_with = "finish")]
    command: Vec<OsString>,
}

impl Upgrade {
    /// Runs the command.
    pub fn run(self, session: &Session) -> Result<Outcome> {
        let Upgrade {
            family,
            from,
            keep,
            finish,
            mut how,
            command,
        } = self;
        if let Some(image) = from {
            let paths = command.iter().map(|path| PathBytes::from(Path::new(path)));
            let paths = paths.collect();
            let source = Source::Image { image, paths };
            return how.run(session, source, Some(family));
        }
        how.say(|| {
            let words = command.iter().map(|word| word.to_string_lossy());
            words.collect::<Vec<_>>().join(" ")
        });
        let source = Source::Working {
            family: family.clone(),
            upgrade: true,
        };
        if finish {
            return how.run(session, source, None);
        }
        if how.is_dry_run() {
            let call = work(&family, true);
            let report = session.perform(
                &Call {
                    dry_run: true,
                    ..call
                },
                &*session.progress(),
            )?;
            return session.show(&report, true);
        }
        let tree = made(session, &family, true)?;
        match in_tree(session, &tree.image, &command) {
            Ok(()) if keep => session.show(&Report::Working(tree), false),
            Ok(()) => how.run(session, source, None),
            Err(error) => {
                if !keep {
                    discard(session, &family)?;
                }
                Err(error)
            }
        }
    }
}

fn work(family: &str, anew: bool) -> Call {
    let family = family.to_owned();
    Call {
        request: Request::Work { family, anew },
        dry_run: false,
    }
}

/// Makes the working tree of a family; `anew`: there must be none.
///
/// # Errors
/// Those of [`crate::ops::working::plan`] and of cloning.
pub fn made(session: &Session, family: &str, anew: bool) -> Result<WorkingReport> {
    match session.perform(&work(family, anew), &*session.progress())? {
        Report::Working(report) => Ok(report),
        _ => Err(Error::failed(
            family,
            "the daemon has answered something else",
        )),
    }
}

fn discard(session: &Session, family: &str) -> Result<()> {
    let request = Request::Discard {
        family: family.to_owned(),
    };
    let dry_run = false;
    session.perform(&Call { request, dry_run }, &*session.progress())?;
    Ok(())
}

/// Runs a command in an image, which is mounted meanwhile.
fn in_tree(session: &Session, image: &str, command: &[OsString]) -> Result<()> {
    let below = std::env::temp_dir();
    let place = tempfile::Builder::new()
        .prefix("foldfs-upgrade-")
        .tempdir_in(&below);
    let place = place.about(below.display())?;
    let request = Request::Mount {
        image: Some(image.to_owned()),
        directory: place.path().to_owned().into(),
        options: MountOptions {
            suid: true,
            allow_other: true,
            ..MountOptions::default()
        },
    };
    let call = Call {
        request,
        dry_run: false,
    };
    session::while_it_ends(|| {
        let client = background::connect_or_start(session)?;
        client.perform(&call, &*session.progress())
    })?;
    let ended = run(place.path(), command, session.json);
    let unmounted = mounts::unmount(session, place.path(), false);
    if unmounted.is_err() {
        // What is mounted there must not be taken for a directory to be emptied.
        let _kept = place.keep();
    }
    let status = ended?;
    unmounted?;
    if status.success() {
        return Ok(());
    }
    let shown = command.first().map(|program| program.to_string_lossy());
    let cause = format!("it failed: {status}; nothing was changed");
    Err(Error::failed(shown.unwrap_or_default(), cause)
        .remedy("see what it said; `--keep` leaves the tree for a look"))
}

/// Waits for the command, whatever signals come: who sends them from a terminal sends them to the command, too.
/// `aside`: standard output is the report's alone.
fn run(place: &Path, command: &[OsString], aside: bool) -> Result<ExitStatus> {
    let mut ignored = Vec::new();
    for signal in [SIGINT, SIGQUIT, SIGTERM, SIGHUP] {
        let seen = Arc::new(AtomicBool::new(false));
        ignored.push(signal_hook::flag::register(signal, seen).about("signals")?);
    }
    let own = std::env::current_exe().about("/proc/self/exe")?;
    let mut namespaces = Command::new("unshare");
    if aside {
        namespaces.stdout(std::io::stderr());
    }
    let status = namespaces
        .args([
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--propagation",
            "private",
            "--",
        ])
        .arg(own)
        .arg("inside")
        .arg(place)
        .args(command)
        .status();
    for id in ignored {
        signal_hook::low_level::unregister(id);
    }
    let missing = |error: Error| error.remedy("install util-linux");
    status.about("unshare").map_err(missing)
}

/// A working tree was made, or would be.
pub fn render(report: &WorkingReport, dry_run: bool) -> String {
    let verb = match (report.made, dry_run) {
        (true, false) => "made",
        (true, true) => "would be made",
        (false, _) => "there",
    };
    let WorkingReport { family, image, .. } = report;
    format!(
        "{image} {verb}, the working tree of family {family}: `foldfs commit {family}` brings what is done there into \
         all images, `foldfs discard {family}` drops it\n"
    )
}
