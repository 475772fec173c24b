//! The daemon: one process that holds the store's lock, serves all its mounts and carries out what
//! comes over the control socket.

mod takeover;

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use super::control_server::{ControlServer, Performer};
use super::folding::Folding;
use super::fuse::adapter::Adapter;
use super::fuse::mount::{Mounted, Wanted};
use super::fuse::pool;
use super::fuse::requests::{Counted, Requests};
use super::live::{Committing, LiveTrees};
use super::metrics::Numbers;
use super::metrics_server::MetricsServer;
use super::mount_table;
use super::replacement::Program;
use super::service_manager::{self, Watchdog};
use super::work::Work;
use crate::error::{Context as _, Error, Result};
use crate::filesystem::passthrough::Passthrough;
use crate::ops::Context;
use crate::ops::passes::Schedule;
use crate::ops::report::{MetricsReport, MountReport, MountedImage, ReplaceReport, Report};
use crate::ops::request::{Call, MountOptions, Request};
use crate::ops::{self, damaged};
use crate::path_bytes::PathBytes;
use crate::progress::Progress;
use crate::store::catalog::{Image, ImageRole, Reads};
use crate::store::metadata::Time;
use crate::store::number::ImageId;
use crate::store::open::Access;
use takeover::Waiting;

/// How long a daemon that ends with its last mount waits until it is asked for the first.
const FIRST_MOUNT: Duration = Duration::from_secs(30);

/// How often mounts are looked at that somebody may have unmounted with umount(8).
const LOOK: Duration = Duration::from_millis(500);

/// When a daemon ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// At SIGTERM or SIGINT.
    UntilSignal,
    /// Then, or after its last mount is gone.
    UntilUnmounted,
}

struct Serving {
    image: ImageId,
    name: String,
    mounted: Mounted,
}

impl Serving {
    fn say(&self, what: &str) {
        log::info!(image = self.name.as_str(), directory:% = self.mounted.directory().display(); "{what}");
    }

    /// Not unmounted by somebody else.
    fn is_there(&self) -> bool {
        let gone = self.mounted.is_gone();
        if gone {
            self.say("unmounted by others");
        }
        !gone
    }
}

/// What a daemon is told by the configuration.
#[derive(Debug, Clone)]
pub struct Options {
    /// The control socket.
    pub socket: PathBuf,
    /// Threads that answer the kernel, for each mounted image.
    pub session_threads: usize,
    /// When to fold.
    pub schedule: Schedule,
    /// Where to serve metrics over HTTP.
    pub metrics: Option<SocketAddr>,
    /// With which files of the host are passed through to the kernel, if any are.
    pub passthrough: Option<Arc<Passthrough>>,
    /// The file that all this is from, absolute, if somebody named one.
    pub configuration: Option<PathBuf>,
}

/// A running daemon.
pub struct Daemon {
    context: Arc<Context>,
    options: Options,
    /// Seconds since 1970.
    started: i64,
    mounts: Mutex<Vec<Serving>>,
    /// Locked after `mounts`.
    waiting: Mutex<Vec<Waiting>>,
    work: Work,
    /// An eventfd: readable once no more calls are taken.
    end: OwnedFd,
    /// Whether somebody has asked for a mount, in vain or not.
    was_asked: AtomicBool,
    pool: Arc<rayon::ThreadPool>,
    requests: Arc<Requests>,
    live: Arc<LiveTrees>,
}

