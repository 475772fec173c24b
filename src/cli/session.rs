//! What a command works with: the configuration, the store, and who carries requests out.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::arguments::Global;
use super::progress_bar::progress;
use super::render::render;
use super::{Outcome, output};
use crate::config::Config;
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::ops::report::Report;
use crate::ops::request::{Call, Request};
use crate::ops::{self, Context};
use crate::progress::Progress;
use crate::serve::control_client::ControlClient;
use crate::serve::fuse::left::Left as Mount;
use crate::serve::protocol::ENDING;
use crate::store::layout;
use crate::store::lock::StoreLock;
use crate::store::open::{Access, Left, Store};

/// Where daemons of stores on read-only media have their sockets.
const RUNTIME: &str = "/run/foldfs";

/// How long a command waits for a store that another one is altering, or for a daemon that is
/// starting or ending.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often it looks meanwhile.
const LOOK: Duration = Duration::from_millis(20);

/// What every command starts with.
pub struct Session {
    /// The configuration; its `store` is the one in use.
    pub config: Config,
    /// The file that `--config` named; absolute.
    pub config_file: Option<PathBuf>,
    /// `-v`, so many times.
    pub verbose: u8,
    /// `--json`.
    pub json: bool,
    /// `--quiet`.
    pub quiet: bool,
}

/// A report as `--json` prints it.
#[derive(Serialize)]
struct Printed<'a> {
    #[serde(flatten)]
    report: &'a Report,
    dry_run: bool,
}

impl Session {
    /// Reads the configuration and decides which store is meant.
    ///
    /// # Errors
    /// Those of [`Config::load`].
    pub fn new(global: &Global) -> Result<Self> {
        let absolute = |path: &Path| std::path::absolute(path).about(path.display());
        let mut config = Config::load(global.config.as_deref())?;
        if let Some(store) = &global.store {
            config.store = absolute(store)?;
        }
        Ok(Self {
            config,
            config_file: global.config.as_deref().map(absolute).transpose()?,
            verbose: global.verbose,
            json: global.json,
            quiet: global.quiet,
        })
    }

    /// Has hashing use as many threads as the configuration says; once in a process.
    ///
    /// # Errors
    /// No more threads.
    pub fn limit_threads(&self) -> Result<()> {
        if self.config.threads == 0 {
            return Ok(());
        }
        rayon::ThreadPoolBuilder::new()
            .num_threads(self.config.threads)
            .build_global()
            .map_err(|error| Error::failed("threads that hash", error))
    }

    /// The store's directory.
    pub fn store(&self) -> &Path {
        &self.config.store
    }

    /// The daemon's socket.
    pub fn socket(&self) -> PathBuf {
        self.runtime().join(layout::CONTROL_SOCKET)
    }

    /// Where a daemon has its socket and its log: `run/`, or a directory below [`RUNTIME`] where the
    /// store is on a medium that cannot be written to.
    pub fn runtime(&self) -> PathBuf {
        let metadata = self.store().metadata();
        match metadata.ok().filter(|_| self.is_read_only()) {
            Some(found) => Path::new(RUNTIME).join(format!("{}-{}", found.dev(), found.ino())),
            None => self.store().join(layout::RUN),
        }
    }

    /// Whether the store's file system is mounted read-only.
    pub fn is_read_only(&self) -> bool {
        let found = rustix::fs::statvfs(self.store());
        found.is_ok_and(|found| found.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
    }

    /// Makes [`Session::runtime`], and lets one daemon at a time have it, as `run/lock` does where
    /// it can be written. `left`: the lock of a daemon that has died.
    ///
    /// # Errors
    /// Another one has it (kind Busy); errors of the file system.
    pub fn lock_runtime(&self, left: Option<BorrowedFd<'_>>) -> Result<StoreLock> {
        let path = self.make_runtime()?;
        let directory: OwnedFd = fs::File::open(&path).about(path.display())?.into();
        let store = self.store().display().to_string();
        StoreLock::take_after(directory.as_fd(), &store, left)
    }

    /// Keeps others, daemons too, from altering a store that this process does not alter either.
    ///
    /// # Errors
    /// Another process has it (kind Busy); errors of the file system.
    pub fn lock(&self, store: &Store) -> Result<StoreLock> {
        match self.is_read_only() {
            true => self.lock_runtime(None),
            false => StoreLock::take(store.run(), &format!("store {}", store.path().display())),
        }
    }

    /// Makes [`Session::runtime`] if it has to be made.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn make_runtime(&self) -> Result<PathBuf> {
        let path = self.runtime();
        if self.is_read_only() {
            let mut made = fs::DirBuilder::new();
            made.recursive(true).mode(0o700);
            made.create(&path).about(path.display())?;
        }
        Ok(path)
    }

    /// Where progress is shown.
    pub fn progress(&self) -> Box<dyn Progress> {
        progress(!self.quiet)
    }

    /// Makes the store.
    ///
    /// # Errors
    /// Those of [`ops::init::plan`] and [`ops::init::apply`].
    pub fn init(&self, dry_run: bool) -> Result<Outcome> {
        let plan = ops::init::plan(self.store())?;
        let report = if dry_run {
            plan.report()
        } else {
            ops::init::apply(&plan)?
        };
        self.show(&Report::Init(report), dry_run)
    }

