//! Doing things as another user, in a thread of its own.
#![allow(
    unsafe_code,
    reason = "a thread's own working directory and umask have no safe form"
)]

use std::path::Path;
use std::thread;

use rustix::fs::Mode;
use rustix::process::{chdir, umask};
use rustix::thread::{
    Gid, Uid, UnshareFlags, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
    unshare_unsafe,
};

/// A user, the own group and the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    /// Owner of what it makes.
    pub uid: u32,
    /// Group of what it makes.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: &'static [u32],
}

/// Who may do everything.
pub const ROOT: User = User {
    uid: 0,
    gid: 0,
    groups: &[],
};

/// Somebody without privileges.
pub const SOMEBODY: User = User {
    uid: 1000,
    gid: 1000,
    groups: &[],
};

/// Somebody who is in group 50 besides.
pub const MEMBER: User = User {
    uid: 1001,
    gid: 1001,
    groups: &[7, 50],
};

/// Runs `work` with a directory as the working directory, as a user and with a umask. Root enters
/// the directory, so what lies above it may be closed to the user.
pub fn within<T: Send>(
    directory: &Path,
    user: User,
    mask: u32,
    work: impl FnOnce() -> T + Send,
) -> T {
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            // SAFETY: this thread alone loses what it shared, and nothing here relies on it.
            unsafe { unshare_unsafe(UnshareFlags::FS) }.unwrap();
            chdir(directory).unwrap();
            umask(Mode::from_raw_mode(mask));
            if user != ROOT {
                let groups: Vec<Gid> = user.groups.iter().copied().map(Gid::from_raw).collect();
                set_thread_groups(&groups).unwrap();
                let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
                set_thread_res_gid(gid, gid, gid).unwrap();
                set_thread_res_uid(uid, uid, uid).unwrap();
            }
            work()
        });
        worker.join().unwrap()
    })
}
