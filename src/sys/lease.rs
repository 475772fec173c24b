//! Read leases: whether a file can still change (fcntl(2), Leases).

#![allow(unsafe_code)]

use std::collections::BTreeSet;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Once;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rustix::io::{Errno, Result};

use super::priority;

/// A read lease, given back when dropped. While it is held nobody has the file open for writing or
/// mapped writable, and who wants to open it so waits (or gets EWOULDBLOCK with O_NONBLOCK).
#[derive(Debug)]
pub struct ReadLease(OwnedFd);

impl ReadLease {
    /// Takes the lease on a descriptor opened read-only, `None` while somebody may write the file.
    ///
    /// # Errors
    /// EINVAL where the file system has no leases; EACCES without CAP_LEASE.
    pub fn take(file: OwnedFd) -> Result<Option<Self>> {
        static IGNORED: Once = Once::new();
        IGNORED.call_once(ignore_break_signal);
        // SAFETY: fcntl with F_SETLEASE takes an int and touches no memory of ours.
        let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) };
        if result == 0 {
            return Ok(Some(Self(file)));
        }
        match std::io::Error::last_os_error().raw_os_error() {
            Some(libc::EAGAIN) => Ok(None),
            Some(other) => Err(Errno::from_raw_os_error(other)),
            None => Err(Errno::IO),
        }
    }

    /// The descriptor the lease is on.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Gives the lease back; the file stays open.
    pub fn give_back(self) -> OwnedFd {
        let this = ManuallyDrop::new(self);
        give_back(this.0.as_raw_fd());
        // SAFETY: `this` is not used again, nor dropped.
        unsafe { std::ptr::read(&this.0) }
    }

    /// Whether somebody waits for the lease to be given back, or it has been.
    pub fn is_breaking(&self) -> bool {
        is_breaking(self.0.as_raw_fd())
    }
}

impl Drop for ReadLease {
    fn drop(&mut self) {
        give_back(self.0.as_raw_fd());
    }
}

/// Whether a descriptor has no read lease (F_GETLEASE shows what is being waited for).
fn is_breaking(file: RawFd) -> bool {
    // SAFETY: fcntl with F_GETLEASE touches no memory of ours.
    let held = unsafe { libc::fcntl(file, libc::F_GETLEASE) };
    held != libc::F_RDLCK
}

/// Closing the descriptor would give the lease back too, were it not shared with a child that is just
/// being forked.
fn give_back(file: RawFd) {
    // SAFETY: fcntl with F_SETLEASE takes an int and touches no memory of ours.
    unsafe { libc::fcntl(file, libc::F_SETLEASE, libc::F_UNLCK) };
}

/// How often the thread that watches leases looks: who wants one given back waits so long, and for it
/// to run.
const LOOK: Duration = Duration::from_micros(500);

/// The leases that are watched.
static WATCHED: Mutex<BTreeSet<RawFd>> = Mutex::new(BTreeSet::new());

/// There is one more.
static MORE: Condvar = Condvar::new();

/// A read lease that is given back as soon as somebody wants to write, however long its holder takes to
/// read, or to get a core: by a thread that does nothing else.
#[derive(Debug)]
pub struct WatchedLease(ReadLease);

impl WatchedLease {
    /// Has a lease watched.
    ///
    /// # Errors
    /// The system has no threads left.
    pub fn new(lease: ReadLease) -> std::io::Result<Self> {
        static STARTED: Mutex<bool> = Mutex::new(false);
        let mut started = STARTED.lock();
        if !*started {
            std::thread::Builder::new()
                .name("leases".into())
                .spawn(watch)?;
            *started = true;
        }
        drop(started);
        WATCHED.lock().insert(lease.0.as_raw_fd());
        MORE.notify_one();
        Ok(Self(lease))
    }

