//! The keeper: a small process that starts the daemon, keeps what it is given over the daemon's death, and starts the
//! next one with that. It has one thread, opens no store, and knows nothing of mounts but that a descriptor of /dev/fuse
//! is one. Where a service manager has started it, that one takes it for the daemon, and need not know of a death.

mod above;
mod kept;
mod listener;
mod pulse;
mod restart;
mod signals;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use rustix::time::Timespec;

use self::above::Above;
use self::kept::Kept;
use self::listener::Listener;
use self::pulse::Pulse;
use self::restart::{Next, Restarts};
use self::signals::Signals;
use super::service_manager::descriptors::{self, LISTEN_VARIABLES};
use super::service_manager::handing::{self, Handing};
use super::service_manager::{READY, STOPPING, program};
use crate::error::{Context, Result};
use crate::sys::process;

/// Until something happens.
const FOREVER: Duration = Duration::MAX;

/// How often it looks whether a daemon that was killed cannot end.
const LOOK: Duration = Duration::from_secs(1);

/// The kernel ends others first when it has no memory left (proc_pid_oom_score_adj(5)).
const OOM_SCORE: &str = "-900";

/// How long it rests when the system is short of something.
const PAUSE: Duration = Duration::from_millis(100);

/// What concerns only who was started by a service manager: this is the daemon's now.
const OF_OTHERS: [&str; 1] = ["WATCHDOG_PID"];

/// A keeper at work.
struct Keeper {
    arguments: Vec<OsString>,
    listener: Listener,
    signals: Signals,
    above: Above,
    kept: Kept,
    pulse: Pulse,
    restarts: Restarts,
    /// Somebody wants the daemon to end, or it ends by itself.
    ending: bool,
    /// The daemon was started when it was to end already.
    is_last: bool,
    /// The last daemon was killed, and cannot end before the next one answers.
    is_stuck: bool,
    /// The daemon's, as this process had it.
    oom_score: Option<String>,
    /// Daemons that were killed, and end when the next one has answered for them.
    ending_later: Vec<Child>,
}

/// Runs a daemon, this program with `arguments`, until it ends by itself or nothing waits for the next one; then its
/// exit code.
///
/// `directory`: where something can be made that only root can reach.
///
/// # Errors
/// The daemon cannot be started.
pub fn run(directory: &Path, arguments: Vec<OsString>) -> Result<u8> {
    process::raise_descriptor_limit().about("the limit of open files")?;
    let mut keeper = Keeper {
        arguments,
        listener: Listener::new(directory).about(directory.display())?,
        signals: Signals::new().about("signals")?,
        above: Above::from_environment(),
        kept: Kept::new(descriptors::passed_on()),
        pulse: Pulse::from_environment(),
        restarts: Restarts::default(),
        ending: false,
        is_last: false,
        is_stuck: false,
        oom_score: std::fs::read_to_string("/proc/self/oom_score_adj").ok(),
        ending_later: Vec::new(),
    };
    let daemon = keeper.start().about("the foldfs program")?;
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE) {
        log::info!("the kernel may end the keeper when memory is short: {error}");
    }
    Ok(keeper.attend(daemon))
}

impl Keeper {
    fn attend(&mut self, mut daemon: Child) -> u8 {
        loop {
            let begun = Instant::now();
            let status = self.wait(&mut daemon);
            // What it has said last, and which mounts went with it.
            self.hear(daemon.id());
            self.ending |= self.look(Duration::ZERO).is_some();
            let next = self
                .restarts
                .next(status, begun.elapsed(), self.is_needed());
            let delay = match next {
                Next::End(code) => return code,
                Next::Start(delay) => delay,
            };
            let when = match delay.is_zero() {
                true => String::from("at once"),
                false => format!("in {} s", delay.as_secs_f32()),
            };
            let how = match status.signal() {
                Some(signal) => format!("was killed by signal {signal}"),
                None => format!("failed ({status})"),
            };
            log::warn!(
                "the daemon (process {}) {how}; it is started again {when}",
                daemon.id()
            );
            match self.start_after(delay) {
                Some(next) => self.ending_later.push(std::mem::replace(&mut daemon, next)),
                None => return restart::exit_code(status),
            }
        }
    }

    /// A daemon is of use: if it is to end at once, too, where the one before has not come to unmount, or cannot end
    /// before somebody answers.
    fn is_needed(&self) -> bool {
        self.kept.has_mounts() && (!self.ending || !self.is_last || self.is_stuck)
    }

