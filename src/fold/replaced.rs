//! Files that stubs took the place of, kept open for a while.
//!
//! A file goes when the last descriptor of it is closed. ext4 does not give out the number of an inode that
//! went less than a minute ago, if it can help it, and looks at each of these whenever it makes one
//! (`recently_deleted` in fs/ext4/ialloc.c): files that go one by one while stubs are made would cost
//! more than all else. So they go together.

use std::os::fd::OwnedFd;

use parking_lot::Mutex;

use crate::sys::process;

/// So many files are kept at most, and a quarter as many as there may be descriptors,
const FILES: usize = 65_536;

/// and so many bytes: others may want the room.
const BYTES: u64 = 2 << 30;

/// Files that have no name any more. All of them go when it is dropped.
pub(super) struct Replaced {
    most: usize,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    files: Vec<OwnedFd>,
    bytes: u64,
}

impl Default for Replaced {
    fn default() -> Self {
        let share = usize::try_from(process::descriptor_limit() / 4);
        Self::of_at_most(share.map_or(FILES, |share| share.min(FILES)))
    }
}

impl Replaced {
    fn of_at_most(most: usize) -> Self {
        Self {
            most,
            kept: Mutex::default(),
        }
    }

    /// Keeps a file that occupies so many bytes.
    pub(super) fn keep(&self, file: OwnedFd, bytes: u64) {
        let full = {
            let mut kept = self.kept.lock();
            kept.files.push(file);
            kept.bytes += bytes;
            let is_full = kept.files.len() >= self.most || kept.bytes >= BYTES;
            is_full.then(|| std::mem::take(&mut *kept))
        };
        drop(full);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_go_together_when_there_are_enough() {
        let place = tempfile::tempdir().unwrap();
        let replaced = Replaced::of_at_most(3);
        let counts: Vec<usize> = (0..7)
            .map(|number| {
                let bytes = if number == 3 { BYTES } else { 1 };
                replaced.keep(tempfile::tempfile_in(place.path()).unwrap().into(), bytes);
                replaced.kept.lock().files.len()
            })
            .collect();
        assert_eq!(counts, [1, 2, 0, 0, 1, 2, 0]);
        assert_eq!(replaced.kept.lock().bytes, 0);
    }
}
