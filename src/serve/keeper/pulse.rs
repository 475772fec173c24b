//! Whether the daemon goes on: one that serves says so again and again (WATCHDOG=1, sd_notify(3)).

use std::time::{Duration, Instant};

pub use crate::serve::service_manager::ALIVE;
use crate::serve::service_manager::{INTERVAL, READY, RELOADING, STOPPING, interval};

/// It hangs if it says nothing for so long, where no service manager says how long.
const PATIENCE: Duration = Duration::from_secs(300);

/// So long it may take from its start until it serves: it finishes what a crash left.
const BEGINNING: Duration = Duration::from_secs(15 * 60);

/// When it should have said something it is listened to for so long once more: it may have been stopped together with
/// this process, and go on with it.
const DOUBT: Duration = Duration::from_secs(10);

/// What it has said last.
#[derive(Debug)]
pub struct Pulse {
    patience: Duration,
    serves: bool,
    /// When it is to say something; `None`: it ends, which takes as long as it takes.
    due: Option<Instant>,
    is_in_doubt: bool,
}

impl Pulse {
    /// As the keeper's own service manager wants it, or as it is best.
    pub fn from_environment() -> Self {
        Self::new(interval().unwrap_or(PATIENCE))
    }

    fn new(patience: Duration) -> Self {
        Self {
            patience,
            serves: false,
            due: None,
            is_in_doubt: false,
        }
    }

    /// What a daemon is told of it, as a variable of its environment and its value.
    pub fn variable(&self) -> (&'static str, String) {
        (INTERVAL, self.patience.as_micros().to_string())
    }

    /// Another daemon begins.
    pub fn begin(&mut self) {
        self.serves = false;
        self.expect_within(BEGINNING);
    }

    /// Goes by what the daemon has said.
    pub fn hear(&mut self, text: &str) {
        for line in text.lines() {
            match line {
                READY => {
                    self.serves = true;
                    self.expect_within(self.patience);
                }
                ALIVE if self.serves => self.expect_within(self.patience),
                RELOADING => self.begin(),
                STOPPING => (self.serves, self.due) = (false, None),
                _ => {}
            }
        }
    }

    /// Whether it listens to signals, and answers who uses its mounts.
    pub fn serves(&self) -> bool {
        self.serves
    }

    /// How long it may say nothing from now on.
    pub fn left(&self) -> Duration {
        match self.due {
            Some(due) => due.saturating_duration_since(Instant::now()),
            None => Duration::MAX,
        }
    }

    /// Whether it hangs; to be asked when all has been heard that it has said.
    pub fn has_stopped(&mut self) -> bool {
        if !self.left().is_zero() {
            return false;
        }
        let was_in_doubt = self.is_in_doubt;
        if !was_in_doubt {
            self.expect_within(DOUBT.min(self.patience));
            self.is_in_doubt = true;
        }
        was_in_doubt
    }

    fn expect_within(&mut self, patience: Duration) {
        self.due = Some(Instant::now() + patience);
        self.is_in_doubt = false;
    }
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;

    use super::*;

    const SHORT: Duration = Duration::from_millis(20);

    #[test]
    fn who_serves_says_so_again_and_again() {
        let mut pulse = Pulse::new(SHORT);
        assert_eq!(pulse.variable(), ("WATCHDOG_USEC", "20000".into()));
        pulse.begin();
        pulse.hear(ALIVE);
        assert!(pulse.left() > SHORT, "it does not serve yet");
        pulse.hear(READY);
        assert!(pulse.serves() && pulse.left() <= SHORT && !pulse.has_stopped());
        sleep(SHORT);
        assert!(pulse.left().is_zero());
        pulse.hear("STATUS=so far\nWATCHDOG=1");
        assert!(!pulse.left().is_zero() && !pulse.has_stopped());
        pulse.hear(RELOADING);
        assert!(!pulse.serves() && pulse.left() > SHORT);
        pulse.hear(READY);
        pulse.hear(STOPPING);
        assert_eq!(pulse.left(), Duration::MAX);
    }

    #[test]
    fn who_has_said_nothing_is_listened_to_once_more() {
        let mut pulse = Pulse::new(SHORT);
        pulse.hear(READY);
        sleep(SHORT);
        assert!(!pulse.has_stopped() && !pulse.left().is_zero());
        pulse.hear(ALIVE);
        sleep(SHORT);
        assert!(!pulse.has_stopped());
        sleep(SHORT);
        assert!(pulse.has_stopped());
    }
}
