//! Mounting and unmounting: mount(2) and umount2(2) themselves, so that a busy mount says so, no
//! helper program is needed, and nothing but our own mount is ever unmounted.

use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fuser::Session;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::time::Timespec;

use super::connection;
use super::left::{Left, MountRecord};
use super::registration::Connection;
use super::requests::Counted;
use super::told::Told;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::filesystem::Filesystem;
use crate::filesystem::ledger::Ledger;
use crate::ops::request::MountOptions;
use crate::path_bytes::PathBytes;
use crate::serve::mount_table::{self, FILE_SYSTEM_TYPE};
use crate::serve::service_manager::descriptors;
use crate::store::number::ImageId;
use crate::sys::fuse_device;

/// How long the kernel may need for the last uses of a mount that is unmounted.
const LAST_USES: Timespec = Timespec {
    tv_sec: 5,
    tv_nsec: 0,
};

/// How long requests that the kernel has let go of may go on.
const LAST_REQUESTS: Duration = Duration::from_secs(5);

/// How often they are looked at.
const LOOK: Duration = Duration::from_millis(1);

/// A live mount and the threads that serve it.
pub struct Mounted {
    directory: PathBuf,
    source: OsString,
    /// What outlives this process, if anything does.
    kept: Option<(MountRecord, Arc<Ledger>)>,
    /// The connection, to see its end.
    device: Arc<OwnedFd>,
    /// Alive until the kernel has gone: the threads that serve it let go of it a moment earlier.
    filesystem: Option<Arc<Filesystem>>,
    serving: Vec<JoinHandle<std::io::Result<()>>>,
}

/// What is to be mounted.
#[derive(Debug, Clone)]
pub struct Wanted<'a> {
    /// The image.
    pub image: ImageId,
    /// Where: absolute, an existing directory.
    pub directory: &'a Path,
    /// What the mount says it shows.
    pub source: OsString,
    /// How.
    pub options: MountOptions,
}

