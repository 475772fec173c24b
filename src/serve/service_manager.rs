//! What systemd is told of a daemon that it started (sd_notify(3)): that it serves, that it is alive, that it ends.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

/// The mounts that were asked for can be made.
pub const READY: &str = "READY=1";
/// It unmounts, and ends then.
pub const STOPPING: &str = "STOPPING=1";
/// It is alive.
const ALIVE: &str = "WATCHDOG=1";

/// Tells the service manager; nobody, where there is none. That it cannot be told is no reason to serve nobody.
pub fn notify(state: &str) {
    let Some(address) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    if let Err(error) = send(&address, state) {
        log::warn!(state; "the service manager cannot be told: {error}");
    }
}

fn send(address: &OsStr, state: &str) -> std::io::Result<()> {
    let address = match address.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(OsStr::from_bytes(path))?,
    };
    let sent = UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address)?;
    match sent == state.len() {
        true => Ok(()),
        false => Err(std::io::ErrorKind::WriteZero.into()),
    }
}

/// Says that the daemon is alive, twice as often as it is asked to (WatchdogSec=).
#[derive(Debug)]
pub struct Watchdog {
    interval: Option<Duration>,
    last: Instant,
}

impl Watchdog {
    /// As the environment says.
    pub fn new() -> Self {
        let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
        let meant = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let interval = number("WATCHDOG_USEC").filter(|_| meant);
        Self {
            interval: interval.map(|time| Duration::from_micros(time) / 2),
            last: Instant::now(),
        }
    }

    /// To be called again and again by what must go on for the daemon to be of use.
    pub fn alive(&mut self) {
        if self
            .interval
            .is_some_and(|interval| self.last.elapsed() >= interval)
        {
            notify(ALIVE);
            self.last = Instant::now();
        }
    }
}
