//! The socket on which a service manager listens: one datagram a message, descriptors beside it.

use std::ffi::{OsStr, OsString};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// Descriptors that fit beside one datagram (SCM_MAX_FD, unix(7)).
pub const MOST: usize = 253;

/// How long a manager may be busy with other things.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where the manager listens; none, where there is none.
pub fn address() -> Option<OsString> {
    std::env::var_os("NOTIFY_SOCKET").filter(|address| !address.is_empty())
}

/// Sends one message with at most [`MOST`] descriptors.
///
/// # Errors
/// Nobody listens, or nobody takes the message in time.
pub fn send(address: &OsStr, message: &str, descriptors: &[BorrowedFd<'_>]) -> std::io::Result<()> {
    send_with(address, message, descriptors, SendFlags::empty())
}

/// The same, but without waiting for a manager that is busy.
///
/// # Errors
/// As [`send`]; WouldBlock: it is.
pub fn try_send(
    address: &OsStr,
    message: &str,
    descriptors: &[BorrowedFd<'_>],
) -> std::io::Result<()> {
    send_with(address, message, descriptors, SendFlags::DONTWAIT)
}

fn send_with(
    address: &OsStr,
    message: &str,
    descriptors: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> std::io::Result<()> {
    let address = match address.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(OsStr::from_bytes(path))?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_write_timeout(Some(PATIENCE))?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(std::io::ErrorKind::ArgumentListTooLong.into());
    }
    let message = [IoSlice::new(message.as_bytes())];
    let sent = rustix::io::retry_on_intr(|| {
        sendmsg(&socket, &message, &mut beside, flags | SendFlags::NOSIGNAL)
    })?;
    match sent == message[0].len() {
        true => Ok(()),
        false => Err(std::io::ErrorKind::WriteZero.into()),
    }
}
