//! Starting the daemon in the background, when the first image is mounted.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::session::Session;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::serve::control_client::ControlClient;
use crate::serve::service_manager::descriptors::LISTEN_VARIABLES;
use crate::store::layout;
use crate::sys::{namespaces, process};

/// How long a daemon may take from its start until it answers: it finishes what a crash left.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a service manager has said to who runs this command, for a service of its own.
const OF_OTHERS: [&str; 4] = ["NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "FDSTORE"];

/// How often the command looks meanwhile.
const LOOK: Duration = Duration::from_millis(10);

/// Connects to the store's daemon, and starts it first if none runs.
///
/// # Errors
/// The daemon's own when it cannot start, from its log.
pub fn connect_or_start(session: &Session) -> Result<ControlClient> {
    let socket = session.socket();
    if let Some(client) = ControlClient::connect(&socket)? {
        return Ok(client);
    }
    let mut child = start(session)?;
    let begun = Instant::now();
    loop {
        if let Some(client) = ControlClient::connect(&socket)? {
            return Ok(client);
        }
        if let Some(status) = child.try_wait().about("the daemon")? {
            // Another command may have started one at the same time: then ours found the store
            // busy, and the other one answers.
            if let Some(client) = ControlClient::connect(&socket)? {
                return Ok(client);
            }
            return Err(why_it_ended(session, status.code()));
        }
        if begun.elapsed() > PATIENCE {
            return Err(Error::failed(
                format!("daemon {}", child.id()),
                format!("it does not answer after {} s", PATIENCE.as_secs()),
            )
            .remedy(format!("see {}", log_file(session).display())));
        }
        std::thread::sleep(LOOK);
    }
}

/// The command line of a daemon that serves the store as this process would, without the program.
pub fn daemon_arguments(session: &Session, verbosity: u8) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["daemon".into(), "--store".into()];
    arguments.push(session.store().into());
    if let Some(file) = &session.config_file {
        arguments.extend(["--config".into(), file.into()]);
    }
    if verbosity > 0 {
        arguments.push(format!("-{}", "v".repeat(verbosity.into())).into());
    } else if session.quiet {
        arguments.push("--quiet".into());
    }
    if session.json {
        arguments.push("--json".into());
    }
    arguments
}

/// Leaves the terminal's session, so that the daemon outlives it.
///
/// # Errors
/// This process leads a process group, but no session.
pub fn leave_session() -> Result<()> {
    // A daemon that replaces another one has left it.
    if namespaces::leads_session() {
        return Ok(());
    }
    rustix::process::setsid().about("the daemon's session")?;
    Ok(())
}

fn log_file(session: &Session) -> PathBuf {
    session.runtime().join(layout::DAEMON_LOG)
}

fn start(session: &Session) -> Result<Child> {
    // A store that cannot be used says so here, better than a daemon's log would.
    let context = session.open(false)?;
    let runtime = session.make_runtime()?;
    let path = log_file(session);
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        // Neither waits for who reads a fifo, nor empties what a symlink leads to.
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(&path)
        .and_then(|log| match log.metadata()?.is_file() {
            true => Ok(log),
            false => Err(std::io::Error::other("it is no regular file")),
        })
        .about(path.display())
        .map_err(|error| match error.remedy.is_empty() {
            true => error.remedy("remove it, if it is no regular file: it is made anew"),
            false => error,
        })?;
    // Only what the last daemon says is of interest; its keeper's next one goes on with the log.
    if session.lock(&context.store).is_ok() {
        log.set_len(0).about(path.display())?;
    }
    drop(context);
    let program = std::env::current_exe().about("the foldfs program")?;
    let mut command = Command::new(&program);
    command.arg("keeper").arg(runtime).arg("--");
    command.args(daemon_arguments(session, session.verbose.max(1)));
    command.arg("--until-unmounted");
    // Whatever started this command keeps nothing for the daemon, and nothing of it is kept open.
    process::close_descriptors_on_exec().about("descriptors")?;
    for name in OF_OTHERS.iter().chain(&LISTEN_VARIABLES) {
        command.env_remove(name);
    }
    command.current_dir("/").stdin(Stdio::null());
    command.stdout(File::try_clone(&log).about(path.display())?);
    command.stderr(log);
    command.spawn().about(program.display())
}

/// The error that the daemon ended with: the last line of its log, or else how it ended.
fn why_it_ended(session: &Session, code: Option<i32>) -> Error {
    let path = log_file(session);
    let log = fs::read_to_string(&path).unwrap_or_default();
    let kind = match code {
        Some(2) => ErrorKind::Usage,
        Some(4) => ErrorKind::Busy,
        _ => ErrorKind::Failed,
    };
    match log
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("foldfs: "))
    {
        Some(cause) => Error::new(kind, "the daemon", cause),
        None => Error::new(kind, "the daemon", how_it_ended(code))
            .remedy(format!("see {}", path.display())),
    }
}

/// Its keeper's exit code tells that, as a shell's does.
fn how_it_ended(code: Option<i32>) -> String {
    match code {
        Some(code @ 129..) => format!("it was killed by signal {} at once", code - 128),
        Some(code) => format!("it ended at once, with exit code {code}"),
        None => String::from("its keeper was killed by a signal"),
    }
}
