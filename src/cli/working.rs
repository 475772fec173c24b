//! Working trees: mount --shared (in `mounts`), commit, discard, upgrade.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use super::Outcome;
use super::apply::How;
use super::arguments::DryRun;
use super::session::{self, Session};
use super::{background, mounts};
use crate::error::{Context as _, Error, Result};
use crate::ops::patch::{Source, Worked};
use crate::ops::report::{Report, WorkingReport};
use crate::ops::request::{Call, MountOptions, Request};
use crate::path_bytes::PathBytes;
use crate::store::catalog::Reads;
use crate::store::{Access, Store, layout};

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
        let _alone = Alone::take(session, &self.family)?;
        let source = Source::Working {
            family: self.family,
            worked: Worked::ByHand,
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
            worked: Worked::ByUpgrade,
        };
        if finish {
            let _alone = Alone::take(session, &family)?;
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
        let alone = Alone::take(session, &family)?;
        let signals = Caught::signals()?;
        let tree = made(session, &family, true)?;
        let ended = in_tree(session, &tree.image, &command, &signals);
        let stays = || {
            format!(
                "the tree stays: see to it that it is not mounted, then foldfs upgrade {family} --finish, or \
                     foldfs discard {family}"
            )
        };
        let failed = match ended {
            Ok((status, unmounted)) if status.success() => {
                unmounted.map_err(|error| error.remedy(stays()))?;
                if keep {
                    return session.show(&Report::Working(tree), false);
                }
                drop(alone);
                let done = how.run(session, source, None);
                return done.inspect_err(|_| log::warn!("{}", stays()));
            }
            Ok((status, _)) => failure(&command, status),
            Err(error) => error,
        };
        if !keep && let Err(error) = discard(session, &family) {
            log::warn!("{error}; {}", stays());
        }
        Err(failed)
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

fn failure(command: &[OsString], status: ExitStatus) -> Error {
    let shown = command.first().map(|program| program.to_string_lossy());
    let cause = format!("it failed: {status}; nothing was changed");
    Error::failed(shown.unwrap_or_default(), cause)
        .remedy("see what it said; `--keep` leaves the tree for a look")
}

/// As long as it lives, the working tree of a family is an upgrade's, and nobody else's to be committed.
pub struct Alone(#[allow(dead_code, reason = "it is locked as long as it is open")] File);

impl Alone {
    /// Takes it.
    ///
    /// # Errors
    /// There is no such family; an upgrade is under way (kind Busy).
    pub fn take(session: &Session, family: &str) -> Result<Self> {
        let store = Store::open(session.store(), Access::Read)?;
        let found = store.catalog().family_by_name(family)?.ok_or_else(|| {
            Error::failed(format!("{family:?}"), "there is no such family")
                .remedy("foldfs list shows all")
        })?;
        let name = format!("upgrade-{}", found.id);
        let path = store.path().join(layout::RUN).join(name);
        let mut options = File::options();
        options.create(true).truncate(false).write(true).mode(0o600);
        let file = options
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(&path)
            .about(path.display())?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let cause = "an upgrade of it is under way";
                Err(Error::busy(format!("family {family}"), cause).remedy("wait for its end"))
            }
            Err(error) => Err(error).about(path.display()),
        }
    }
}

/// Signals that don't end this process while there is something to be cleared away. Those of a terminal are
/// sent to the command, too; the others end it.
struct Caught {
    ids: Vec<signal_hook::SigId>,
    is_to_end: Arc<AtomicBool>,
}

impl Caught {
    fn signals() -> Result<Self> {
        let mut caught = Self {
            ids: Vec::new(),
            is_to_end: Arc::default(),
        };
        for signal in [SIGINT, SIGQUIT, SIGTERM, SIGHUP] {
            let flag = match signal {
                SIGTERM | SIGHUP => caught.is_to_end.clone(),
                _ => Arc::default(),
            };
            let id = signal_hook::flag::register(signal, flag).about("signals")?;
            caught.ids.push(id);
        }
        Ok(caught)
    }
}

impl Drop for Caught {
    fn drop(&mut self) {
        for id in self.ids.drain(..) {
            signal_hook::low_level::unregister(id);
        }
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

/// A directory that others cannot get to, with one in it to mount on. It is removed only if it is empty: a tree
/// that is still mounted there must not be taken for something to be emptied.
struct Place(PathBuf);

impl Place {
    fn new() -> Result<Self> {
        let below = std::env::temp_dir();
        let owner_only = fs::Permissions::from_mode(0o700);
        let made = tempfile::Builder::new()
            .prefix("foldfs-upgrade-")
            .permissions(owner_only)
            .tempdir_in(&below);
        let place = Self(made.about(below.display())?.keep());
        let tree = place.tree();
        fs::create_dir(&tree).about(tree.display())?;
        Ok(place)
    }

    fn tree(&self) -> PathBuf {
        self.0.join("tree")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let removed = fs::remove_dir(self.tree()).and_then(|()| fs::remove_dir(&self.0));
        if let Err(error) = removed {
            log::warn!("{}: {error}", self.0.display());
        }
    }
}

/// Runs a command in an image, which is mounted meanwhile; how it ended, and whether the image is unmounted.
fn in_tree(
    session: &Session,
    image: &str,
    command: &[OsString],
    signals: &Caught,
) -> Result<(ExitStatus, Result<()>)> {
    let place = Place::new()?;
    let request = Request::Mount {
        image: Some(image.to_owned()),
        directory: place.tree().into(),
        options: MountOptions {
            suid: true,
            allow_other: true,
            ..MountOptions::default()
        },
        live: false,
    };
    let call = Call {
        request,
        dry_run: false,
    };
    session::while_it_ends(|| {
        let client = background::connect_or_start(session)?;
        client.perform(&call, &*session.progress())
    })?;
    let ended = run(&place.tree(), command, session.json, signals);
    let unmounted = mounts::unmount(session, &place.tree(), false).map(drop);
    Ok((ended?, unmounted))
}

/// How often it is looked whether the command has ended.
const LOOK: Duration = Duration::from_millis(20);

/// Waits for the command. `aside`: standard output is the report's alone.
fn run(place: &Path, command: &[OsString], aside: bool, signals: &Caught) -> Result<ExitStatus> {
    let own = std::env::current_exe().about("/proc/self/exe")?;
    let mut namespaces = Command::new("unshare");
    namespaces
        .args([
            "--mount",
            "--pid",
            "--uts",
            "--ipc",
            "--fork",
            "--kill-child",
        ])
        .args(["--propagation", "private", "--"])
        .arg(own)
        .arg("inside")
        .arg(place)
        .args(command);
    if aside {
        namespaces.stdout(std::io::stderr());
    }
    let missing = |error: Error| error.remedy("install util-linux");
    let mut running = namespaces.spawn().about("unshare").map_err(missing)?;
    loop {
        if let Some(status) = running.try_wait().about("unshare")? {
            return Ok(status);
        }
        if signals.is_to_end.swap(false, Ordering::SeqCst) {
            // All of the namespace ends with it.
            running.kill().about("unshare")?;
        }
        std::thread::sleep(LOOK);
    }
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
