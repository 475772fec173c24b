//! Signals that the keeper waits for, beside other things.

use std::io::{ErrorKind, Read, Result};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags};
use rustix::process::Signal;

/// The end of the daemon, and those to end.
const WATCHED: [Signal; 3] = [Signal::CHILD, Signal::TERM, Signal::INT];

/// Each writes into a pipe of its own.
#[derive(Debug)]
pub struct Signals(Vec<(Signal, UnixStream)>);

impl Signals {
    /// They do nothing else any more.
    ///
    /// # Errors
    /// No more descriptors.
    pub fn new() -> Result<Self> {
        let watch = |signal: Signal| {
            let (reader, writer) = UnixStream::pair()?;
            reader.set_nonblocking(true)?;
            signal_hook::low_level::pipe::register(signal.as_raw(), writer)?;
            Ok((signal, reader))
        };
        WATCHED
            .into_iter()
            .map(watch)
            .collect::<Result<_>>()
            .map(Self)
    }

    /// To see when one comes.
    pub fn watched(&self) -> impl Iterator<Item = PollFd<'_>> {
        let pipes = self.0.iter();
        pipes.map(|(_, pipe)| PollFd::new(pipe, PollFlags::IN))
    }

    /// Whether one to end has come.
    pub fn take(&mut self) -> Option<Signal> {
        let mut found = None;
        for (signal, pipe) in &mut self.0 {
            let mut any = [0; 64];
            loop {
                match pipe.read(&mut any) {
                    Ok(0) => break,
                    Ok(_) if *signal != Signal::CHILD => found = Some(*signal),
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(_) => break,
                }
            }
        }
        found
    }
}
