//! The keeper's end of the socket on which its daemon tells it things.

use std::io::{Error, ErrorKind, IoSliceMut, Result};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};

use crate::serve::service_manager::handing::leave_open;
use crate::serve::service_manager::socket::MOST;

/// Longest message, in bytes; a longer one is cut off, and not understood.
const LONGEST: usize = 4096;

/// The socket. It has no name: the daemon reaches it through a descriptor that it is started with, others do not.
#[derive(Debug)]
pub struct Listener {
    socket: UnixDatagram,
    /// The place where it was bound, open for the daemon.
    place: OwnedFd,
}

/// What the daemon tells.
#[derive(Debug, Default)]
pub struct Message {
    /// Variables, one a line (sd_notify(3)).
    pub text: String,
    /// What came beside it.
    pub descriptors: Vec<OwnedFd>,
}

impl Message {
    /// The same once more.
    ///
    /// # Errors
    /// No more descriptors.
    pub fn try_clone(&self) -> Result<Self> {
        let descriptors = self.descriptors.iter().map(OwnedFd::try_clone);
        Ok(Self {
            text: self.text.clone(),
            descriptors: descriptors.collect::<Result<_>>()?,
        })
    }
}

impl Listener {
    /// Listens; for a moment in `directory`, which only root may enter.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn new(directory: &Path) -> Result<Self> {
        let path = directory.join(format!("keeper-{}.sock", std::process::id()));
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = UnixDatagram::bind(&path)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let place = rustix::fs::open(&path, flags, Mode::empty());
        std::fs::remove_file(&path)?;
        let place = place?;
        leave_open(place.as_fd(), true)?;
        socket.set_nonblocking(true)?;
        rustix::net::sockopt::set_socket_passcred(&socket, true)?;
        Ok(Self { socket, place })
    }

    /// Where the daemon sends to: a path that leads there in every process that this one starts.
    pub fn address(&self) -> String {
        format!("/proc/self/fd/{}", self.place.as_raw_fd())
    }

    /// The next message of process `from`; what others send is dropped. `None`: there is no more.
    ///
    /// # Errors
    /// Those of recvmsg(2): shortages.
    pub fn receive(&self, from: u32) -> Result<Option<Message>> {
        loop {
            match self.receive_any() {
                Ok((Some(sender), message)) if sender == from => return Ok(Some(message)),
                Ok((sender, message)) => {
                    log::warn!(sender:?, bytes = message.text.len(); "not from the daemon: ignored");
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::InvalidData => {
                    log::warn!("a message is not understood: ignored");
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn receive_any(&self) -> Result<(Option<u32>, Message)> {
        let mut buffer = [0; LONGEST];
        let mut space =
            [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST), ScmCredentials(1))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let got = recvmsg(&self.socket, &mut parts, &mut beside, flags)?;
        let mut sender = None;
        let mut descriptors = Vec::new();
        for part in beside.drain() {
            match part {
                RecvAncillaryMessage::ScmRights(some) => descriptors.extend(some),
                RecvAncillaryMessage::ScmCredentials(who) if who.uid.is_root() => {
                    sender = u32::try_from(who.pid.as_raw_nonzero().get()).ok();
                }
                _ => {}
            }
        }
        let cut = ReturnFlags::TRUNC | ReturnFlags::CTRUNC;
        let text = std::str::from_utf8(&buffer[..got.bytes]).ok();
        match text.filter(|_| !got.flags.intersects(cut)) {
            Some(text) => Ok((
                sender,
                Message {
                    text: text.to_owned(),
                    descriptors,
                },
            )),
            None => Err(Error::from(ErrorKind::InvalidData)),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
