//! Mounts and the daemon that serves them: mount, unmount, daemon.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use super::Outcome;
use super::arguments::DryRun;
use super::session::{self, Before, Counterpart, Session};
use super::{background, output, replace, working};
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
use crate::serve::fuse::left::Left;
use crate::serve::inheritance::{self, Inheritance};
use crate::serve::mount_table;
use crate::serve::replacement::Abilities;
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
        if self.foreground && !self.dry.dry_run {
            return serve(
                session,
                Lifetime::UntilUnmounted,
                Some(&|| self.call(session)),
            );
        }
        let call = self.call(session)?;
        let report = perform_mount(session, &call)?;
        session.show(&report, call.dry_run)
    }

    fn call(&self, session: &Session) -> Result<Call> {
        let options = MountOptions::parse(&self.options.join(","))?;
        let directory = existing_directory(&self.directory)?;
        let image = match (self.shared, &self.image) {
            (true, Some(family)) if !self.dry.dry_run => {
                Some(working::made(session, family, false)?.image)
            }
            (_, image) => image.clone(),
        };
        Ok(Call {
            request: Request::Mount {
                image,
                directory: directory.into(),
                options,
                live: self.live,
            },
            dry_run: self.dry.dry_run,
        })
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
    let counterpart = || match session.counterpart(false)? {
        Counterpart::Daemon(client) => Ok((Counterpart::Daemon(client), None)),
        // What waits for the next daemon is not dead, and no daemon may start meanwhile.
        Counterpart::Own(context) => {
            let lock = session.lock(&context.store)?;
            Ok((Counterpart::Own(context), Some(lock)))
        }
    };
    session::while_it_ends(|| match session::while_busy(counterpart)? {
        (Counterpart::Daemon(client), _) => {
            let directory = directory.clone().into();
            let request = Request::Unmount { directory };
            client.perform(&Call { request, dry_run }, &*session.progress())
        }
        (Counterpart::Own(context), _lock) => {
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
            // Nothing is asked of it: whoever serves it may be about to be started.
            if mount_table::mounts()?.iter().any(|it| it.point == place) {
                return Ok(place);
            }
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
    /// Start the daemon again if it dies, or hangs, while images are mounted: for service managers, which see one
    /// process that goes on
    #[arg(long, conflicts_with_all = ["until_unmounted", "upgrade"])]
    pub keep: bool,
    /// Have this program take the place of the daemon that serves the store, in the same process and with all
    /// mounts, and wait until it serves
    #[arg(long, conflicts_with = "until_unmounted")]
    upgrade: bool,
    /// Say what this program can take over
    #[arg(long, hide = true)]
    abilities: bool,
}

impl Daemon {
    pub fn run(self, session: &Session) -> Result<Outcome> {
        if self.upgrade {
            replace::replace(session)
        } else if self.abilities {
            output::print_json(&Abilities::own())?;
            Ok(Outcome::Done)
        } else if self.until_unmounted {
            background::leave_session()?;
            serve(session, Lifetime::UntilUnmounted, None)
        } else {
            serve(session, Lifetime::UntilSignal, None)
        }
    }
}

/// What is to be done before anything else is served.
type First<'a> = &'a dyn Fn() -> Result<Call>;

/// Serves the store in this process; performs `first` before, but not where a predecessor has done it: what it has
/// mounted answers nobody, this process neither, until it is served again.
fn serve(session: &Session, lifetime: Lifetime, first: Option<First<'_>>) -> Result<Outcome> {
    memory::map_large_allocations();
    // A keeper starts it by a number.
    rustix::thread::set_name(c"foldfs").about("the daemon's name")?;
    process::raise_descriptor_limit().about("the limit of open files")?;
    let read_only = session.is_read_only();
    let mut left = Inheritance::take();
    let mounts = Left::of(std::mem::take(&mut left.descriptors));
    if mounts.is_empty() {
        left.end();
    }
    let first = first.filter(|_| mounts.is_empty());
    let first = first.map(|call| call()).transpose()?;
    let runtime = read_only.then(|| session.lock_runtime(left.lock()));
    let runtime = runtime.transpose()?;
    let before = Before {
        lock: left.lock(),
        mounts: &mounts,
    };
    let context = match session.counterpart_after(!read_only, before)? {
        Counterpart::Own(context) => *context,
        Counterpart::Daemon(client) => {
            let cause = format!("process {} serves it already", client.pid);
            return Err(Error::busy(session.store().display(), cause)
                .remedy("leave -f away to mount through it, or end it first"));
        }
    };
    let store = context.store.clone();
    let lock = runtime.as_ref().or(store.lock());
    inheritance::keep(lock);
    // The lock is ours: whoever served what is mounted is gone.
    dead_mounts::clear(store.path(), &mounts)?;
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
        configuration: session.config_file.clone(),
    };
    let daemon = daemon::Daemon::new(context, options)?;
    daemon.take_over(mounts);
    if let Some(call) = first {
        let report = daemon.perform(call, &*session.progress())?;
        session.show(&report, false)?;
    }
    if let Err(error) = daemon.run(lifetime) {
        // The next one goes on with all that it has: nothing is closed, and guests are served to the last moment.
        std::mem::forget(daemon);
        return Err(error);
    }
    inheritance::end(lock);
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
