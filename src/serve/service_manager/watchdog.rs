//! The service manager hears that the daemon is alive, as often as it wants to (WatchdogSec=, sd_watchdog_enabled(3)).

use std::time::{Duration, Instant};

use super::notify;

/// It is alive.
pub const ALIVE: &str = "WATCHDOG=1";

/// The variable in which a service manager says how often it wants to hear that, in microseconds.
pub const INTERVAL: &str = "WATCHDOG_USEC";

/// How often this process's service manager wants to hear from it; `None`: it does not.
pub fn interval() -> Option<Duration> {
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    let meant = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
    let interval = number(INTERVAL).filter(|&interval| meant && interval > 0);
    interval.map(Duration::from_micros)
}

/// How soon it tries again what could not be told.
const AGAIN: Duration = Duration::from_secs(1);

/// Says that this process is alive, four times as often as it is asked to: once or twice it may be late, or not heard.
#[derive(Debug)]
pub struct Watchdog {
    interval: Option<Duration>,
    next: Instant,
}

impl Watchdog {
    /// As the environment says.
    pub fn from_environment() -> Self {
        Self {
            interval: interval().map(|interval| interval / 4),
            next: Instant::now(),
        }
    }

    /// To be called again and again by what must go on for the process to be of use.
    pub fn alive(&mut self) {
        if let Some(interval) = self.interval
            && self.due().is_zero()
        {
            let told = notify(ALIVE);
            self.next = Instant::now() + if told { interval } else { AGAIN.min(interval) };
        }
    }

    /// When [`Watchdog::alive`] is to be called next, from now.
    pub fn due(&self) -> Duration {
        match self.interval {
            Some(_) => self.next.saturating_duration_since(Instant::now()),
            None => Duration::MAX,
        }
    }
}
