//! What /dev/fuse can do beside reading requests and writing answers (include/uapi/linux/fuse.h).

#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use fuser::{FileAttr, FileHandle, FopenFlags, Generation, ReplyCreate, ReplyOpen};
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, Result};
use rustix::ioctl::{Setter, ioctl, opcode};

/// The ioctls' type.
const FUSE_DEV_IOC_MAGIC: u8 = 229;

type AnotherOf = Setter<{ opcode::read::<u32>(FUSE_DEV_IOC_MAGIC, 0) }, u32>;
type BackingClose = Setter<{ opcode::write::<u32>(FUSE_DEV_IOC_MAGIC, 2) }, u32>;

/// Opens the device: a connection, once it is mounted.
///
/// # Errors
/// ENOENT, ENXIO without the kernel's fuse module; EPERM in a container.
pub fn open() -> Result<OwnedFd> {
    rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
}

/// Another descriptor of a connection, which has requests of its own under way (FUSE_DEV_IOC_CLONE). They
/// fail with ECONNABORTED when the last copy of it is closed.
///
/// # Errors
/// EINVAL if it is no connection.
pub fn another(connection: BorrowedFd<'_>) -> Result<OwnedFd> {
    let made = open()?;
    let number = connection.as_raw_fd().cast_unsigned();
    // SAFETY: the ioctl reads a u32, the number of a descriptor that is open meanwhile.
    unsafe { ioctl(&made, AnotherOf::new(number))? };
    Ok(made)
}

/// Takes a registered file back (FUSE_DEV_IOC_BACKING_CLOSE). Who has it open goes on.
///
/// # Errors
/// ENOENT for one that is not registered.
pub fn close_backing(connection: BorrowedFd<'_>, id: u32) -> Result<()> {
    // SAFETY: the ioctl reads a u32.
    unsafe { ioctl(connection, BackingClose::new(id)) }
}

/// Has the number of the descriptor `place`, which goes on belonging to who has it, mean what `descriptor`
/// means.
///
/// # Errors
/// The kernel's.
pub fn put_in_place(descriptor: BorrowedFd<'_>, place: BorrowedFd<'_>) -> Result<()> {
    let (from, to) = (descriptor.as_fd().as_raw_fd(), place.as_raw_fd());
    // SAFETY: `place` is open, its owner closes it once, as before; only what is behind it changes.
    match unsafe { libc::dup3(from, to, libc::O_CLOEXEC) } {
        -1 => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
        _ => Ok(()),
    }
}

/// Answers OPEN: the kernel reads and writes the registered file itself.
pub fn opened(reply: ReplyOpen, handle: FileHandle, id: u32) {
    // SAFETY: an id of this connection that stays registered until the handle is closed; what would take
    // it back when it is dropped is taken apart again.
    let backing = unsafe { reply.wrap_backing(id) };
    reply.opened_passthrough(handle, FopenFlags::empty(), &backing);
    backing.into_raw();
}

/// Answers CREATE, likewise.
pub fn created(
    reply: ReplyCreate,
    ttl: &std::time::Duration,
    attr: &FileAttr,
    generation: Generation,
    handle: FileHandle,
    id: u32,
) {
    // SAFETY: as in `opened`.
    let backing = unsafe { reply.wrap_backing(id) };
    let flags = FopenFlags::empty();
    reply.created_passthrough(ttl, attr, generation, handle, flags, &backing);
    backing.into_raw();
}