impl Mounted {
    /// Mounts what `adapter` serves and starts `threads` threads for it.
    ///
    /// # Errors
    /// No /dev/fuse, no such directory, no privilege; nothing is mounted then.
    pub fn new(adapter: Counted, wanted: Wanted<'_>, threads: usize) -> Result<Self> {
        let Wanted {
            directory, options, ..
        } = wanted;
        let source = wanted.source.clone();
        let device = fuse_device::open().about("/dev/fuse").map_err(|error| {
            error.remedy("load the kernel's fuse module (modprobe fuse) and run foldfs as root")
        })?;
        let mut flags = MountFlags::empty();
        flags.set(MountFlags::RDONLY, options.read_only);
        flags.set(MountFlags::NOSUID, !options.suid);
        flags.set(MountFlags::NODEV, !options.dev);
        let allow_other = if options.allow_other {
            ",allow_other"
        } else {
            ""
        };
        let data = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0,default_permissions{allow_other}",
            device.as_raw_fd()
        );
        let data = std::ffi::CString::new(data)
            .map_err(|error| Error::failed(directory.display(), error))?;
        rustix::mount::mount(
            source.as_os_str(),
            directory,
            FILE_SYSTEM_TYPE,
            flags,
            data.as_c_str(),
        )
        .about(format!("mounting on {}", directory.display()))?;
        let device = Arc::new(device);
        let mut mounted = Self {
            directory: directory.into(),
            source,
            kept: None,
            device: device.clone(),
            filesystem: Some(adapter.adapter.filesystem.clone()),
            serving: Vec::new(),
        };
        match mounted.serve_new(adapter, &wanted, threads) {
            Ok(()) => Ok(mounted),
            Err(error) => {
                mounted.detach();
                Err(error)
            }
        }
    }

    fn serve_new(&mut self, adapter: Counted, wanted: &Wanted<'_>, threads: usize) -> Result<()> {
        let about = || format!("serving {}", self.directory.display());
        let first = connection::first(adapter.clone(), self.device.as_fd()).about(about())?;
        let protocol = adapter
            .adapter
            .protocol()
            .ok_or_else(|| Error::failed(about(), "the kernel has not said what it can do"))?;
        let more = 1..threads.max(1);
        let more = more.map(|_| fuse_device::another(self.device.as_fd()));
        let devices: rustix::io::Result<Vec<OwnedFd>> = more.collect();
        let devices = devices.about("/dev/fuse")?;
        let record = MountRecord {
            image: wanted.image,
            directory: self.directory.clone().into(),
            source: PathBytes::from(self.source.as_bytes().to_vec()),
            live: false,
            protocol,
        };
        self.kept = self.keep(&record, &devices).map(|ledger| (record, ledger));
        let mut sessions = vec![first];
        for device in &devices {
            let session = connection::further(adapter.clone(), device.as_fd(), protocol);
            sessions.push(session.about(about())?);
        }
        self.begin(&adapter, sessions)
    }

    /// Has the descriptors outlive this process, with what the kernel knows. Guests are served whether that can
    /// be done or not.
    fn keep(&self, record: &MountRecord, devices: &[OwnedFd]) -> Option<Arc<Ledger>> {
        if !record.protocol.resends() {
            log::info!(
                "the kernel does not resend requests (Linux 6.9 does): mounts end with the daemon"
            );
            return None;
        }
        let kept = || -> std::io::Result<Arc<Ledger>> {
            let ledger = Ledger::new()?;
            ledger.describe(&serde_json::to_vec(record)?)?;
            let mut all = vec![self.device.as_fd(), ledger.as_fd()];
            all.extend(devices.iter().map(AsFd::as_fd));
            descriptors::keep(&record.name(), &all)?;
            Ok(ledger)
        };
        kept()
            .inspect_err(|error| {
                log::warn!(
                    "{}: it will end with the daemon: {error}",
                    self.directory.display()
                );
            })
            .ok()
    }

    /// Goes on with a mount that another process has left.
    ///
    /// # Errors
    /// The kernel's; it is not served then.
    pub fn take_over(adapter: Counted, left: Left) -> Result<Self> {
        let Left {
            record,
            ledger,
            device,
            devices,
        } = left;
        let mut mounted = Self {
            directory: record.directory.as_path().to_owned(),
            source: OsString::from_vec(record.source.as_bytes().to_vec()),
            device,
            filesystem: Some(adapter.adapter.filesystem.clone()),
            serving: Vec::new(),
            kept: None,
        };
        let protocol = record.protocol;
        mounted.kept = Some((record, ledger));
        let all = std::iter::once(mounted.device.as_fd()).chain(devices.iter().map(AsFd::as_fd));
        let sessions = all.map(|device| connection::further(adapter.clone(), device, protocol));
        let sessions: std::io::Result<Vec<_>> = sessions.collect();
        let sessions = sessions.about(format!("serving {}", mounted.directory.display()))?;
        // Before the first is read: it would be sent twice.
        connection::resend(mounted.device.as_fd());
        mounted.begin(&adapter, sessions)?;
        let filesystem = adapter.adapter.filesystem.clone();
        let telling = std::thread::Builder::new()
            .name("taken over".into())
            .spawn(move || filesystem.tell_inherited());
        if let Err(error) = telling {
            let directory = mounted.directory.display();
            log::error!("{directory}: the kernel is not told what may have changed: {error}");
        }
        Ok(mounted)
    }

    /// Who takes it over is to commit at once what is done in it, or not.
    pub fn set_live(&mut self, live: bool) {
        let Some((record, ledger)) = &mut self.kept else {
            return;
        };
        record.live = live;
        let described = serde_json::to_vec(record).map_err(std::io::Error::from);
        let described = described.and_then(|text| Ok(ledger.describe(&text)?));
        if let Err(error) = described {
            log::warn!("{}: {error}", self.directory.display());
        }
    }

    /// Starts the threads that serve.
    fn begin(&mut self, adapter: &Counted, sessions: Vec<Session<Counted>>) -> Result<()> {
        let Some(first) = sessions.first() else {
            return Err(Error::failed(self.directory.display(), "nobody serves it"));
        };
        let served = &adapter.adapter;
        let told = Told {
            notifier: first.notifier(),
            device: self.device.clone(),
        };
        let passes_through = served.passes_through.load(Ordering::Acquire);
        let passthrough = served.passthrough.clone().filter(|_| passes_through);
        let ledger = self.kept.as_ref().map(|(_, ledger)| ledger.clone());
        served.device.set(Connection {
            device: Arc::downgrade(&self.device),
            ledger: ledger.clone(),
        });
        // All that can fail comes before: what is served once is not given to others to serve.
        let (mut gates, mut serving) = (Vec::new(), Vec::new());
        for session in sessions {
            let (gate, opens) = mpsc::channel();
            let run = move || match opens.recv() {
                Ok(()) => session.run(),
                Err(mpsc::RecvError) => Ok(()),
            };
            let thread = std::thread::Builder::new()
                .name("session".into())
                .spawn(run);
            serving.push(thread.about("a session thread")?);
            gates.push(gate);
        }
        self.serving = serving;
        served.filesystem.serve(Arc::new(told), passthrough, ledger);
        for gate in gates {
            if gate.send(()).is_err() {
                log::error!("{}: a session thread has ended", self.directory.display());
            }
        }
        Ok(())
    }

    /// Where it is mounted.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Whether the mount is gone: somebody unmounted it with umount(8). It is as soon as that command has ended: what
    /// serves it, and ends a moment later, is waited for.
    pub fn is_gone(&self) -> bool {
        if self.serving.is_empty() {
            // Nobody serves it yet, or any more: that it is to be gone is the kernel's to say.
            return self.connection_ends(&connection::AT_ONCE);
        }
        let is_finished = || self.serving.iter().all(JoinHandle::is_finished);
        let begun = Instant::now();
        while !is_finished()
            && self.connection_ends(&connection::AT_ONCE)
            && begun.elapsed() < LAST_REQUESTS
        {
            std::thread::sleep(LOOK);
        }
        is_finished()
    }

    /// Whether our mount is the topmost on its directory.
    fn is_on_top(&self) -> Result<bool> {
        let mounts = mount_table::mounts()?;
        let top = mounts
            .iter()
            .rev()
            .find(|mount| mount.point == self.directory);
        Ok(top.is_some_and(|mount| mount.source == self.source.as_bytes()))
    }

    /// Whether our mount is there, on top or not.
    fn is_somewhere(&self) -> Result<bool> {
        let mounts = mount_table::mounts()?;
        Ok(mounts
            .iter()
            .any(|mount| mount.source == self.source.as_bytes()))
    }

    /// Whether the kernel lets go of the connection in that time, which it does with the last mount of it.
    fn connection_ends(&self, patience: &Timespec) -> bool {
        connection::has_ended(self.device.as_fd(), patience)
    }

    /// Unmounts; what was written is with the host's file system then.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] while something is open below it, something else is mounted on it, or
    /// another mount namespace has it.
    pub fn unmount(&mut self) -> Result<()> {
        if !self.is_gone() {
            if !self.is_on_top()? && self.is_somewhere()? {
                let cause = "something else is mounted on it";
                return Err(Error::busy(self.directory.display(), cause)
                    .remedy("unmount that first, with umount(8)"));
            }
            match rustix::mount::unmount(&self.directory, UnmountFlags::NOFOLLOW) {
                Ok(()) | Err(Errno::INVAL) => {}
                Err(Errno::BUSY) => {
                    let cause = "it is in use";
                    return Err(Error::busy(self.directory.display(), cause).remedy(
                        "end what uses it (fuser -vm DIR or lsof DIR shows it) and try again",
                    ));
                }
                Err(error) => return Err(error).about(self.directory.display()),
            }
            if !self.connection_ends(&LAST_USES) {
                let cause = "it is unmounted here, but another mount namespace has it";
                return Err(Error::busy(self.directory.display(), cause).remedy(
                    "end the processes there (lsns -t mnt lists namespaces); \
                     it is served until then",
                ));
            }
        }
        self.join()
    }

    /// Takes the mount out of the tree even if it is in use; for the end of the daemon. What is
    /// dirty in the kernel's cache is written first.
    pub fn detach(&mut self) {
        let report = |what: &str, error: &dyn std::fmt::Display| {
            log::warn!("{}: {what}: {error}", self.directory.display());
        };
        let is_served = !self.serving.is_empty();
        if is_served && self.is_gone() {
            return;
        }
        if is_served {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            match rustix::fs::open(&self.directory, flags, Mode::empty()) {
                Ok(root) => {
                    if let Err(error) = rustix::fs::syncfs(&root) {
                        report("writing what is cached", &error);
                    }
                }
                Err(error) => report("opening", &error),
            }
        }
        match self.is_on_top() {
            Ok(true) => {
                let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
                if let Err(error) = rustix::mount::unmount(&self.directory, flags) {
                    report("unmounting", &error);
                }
            }
            Ok(false) => {}
            Err(error) => report("unmounting", &error),
        }
        self.let_go();
    }

    /// Nobody is to go on with it.
    fn let_go(&self) {
        if let Some((record, _)) = &self.kept {
            descriptors::let_go(&record.name());
        }
    }

    /// What the kernel had open is closed: what it had not said of that when the mount went it will not say any more.
    fn disconnect(&mut self) {
        if let Some(filesystem) = self.filesystem.take() {
            filesystem.disconnect();
        }
    }

    fn join(&mut self) -> Result<()> {
        let mut outcome = Ok(());
        for serving in self.serving.drain(..) {
            let ended = match serving.join() {
                // ENODEV is how the kernel says that the mount is gone.
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
                Ok(Err(error)) => Err(error).about(format!("serving {}", self.directory.display())),
                Err(_) => Err(Error::new(
                    ErrorKind::Failed,
                    format!("serving {}", self.directory.display()),
                    "a thread panicked",
                )),
            };
            outcome = outcome.and(ended);
        }
        self.disconnect();
        outcome
    }
}

impl Drop for Mounted {
    /// If it is there still, another process is to go on with it.
    fn drop(&mut self) {
        if self.is_gone() {
            self.let_go();
            self.disconnect();
        }
    }
}
