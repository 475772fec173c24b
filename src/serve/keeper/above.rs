//! The service manager that has started the keeper itself: it hears what the daemon says, and keeps what the keeper
//! keeps, in case the keeper dies.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use super::listener::Message;
use super::pulse;
use crate::serve::service_manager::{Watchdog, program, socket};

/// The manager; there need not be one.
#[derive(Debug)]
pub struct Above {
    address: Option<OsString>,
    watchdog: Watchdog,
}

impl Above {
    /// As the environment says.
    pub fn from_environment() -> Self {
        Self {
            address: socket::address(),
            watchdog: Watchdog::from_environment(),
        }
    }

    /// Passes on what the daemon has said, but for what the keeper alone goes by: that the daemon is alive, and which
    /// program it is.
    pub fn hear(&self, message: &Message) {
        let mut lines = message.text.lines();
        let own = format!("FDNAME={}", program::NAME);
        let (Some(manager), false) = (
            &self.address,
            lines.any(|line| line == pulse::ALIVE || line == own),
        ) else {
            return;
        };
        let beside: Vec<BorrowedFd<'_>> = message.descriptors.iter().map(AsFd::as_fd).collect();
        if let Err(error) = socket::send(manager, &message.text, &beside) {
            log::warn!("the keeper's service manager cannot be told what the daemon says: {error}");
        }
    }

    /// To be called at least as often as [`Above::patience`] says: the keeper is alive.
    pub fn alive(&mut self) {
        self.watchdog.alive();
    }

    /// How long it does without.
    pub fn patience(&self) -> Duration {
        self.watchdog.due()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn what_concerns_the_keeper_only_goes_no_further() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_nonblocking(true).unwrap();
        let above = Above {
            address: Some(path.into()),
            watchdog: Watchdog::from_environment(),
        };
        let said = [
            "WATCHDOG=1",
            "READY=1",
            "FDSTORE=1\nFDNAME=program",
            "FDSTORE=1\nFDNAME=image 7",
        ];
        for text in said {
            let file = tempfile::tempfile().unwrap().into();
            above.hear(&Message {
                text: text.into(),
                descriptors: vec![file],
            });
        }
        let mut heard = Vec::new();
        let mut buffer = [0; 100];
        while let Ok(length) = manager.recv(&mut buffer) {
            heard.push(String::from_utf8(buffer[..length].to_vec()).unwrap());
        }
        assert_eq!(heard, ["READY=1", "FDSTORE=1\nFDNAME=image 7"]);
    }
}
