//! The locks that processes hold on a store; the kernel releases them when the process ends, however
//! it ends.
//!
//! `run/lock` is held by whoever may alter the store; it says who that is. `run` itself is locked by
//! those who read layers without it ([`PlacementLock`]).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{self, AtFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::layout;
use crate::error::{Context, Error, Result};
use crate::sys::copy;

/// The lock, held until it is dropped: then also by no process that is just being spawned and has
/// inherited the descriptor. A daemon's is held on between its death and the start of the next one, by who keeps
/// the descriptor: nobody alters a store whose mounts wait for it.
pub struct StoreLock {
    file: OwnedFd,
    /// To drop this is not to unlock: others have the descriptor.
    goes_on: AtomicBool,
}

impl StoreLock {
    /// Takes the lock in the open directory `run`, without waiting. `store` names it in errors.
    ///
    /// # Errors
    /// Of kind [`crate::error::ErrorKind::Busy`] when another process holds it.
    pub fn take(run: BorrowedFd<'_>, store: &str) -> Result<Self> {
        let about = format!("{store}: run/{}", layout::LOCK);
        let foreign = || {
            Error::failed(&about, "it is no regular file").remedy(
                "see to it that no foldfs process uses the store, then remove it: it is made anew",
            )
        };
        // What is in run/ is no part of the store: no durable step. To open a device may do something.
        match fs::statat(run, layout::LOCK, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if !is_regular(&stat) => return Err(foreign()),
            Ok(_) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno).about(about),
        }
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o600);
        let file = fs::openat(run, layout::LOCK, flags, mode).about(&about)?;
        match fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(busy(file.as_fd(), store)),
            Err(errno) => return Err(errno).about(about),
        }
        let goes_on = AtomicBool::new(false);
        let lock = Self { file, goes_on };
        lock.sign().about(about)?;
        Ok(lock)
    }

    /// Takes it over from a process that has ended, if `left` is the descriptor that it held it by; else as
    /// [`StoreLock::take`].
    ///
    /// What is taken over goes on when this is dropped, but for [`StoreLock::end`].
    ///
    /// # Errors
    /// As [`StoreLock::take`]; also of the lock that was left, if it has been unlocked since.
    pub fn take_after(
        run: BorrowedFd<'_>,
        store: &str,
        left: Option<BorrowedFd<'_>>,
    ) -> Result<Self> {
        let taken = left.map(|left| Self::take_over(run, store, left));
        match taken.transpose()?.flatten() {
            Some(lock) => Ok(lock),
            None => Self::take(run, store),
        }
    }

    /// `None`: the descriptor is not that of the lock in `run`.
    fn take_over(run: BorrowedFd<'_>, store: &str, left: BorrowedFd<'_>) -> Result<Option<Self>> {
        let about = format!("{store}: run/{}", layout::LOCK);
        let found = match fs::statat(run, layout::LOCK, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(None),
            found => found.about(&about)?,
        };
        let meant = fs::fstat(left).about(&about)?;
        if (found.st_dev, found.st_ino) != (meant.st_dev, meant.st_ino) || !is_regular(&meant) {
            return Ok(None);
        }
        match fs::flock(left, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(busy(left, store)),
            Err(errno) => return Err(errno).about(about),
        }
        let lock = Self {
            file: left.try_clone_to_owned().about(&about)?,
            goes_on: AtomicBool::new(true),
        };
        lock.sign().about(about)?;
        Ok(Some(lock))
    }

    /// What it is held by, to be kept where it outlives this process.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Whether it was held before, by a process that has ended.
    pub fn was_taken_over(&self) -> bool {
        self.goes_on.load(Ordering::Relaxed)
    }

    /// Unlocks, whoever has the descriptor. To be called when this process is done with the store, as far as one that
    /// ends with threads at rest does not drop what it has.
    pub fn end(&self) {
        self.goes_on.store(false, Ordering::Relaxed);
        self.unlock();
    }

    /// Unlocks what a process held that has ended.
    pub fn end_left(left: BorrowedFd<'_>) {
        if let Err(errno) = fs::flock(left, FlockOperation::Unlock) {
            log::warn!("run/lock: {errno}");
        }
    }

    fn unlock(&self) {
        Self::end_left(self.file.as_fd());
    }

    fn sign(&self) -> rustix::io::Result<()> {
        let pid = format!("{}\n", std::process::id());
        // In this order: what is there already needs no room on a full disk.
        copy::write_all_at(&self.file, pid.as_bytes(), 0)?;
        fs::ftruncate(&self.file, pid.len() as u64)
    }
}

