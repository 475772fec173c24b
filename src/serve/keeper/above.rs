//! The service manager that has started the keeper itself: it hears what the daemon says, and keeps what the keeper
//! keeps, in case the keeper dies.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{Error, ErrorKind, Result};
use std::os::fd::AsFd;
use std::time::Duration;

use super::listener::Message;
use super::pulse;
use crate::serve::service_manager::{Watchdog, program, socket};

/// How soon it is told what it had no time for.
const AGAIN: Duration = Duration::from_millis(100);

/// So many messages wait for it at most.
const MOST: usize = 4096;

/// The manager; there need not be one.
#[derive(Debug)]
pub struct Above {
    address: Option<OsString>,
    watchdog: Watchdog,
    /// What it has not been told yet, in order: what is kept is let go of later.
    untold: VecDeque<Message>,
}

impl Above {
    /// As the environment says.
    pub fn from_environment() -> Self {
        Self {
            address: socket::address(),
            watchdog: Watchdog::from_environment(),
            untold: VecDeque::new(),
        }
    }

    /// Whether there is one.
    pub fn is_there(&self) -> bool {
        self.address.is_some()
    }

    /// Passes on what the daemon has said, but for what the keeper alone goes by: that the daemon is alive, and which
    /// program it is.
    pub fn hear(&mut self, message: &Message) {
        let own = format!("FDNAME={}", program::NAME);
        let mut lines = message.text.lines();
        if self.address.is_none() || lines.any(|line| line == pulse::ALIVE || line == own) {
            return;
        }
        let copy = match self.untold.len() < MOST {
            true => message.try_clone(),
            false => Err(Error::new(ErrorKind::QuotaExceeded, "it hears nothing")),
        };
        match copy {
            Ok(message) => {
                let was_told = self.untold.is_empty();
                self.untold.push_back(message);
                if let Err(error) = self.tell()
                    && was_told
                {
                    log::warn!("the keeper's service manager cannot be told yet: {error}");
                }
            }
            Err(error) => log::error!("the keeper's service manager is not told: {error}"),
        }
    }

    fn tell(&mut self) -> Result<()> {
        let Some(manager) = &self.address else {
            return Ok(());
        };
        while let Some(message) = self.untold.front() {
            let beside: Vec<_> = message.descriptors.iter().map(AsFd::as_fd).collect();
            socket::try_send(manager, &message.text, &beside)?;
            self.untold.pop_front();
        }
        Ok(())
    }

    /// To be called at least as often as [`Above::patience`] says: the keeper is alive.
    pub fn alive(&mut self) {
        if let Err(error) = self.tell() {
            log::debug!("the keeper's service manager cannot be told yet: {error}");
        }
        self.watchdog.alive();
    }

    /// How long it does without.
    pub fn patience(&self) -> Duration {
        match self.untold.is_empty() {
            true => self.watchdog.due(),
            false => self.watchdog.due().min(AGAIN),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::path::PathBuf;

    use super::*;

    fn above(path: PathBuf) -> Above {
        Above {
            address: Some(path.into()),
            watchdog: Watchdog::from_environment(),
            untold: VecDeque::new(),
        }
    }

    fn message(text: &str) -> Message {
        let file = tempfile::tempfile().unwrap().into();
        Message {
            text: text.into(),
            descriptors: vec![file],
        }
    }

    fn heard(manager: &UnixDatagram) -> Vec<String> {
        manager.set_nonblocking(true).unwrap();
        let mut heard = Vec::new();
        let mut buffer = [0; 100];
        while let Ok(length) = manager.recv(&mut buffer) {
            heard.push(String::from_utf8(buffer[..length].to_vec()).unwrap());
        }
        heard
    }

    #[test]
    fn what_concerns_the_keeper_only_goes_no_further() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let mut above = above(path);
        let said = [
            "WATCHDOG=1",
            "READY=1",
            "FDSTORE=1\nFDNAME=program",
            "FDSTORE=1\nFDNAME=image 7",
        ];
        for text in said {
            above.hear(&message(text));
        }
        assert_eq!(heard(&manager), ["READY=1", "FDSTORE=1\nFDNAME=image 7"]);
    }

    #[test]
    fn a_manager_that_is_busy_hears_all_of_it_later_and_in_order() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("notify");
        let mut above = above(path.clone());
        above.hear(&message("0"));
        assert_eq!(above.untold.len(), 1, "nobody listens yet");
        let manager = UnixDatagram::bind(&path).unwrap();
        let many: Vec<String> = (1..1000).map(|number| number.to_string()).collect();
        for text in &many {
            above.hear(&message(text));
        }
        assert!(!above.untold.is_empty() && above.patience() <= AGAIN);
        let mut all = Vec::new();
        while !above.untold.is_empty() {
            all.extend(heard(&manager));
            above.alive();
        }
        all.extend(heard(&manager));
        assert_eq!(all[0], "0");
        assert_eq!(all[1..], many);
    }
}
