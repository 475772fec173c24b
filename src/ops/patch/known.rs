//! Contents of an image's own files at the paths of a patch: read before the image is kept still, and
//! believed as long as nobody can have written since.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};

use super::observe;
use crate::error::{Context as _, Error, Result};
use crate::filesystem::Filesystem;
use crate::path_bytes::PathBytes;
use crate::store::content::digest_of;
use crate::store::digest::Digest;
use crate::store::mark::{self, Mark};
use crate::store::objects::Objects;
use crate::sys::lease::{ReadLease, WatchedLease};
use crate::sys::xattr;

enum State {
    /// With a lease, which tells when somebody wants to write; without one where nobody can.
    Read(Digest, Option<WatchedLease>),
    Written,
}

/// What is known of a content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    Digest(Digest),
    /// Somebody writes to it, or may have.
    Written,
    Unknown,
}

/// By st_ino.
#[derive(Default)]
pub(super) struct Known(HashMap<u64, State>);

impl Known {
    pub(super) fn told(&self, number: u64) -> Told {
        match self.0.get(&number) {
            None => Told::Unknown,
            Some(State::Read(digest, lease)) if lease.as_ref().is_none_or(|it| !it.is_over()) => {
                Told::Digest(*digest)
            }
            Some(_) => Told::Written,
        }
    }

    /// Whether somebody may have written to one since it was read.
    pub(super) fn is_over(&self) -> bool {
        let leases = self.0.values().filter_map(|state| match state {
            State::Read(_, lease) => lease.as_ref(),
            State::Written => None,
        });
        leases.into_iter().any(WatchedLease::is_over)
    }

    /// Reads files, each told by its number and its path.
    ///
    /// # Errors
    /// Those of reading, of an image that nobody uses: one that is used may have changed since.
    pub(super) fn read(
        &mut self,
        filesystem: &Filesystem,
        objects: &Objects,
        files: &[(u64, Vec<u8>)],
    ) -> Result<()> {
        for (number, path) in files {
            let state = match read(filesystem, objects, *number, path) {
                Err(_) if filesystem.is_served() => State::Written,
                state => state?,
            };
            self.0.insert(*number, state);
        }
        Ok(())
    }
}

fn read(filesystem: &Filesystem, objects: &Objects, number: u64, path: &[u8]) -> Result<State> {
    let about = || PathBytes::from([b"/", path].concat());
    let open = || -> Result<OwnedFd> {
        let _names = filesystem.names_lock().read();
        observe::open(filesystem, objects, path)
    };
    let file = open()?;
    // Another one may have come there.
    let mark = xattr::get_descriptor(file.as_fd(), mark::NAME.as_bytes()).about(about())?;
    let mark = mark.and_then(|mark| Mark::decode(&mark).ok());
    if mark.is_none_or(|mark| mark.number.get() != number) {
        return Ok(State::Written);
    }
    match ReadLease::take(file) {
        Ok(Some(lease)) => {
            let lease = WatchedLease::new(lease);
            let lease = lease.map_err(|error| Error::failed(about(), error))?;
            let digest = digest_of(lease.file()).about(about())?;
            Ok(State::Read(digest, Some(lease)))
        }
        Ok(None) => Ok(State::Written),
        // The host's file system has no leases.
        Err(_) if filesystem.is_served() => Ok(State::Written),
        Err(_) => {
            let digest = digest_of(open()?.as_fd()).about(about())?;
            Ok(State::Read(digest, None))
        }
    }
}
