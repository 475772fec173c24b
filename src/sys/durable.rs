//! Durable steps: every system call that changes a store goes through here, so that tests can
//! count them, stop a process at the k-th, or fail it.
//!
//! Names are relative to directory descriptors; a name is one component unless it says otherwise.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;
use rustix::fs::{self, AtFlags, Mode, OFlags, RenameFlags, Timestamps};
use rustix::io::Result;

/// What kind of change a step makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// A name is made: a file, directory, node, symlink or link.
    Create,
    /// A name is removed.
    Remove,
    /// A name is moved.
    Rename,
    /// Owner, mode, times, size or xattrs are changed.
    Metadata,
    /// Content is written.
    Write,
    /// Changes are made durable.
    Sync,
    /// A catalog transaction is committed.
    Commit,
}

/// Called before each step with its kind and the place in our code; an error is returned to the
/// caller in place of doing the step.
pub type Hook = Arc<dyn Fn(Step, &'static Location<'static>) -> Result<()> + Send + Sync>;

static HOOKED: AtomicBool = AtomicBool::new(false);
static HOOK: RwLock<Option<Hook>> = RwLock::new(None);

/// Installs or removes the hook. For tests.
pub fn set_hook(hook: Option<Hook>) {
    let mut slot = HOOK.write();
    HOOKED.store(hook.is_some(), Ordering::Release);
    *slot = hook;
}

/// Runs `run` with a hook that sees the steps of this thread only. One at a time in a process.
#[cfg(test)]
pub fn with_hook<T>(
    hook: impl Fn(Step, &'static Location<'static>) -> Result<()> + Send + Sync + 'static,
    run: impl FnOnce() -> T,
) -> T {
    static ONE: parking_lot::Mutex<()> = parking_lot::Mutex::new(());
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            set_hook(None);
        }
    }
    let _one = ONE.lock();
    let this = std::thread::current().id();
    let _reset = Reset;
    set_hook(Some(Arc::new(move |kind, place| {
        if std::thread::current().id() == this {
            hook(kind, place)
        } else {
            Ok(())
        }
    })));
    run()
}

#[track_caller]
fn step(kind: Step) -> Result<()> {
    if !HOOKED.load(Ordering::Acquire) {
        return Ok(());
    }
    let hook = HOOK.read().clone();
    // Not in the closure: that has no caller of ours.
    let place = Location::caller();
    hook.map_or(Ok(()), |hook| hook(kind, place))
}

/// A step that is not a single system call: a catalog commit, content being copied.
#[track_caller]
pub fn perform<T, E: From<rustix::io::Errno>>(
    kind: Step,
    action: impl FnOnce() -> std::result::Result<T, E>,
) -> std::result::Result<T, E> {
    step(kind)?;
    action()
}

/// renameat2(2).
#[track_caller]
pub fn rename(
    from: impl AsFd,
    old: &[u8],
    to: impl AsFd,
    new: &[u8],
    flags: RenameFlags,
) -> Result<()> {
    step(Step::Rename)?;
    fs::renameat_with(from, old, to, new, flags)
}

/// linkat(2): `new` becomes another name of `old`; symlinks are not followed.
#[track_caller]
pub fn link(from: impl AsFd, old: &[u8], to: impl AsFd, new: &[u8]) -> Result<()> {
    step(Step::Create)?;
    fs::linkat(from, old, to, new, AtFlags::empty())
}

/// linkat(2) of an open descriptor (one of O_TMPFILE, too).
#[track_caller]
pub fn link_descriptor(file: impl AsFd, to: impl AsFd, new: &[u8]) -> Result<()> {
    step(Step::Create)?;
    fs::linkat(
        fs::CWD,
        super::process::descriptor_path(file.as_fd()),
        to,
        new,
        AtFlags::SYMLINK_FOLLOW,
    )
}

/// unlinkat(2).
#[track_caller]
pub fn unlink(directory: impl AsFd, name: &[u8]) -> Result<()> {
    step(Step::Remove)?;
    fs::unlinkat(directory, name, AtFlags::empty())
}

/// unlinkat(2) with AT_REMOVEDIR.
#[track_caller]
pub fn rmdir(directory: impl AsFd, name: &[u8]) -> Result<()> {
    step(Step::Remove)?;
    fs::unlinkat(directory, name, AtFlags::REMOVEDIR)
}

