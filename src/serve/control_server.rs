//! The daemon's side of the control socket.

use std::io::{BufReader, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::protocol::{Event, Hello, receive_call, send};
use crate::error::{Context, Error, Result};
use crate::ops::report::Report;
use crate::ops::request::Call;
use crate::progress::Progress;
use crate::sys::namespaces;

/// How long a command may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(10);

/// Carries out what comes over the socket.
pub trait Performer: Send + Sync + 'static {
    /// Carries one call out.
    fn perform(&self, call: Call, progress: &dyn Progress) -> Result<Report>;
}

/// The socket; its name goes with it.
pub struct ControlServer {
    listener: UnixListener,
    path: PathBuf,
}

impl ControlServer {
    /// Listens at `path`. The caller holds the store's lock, so that what is there already was left
    /// by a daemon that is gone.
    pub fn bind(path: &Path) -> Result<Self> {
        let object = || path.display();
        match std::fs::remove_file(path) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                let remedy = "remove what stands there: it is no socket of a daemon";
                return Err(error)
                    .about(object())
                    .map_err(|error| error.remedy(remedy));
            }
        }
        let listener = UnixListener::bind(path).about(object())?;
        listener.set_nonblocking(true).about(object())?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).about(object())?;
        Ok(Self {
            listener,
            path: path.into(),
        })
    }

    /// Serves calls, each on a thread of its own, until `end` can be read. Not a word over the
    /// socket: its name may be gone by then. Returns when every command that was let in has its
    /// answer: one that is told nothing could not know what was done.
    pub fn serve(&self, performer: &impl Performer, end: BorrowedFd<'_>) {
        std::thread::scope(|scope| {
            while self.wait(end) {
                let stream = match self.listener.accept() {
                    Ok((stream, _)) => stream,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                    Err(error) => {
                        pause(&error);
                        continue;
                    }
                };
                let call = move || {
                    if let Err(error) = serve_call(stream, performer) {
                        log::warn!("{error}");
                    }
                };
                let thread = std::thread::Builder::new().name("call".into());
                if let Err(error) = thread.spawn_scoped(scope, call) {
                    log::warn!("control socket: a thread: {error}");
                }
            }
        });
    }

    /// Waits for a connection; false at the end.
    fn wait(&self, end: BorrowedFd<'_>) -> bool {
        let mut ready = [
            PollFd::from_borrowed_fd(end, PollFlags::IN),
            PollFd::new(&self.listener, PollFlags::IN),
        ];
        match poll(&mut ready, None) {
            Ok(_) => ready[0].revents().is_empty(),
            Err(Errno::INTR) => true,
            Err(error) => {
                pause(&error.into());
                true
            }
        }
    }
}

/// Errors here are shortages that pass (descriptors, memory): no reason to stop, nor to spin.
fn pause(error: &std::io::Error) {
    log::warn!("control socket: {error}");
    std::thread::sleep(Duration::from_millis(100));
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            log::warn!("{}: {error}", self.path.display());
        }
    }
}

/// The socket lies in a directory that only root may enter; a peer with another uid got the
/// descriptor from somebody and has no business here.
fn check_peer(stream: &UnixStream) -> Result<()> {
    let peer = namespaces::peer(stream.as_fd()).about("control socket")?;
    if peer.user == 0 {
        return Ok(());
    }
    let cause = format!(
        "process {} of user {} may not use it",
        peer.process, peer.user
    );
    Err(Error::failed("control socket", cause).remedy("run foldfs as root"))
}

fn serve_call(stream: UnixStream, performer: &dyn Performer) -> Result<()> {
    check_peer(&stream)?;
    stream
        .set_read_timeout(Some(PATIENCE))
        .about("control socket")?;
    let mut reader = BufReader::new(stream.try_clone().about("control socket")?);
    let teller = Teller {
        stream: Mutex::new(Some(stream)),
    };
    teller.tell(&Hello::own());
    let Some(call) = receive_call(&mut reader)? else {
        return Ok(());
    };
    let level = match call.request.alters() && !call.dry_run {
        true => log::Level::Info,
        false => log::Level::Debug,
    };
    log::log!(level, request:? = call.request, dry_run = call.dry_run; "call");
    let event = match performer.perform(call, &teller) {
        Ok(report) => Event::Done {
            report: Box::new(report),
        },
        Err(error) => {
            log::info!(error:% = error; "call failed");
            Event::Failed { error }
        }
    };
    teller.tell(&event);
    Ok(())
}

/// Says things to a command as long as it listens; a command that left misses the rest.
struct Teller {
    stream: Mutex<Option<UnixStream>>,
}

impl Teller {
    fn tell(&self, message: &impl serde::Serialize) {
        let mut stream = self.stream.lock();
        if let Some(open) = stream.as_mut()
            && let Err(error) = send(open, message)
        {
            log::debug!("control socket: the command is gone: {error}");
            *stream = None;
        }
    }
}

impl Progress for Teller {
    fn total(&self, bytes: u64) {
        self.tell(&Event::Total { bytes });
    }

    fn advance(&self, bytes: u64) {
        self.tell(&Event::Advance { bytes });
    }

    fn message(&self, text: &str) {
        self.tell(&Event::Message { text: text.into() });
    }
}
