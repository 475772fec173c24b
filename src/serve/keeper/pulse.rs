//! Whether the daemon goes on: one that serves says so again and again (WATCHDOG=1, sd_notify(3)).

use std::time::{Duration, Instant};

pub use crate::serve::service_manager::ALIVE;
use crate::serve::service_manager::{INTERVAL, READY, RELOADING, STOPPING, interval};

/// It hangs if it says nothing for so long, where no service manager says how long.
const PATIENCE: Duration = Duration::from_secs(300);

/// What it has said last.
#[derive(Debug)]
pub struct Pulse {
    patience: Duration,
    /// `None`: it need not say anything, as it begins or ends.
    last: Option<Instant>,
}

impl Pulse {
    /// As the keeper's own service manager wants it, or as it is best.
    pub fn from_environment() -> Self {
        Self::new(interval().unwrap_or(PATIENCE))
    }

    fn new(patience: Duration) -> Self {
        let last = None;
        Self { patience, last }
    }

    /// What a daemon is told of it, as a variable of its environment and its value.
    pub fn variable(&self) -> (&'static str, String) {
        (INTERVAL, self.patience.as_micros().to_string())
    }

    /// Another daemon begins.
    pub fn begin(&mut self) {
        self.last = None;
    }

    /// Goes by what the daemon has said.
    pub fn hear(&mut self, text: &str) {
        for line in text.lines() {
            match line {
                READY => self.last = Some(Instant::now()),
                ALIVE if self.last.is_some() => self.last = Some(Instant::now()),
                RELOADING | STOPPING => self.last = None,
                _ => {}
            }
        }
    }

    /// How long it may say nothing from now on; zero: it hangs.
    pub fn left(&self) -> Duration {
        match self.last {
            Some(last) => self.patience.saturating_sub(last.elapsed()),
            None => Duration::MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;

    use super::*;

    #[test]
    fn who_serves_says_so_again_and_again() {
        let short = Duration::from_millis(20);
        let mut pulse = Pulse::new(short);
        assert_eq!(pulse.variable(), ("WATCHDOG_USEC", "20000".into()));
        pulse.hear(ALIVE);
        assert_eq!(pulse.left(), Duration::MAX, "it does not serve yet");
        pulse.hear(READY);
        sleep(short);
        assert!(pulse.left().is_zero());
        pulse.hear("STATUS=so far\nWATCHDOG=1");
        assert!(pulse.left() <= short && !pulse.left().is_zero());
        for silent in [RELOADING, STOPPING] {
            pulse.hear(READY);
            pulse.hear(silent);
            assert_eq!(pulse.left(), Duration::MAX, "{silent}");
        }
        pulse.hear(READY);
        pulse.begin();
        assert_eq!(pulse.left(), Duration::MAX);
    }
}
