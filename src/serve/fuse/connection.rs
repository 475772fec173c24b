//! Sessions of one connection: each answers on a descriptor of its own, so that another process can go on with
//! it. fuser clones descriptors, too, but keeps them to itself.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use fuser::{Config, InitFlags, Session, SessionACL};
use rustix::event::{PollFd, PollFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::time::Timespec;
use serde::{Deserialize, Serialize};

use super::requests::Counted;
use crate::sys::fuse_device;

/// What the kernel said in INIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protocol {
    /// The version of the protocol.
    pub major: u32,
    /// Likewise.
    pub minor: u32,
    /// What the kernel can do: FUSE_* of include/uapi/linux/fuse.h.
    pub capabilities: u64,
}

impl Protocol {
    /// Whether requests that were under way when their descriptor changed hands can be asked for again (Linux 6.9).
    pub fn resends(self) -> bool {
        self.capabilities & InitFlags::FUSE_HAS_RESEND.bits() != 0
    }

    /// What the kernel would send: a fuse_in_header and a fuse_init_in.
    fn init(self) -> Vec<u8> {
        const LENGTH: u32 = 104;
        const INIT: u32 = 26;
        const READ_AHEAD: u32 = 128 << 10;
        let mut bytes = Vec::with_capacity(LENGTH as usize);
        let mut put = |word: u32| bytes.extend(word.to_ne_bytes());
        put(LENGTH);
        put(INIT);
        // The request's number, and from whom about what: nobody looks at it.
        [1, 0, 0, 0, 0, 0, 0, 0].into_iter().for_each(&mut put);
        put(self.major);
        put(self.minor);
        put(READ_AHEAD);
        // That there is a second word of them is not counted as one.
        let capabilities = self.capabilities | InitFlags::FUSE_INIT_EXT.bits();
        put(capabilities as u32);
        put((capabilities >> 32) as u32);
        [0; 11].into_iter().for_each(&mut put);
        bytes
    }
}

fn config() -> Config {
    let mut config = Config::default();
    config.n_threads = Some(1);
    config
}

/// The first session of a connection that was just mounted: it and the kernel agree on what they can do.
///
/// # Errors
/// Those of reading the descriptor.
pub fn first(adapter: Counted, device: BorrowedFd<'_>) -> io::Result<Session<Counted>> {
    // Who may enter is the kernel's decision (allow_other).
    let device = device.try_clone_to_owned()?;
    Session::from_fd(adapter, device, SessionACL::All, config())
}

/// Another session of a connection for which that is agreed upon: it hears of it from us, and then reads from
/// `device`.
///
/// # Errors
/// The kernel's.
pub fn further(
    adapter: Counted,
    device: BorrowedFd<'_>,
    protocol: Protocol,
) -> io::Result<Session<Counted>> {
    let (ours, its): (OwnedFd, OwnedFd) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::io::write(&ours, &protocol.init())?;
    let session = Session::from_fd(adapter, its, SessionACL::All, config())?;
    fuse_device::put_in_place(device, session.as_fd())?;
    Ok(session)
}

/// Not to wait.
pub const AT_ONCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

/// Whether the kernel lets go of a connection in that time, which it does with the last mount of it.
pub fn has_ended(device: BorrowedFd<'_>, patience: &Timespec) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(device, PollFlags::empty())];
    let ready = rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, Some(patience)));
    ready.is_ok() && fds[0].revents().contains(PollFlags::ERR)
}

/// FUSE_NOTIFY_RESEND.
const RESEND: i32 = 7;

/// Has the kernel send again what it was sending when the process before this one ended.
pub fn resend(device: BorrowedFd<'_>) {
    // A fuse_out_header without anything.
    let mut bytes = Vec::with_capacity(16);
    bytes.extend(16_u32.to_ne_bytes());
    bytes.extend(RESEND.to_ne_bytes());
    bytes.extend(0_u64.to_ne_bytes());
    if let Err(error) = rustix::io::write(device, &bytes) {
        // Mostly it is unmounted by now.
        log::warn!("requests that were under way: {error}");
    }
}
