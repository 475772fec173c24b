//! Descriptors that outlive the daemon. The service manager keeps what it is given under a name (FDSTORE=1 of
//! sd_pid_notify_with_fds(3)) and hands it to the next daemon (systemd by sd_listen_fds(3), our keeper by
//! [`handing`]). This process remembers each,
//! too: the program that replaces it in the same process gets them from it directly.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::LazyLock;

use parking_lot::Mutex;

use super::handing::{self, Handing};
use super::socket;
use crate::sys::inherited;

/// The first descriptor that a service manager passes on (SD_LISTEN_FDS_START).
const FIRST: RawFd = 3;

/// What a service manager says about them in the environment (sd_listen_fds(3)).
pub const LISTEN_VARIABLES: [&str; 3] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// Longest name of a descriptor, in bytes (FDNAME=, sd_notify(3)).
const LONGEST_NAME: usize = 255;

/// Has descriptors outlive this process, under a name that several may share.
///
/// Where no service manager keeps any they are remembered only by this process, which is no error.
///
/// # Errors
/// No name as a service manager wants it, or no more descriptors: nothing is kept then. The manager does not take
/// them: this process remembers them nevertheless.
pub fn keep(name: &str, descriptors: &[BorrowedFd<'_>]) -> Result<()> {
    KEPT.keep(name, descriptors)
}

/// What is kept under a name need not be any more.
pub fn let_go(name: &str) {
    KEPT.let_go(name);
}

/// What a predecessor of this process has left, each with its name; close-on-exec. They stay kept until they are let
/// go. To be called once, as the daemon starts: later there is nothing.
pub fn inherited() -> Vec<(String, OwnedFd)> {
    KEPT.take_over(passed_on())
}

/// The same, but nothing of it is kept for a successor.
pub fn passed_on() -> Vec<(String, OwnedFd)> {
    let mut passed = handing::received();
    passed.extend(from_manager());
    passed
}

/// Does something while all that is kept is open for the next program.
///
/// # Errors
/// No more descriptors or memory: nothing was done.
pub fn handed_on<T>(what: impl FnOnce(&Handing<'_>) -> T) -> Result<T> {
    let names = KEPT.names.lock();
    let all = names.iter().flat_map(|(name, descriptors)| {
        let descriptors = descriptors.iter();
        descriptors.map(|descriptor| (name.as_str(), descriptor.as_fd()))
    });
    Ok(what(&Handing::new(all)?))
}

static KEPT: LazyLock<Kept> = LazyLock::new(|| Kept {
    manager: socket::address(),
    most: number("FDSTORE"),
    names: Mutex::default(),
});

struct Kept {
    manager: Option<OsString>,
    /// So many the manager keeps; `None`: it does not say.
    most: Option<usize>,
    names: Mutex<BTreeMap<String, Vec<OwnedFd>>>,
}

impl Kept {
    fn keep(&self, name: &str, descriptors: &[BorrowedFd<'_>]) -> Result<()> {
        check_name(name)?;
        let copies = descriptors.iter().map(BorrowedFd::try_clone_to_owned);
        let copies = copies.collect::<Result<Vec<_>>>()?;
        let count = {
            let mut names = self.names.lock();
            names.entry(name.to_owned()).or_default().extend(copies);
            names.values().map(Vec::len).sum::<usize>()
        };
        let Some(manager) = &self.manager else {
            return Ok(());
        };
        if let Some(most) = self.most.filter(|&most| count > most) {
            let text = format!("the service manager keeps {most} descriptors, this is one more");
            return Err(Error::new(ErrorKind::QuotaExceeded, text));
        }
        let message = format!("FDSTORE=1\nFDNAME={name}");
        let mut chunks = descriptors.chunks(socket::MOST);
        chunks.try_for_each(|chunk| socket::send(manager, &message, chunk))
    }

    fn let_go(&self, name: &str) {
        if self.names.lock().remove(name).is_none() {
            return;
        }
        if let Some(manager) = &self.manager {
            let message = format!("FDSTOREREMOVE=1\nFDNAME={name}");
            if let Err(error) = socket::send(manager, &message, &[]) {
                log::warn!(name; "the service manager goes on keeping descriptors: {error}");
            }
        }
    }

    fn take_over(&self, passed: Vec<(String, OwnedFd)>) -> Vec<(String, OwnedFd)> {
        let mut names = self.names.lock();
        let mut taken = Vec::new();
        for (name, descriptor) in passed {
            match descriptor.as_fd().try_clone_to_owned() {
                Ok(copy) => names.entry(name.clone()).or_default().push(copy),
                Err(error) => log::error!(name = name.as_str(); "a kept descriptor: {error}"),
            }
            taken.push((name, descriptor));
        }
        taken
    }
}

/// ASCII without control characters and `:`, and not too long.
fn check_name(name: &str) -> Result<()> {
    let good = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b':';
    match !name.is_empty() && name.len() <= LONGEST_NAME && name.bytes().all(good) {
        true => Ok(()),
        false => Err(Error::new(
            ErrorKind::InvalidInput,
            format!("{name:?} is no name for a descriptor"),
        )),
    }
}

fn number<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

/// What is passed on as sd_listen_fds(3) says, if this process is meant.
fn from_manager() -> Vec<(String, OwnedFd)> {
    if number("LISTEN_PID") != Some(std::process::id()) {
        return Vec::new();
    }
    let count = number::<RawFd>("LISTEN_FDS").unwrap_or(0);
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    passed((FIRST..FIRST.saturating_add(count)).zip(names.split(':')))
}

fn passed<'a>(numbers: impl Iterator<Item = (RawFd, &'a str)>) -> Vec<(String, OwnedFd)> {
    let claim = |(number, name): (RawFd, &str)| match inherited::claim(number) {
        Ok(descriptor) => Some((name.to_owned(), descriptor)),
        Err(error) => {
            log::warn!(name; "descriptor {number} was passed on, but is none: {error}");
            None
        }
    };
    numbers.filter_map(claim).collect()
}

#[cfg(test)]
#[path = "descriptors_tests.rs"]
mod tests;