impl Daemon {
    /// A daemon for the store of `context`, which is open for writing.
    pub fn new(context: Context, options: Options) -> Result<Arc<Self>> {
        Ok(Arc::new(Self {
            context: Arc::new(context),
            options,
            started: Time::now().seconds,
            mounts: Mutex::default(),
            waiting: Mutex::default(),
            work: Work::default(),
            end: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).about("an eventfd")?,
            was_asked: AtomicBool::new(false),
            pool: pool::pool()?,
            requests: Arc::default(),
            live: Arc::default(),
        }))
    }

    /// Serves until it is time to end. All mounts are gone afterwards: in use or not, because what
    /// they would be served by is.
    ///
    /// # Errors
    /// The socket or the signals cannot be set up.
    pub fn run(self: &Arc<Self>, lifetime: Lifetime) -> Result<()> {
        let server = ControlServer::bind(&self.options.socket)?;
        self.end_on_signal()?;
        self.watch_mounts(lifetime)?;
        self.retry()?;
        loop {
            self.serve(&server)?;
            let Some(successor) = self.work.successor() else {
                break;
            };
            service_manager::notify(service_manager::RELOADING);
            log::info!(version = successor.abilities.foldfs.as_str(); "another program takes over");
            let error = successor.take_over();
            log::error!(error:% = error; "it does not: this one goes on");
            self.listen_again()?;
        }
        service_manager::notify(service_manager::STOPPING);
        self.unmount_all();
        Ok(())
    }

    /// Serves until no more calls are taken, and those that were are done.
    fn serve(self: &Arc<Self>, server: &ControlServer) -> Result<()> {
        let folding = Folding::start(self.context.clone(), self.options.schedule)?;
        let committing = Committing::start(self.context.clone(), self.live.clone())?;
        let metrics = self.serve_metrics();
        log::info!(socket:% = self.options.socket.display(); "daemon began");
        service_manager::notify(service_manager::READY);
        service_manager::program::tell();
        server.serve(&**self, self.end.as_fd());
        self.work.wait();
        drop(committing);
        drop(folding);
        drop(metrics);
        Ok(())
    }

    /// Guests are served whether somebody can watch it or not.
    fn serve_metrics(self: &Arc<Self>) -> Option<MetricsServer> {
        let address = self.options.metrics?;
        let daemon = self.clone();
        let server = MetricsServer::start(address, Arc::new(move || daemon.metrics()));
        server
            .inspect_err(|error| log::error!(error:% = error; "no metrics over HTTP"))
            .ok()
    }

    fn metrics(&self) -> Result<String> {
        let context = &self.context;
        let mut numbers = Numbers {
            started: self.started,
            requests: self.requests.counts(),
            promotions: context.images.promotions(),
            refusals: context.images.refusals(),
            damaged: context.store.objects().verification().damaged().len() as u64,
            idle_passes: context.passes.idle(),
            sums: context.tally.sums(),
            ..Numbers::default()
        };
        let mounted = context.mounted_images().into_iter();
        for live in mounted.filter_map(|image| context.images.live(image)) {
            numbers.mounts += 1;
            numbers.nodes += live.nodes() as u64;
            numbers.handles += live.open_handles() as u64;
        }
        numbers.text()
    }

    fn end_on_signal(self: &Arc<Self>) -> Result<()> {
        use signal_hook::consts::{SIGINT, SIGTERM};
        let mut signals =
            signal_hook::iterator::Signals::new([SIGTERM, SIGINT]).about("signals")?;
        let daemon = self.clone();
        let wait = move || {
            if let Some(signal) = signals.forever().next() {
                log::info!(signal; "daemon ends");
                daemon.end();
            }
        };
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(wait)
            .about("a thread")?;
        Ok(())
    }

    /// Forgets mounts that are gone, and ends the daemon when that is its lifetime.
    fn watch_mounts(self: &Arc<Self>, lifetime: Lifetime) -> Result<()> {
        let daemon = self.clone();
        let mut watchdog = Watchdog::from_environment();
        let watch = move || {
            daemon.watch_until_it_ends(lifetime, &mut watchdog);
            drop(daemon);
            // It finishes what is under way, however long that takes.
            loop {
                std::thread::sleep(LOOK);
                watchdog.alive();
            }
        };
        std::thread::Builder::new()
            .name("mounts".into())
            .spawn(watch)
            .about("a thread")?;
        Ok(())
    }

    fn watch_until_it_ends(&self, lifetime: Lifetime, watchdog: &mut Watchdog) {
        let started = Instant::now();
        loop {
            std::thread::sleep(LOOK);
            watchdog.alive();
            let Some(idle) = self.forget_gone() else {
                continue;
            };
            if self.work.is_ending() {
                return;
            }
            let waited = self.was_asked.load(Ordering::Relaxed) || started.elapsed() > FIRST_MOUNT;
            let over = lifetime == Lifetime::UntilUnmounted && idle && waited;
            if over && self.work.end_if_idle() {
                log::info!("daemon ends: the last mount is gone");
                self.stop_listening();
                return;
            }
        }
    }

    /// Forgets mounts that are gone, and tells whether none is left; not while others are at work on them: mounting all
    /// images takes longer than a watchdog waits.
    fn forget_gone(&self) -> Option<bool> {
        let mut mounts = self.mounts.try_lock()?;
        mounts.retain(Serving::is_there);
        self.publish(&mounts);
        Some(mounts.is_empty() && self.waiting.lock().is_empty())
    }

    fn end(&self) {
        self.work.end();
        self.stop_listening();
    }

    fn listen_again(&self) -> Result<()> {
        self.work.go_on();
        if !self.work.is_ending() {
            // Nothing to read: somebody else has read it, which is as well.
            match rustix::io::read(&self.end, &mut [0; 8]) {
                Ok(_) | Err(Errno::AGAIN) => {}
                error => return error.map(drop).about("an eventfd"),
            }
        }
        Ok(())
    }

    /// Has a program take this one's place, as soon as who asks for it has the answer.
    fn replace(&self, program: &Path, dry_run: bool) -> Result<Report> {
        let successor = Program::at(program, self.options.configuration.as_deref())?;
        let pid = std::process::id();
        let report = ReplaceReport {
            program: program.into(),
            version: successor.abilities.foldfs.clone(),
            pid,
            old_version: env!("CARGO_PKG_VERSION").to_owned(),
            old_pid: pid,
        };
        if !dry_run {
            self.work.replace(successor)?;
            self.stop_listening();
        }
        Ok(Report::ReplaceDaemon(report))
    }

    fn stop_listening(&self) {
        if let Err(error) = rustix::io::write(&self.end, &1_u64.to_ne_bytes()) {
            log::error!("ending: an eventfd: {error}");
        }
    }

    /// Tells the operations what is mounted where.
    fn publish(&self, mounts: &[Serving]) {
        let served = mounts
            .iter()
            .map(|serving| (serving.image, serving.mounted.directory().to_owned()));
        let waiting = self.waiting.lock();
        let waits = waiting.iter();
        let waits = waits.map(|waits| (waits.image(), waits.directory().to_owned()));
        self.context.set_mounted(served.chain(waits).collect());
    }

    fn unmount_all(&self) {
        let mut mounts = self.mounts.lock();
        self.give_up_waiting(|_| true, false);
        for serving in mounts.iter_mut() {
            if let Err(error) = serving.mounted.unmount() {
                log::warn!(image = serving.name.as_str(), error:% = error; "it is taken away while it is in use");
                serving.mounted.detach();
            }
            serving.say("unmounted");
        }
        mounts.clear();
        self.publish(&mounts);
    }

    /// The images that a request to mount means, each with its directory.
    fn mount_targets(&self, name: Option<&str>, directory: &Path) -> Result<Vec<(Image, PathBuf)>> {
        let catalog = self.context.store.catalog();
        let Some(name) = name else {
            let images = catalog
                .images()?
                .into_iter()
                .filter(|image| image.role == ImageRole::Guest);
            let images = images.map(|image| {
                let below = directory.join(&image.name);
                (image, below)
            });
            return Ok(images.collect());
        };
        match catalog.image_by_name(name)? {
            Some(image) => Ok(vec![(image, directory.to_owned())]),
            None => Err(
                Error::failed(format!("image {name:?}"), "there is no such image")
                    .remedy("`foldfs list` shows all images"),
            ),
        }
    }

    /// Has what is done in a working tree committed at once.
    fn commit_live(&self, name: &str) -> Result<()> {
        let catalog = self.context.store.catalog();
        let tree = catalog.image_by_name(name)?;
        let tree = tree.filter(|tree| tree.role == ImageRole::Working);
        if let Some(tree) = tree
            && let Some(family) = catalog.family(tree.family)?
        {
            self.live.add(tree.id, family.name);
            let mut mounts = self.mounts.lock();
            let of_tree = mounts.iter_mut().filter(|serving| serving.image == tree.id);
            of_tree.for_each(|serving| serving.mounted.set_live(true));
        }
        Ok(())
    }

    /// `make`: the directories, too, where there are none.
    fn mount(
        &self,
        targets: &[(Image, PathBuf)],
        options: MountOptions,
        make: bool,
        dry_run: bool,
    ) -> Result<Report> {
        let mut mounts = self.mounts.lock();
        mounts.retain(Serving::is_there);
        for (image, _) in targets {
            if let Some(serving) = mounts.iter().find(|serving| serving.image == image.id) {
                let place = serving.mounted.directory().display();
                let cause = format!("it is mounted on {place} already");
                return Err(Error::busy(format!("image {:?}", image.name), cause)
                    .remedy("use it there, or unmount it first"));
            }
            if self.waiting.lock().iter().any(|it| it.image() == image.id) {
                let cause = "its mount cannot be taken over from the last daemon yet";
                return Err(Error::busy(format!("image {:?}", image.name), cause)
                    .remedy("try again in a minute (the daemon's log says why), or unmount it"));
            }
            if self.context.store.access() == Access::Read && !options.read_only {
                let cause = "its store is on a file system that is mounted read-only";
                let error = Error::failed(format!("image {:?}", image.name), cause);
                let errno = Some(libc::EROFS);
                return Err(Error { errno, ..error }.remedy("mount it with -o ro"));
            }
            if image.role == ImageRole::Base && !options.read_only {
                let cause = "it is a family's base, on which no guest runs";
                return Err(Error::failed(format!("image {:?}", image.name), cause)
                    .remedy("clone it and mount the clone, or look at it with -o ro"));
            }
        }
        let report = targets.iter().map(|(image, place)| MountedImage {
            image: image.name.clone(),
            directory: PathBytes::from(place.clone()),
        });
        let report = Report::Mount(MountReport {
            mounts: report.collect(),
        });
        if dry_run {
            return Ok(report);
        }
        let before = mounts.len();
        for (image, place) in targets {
            match self.serve_image(image, place, options, make) {
                Ok(mounted) => {
                    let serving = Serving {
                        image: image.id,
                        name: image.name.clone(),
                        mounted,
                    };
                    serving.say("mounted");
                    // Whoever wants it says so for each mount.
                    self.live.forget(image.id);
                    mounts.push(serving);
                }
                Err(error) => {
                    for mut serving in mounts.drain(before..) {
                        if let Err(error) = serving.mounted.unmount() {
                            log::warn!(image = serving.name.as_str(), error:% = error; "not unmounted");
                        }
                    }
                    self.publish(&mounts);
                    return Err(error);
                }
            }
        }
        self.publish(&mounts);
        Ok(report)
    }

    fn serve_image(
        &self,
        image: &Image,
        directory: &Path,
        options: MountOptions,
        make: bool,
    ) -> Result<Mounted> {
        if make {
            match std::fs::create_dir(directory) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(error).about(directory.display());
                }
                _ => {}
            }
        }
        let filesystem = self.context.images.filesystem(image.id)?;
        let passthrough = self.options.passthrough.clone();
        let adapter = Adapter::new(filesystem, self.pool.clone(), passthrough);
        let source = mount_table::source_of(self.context.store.path(), &image.name);
        Mounted::new(
            Counted::new(adapter, self.requests.clone()),
            Wanted {
                image: image.id,
                directory,
                source,
                options,
            },
            self.options.session_threads,
        )
    }

    /// Unmounts the image on `directory`, or all on directories directly below it.
    fn unmount(&self, directory: &Path, dry_run: bool) -> Result<Report> {
        let mut mounts = self.mounts.lock();
        let served = mounts.iter().map(|serving| serving.mounted.directory());
        let is_it = |place: &Path| place == directory;
        let waits = self.waiting.lock().iter().any(|it| is_it(it.directory()));
        let exact = waits || { served }.any(is_it);
        let is_meant = |place: &Path| match exact {
            true => is_it(place),
            false => place.parent() == Some(directory),
        };
        let meant = |serving: &Serving| is_meant(serving.mounted.directory());
        let waits = self.give_up_waiting(is_meant, dry_run);
        let report: Vec<_> = mounts
            .iter()
            .filter(|serving| meant(serving))
            .map(|serving| MountedImage {
                image: serving.name.clone(),
                directory: PathBytes::from(serving.mounted.directory().to_owned()),
            })
            .chain(waits)
            .collect();
        if report.is_empty() {
            let cause = "no image of this store is mounted there";
            return Err(Error::failed(directory.display(), cause)
                .remedy("`foldfs list` shows what is mounted where"));
        }
        if !dry_run {
            let mut failed = None;
            mounts.retain_mut(|serving| {
                if !meant(serving) {
                    return true;
                }
                match serving.mounted.unmount() {
                    Ok(()) => {
                        serving.say("unmounted");
                        false
                    }
                    Err(error) => {
                        failed.get_or_insert(error);
                        true
                    }
                }
            });
            self.publish(&mounts);
            if let Some(error) = failed {
                return Err(error);
            }
        }
        Ok(Report::Unmount(MountReport { mounts: report }))
    }
}

