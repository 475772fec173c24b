//! The service manager hears that the daemon is alive, as often as it wants to (WatchdogSec=, sd_watchdog_enabled(3)).

use std::time::{Duration, Instant};

use super::notify;

/// It is alive.
const ALIVE: &str = "WATCHDOG=1";

/// Says that the daemon is alive, twice as often as it is asked to.
#[derive(Debug)]
pub struct Watchdog {
    interval: Option<Duration>,
    last: Instant,
}

impl Watchdog {
    /// As the environment says.
    pub fn from_environment() -> Self {
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