    /// Serves a daemon to its end. One that was killed while it told the kernel something may have to wait for the answer
    /// to a request before it can end, which only the next one gives: it has ended for us.
    fn wait(&mut self, daemon: &mut Child) -> ExitStatus {
        self.is_stuck = false;
        loop {
            match daemon.try_wait() {
                Ok(Some(status)) => return status,
                Ok(None) if process::waits_for_fuse_only(daemon.id()) => {
                    self.is_stuck = true;
                    log::warn!("process {} ends when the next daemon answers", daemon.id());
                    return ExitStatus::from_raw(Signal::KILL.as_raw());
                }
                Ok(None) => {}
                Err(error) => pause(&error),
            }
            // Those that have ended are waited for no longer.
            self.ending_later
                .retain_mut(|ended| matches!(ended.try_wait(), Ok(None)));
            let patience = match self.kept.has_mounts() {
                true => LOOK,
                false => FOREVER,
            };
            if let Some(signal) = self.look(patience.min(self.pulse.left())) {
                // One that does not serve yet would die of it, and leave its mounts: it is told when it does. Who asks
                // twice has no time for that.
                if self.pulse.serves() || self.ending {
                    tell(daemon.id(), signal);
                }
                self.ending = true;
            }
            self.hear(daemon.id());
            if self.pulse.has_stopped() {
                log::error!("the daemon (process {}) hangs: it is killed", daemon.id());
                tell(daemon.id(), Signal::KILL);
                self.pulse.begin();
            }
        }
    }

    /// Waits for something to happen: a message, the end of a mount, or of the daemon, or a signal to end, which it
    /// returns.
    fn look(&mut self, patience: Duration) -> Option<Signal> {
        let patience = Timespec::try_from(patience.min(self.above.patience())).ok();
        let mut watched = vec![PollFd::new(&self.listener, PollFlags::IN)];
        watched.extend(self.signals.watched());
        let own = watched.len();
        watched.extend(self.kept.watched());
        match poll(&mut watched, patience.as_ref()) {
            Ok(_) => {
                let events: Vec<PollFlags> = watched.iter().map(PollFd::revents).collect();
                drop(watched);
                self.kept.let_go_of_ended(&events[own..]);
            }
            Err(Errno::INTR) => {}
            Err(errno) => pause(&errno.into()),
        }
        self.above.alive();
        self.signals.take()
    }

    /// Does what process `daemon` has said.
    fn hear(&mut self, daemon: u32) {
        loop {
            match self.listener.receive(daemon) {
                Ok(Some(message)) => {
                    let says = |what: &str| message.text.lines().any(|line| line == what);
                    // It could not be told before: it listens to signals now.
                    if self.ending && says(READY) {
                        tell(daemon, Signal::TERM);
                    }
                    self.ending |= says(STOPPING);
                    self.pulse.hear(&message.text);
                    self.above.hear(&message);
                    self.kept.hear(message);
                }
                Ok(None) => return,
                Err(error) => return pause(&error),
            }
        }
    }

    /// Starts the next daemon, however often it takes; `None`: it has become needless. If it is to end meanwhile it is
    /// started at once, to unmount what waits for it.
    fn start_after(&mut self, delay: Duration) -> Option<Child> {
        let mut due = Instant::now() + delay;
        loop {
            loop {
                let rest = due.saturating_duration_since(Instant::now());
                self.ending |= self.look(rest).is_some();
                if !self.kept.has_mounts() {
                    return None;
                }
                if rest.is_zero() || self.ending {
                    break;
                }
            }
            match self.start() {
                Ok(daemon) => return Some(daemon),
                Err(error) if self.ending => {
                    log::error!("the daemon cannot be started, to unmount: {error}");
                    return None;
                }
                Err(error) => {
                    log::error!("the daemon cannot be started: {error}");
                    due = Instant::now() + restart::LONGEST;
                }
            }
        }
    }

    /// Starts a daemon with what is kept.
    fn start(&mut self) -> std::io::Result<Child> {
        self.pulse.begin();
        self.is_last = self.ending;
        let descriptors = Handing::new(self.kept.iter())?;
        // Not what lies under that name by now.
        let file = match self.kept.program() {
            Some(program) => process::descriptor_path(program),
            None => b"/proc/self/exe".to_vec(),
        };
        let file = PathBuf::from(OsString::from_vec(file));
        let mut command = Command::new(&file);
        command.arg0(std::fs::read_link(&file)?);
        command.args(&self.arguments);
        for name in OF_OTHERS.iter().chain(&LISTEN_VARIABLES) {
            command.env_remove(name);
        }
        command.env("NOTIFY_SOCKET", self.listener.address());
        // Its manager starts another keeper then, with all that is kept: two daemons would answer the same requests.
        if self.above.is_there() {
            process::kill_with_this_thread(&mut command);
        }
        let (name, interval) = self.pulse.variable();
        command.env(name, interval);
        command.env(program::KEPT, std::process::id().to_string());
        command.env(handing::VARIABLE, descriptors.value());
        let daemon = command.spawn()?;
        drop(descriptors);
        if let Some(score) = &self.oom_score
            && let Err(error) =
                std::fs::write(format!("/proc/{}/oom_score_adj", daemon.id()), score)
        {
            log::info!("the daemon is as dear to the kernel as its keeper: {error}");
        }
        Ok(daemon)
    }
}

/// Has a daemon end.
fn tell(daemon: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(daemon).ok().and_then(Pid::from_raw)
        && let Err(error) = kill_process(pid, signal)
    {
        log::error!("the daemon cannot be told to end: {error}");
    }
}

/// Errors here are shortages that pass: no reason to end, nor to spin.
fn pause(error: &std::io::Error) {
    log::warn!("the keeper: {error}");
    std::thread::sleep(PAUSE);
}