    /// Performs a request and prints its report.
    ///
    /// # Errors
    /// The request's.
    pub fn run(&self, request: Request, dry_run: bool) -> Result<Outcome> {
        let call = Call { request, dry_run };
        let progress = self.progress();
        let report = self.perform(&call, &*progress)?;
        drop(progress);
        self.show(&report, dry_run)
    }

    /// Prints a report.
    ///
    /// # Errors
    /// Standard output cannot be written to.
    pub fn show(&self, report: &Report, dry_run: bool) -> Result<Outcome> {
        if self.json {
            output::print_json(&Printed { report, dry_run })?;
        } else {
            output::print(render(report, dry_run).as_bytes())?;
        }
        Ok(if report.has_findings() {
            Outcome::Findings
        } else {
            Outcome::Done
        })
    }

    /// Has the daemon perform a call; where none runs, performs it in this process.
    ///
    /// # Errors
    /// The call's; the store is busy, because another command alters it.
    pub fn perform(&self, call: &Call, progress: &dyn Progress) -> Result<Report> {
        let writes = call.request.alters() && !call.dry_run;
        while_it_ends(|| match self.counterpart(writes)? {
            Counterpart::Daemon(client) => client.perform(call, progress),
            Counterpart::Own(context) => ops::perform(&context, call, progress),
        })
    }

    /// The daemon, or the store itself, opened for writing if `writes`.
    ///
    /// # Errors
    /// The store cannot be opened; another command alters it.
    pub fn counterpart(&self, writes: bool) -> Result<Counterpart> {
        self.counterpart_after(writes, Before::default())
    }

    /// The same for a daemon to which the one before has left its lock.
    ///
    /// # Errors
    /// As [`Session::counterpart`].
    pub fn counterpart_after(&self, writes: bool, before: Before<'_>) -> Result<Counterpart> {
        let begun = Instant::now();
        loop {
            // A daemon that has left its lock answers nobody, even if its socket is open still.
            if before.lock.is_none()
                && let Some(client) = ControlClient::connect(&self.socket())?
            {
                return Ok(Counterpart::Daemon(client));
            }
            match self.open_after(writes, before) {
                // Another command, soon done, or a daemon that does not listen yet or no more.
                Err(error) if error.kind == ErrorKind::Busy && begun.elapsed() < PATIENCE => {
                    std::thread::sleep(LOOK);
                }
                result => return result.map(|context| Counterpart::Own(Box::new(context))),
            }
        }
    }

    /// Refuses to go on beside a daemon.
    ///
    /// # Errors
    /// One serves the store (kind Busy).
    pub fn refuse_daemon(&self) -> Result<()> {
        let Some(client) = ControlClient::connect(&self.socket())? else {
            return Ok(());
        };
        let cause = format!("process {} serves it", client.pid);
        Err(Error::busy(self.store().display(), cause)
            .remedy("unmount its images, or end that process, and try again"))
    }

    /// Opens the store in this process.
    ///
    /// # Errors
    /// Those of [`Store::open`].
    pub fn open(&self, writes: bool) -> Result<Context> {
        self.open_after(writes, Before::default())
    }

    fn open_after(&self, writes: bool, before: Before<'_>) -> Result<Context> {
        let mode = if writes { Access::Write } else { Access::Read };
        let images: Vec<_> = before.mounts.iter().map(Mount::image).collect();
        let left = Left {
            lock: before.lock,
            images: &images,
        };
        let store = Arc::new(Store::open_after(self.store(), mode, left)?);
        let left = before.mounts.iter();
        let inherited = left.map(|left| (left.image(), left.inheritance()));
        Ok(Context::inheriting(
            store,
            self.config.threads,
            inherited.collect(),
        ))
    }
}

/// Calls again while another command has the store.
///
/// # Errors
/// The call's.
pub fn while_busy<T>(call: impl Fn() -> Result<T>) -> Result<T> {
    let begun = Instant::now();
    loop {
        match call() {
            Err(error) if error.kind == ErrorKind::Busy && begun.elapsed() < PATIENCE => {
                std::thread::sleep(LOOK);
            }
            outcome => return outcome,
        }
    }
}

/// Calls again when the daemon refused because it is ending: it has not begun the call then.
///
/// # Errors
/// The call's.
pub fn while_it_ends(call: impl Fn() -> Result<Report>) -> Result<Report> {
    let begun = Instant::now();
    loop {
        match call() {
            Err(error) if error.errno == Some(ENDING) && begun.elapsed() < PATIENCE => {
                std::thread::sleep(LOOK);
            }
            outcome => return outcome,
        }
    }
}

/// What a daemon that has died has left to the next one.
#[derive(Debug, Clone, Copy, Default)]
pub struct Before<'a> {
    /// Its lock.
    pub lock: Option<BorrowedFd<'a>>,
    /// Its mounts.
    pub mounts: &'a [Mount],
}

/// Who performs a call.
pub enum Counterpart {
    /// The daemon that holds the store.
    Daemon(ControlClient),
    /// This process.
    Own(Box<Context>),
}