/// mkdirat(2); the mode is not masked.
#[track_caller]
pub fn mkdir(directory: impl AsFd, name: &[u8], mode: u32) -> Result<()> {
    step(Step::Create)?;
    fs::mkdirat(directory, name, Mode::from_raw_mode(mode))
}

/// mknodat(2) for a device, fifo or socket: `mode` holds the type bits too.
#[track_caller]
pub fn mknod(directory: impl AsFd, name: &[u8], mode: u32, rdev: u64) -> Result<()> {
    step(Step::Create)?;
    let file_type = fs::FileType::from_raw_mode(mode);
    fs::mknodat(
        directory,
        name,
        file_type,
        Mode::from_raw_mode(mode & 0o7777),
        rdev,
    )
}

/// symlinkat(2).
#[track_caller]
pub fn symlink(target: &[u8], directory: impl AsFd, name: &[u8]) -> Result<()> {
    step(Step::Create)?;
    fs::symlinkat(target, directory, name)
}

/// openat(2) with O_CREAT | O_EXCL | O_NOFOLLOW: a new file, open for reading and writing.
#[track_caller]
pub fn create(directory: impl AsFd, name: &[u8], mode: u32) -> Result<OwnedFd> {
    step(Step::Create)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(directory, name, flags, Mode::from_raw_mode(mode))
}

/// fsync(2) of a file or directory.
#[track_caller]
pub fn sync(file: impl AsFd) -> Result<()> {
    step(Step::Sync)?;
    fs::fsync(file)
}

/// fdatasync(2).
#[track_caller]
pub fn sync_data(file: impl AsFd) -> Result<()> {
    step(Step::Sync)?;
    fs::fdatasync(file)
}

/// syncfs(2) of the file system that holds the descriptor.
#[track_caller]
pub fn sync_filesystem(file: impl AsFd) -> Result<()> {
    step(Step::Sync)?;
    fs::syncfs(file)
}

/// ftruncate(2).
#[track_caller]
pub fn truncate(file: impl AsFd, size: u64) -> Result<()> {
    step(Step::Metadata)?;
    fs::ftruncate(file, size)
}

/// fchownat(2), not following a symlink; `None` leaves the owner or group as it is.
#[track_caller]
pub fn chown(directory: impl AsFd, name: &[u8], uid: Option<u32>, gid: Option<u32>) -> Result<()> {
    step(Step::Metadata)?;
    let uid = uid.map(fs::Uid::from_raw);
    let gid = gid.map(fs::Gid::from_raw);
    fs::chownat(directory, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
}

/// fchmodat(2). Symlinks have no mode: never call it for one (it would follow it).
#[track_caller]
pub fn chmod(directory: impl AsFd, name: &[u8], mode: u32) -> Result<()> {
    step(Step::Metadata)?;
    fs::chmodat(directory, name, Mode::from_raw_mode(mode), AtFlags::empty())
}

/// utimensat(2), not following a symlink.
#[track_caller]
pub fn set_times(directory: impl AsFd, name: &[u8], times: &Timestamps) -> Result<()> {
    step(Step::Metadata)?;
    fs::utimensat(directory, name, times, AtFlags::SYMLINK_NOFOLLOW)
}

/// futimens(2); not for descriptors opened with O_PATH.
#[track_caller]
pub fn set_descriptor_times(file: impl AsFd, times: &Timestamps) -> Result<()> {
    step(Step::Metadata)?;
    fs::futimens(file, times)
}

/// lsetxattr(2) of `name` in a directory (see [`super::xattr`]).
#[track_caller]
pub fn set_xattr(
    directory: BorrowedFd<'_>,
    name: &[u8],
    xattr: &[u8],
    value: &[u8],
    flags: fs::XattrFlags,
) -> Result<()> {
    step(Step::Metadata)?;
    super::xattr::set(directory, name, xattr, value, flags)
}

/// lremovexattr(2) of `name` in a directory.
#[track_caller]
pub fn remove_xattr(directory: BorrowedFd<'_>, name: &[u8], xattr: &[u8]) -> Result<()> {
    step(Step::Metadata)?;
    super::xattr::remove(directory, name, xattr)
}
