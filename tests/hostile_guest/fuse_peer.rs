//! The kernel's side of a FUSE connection, played by the test: a session of fuser and our adapter at
//! the other end of a socket pair, which keeps messages apart as /dev/fuse does.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use foldfs::filesystem::Filesystem;
use foldfs::serve::fuse::adapter::Adapter;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// No answer takes longer.
const PATIENCE: Duration = Duration::from_secs(30);
/// More than a message of either side has.
const MESSAGE_MAX: usize = 4 << 20;
/// The length of fuse_in_header.
pub const HEADER: usize = 40;
/// The length of fuse_out_header.
const ANSWER_HEADER: usize = 16;

/// What came back for a request.
#[derive(Debug, Clone)]
pub struct Answer {
    /// As in the request.
    pub unique: u64,
    /// 0, or minus an error number.
    pub error: i32,
    /// What follows the header.
    pub body: Vec<u8>,
}

/// A connection whose INIT is done.
pub struct Peer {
    socket: OwnedFd,
    session: Option<JoinHandle<std::io::Result<()>>>,
    /// How many answers are still to come, by unique.
    awaited: HashMap<u64, usize>,
    buffer: Vec<u8>,
}

/// The other end has closed the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended;

impl Peer {
    /// Connects to an image.
    pub fn connect(filesystem: &Arc<Filesystem>, pool: &Arc<rayon::ThreadPool>) -> Peer {
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        for socket in [&ours, &theirs] {
            let size = MESSAGE_MAX;
            rustix::net::sockopt::set_socket_send_buffer_size_force(socket, size).unwrap();
        }
        let adapter = Adapter::new(filesystem.clone(), pool.clone(), None);
        let session = std::thread::spawn(move || {
            let mut config = fuser::Config::default();
            config.n_threads = Some(1);
            fuser::Session::from_fd(adapter, theirs, fuser::SessionACL::All, config)?.run()
        });
        let mut peer = Peer {
            socket: ours,
            session: Some(session),
            awaited: HashMap::new(),
            buffer: vec![0; MESSAGE_MAX],
        };
        // FUSE 7.45 with all flags that fuser knows.
        let mut init = Vec::new();
        for word in [7u32, 45, 1 << 20, u32::MAX, u32::MAX] {
            init.extend(word.to_ne_bytes());
        }
        init.extend([0; 44]);
        let answer = peer.call(&message(26, 1, 0, &init), 1);
        assert_eq!(answer.unwrap().error, 0, "INIT is refused");
        peer
    }

    /// Sends a message; how many answers are to come to it, by its unique, is for the caller to
    /// say.
    pub fn send(&mut self, bytes: &[u8], unique: u64, answers: usize) -> Result<(), Ended> {
        *self.awaited.entry(unique).or_default() += answers;
        let sent = rustix::net::send(&self.socket, bytes, SendFlags::NOSIGNAL);
        sent.map(drop).map_err(|_| Ended)
    }

    /// How many answers are still to come.
    pub fn awaited(&self) -> usize {
        self.awaited.values().sum()
    }

    /// Waits for one answer; `what` was asked.
    ///
    /// # Panics
    /// When none comes in time: a request hangs.
    pub fn receive(&mut self, what: &dyn std::fmt::Debug) -> Result<Answer, Ended> {
        let start = Instant::now();
        loop {
            let mut ready = [PollFd::new(&self.socket, PollFlags::IN)];
            let second = rustix::time::Timespec {
                tv_sec: 1,
                tv_nsec: 0,
            };
            if poll(&mut ready, Some(&second)).unwrap_or(0) > 0 {
                break;
            }
            let waiting = start.elapsed();
            self.awaited.retain(|_, count| *count > 0);
            let left = &self.awaited;
            assert!(waiting < PATIENCE, "no answer to {left:?} of {what:?}");
        }
        let received = rustix::net::recv(&self.socket, &mut self.buffer[..], RecvFlags::empty());
        let (length, _) = received.map_err(|_| Ended)?;
        if length == 0 {
            return Err(Ended);
        }
        let bytes = &self.buffer[..length];
        let word = |at: usize| <[u8; 4]>::try_from(&bytes[at..at + 4]).unwrap();
        assert!(length >= ANSWER_HEADER, "an answer without a header");
        assert_eq!(u32::from_ne_bytes(word(0)) as usize, length, "its length");
        let answer = Answer {
            unique: u64::from_ne_bytes(bytes[8..16].try_into().unwrap()),
            error: i32::from_ne_bytes(word(4)),
            body: bytes[ANSWER_HEADER..].to_vec(),
        };
        let awaited = self.awaited.get_mut(&answer.unique);
        let awaited = awaited.filter(|count| **count > 0);
        *awaited.unwrap_or_else(|| panic!("nobody asked for {answer:?}")) -= 1;
        if answer.error != 0 {
            let known = (-4095..0).contains(&answer.error) && answer.body.is_empty();
            assert!(known, "no error of the kernel's: {answer:?}");
        }
        Ok(answer)
    }

    /// Sends one request and waits for its answer.
    pub fn call(&mut self, bytes: &[u8], unique: u64) -> Result<Answer, Ended> {
        self.send(bytes, unique, 1)?;
        loop {
            let answer = self.receive(&bytes)?;
            if answer.unique == unique {
                return Ok(answer);
            }
        }
    }

    /// Ends the connection, if the other end has not yet done so.
    ///
    /// # Panics
    /// When a thread of the session did, or does not end.
    pub fn close(mut self) {
        // Answers of the pool that are on the way find nobody; that is the kernel's affair too.
        let _closed = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
        let session = self.session.take().unwrap();
        let start = Instant::now();
        while !session.is_finished() {
            assert!(start.elapsed() < PATIENCE, "the session does not end");
            std::thread::sleep(Duration::from_millis(1));
        }
        if let Err(error) = session.join().unwrap() {
            assert!(!error.to_string().contains("panicked"), "{error}");
        }
    }
}

/// A message with a header that is as it should be.
pub fn message(opcode: u32, unique: u64, nodeid: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.extend(((HEADER + body.len()) as u32).to_ne_bytes());
    bytes.extend(opcode.to_ne_bytes());
    bytes.extend(unique.to_ne_bytes());
    bytes.extend(nodeid.to_ne_bytes());
    // uid, gid, pid, padding
    bytes.extend([0; 8]);
    bytes.extend(std::process::id().to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend(body);
    bytes
}
