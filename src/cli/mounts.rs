//! Mounts and the daemon that serves them: mount, unmount, daemon.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use super::Outcome;
use super::arguments::DryRun;
use super::session::{self, Counterpart, Session};
use super::{background, working};
use crate::config::Config;
use crate::error::{Context, Error, Result};
use crate::filesystem::passthrough::Passthrough;
use crate::ops;
use crate::ops::passes::Schedule;
use crate::ops::report::Report;
use crate::ops::request::{Call, MountOptions, Request};
use crate::serve::control_server::Performer;
use crate::serve::daemon::{self, Lifetime};
use crate::serve::dead_mounts;
use crate::sys::{memory, process};

/// Mount an image, or all of them as DIR/IMAGE
///
/// Starts the store's daemon in the background if none runs. The daemon ends after its last mount
/// is gone.
#[derive(Debug, Args)]
#[command(allow_missing_positional = true)]
pub struct Mount {
    /// The image; without it, all that guests run on; with --shared, a family
    pub image: Option<String>,
    /// An existing directory
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// Serve in this process, until the image is unmounted or the process is told to end
    #[arg(long, short)]
    foreground: bool,
    /// Comma-separated: ro, suid, dev, allow_other. Without them a mount is writable, nosuid,
    /// nodev, and visible to root only
    #[arg(short, value_name = "OPTIONS", action = clap::ArgAction::Append)]
    options: Vec<String>,
    /// Mount the family's working tree, a clone of its base: guests see what is done there when
    /// `foldfs commit` says so, or never (`foldfs discard`)
    #[arg(long, requires = "image")]
    shared: bool,
    /// With --shared: what is done in the tree is committed at once, file by file as they are closed
    #[arg(long, requires = "shared")]
    live: bool,
    #[command(flatten)]
    dry: DryRun,
}

impl Mount {
    pub fn run(self, session: &Session) -> Result<Outcome> {
        let options = MountOptions::parse(&self.options.join(","))?;
        let directory = existing_directory(&self.directory)?;
        let image = match (self.shared, self.image) {
            (true, Some(family)) if !self.dry.dry_run => {
                Some(working::made(session, &family, false)?.image)
            }
            (_, image) => image,
        };
        let call = Call {
            request: Request::Mount {
                image,
                directory: directory.into(),
                options,
                live: self.live,
            },
            dry_run: self.dry.dry_run,
        };
        if self.foreground && !call.dry_run {
            return serve(session, Lifetime::UntilUnmounted, Some(call));
        }
        let report = perform_mount(session, &call)?;
        session.show(&report, call.dry_run)
    }
}

/// Mounts an image, or all of them, with comma-separated options; starts a daemon if none runs.
///
/// # Errors
/// No such directory, image or option, and the daemon's.
pub fn mount(
    session: &Session,
    image: Option<String>,
    directory: &Path,
    options: &str,
) -> Result<Report> {
    let options = MountOptions::parse(options)?;
    let directory = existing_directory(directory)?.into();
    let request = Request::Mount {
        image,
        directory,
        options,
        live: false,
    };
    let call = Call {
        request,
        dry_run: false,
    };
    perform_mount(session, &call)
}

/// Whether comma-separated mount options are known.
///
/// # Errors
/// A usage error that lists those that are.
pub fn check_options(text: &str) -> Result<()> {
    MountOptions::parse(text).map(drop)
}

fn perform_mount(session: &Session, call: &Call) -> Result<Report> {
    session::while_it_ends(|| {
        let client = background::connect_or_start(session)?;
        client.perform(call, &*session.progress())
    })
}

fn existing_directory(path: &Path) -> Result<PathBuf> {
    let remedy = "name an existing directory";
    match path.metadata() {
        Ok(metadata) if metadata.is_dir() => path.canonicalize().about(path.display()),
        Ok(_) => Err(Error::failed(path.display(), "it is not a directory").remedy(remedy)),
        // What a killed daemon left there is unmounted by the one that starts now.
        Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => mount_point(path),
        Err(error) => {
            let missing: Result<PathBuf> = Err(error).about(path.display());
            missing.map_err(|error| error.remedy(remedy))
        }
    }
}

/// Unmount the image on a directory, or all images directly below it
#[derive(Debug, Args)]
pub struct Unmount {
    /// The directory
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    #[command(flatten)]
    dry: DryRun,
}

