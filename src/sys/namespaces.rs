//! Calls that tell of a process outside this one's pid namespace as 0 (pid_namespaces(7)), for which rustix's `Pid`
//! has no value.

#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd};

/// Whether this process leads its session (getsid(2)).
pub fn leads_session() -> bool {
    // SAFETY: no memory is handed over; neither call fails for the calling process.
    unsafe { libc::getsid(0) == libc::getpid() }
}

/// The process that connected to a socket, as it was then.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// 0: outside of this process's pid namespace.
    pub process: i32,
    /// Its effective user, as this process's user namespace names it.
    pub user: u32,
}

/// Who is at the other end of a unix socket (SO_PEERCRED, unix(7)).
///
/// # Errors
/// Those of getsockopt(2).
pub fn peer(socket: BorrowedFd<'_>) -> std::io::Result<Peer> {
    let mut peer = libc::ucred {
        pid: 0,
        uid: libc::uid_t::MAX,
        gid: libc::gid_t::MAX,
    };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which `peer` has, and `length` itself.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut length,
        )
    };
    match done {
        0 => Ok(Peer {
            process: peer.pid,
            user: peer.uid,
        }),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_socket_tells_who_connected_to_it() {
        let (one, _other) = UnixStream::pair().unwrap();
        let peer = super::peer(one.as_fd()).unwrap();
        assert_eq!(u32::try_from(peer.process).unwrap(), std::process::id());
        assert_eq!(peer.user, rustix::process::geteuid().as_raw());
    }
}