    /// The descriptor the lease is on.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.0.file()
    }

    /// Gives the lease back; the file stays open.
    pub fn give_back(self) -> OwnedFd {
        self.unwatch();
        let this = ManuallyDrop::new(self);
        // SAFETY: `this` is not used again, nor dropped.
        let lease = unsafe { std::ptr::read(&this.0) };
        lease.give_back()
    }

    /// From now on who wants to write waits for the holder, if [`WatchedLease::is_over`] says no after this.
    pub fn hold(&self) {
        self.unwatch();
    }

    /// To be done before the descriptor is closed: its number may be another file's then.
    fn unwatch(&self) {
        WATCHED.lock().remove(&self.0.0.as_raw_fd());
    }

    /// Whether the file may have been altered since the lease was taken.
    pub fn is_over(&self) -> bool {
        self.0.is_breaking()
    }
}

impl Drop for WatchedLease {
    fn drop(&mut self) {
        self.unwatch();
    }
}

fn watch() {
    // Whoever takes the first lease may be idle; who waits for this thread is not.
    priority::usual();
    let mut watched = WATCHED.lock();
    loop {
        match watched.is_empty() {
            true => MORE.wait(&mut watched),
            false => {
                MORE.wait_for(&mut watched, LOOK);
            }
        }
        watched.retain(|&file| {
            let breaking = is_breaking(file);
            if breaking {
                give_back(file);
            }
            !breaking
        });
    }
}

/// Breaking a lease sends SIGIO to its holder, whose default action ends the process: ignore it.
/// Taking one does so, too.
pub fn ignore_break_signal() {
    // SAFETY: SIG_IGN is a valid disposition and SIGIO is used for nothing else here.
    unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    use std::time::Instant;

    use super::*;

    #[test]
    fn who_wants_to_write_does_not_wait_for_the_holder() {
        let place = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = place.path().join("file");
        std::fs::write(&path, "content").unwrap();
        let take = || {
            let lease = ReadLease::take(File::open(&path).unwrap().into());
            WatchedLease::new(lease.unwrap().unwrap()).unwrap()
        };
        let lease = take();
        assert!(!lease.is_over());
        // Without the watch this waits for lease-break-time, 45 s.
        let begun = Instant::now();
        let mut file = File::options().append(true).open(&path).unwrap();
        assert!(begun.elapsed() < Duration::from_secs(20));
        file.write_all(b"; more").unwrap();
        assert!(lease.is_over());
        drop((lease, file));

        // Held, it stays until it goes.
        let lease = take();
        lease.hold();
        assert!(!lease.is_over());
        let refused = File::options()
            .append(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&path)
            .unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::WouldBlock);
        std::thread::sleep(8 * LOOK);
        assert!(lease.is_over());
        let opened = File::options()
            .append(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&path);
        assert!(opened.is_err(), "it was given back");
        drop(lease);

        let lease = take();
        let refused = File::options()
            .append(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&path)
            .unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::WouldBlock);
        while !lease.is_over() {
            std::thread::yield_now();
        }
        File::options().append(true).open(&path).unwrap();
    }

    #[test]
    fn the_watch_is_not_idle_though_an_idle_thread_has_started_it() {
        let place = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = place.path().join("file");
        std::fs::write(&path, "content").unwrap();
        let lease = std::thread::spawn(move || {
            let _idle = priority::Idle::begin();
            let lease = ReadLease::take(File::open(&path).unwrap().into());
            WatchedLease::new(lease.unwrap().unwrap()).unwrap()
        });
        let lease = lease.join().unwrap();
        let watches = || {
            let threads = std::fs::read_dir("/proc/self/task").unwrap();
            let of =
                |thread: std::fs::DirEntry| std::fs::read_to_string(thread.path().join("stat"));
            let threads = threads.filter_map(move |thread| of(thread.unwrap()).ok());
            threads.filter(|stat| stat.contains("(leases)"))
        };
        let policy = |stat: String| -> i32 {
            let after_name = stat.rsplit_once(") ").unwrap().1;
            after_name.split(' ').nth(38).unwrap().parse().unwrap()
        };
        let begun = Instant::now();
        while watches().map(policy).collect::<Vec<_>>() != [libc::SCHED_OTHER] {
            assert!(begun.elapsed() < Duration::from_secs(20));
            std::thread::yield_now();
        }
        drop(lease);
    }
}