impl Drop for StoreLock {
    fn drop(&mut self) {
        if *self.goes_on.get_mut() {
            return;
        }
        self.unlock();
    }
}

fn is_regular(stat: &fs::Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

fn busy(file: BorrowedFd<'_>, store: &str) -> Error {
    let cause = match holder(file) {
        Some(pid) if has_ended(pid) => {
            let cause =
                format!("its daemon (process {pid}) has died, its mounts wait for the next one");
            return Error::busy(store, cause).remedy(
                "try again when that one has started; if it does not, its log says why, and to end what starts it \
                 (its keeper, or the service) gives the mounts up",
            );
        }
        Some(pid) => format!("process {pid} is using it"),
        None => String::from("another process is using it"),
    };
    Error::busy(store, cause).remedy("try again when it has finished, or stop it")
}

/// How long a placement waits for readers.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often it looks meanwhile.
const LOOK: Duration = Duration::from_millis(20);

/// Where versions lie stays as it is while a process reads layers beside the one that alters the
/// store: it reads the shared and the private ones one after the other, and would miss what moves
/// from those it has not read to those it has. Guests go on working, and so does everything else.
pub struct PlacementLock(OwnedFd);

impl PlacementLock {
    /// For a reader: waits for a placement under way, and keeps others waiting.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn keep(run: BorrowedFd<'_>, store: &str) -> Result<Self> {
        let about = || format!("{store}: run");
        let lock = Self(open_again(run).about(about())?);
        loop {
            match fs::flock(&lock.0, FlockOperation::LockShared) {
                Err(Errno::INTR) => {}
                locked => return locked.about(about()).map(|()| lock),
            }
        }
    }

    /// For who moves versions: waits a little for the readers.
    ///
    /// # Errors
    /// Of kind [`crate::error::ErrorKind::Busy`] when they go on reading.
    pub fn alter(run: BorrowedFd<'_>, store: &str) -> Result<Self> {
        let about = || format!("{store}: run");
        let lock = Self(open_again(run).about(about())?);
        let begun = Instant::now();
        loop {
            match fs::flock(&lock.0, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(lock),
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) if begun.elapsed() < PATIENCE => std::thread::sleep(LOOK),
                Err(Errno::WOULDBLOCK) => {
                    let cause = "an export or a check is reading it: nothing moves into the shared \
                                 layers or out of them";
                    return Err(Error::busy(store, cause).remedy("fold again when it has finished"));
                }
                Err(errno) => return Err(errno).about(about()),
            }
        }
    }
}

impl Drop for PlacementLock {
    fn drop(&mut self) {
        if let Err(errno) = fs::flock(&self.0, FlockOperation::Unlock) {
            log::warn!("run: {errno}");
        }
    }
}

/// A lock belongs to an open file: each has its own.
fn open_again(directory: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    fs::openat(directory, ".", flags, Mode::empty())
}