impl Performer for Daemon {
    fn perform(&self, call: Call, progress: &dyn Progress) -> Result<Report> {
        self.work.begin()?;
        let result = match &call.request {
            Request::Mount {
                image,
                directory,
                options,
                live,
            } => {
                let targets = self.mount_targets(image.as_deref(), directory.as_path());
                let make = image.is_none();
                let report = targets.and_then(|it| self.mount(&it, *options, make, call.dry_run));
                match (&report, image) {
                    (Ok(_), Some(image)) if *live && !call.dry_run => {
                        self.commit_live(image).and(report)
                    }
                    _ => report,
                }
            }
            Request::Unmount { directory } => self.unmount(directory.as_path(), call.dry_run),
            Request::ReplaceDaemon { program } => self.replace(program.as_path(), call.dry_run),
            Request::Metrics => self
                .metrics()
                .map(|text| Report::Metrics(MetricsReport { text })),
            request => {
                let report = ops::perform(&self.context, &call, progress);
                if let (Ok(Report::Apply(report)), false) = (&report, call.dry_run) {
                    self.live.note(&self.context, request, report);
                }
                report
            }
        };
        let result = result.map_err(|error| damaged::named(&self.context, error));
        if let Request::Mount { .. } = call.request {
            self.was_asked.store(true, Ordering::Relaxed);
        }
        self.work.done();
        result
    }
}

#[cfg(test)]
#[path = "daemon_tests.rs"]
mod tests;