impl Unmount {
    pub fn run(self, session: &Session) -> Result<Outcome> {
        let dry_run = self.dry.dry_run;
        let report = unmount(session, &self.directory, dry_run)?;
        session.show(&report, dry_run)
    }
}

/// Unmounts what is on a directory.
///
/// # Errors
/// Nothing is, or it is in use (kind Busy).
pub fn unmount(session: &Session, directory: &Path, dry_run: bool) -> Result<Report> {
    let directory = mount_point(directory)?;
    session::while_it_ends(|| match session.counterpart(false)? {
        Counterpart::Daemon(client) => {
            let directory = directory.clone().into();
            let request = Request::Unmount { directory };
            client.perform(&Call { request, dry_run }, &*session.progress())
        }
        Counterpart::Own(context) => {
            dead_mounts::unmount(context.store.path(), &directory, dry_run)
        }
    })
}

/// The absolute path of a mount point, whose own file system may not answer any more.
fn mount_point(path: &Path) -> Result<PathBuf> {
    let path = std::path::absolute(path).about(path.display())?;
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => {
            let parent = parent.canonicalize().about(parent.display())?;
            let place = parent.join(name);
            let is_link = place.symlink_metadata().is_ok_and(|meta| meta.is_symlink());
            if is_link {
                place.canonicalize().about(place.display())
            } else {
                Ok(place)
            }
        }
        _ => path.canonicalize().about(path.display()),
    }
}

/// Serve the store in the foreground, until SIGTERM or SIGINT
///
/// Mounts and commands come over its control socket. `foldfs mount` starts a daemon by itself;
/// this is for service managers and debugging.
#[derive(Debug, Args)]
pub struct Daemon {
    /// End after the last mount is gone, and leave the session that started it
    #[arg(long, hide = true)]
    until_unmounted: bool,
}

impl Daemon {
    pub fn run(self, session: &Session) -> Result<Outcome> {
        if self.until_unmounted {
            background::leave_session()?;
            serve(session, Lifetime::UntilUnmounted, None)
        } else {
            serve(session, Lifetime::UntilSignal, None)
        }
    }
}

/// Serves the store in this process; performs `first` before.
fn serve(session: &Session, lifetime: Lifetime, first: Option<Call>) -> Result<Outcome> {
    memory::map_large_allocations();
    process::raise_descriptor_limit().about("the limit of open files")?;
    let read_only = session.is_read_only();
    let _lock = read_only.then(|| session.lock_runtime()).transpose()?;
    let context = match session.counterpart(!read_only)? {
        Counterpart::Own(context) => *context,
        Counterpart::Daemon(client) => {
            let cause = format!("process {} serves it already", client.pid);
            return Err(Error::busy(session.store().display(), cause)
                .remedy("leave -f away to mount through it, or end it first"));
        }
    };
    // The lock is ours: whoever served what is mounted is gone.
    dead_mounts::clear(context.store.path())?;
    let config = &session.config;
    let objects = context.store.objects();
    objects.verification().set_rate(config.verify);
    let options = daemon::Options {
        socket: session.socket(),
        session_threads: config.session_threads,
        schedule: Schedule {
            interval: config.interval.filter(|_| !read_only),
            quiet: config.quiet,
            threads: config.threads,
            rate: config.rate,
        },
        metrics: config.metrics,
        passthrough: passthrough(config, &context),
    };
    let daemon = daemon::Daemon::new(context, options)?;
    if let Some(call) = first {
        let report = daemon.perform(call, &*session.progress())?;
        session.show(&report, false)?;
    }
    daemon.run(lifetime)?;
    Ok(Outcome::Done)
}

/// What direct files need; nothing where they are not wanted, or not to be had.
fn passthrough(config: &Config, context: &ops::Context) -> Option<Arc<Passthrough>> {
    if !config.passthrough {
        return None;
    }
    let coherent = config.coherent.iter().map(String::as_bytes);
    match Passthrough::new(context.store.root(), coherent) {
        Ok(passthrough) => Some(Arc::new(passthrough)),
        Err(error) => {
            log::info!(error:% = error; "no file is passed through to the kernel: all are cached");
            None
        }
    }
}
