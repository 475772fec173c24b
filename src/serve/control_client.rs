//! The command's side of the control socket.

use std::io::{BufReader, ErrorKind as Io};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::protocol::{Event, Hello, LONGEST_EVENT, LONGEST_HELLO, PROTOCOL, receive, send};
use crate::error::{Context, Error, Result};
use crate::ops::report::Report;
use crate::ops::request::Call;
use crate::progress::Progress;

/// How long a daemon may take to say hello: it does so before anything else.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection to a store's daemon, good for one call.
pub struct ControlClient {
    stream: BufReader<UnixStream>,
    object: String,
    /// The daemon's process.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// [`Hello::instance`].
    pub instance: u64,
}

impl ControlClient {
    /// Connects to the daemon behind `socket`; `None` if none runs: there is no socket, nobody
    /// listens on what a killed daemon left, or it is ending.
    ///
    /// # Errors
    /// The socket may not be used, or a daemon of another protocol answers.
    pub fn connect(socket: &Path) -> Result<Option<Self>> {
        let object = socket.display().to_string();
        let stream = match UnixStream::connect(socket) {
            Ok(stream) => stream,
            Err(error)
                if matches!(
                    error.kind(),
                    Io::NotFound | Io::NotADirectory | Io::ConnectionRefused
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error).about(object),
        };
        stream.set_read_timeout(Some(PATIENCE)).about(&object)?;
        let mut stream = BufReader::new(stream);
        let hello = match receive::<Hello>(&mut stream, LONGEST_HELLO) {
            Ok(Some(hello)) => hello,
            // It ends just now, and took no more connections.
            Ok(None) => return Ok(None),
            Err(error) if error.errno == Some(libc::ECONNRESET) => return Ok(None),
            Err(error) if error.errno == Some(libc::EAGAIN) => {
                return Err(Error::busy(object, "the daemon does not answer")
                    .remedy("look into the store's run/daemon.log"));
            }
            Err(error) => return Err(error),
        };
        stream.get_ref().set_read_timeout(None).about(&object)?;
        if hello.foldfs != PROTOCOL {
            return Err(Error::failed(
                format!("daemon {} (foldfs {})", hello.pid, hello.version),
                format!(
                    "it speaks version {} of the control protocol, this command version {PROTOCOL}",
                    hello.foldfs
                ),
            )
            .remedy(
                "unmount the store's images and mount them again, with one version of foldfs",
            ));
        }
        Ok(Some(Self {
            stream,
            object,
            pid: hello.pid,
            version: hello.version,
            instance: hello.instance,
        }))
    }

    /// Has the daemon perform `call`. If this process ends before, the daemon goes on.
    ///
    /// # Errors
    /// The call's own error, as the daemon had it; or the daemon went away: then it is not known
    /// whether the call is done.
    pub fn perform(mut self, call: &Call, progress: &dyn Progress) -> Result<Report> {
        let gone = |object: &str| {
            Error::failed(object, "the daemon went away before it answered")
                .remedy("run `foldfs check`; its log says why")
        };
        if let Err(error) = send(self.stream.get_mut(), call) {
            return match error.kind() {
                Io::BrokenPipe => Err(gone(&self.object)),
                _ => Err(error).about(&self.object),
            };
        }
        while let Some(event) = receive::<Event>(&mut self.stream, LONGEST_EVENT)? {
            match event {
                Event::Total { bytes } => progress.total(bytes),
                Event::Advance { bytes } => progress.advance(bytes),
                Event::Message { text } => progress.message(&text),
                Event::Done { report } => return Ok(*report),
                Event::Failed { error } => return Err(error),
            }
        }
        Err(gone(&self.object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::report::RenameReport;
    use crate::ops::request::Request;
    use crate::serve::protocol::receive_call;
    use std::os::unix::net::UnixListener;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::thread;

    #[derive(Default)]
    struct Sum(AtomicU64);

    impl Progress for Sum {
        fn total(&self, _bytes: u64) {}
        fn advance(&self, bytes: u64) {
            self.0.fetch_add(bytes, Ordering::Relaxed);
        }
        fn message(&self, _text: &str) {}
    }

    /// Serves one connection with `hello` and then `events`.
    fn daemon(listener: UnixListener, hello: Hello, events: Vec<Event>) {
        let (mut stream, _) = listener.accept().unwrap();
        send(&mut stream, &hello).unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        if receive_call(&mut reader).unwrap().is_some() {
            for event in events {
                send(&mut stream, &event).unwrap();
            }
        }
    }

    fn call() -> Call {
        Call {
            request: Request::Collect { keep_changes: 10 },
            dry_run: false,
        }
    }

    #[test]
    fn a_call_with_progress() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("control.sock");
        assert!(ControlClient::connect(&socket).unwrap().is_none());
        let listener = UnixListener::bind(&socket).unwrap();
        let report = Report::Rename(RenameReport {
            from: "a".into(),
            to: "b".into(),
            family: false,
        });
        let events = vec![
            Event::Advance { bytes: 3 },
            Event::Advance { bytes: 4 },
            Event::Done {
                report: Box::new(report.clone()),
            },
        ];
        let served = thread::spawn(|| daemon(listener, Hello::own(), events));
        let client = ControlClient::connect(&socket).unwrap().unwrap();
        let sum = Sum::default();
        assert_eq!(client.perform(&call(), &sum).unwrap(), report);
        assert_eq!(sum.0.load(Ordering::Relaxed), 7);
        served.join().unwrap();
        // The listener is gone, its socket is not: as after kill -9.
        assert!(ControlClient::connect(&socket).unwrap().is_none());
    }

    #[test]
    fn a_daemon_that_dies_is_not_taken_for_success() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("control.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let served = thread::spawn(|| daemon(listener, Hello::own(), Vec::new()));
        let client = ControlClient::connect(&socket).unwrap().unwrap();
        let error = client.perform(&call(), &Sum::default()).unwrap_err();
        assert!(error.cause.contains("went away"), "{error}");
        served.join().unwrap();
    }

    #[test]
    fn another_protocol_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("control.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let hello = Hello {
            foldfs: PROTOCOL + 1,
            ..Hello::own()
        };
        let served = thread::spawn(|| daemon(listener, hello, Vec::new()));
        let error = ControlClient::connect(&socket).err().unwrap();
        assert!(error.cause.contains("version 2"), "{error}");
        served.join().unwrap();
    }
}
