//! The control socket's protocol: `STORE/run/control.sock`, a Unix stream.
//!
//! ```text
//! daemon   {"foldfs":1,"version":"0.1.0","pid":4711,...}    Hello, as soon as it accepts
//! command  {"request":{"command":"fold",...},"dry_run":false}   Call
//! daemon   {"event":"total","bytes":1048576}                Event, any number of progress events,
//! daemon   {"event":"advance","bytes":4096}
//! daemon   {"event":"message","text":"hashing web"}
//! daemon   {"event":"done","report":{"report":"fold",...}}  then exactly one done or failed
//! ```
//! One message a line, in JSON; one call a connection; then the daemon closes it. A command that
//! goes away cancels nothing: the daemon finishes the call and drops what it would have said.

use std::io::{BufRead, Read, Write};
use std::sync::LazyLock;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};
use crate::ops::report::Report;
use crate::ops::request::Call;

/// The protocol's version; both sides must have the same.
pub const PROTOCOL: u32 = 1;

/// The error number of a daemon's refusal because it is ending: call again.
pub const ENDING: i32 = libc::ESHUTDOWN;

/// Longest [`Call`] that a daemon reads; bytes.
pub const LONGEST_CALL: u64 = 1 << 20;

/// Longest [`Hello`] that a command reads; bytes.
pub const LONGEST_HELLO: u64 = 4096;

/// Longest [`Event`] that a command reads; bytes.
pub const LONGEST_EVENT: u64 = 1 << 30;

/// What a daemon says first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL`] of the daemon.
    pub foldfs: u32,
    /// The daemon's program version, for messages.
    pub version: String,
    /// The daemon's process.
    pub pid: u32,
    /// Another one for each program that serves, also one after the other in the same process.
    #[serde(default)]
    pub instance: u64,
}

static INSTANCE: LazyLock<u64> = LazyLock::new(|| {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    // Nanoseconds since the system started: positive.
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
});

impl Hello {
    /// This process's.
    pub fn own() -> Self {
        Self {
            foldfs: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            instance: *INSTANCE,
        }
    }
}

/// What a daemon says about a call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// [`Progress::total`](crate::progress::Progress::total).
    Total {
        /// Bytes.
        bytes: u64,
    },
    /// [`Progress::advance`](crate::progress::Progress::advance).
    Advance {
        /// Bytes.
        bytes: u64,
    },
    /// [`Progress::message`](crate::progress::Progress::message).
    Message {
        /// A few words.
        text: String,
    },
    /// The call is done.
    Done {
        /// What it comes back with.
        report: Box<Report>,
    },
    /// The call failed.
    Failed {
        /// Why.
        error: Error,
    },
}

/// Writes one message. `Call`, `Hello` and `Event` are messages.
///
/// # Errors
/// Whatever the stream says: EPIPE when the other side is gone.
pub fn send(stream: &mut impl Write, message: &impl Serialize) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    stream.flush()
}

/// Reads one message of at most `longest` bytes; `None` if the stream ends before its first byte.
///
/// # Errors
/// What the stream says; a message that is longer, cut off, or not a `T`.
pub fn receive<T: DeserializeOwned>(stream: &mut impl BufRead, longest: u64) -> Result<Option<T>> {
    const OBJECT: &str = "control socket";
    let mut line = Vec::new();
    stream
        .take(longest)
        .read_until(b'\n', &mut line)
        .about(OBJECT)?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.last() != Some(&b'\n') {
        let cause = if line.len() as u64 == longest {
            "a message is too long"
        } else {
            "the connection broke within a message"
        };
        return Err(Error::failed(OBJECT, cause));
    }
    serde_json::from_slice(&line)
        .map(Some)
        .map_err(|error| Error::failed(OBJECT, format!("a message is not understood: {error}")))
}

/// Reads the one call of a connection; `None` if the other side left without one.
///
/// # Errors
/// As [`receive`].
pub fn receive_call(stream: &mut impl BufRead) -> Result<Option<Call>> {
    receive(stream, LONGEST_CALL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back_as_they_went() {
        let mut wire = Vec::new();
        let mut error = Error::busy("image web", "a file is open").remedy("close it");
        error.errno = Some(libc::EBUSY);
        send(&mut wire, &Hello::own()).unwrap();
        send(&mut wire, &Event::Advance { bytes: 7 }).unwrap();
        send(&mut wire, &Event::Failed { error }).unwrap();
        assert_eq!(wire.iter().filter(|&&byte| byte == b'\n').count(), 3);
        let mut wire = wire.as_slice();
        let hello: Hello = receive(&mut wire, LONGEST_EVENT).unwrap().unwrap();
        assert_eq!(hello, Hello::own());
        let event: Event = receive(&mut wire, LONGEST_EVENT).unwrap().unwrap();
        assert_eq!(event, Event::Advance { bytes: 7 });
        match receive(&mut wire, LONGEST_EVENT).unwrap().unwrap() {
            Event::Failed { error } => {
                assert_eq!(error.to_string(), "image web: a file is open; close it");
                assert_eq!(error.kind.exit_code(), 4);
                assert_eq!(error.errno, Some(libc::EBUSY));
            }
            other => panic!("{other:?}"),
        }
        assert!(receive::<Event>(&mut wire, 9).unwrap().is_none());
    }

    #[test]
    fn bad_messages_are_refused() {
        for (bad, cause) in [
            (&b"{\"request\""[..], "broke"),
            (b"{}\n", "not understood"),
            (b"\n", "not understood"),
            (
                b"{\"request\":{\"command\":\"collect\"},\"dry_run\":1}\n",
                "not understood",
            ),
        ] {
            let error = receive_call(&mut &bad[..]).unwrap_err();
            assert!(error.to_string().contains(cause), "{error}");
        }
        let long = vec![b' '; LONGEST_CALL as usize + 1];
        let error = receive_call(&mut long.as_slice()).unwrap_err();
        assert!(error.to_string().contains("too long"), "{error}");
    }
}
