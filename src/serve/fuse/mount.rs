//! Mounting and unmounting: mount(2) and umount2(2) themselves, so that a busy mount says so, no
//! helper program is needed, and nothing but our own mount is ever unmounted.

use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fuser::{Config, INodeNo, Notifier, Session, SessionACL};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::time::Timespec;

use super::requests::Counted;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::filesystem::passthrough::Upcall;
use crate::ops::request::MountOptions;
use crate::serve::mount_table::{self, FILE_SYSTEM_TYPE};

/// How long the kernel may need for the last uses of a mount that is unmounted.
const LAST_USES: Timespec = Timespec {
    tv_sec: 5,
    tv_nsec: 0,
};

const AT_ONCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

/// How long requests that the kernel has let go of may go on.
const LAST_REQUESTS: Duration = Duration::from_secs(5);

/// How often they are looked at.
const LOOK: Duration = Duration::from_millis(1);

/// What the kernel is told unasked.
struct Told {
    notifier: Notifier,
    /// The connection, for what the notifier cannot say.
    device: OwnedFd,
}

/// FUSE_NOTIFY_INVAL_ENTRY and its flag FUSE_EXPIRE_ONLY (include/uapi/linux/fuse.h): the name is asked for
/// when it is next looked up. Without the flag (before Linux 6.2) what is mounted below it would go.
const INVAL_ENTRY: i32 = 3;
const EXPIRE_ONLY: u32 = 1;

/// A fuse_out_header, a fuse_notify_inval_entry_out, and the name.
fn expiry(directory: u64, name: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(33 + name.len());
    bytes.extend((33 + name.len() as u32).to_ne_bytes());
    bytes.extend(INVAL_ENTRY.to_ne_bytes());
    bytes.extend(0_u64.to_ne_bytes());
    bytes.extend(directory.to_ne_bytes());
    bytes.extend((name.len() as u32).to_ne_bytes());
    bytes.extend(EXPIRE_ONLY.to_ne_bytes());
    bytes.extend(name);
    bytes.push(0);
    bytes
}

impl Upcall for Told {
    fn forget_attributes(&self, nodeid: u64) {
        // A negative offset: the attributes only.
        match self.notifier.inval_inode(INodeNo(nodeid), -1, 0) {
            Ok(()) => {}
            // It does not know the nodeid (any more), or the mount is gone.
            Err(error) => log::debug!(error:% = error; "attributes of {nodeid}"),
        }
    }

    fn forget_entry(&self, directory: u64, name: &[u8]) {
        if let Err(error) = rustix::io::write(&self.device, &expiry(directory, name)) {
            // Mostly it does not know the name.
            log::debug!(error:% = error; "a name in {directory}");
        }
    }

    fn forget_directory(&self, nodeid: u64) {
        // With all pages, which is where it keeps the names.
        if let Err(error) = self.notifier.inval_inode(INodeNo(nodeid), 0, 0) {
            log::debug!(error:% = error; "directory {nodeid}");
        }
    }
}

/// A live mount and the threads that serve it.
pub struct Mounted {
    directory: PathBuf,
    source: OsString,
    /// The connection, to see its end.
    device: OwnedFd,
    serving: Option<JoinHandle<std::io::Result<()>>>,
}

impl Mounted {
    /// Mounts what `adapter` serves on `directory` (absolute, an existing directory) and starts
    /// `threads` threads for it.
    ///
    /// # Errors
    /// No /dev/fuse, no such directory, no privilege; nothing is mounted then.
    pub fn new(
        adapter: Counted,
        directory: &Path,
        source: OsString,
        options: MountOptions,
        threads: usize,
    ) -> Result<Self> {
        let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        let device: OwnedFd = device.about("/dev/fuse").map_err(|error| {
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
        let session_device = device.try_clone().about("/dev/fuse")?;
        let notices = device.try_clone().about("/dev/fuse")?;
        let mut mounted = Self {
            directory: directory.into(),
            source,
            device,
            serving: None,
        };
        let mut config = Config::default();
        config.n_threads = Some(threads.max(1));
        config.clone_fd = true;
        let served = &adapter.adapter;
        let (filesystem, passthrough) = (served.filesystem.clone(), served.passthrough.clone());
        let passes_through = served.passes_through.clone();
        // Who may enter is the kernel's decision (allow_other above).
        let session = Session::from_fd(adapter, session_device, SessionACL::All, config)
            .about(format!("serving {}", directory.display()));
        let session = match session {
            Ok(session) => session,
            Err(error) => {
                mounted.detach();
                return Err(error);
            }
        };
        let passthrough = passthrough.filter(|_| passes_through.load(Ordering::Acquire));
        let told = Told {
            notifier: session.notifier(),
            device: notices,
        };
        filesystem.serve(Arc::new(told), passthrough);
        let thread = std::thread::Builder::new()
            .name("session".into())
            .spawn(move || session.run())
            .about("a session thread");
        match thread {
            Ok(thread) => {
                mounted.serving = Some(thread);
                Ok(mounted)
            }
            Err(error) => {
                mounted.detach();
                Err(error)
            }
        }
    }

    /// Where it is mounted.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Whether the mount is gone: somebody unmounted it with umount(8). It is as soon as that command has ended: what
    /// serves it, and ends a moment later, is waited for.
    pub fn is_gone(&self) -> bool {
        let Some(serving) = &self.serving else {
            return true;
        };
        let begun = Instant::now();
        while !serving.is_finished()
            && self.connection_ends(&AT_ONCE)
            && begun.elapsed() < LAST_REQUESTS
        {
            std::thread::sleep(LOOK);
        }
        serving.is_finished()
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
        let mut fds = [PollFd::new(&self.device, PollFlags::empty())];
        let ready = rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, Some(patience)));
        ready.is_ok() && fds[0].revents().contains(PollFlags::ERR)
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
        if self.is_gone() && self.serving.is_some() {
            return;
        }
        if self.serving.is_some() {
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
    }

    fn join(&mut self) -> Result<()> {
        let Some(serving) = self.serving.take() else {
            return Ok(());
        };
        match serving.join() {
            // ENODEV is how the kernel says that the mount is gone.
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            Ok(Err(error)) => Err(error).about(format!("serving {}", self.directory.display())),
            Err(_) => Err(Error::new(
                ErrorKind::Failed,
                format!("serving {}", self.directory.display()),
                "a thread panicked",
            )),
        }
    }
}
