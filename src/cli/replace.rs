//! `foldfs daemon --upgrade`: this program takes the place of the one that serves.

use std::thread;
use std::time::{Duration, Instant};

use super::Outcome;
use super::session::{self, Counterpart, Session};
use crate::error::{Context, Error, Result};
use crate::ops::report::Report;
use crate::ops::request::{Call, Request};
use crate::serve::control_client::ControlClient;

/// How long it may take from its start until it answers.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often the command looks meanwhile.
const LOOK: Duration = Duration::from_millis(10);

/// Has it done, and waits until the new one answers.
///
/// # Errors
/// No daemon serves the store; the daemon's; the new program does not come to serve.
pub fn replace(session: &Session) -> Result<Outcome> {
    let socket = session.socket();
    let store = session.store().display();
    let client = session::while_busy(|| match session.counterpart(false)? {
        Counterpart::Daemon(client) => Ok(client),
        Counterpart::Own(context) => {
            // Busy, where the next daemon is about to serve it.
            drop(session.lock(&context.store)?);
            Err(Error::failed(&store, "no daemon serves it")
                .remedy("there is nothing to replace: the next `foldfs mount` starts this program"))
        }
    })?;
    let (old, old_pid) = (client.instance, client.pid);
    let program = std::env::current_exe().about("the foldfs program")?;
    let program = program.into();
    let call = Call {
        request: Request::ReplaceDaemon { program },
        dry_run: false,
    };
    let mut report = match client.perform(&call, &*session.progress())? {
        Report::ReplaceDaemon(report) => report,
        other => {
            let answer = format!("another answer than was asked for: {other:?}");
            return Err(Error::failed("the daemon", answer));
        }
    };
    let begun = Instant::now();
    loop {
        // What was let in before the change is told nothing.
        if let Some(client) = ControlClient::connect(&socket)? {
            if client.instance != old {
                report.version = client.version;
                report.pid = client.pid;
                return session.show(&Report::ReplaceDaemon(report), false);
            }
            let cause =
                format!("the new program did not start; process {old_pid} serves as before");
            return Err(Error::failed("the daemon", cause).remedy("its log says why"));
        }
        if begun.elapsed() > PATIENCE {
            let cause = format!("it does not answer after {} s", PATIENCE.as_secs());
            return Err(Error::failed("the new daemon", cause).remedy("its log says why"));
        }
        thread::sleep(LOOK);
    }
}