fn holder(file: BorrowedFd<'_>) -> Option<u32> {
    let mut buffer = [0; 16];
    let length = copy::read_at(file, &mut buffer, 0).ok()?;
    std::str::from_utf8(&buffer[..length])
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// Waited for or not.
fn has_ended(pid: u32) -> bool {
    let Ok(stat) = std::fs::read(format!("/proc/{pid}/stat")) else {
        return true;
    };
    // After the name, which may be anything, stands the state (proc_pid_stat(5)).
    let end = stat.iter().rposition(|&byte| byte == b')');
    let state = end.and_then(|end| stat.get(end + 2));
    matches!(state, Some(b'Z' | b'X'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn one_at_a_time_and_it_names_the_holder() {
        let temporary = tempfile::tempdir().unwrap();
        let run: OwnedFd = std::fs::File::open(temporary.path()).unwrap().into();
        let lock = StoreLock::take(run.as_fd(), "store x").unwrap();
        let error = StoreLock::take(run.as_fd(), "store x")
            .map(|_| ())
            .unwrap_err();
        assert_eq!(error.kind, ErrorKind::Busy);
        let holder = format!("process {} ", std::process::id());
        assert!(error.to_string().contains(&holder), "{error}");
        std::fs::write(temporary.path().join("lock"), b"\xff garbage").unwrap();
        let error = StoreLock::take(run.as_fd(), "store x")
            .map(|_| ())
            .unwrap_err();
        assert!(error.to_string().contains("another process"), "{error}");
        drop(lock);
        StoreLock::take(run.as_fd(), "store x").unwrap();
    }

    #[test]
    fn regression_a_child_that_inherited_the_lock_does_not_keep_it() {
        let temporary = tempfile::tempdir().unwrap();
        let run: OwnedFd = std::fs::File::open(temporary.path()).unwrap().into();
        let lock = StoreLock::take(run.as_fd(), "store x").unwrap();
        // A descriptor of the same open file, as a child has it between fork and exec.
        let inherited = lock.file.try_clone().unwrap();
        drop(lock);
        StoreLock::take(run.as_fd(), "store x").unwrap();
        drop(inherited);
    }

    #[test]
    fn what_a_dead_process_left_is_taken_over() {
        let temporary = tempfile::tempdir().unwrap();
        let run: OwnedFd = std::fs::File::open(temporary.path()).unwrap().into();
        let other: OwnedFd = std::fs::File::open(temporary.path()).unwrap().into();
        let take_over = |left: &OwnedFd| StoreLock::take_over(run.as_fd(), "store x", left.as_fd());
        assert!(take_over(&other).unwrap().is_none(), "there is no lock");
        let lock = StoreLock::take(run.as_fd(), "store x").unwrap();
        assert!(take_over(&other).unwrap().is_none(), "it is another file");
        let other = Some(other.as_fd());
        let taken = StoreLock::take_after(run.as_fd(), "store x", other).map(drop);
        assert_eq!(taken.unwrap_err().kind, ErrorKind::Busy);
        let left = lock.descriptor().try_clone_to_owned().unwrap();
        std::mem::forget(lock);
        // No process has this number.
        std::fs::write(temporary.path().join("lock"), "4194305\n").unwrap();
        let refused = || {
            let error = StoreLock::take(run.as_fd(), "store x").map(drop);
            let error = error.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Busy);
            error.to_string()
        };
        assert!(refused().contains("process 4194305) has died"));

        let lock = take_over(&left).unwrap().unwrap();
        let holder = format!("process {} is using", std::process::id());
        assert!(refused().contains(&holder));
        // This one dies, too.
        drop(lock);
        refused();
        let lock = take_over(&left).unwrap().unwrap();
        lock.end();
        let next = StoreLock::take(run.as_fd(), "store x").unwrap();
        drop(next);
        drop(lock);
        let lock = StoreLock::take(run.as_fd(), "store x").unwrap();
        assert_eq!(
            take_over(&left).map(drop).unwrap_err().kind,
            ErrorKind::Busy
        );
        drop(lock);
    }

    #[test]
    fn a_kept_lock_is_free_when_nobody_keeps_it() {
        let temporary = tempfile::tempdir().unwrap();
        let run: OwnedFd = std::fs::File::open(temporary.path()).unwrap().into();
        let lock = StoreLock::take(run.as_fd(), "store x").unwrap();
        let left = lock.descriptor().try_clone_to_owned().unwrap();
        lock.goes_on.store(true, Ordering::Relaxed);
        drop(lock);
        let busy = StoreLock::take(run.as_fd(), "store x").map(drop);
        assert_eq!(busy.unwrap_err().kind, ErrorKind::Busy);
        drop(left);
        StoreLock::take(run.as_fd(), "store x").unwrap();
    }

    #[test]
    fn readers_keep_placement_waiting_and_not_each_other() {
        let temporary = tempfile::tempdir().unwrap();
        let run: OwnedFd = std::fs::File::open(temporary.path()).unwrap().into();
        let readers = [(); 2].map(|()| PlacementLock::keep(run.as_fd(), "store x").unwrap());
        let error = PlacementLock::alter(run.as_fd(), "store x")
            .map(|_| ())
            .unwrap_err();
        assert_eq!(error.kind, ErrorKind::Busy);
        drop(readers);
        let placing = PlacementLock::alter(run.as_fd(), "store x").unwrap();
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| PlacementLock::keep(run.as_fd(), "store x").map(|_| ()));
            drop(placing);
            reader.join().unwrap().unwrap();
        });
    }

    #[test]
    fn what_is_no_file_in_its_place_is_refused_with_a_remedy() {
        let temporary = tempfile::tempdir().unwrap();
        let run: OwnedFd = std::fs::File::open(temporary.path()).unwrap().into();
        let path = temporary.path().join("lock");
        let refused = || {
            let error = StoreLock::take(run.as_fd(), "store x").map(drop);
            let said = error.unwrap_err().to_string();
            for needed in ["store x: run/lock", "no regular file", "remove it"] {
                assert!(said.contains(needed), "{said}");
            }
        };
        std::os::unix::fs::symlink("other", &path).unwrap();
        refused();
        assert!(!temporary.path().join("other").exists());
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        refused();
        std::fs::remove_dir(&path).unwrap();
        fs::mknodat(&run, "lock", FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        refused();
        std::fs::remove_file(&path).unwrap();
        StoreLock::take(run.as_fd(), "store x").unwrap();
    }
}
