//! Objects that stay open, and registered with the kernel, when their last reader has closed them:
//! nearly all that opening a shared file costs is opening its object and registering it.
//!
//! What is kept says nothing about the node: whoever takes it up again compares the object with the
//! one that the node has by then. It belongs to one mount, too, for the kernel's numbers of registered
//! files are those of a connection; the number of a mount is never used again.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lru::LruCache;
use parking_lot::Mutex;

use super::node::OpenFile;
use super::transport::Registered;
use crate::store::number::Number;
use crate::sys::process;

/// How many are kept at most: each is a descriptor of ours, an open file of the kernel's and an inode
/// of the host's that stays in memory.
const MOST: u64 = 32 << 10;

/// No more than this share of the descriptors that the process may have is kept.
const SHARE: u64 = 2;

/// Once there is no more room, one of so many takes the place of another one for good, and the others
/// are the next to go: who reads more files than are kept, again and again, finds most of them still.
/// (Bimodal insertion: Qureshi et al., "Adaptive Insertion Policies for High Performance Caching", 2007.)
const STAYS: u64 = 32;

/// A mount, as long as the process lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Connection(u64);

impl Connection {
    /// One that was never there.
    pub(super) fn new() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self(LAST.fetch_add(1, Ordering::Relaxed))
    }
}

/// An object that is kept.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub(super) open: Arc<OpenFile>,
    pub(super) registered: Registered,
}

/// Those of all images that a process serves. A leaf lock; nothing is closed while it is held.
#[derive(Debug)]
pub(super) struct KeptFiles {
    files: Mutex<LruCache<(Connection, Number), Kept>>,
    /// How many found no room.
    crowded: AtomicU64,
}

impl KeptFiles {
    /// As many as the limit of descriptors (RLIMIT_NOFILE) bears.
    pub(super) fn new() -> Self {
        Self::with_room_for(MOST.min(process::descriptor_limit() / SHARE))
    }

    fn with_room_for(most: u64) -> Self {
        let most = usize::try_from(most).ok().and_then(NonZeroUsize::new);
        Self {
            files: Mutex::new(LruCache::new(most.unwrap_or(NonZeroUsize::MIN))),
            crowded: AtomicU64::new(0),
        }
    }

    pub(super) fn get(&self, connection: Connection, number: Number) -> Option<Kept> {
        self.files.lock().get(&(connection, number)).cloned()
    }

    pub(super) fn keep(&self, connection: Connection, number: Number, kept: Kept) {
        let key = (connection, number);
        let mut files = self.files.lock();
        let is_crowded = files.len() == files.cap().get() && !files.contains(&key);
        let before = files.push(key, kept);
        if is_crowded {
            let before = self.crowded.fetch_add(1, Ordering::Relaxed);
            if !before.is_multiple_of(STAYS) {
                files.demote(&key);
            }
        }
        drop(files);
        drop(before);
    }

    /// The node's content is another one.
    pub(super) fn close(&self, connection: Connection, number: Number) {
        let kept = self.files.lock().pop(&(connection, number));
        drop(kept);
    }

    /// The mount is gone.
    pub(super) fn close_connection(&self, connection: Connection) {
        let mut files = self.files.lock();
        let keys = files.iter().map(|(key, _)| *key);
        let keys: Vec<_> = keys.filter(|(of, _)| *of == connection).collect();
        let closed: Vec<_> = keys.iter().filter_map(|key| files.pop(key)).collect();
        drop(files);
        drop(closed);
    }

    /// All: objects that are to be removed must not live on because nobody needs them.
    pub(super) fn close_all(&self) {
        let mut files = self.files.lock();
        let room = files.cap();
        let closed = std::mem::replace(&mut *files, LruCache::new(room));
        drop(files);
        drop(closed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;
    use std::sync::atomic::AtomicBool;

    use super::super::node::Backing;
    use super::*;

    fn kept() -> (Kept, Weak<OpenFile>) {
        let open = Arc::new(OpenFile {
            file: tempfile::tempfile().unwrap().into(),
            backing: Backing::Private,
            shown_times: AtomicBool::new(false),
        });
        let known = Arc::downgrade(&open);
        let registered = Registered::new(1, Arc::new(()));
        (Kept { open, registered }, known)
    }

    #[test]
    fn the_least_recently_opened_goes_first_and_a_mount_with_all_of_its_own() {
        let files = KeptFiles::with_room_for(2);
        let number = |value| Number::new(value).unwrap();
        let (one, other) = (Connection::new(), Connection::new());
        assert_ne!(one, other);
        let made = [2, 3, 4].map(|value| {
            let (kept, known) = kept();
            files.keep(one, number(value), kept);
            assert!(files.get(one, number(2)).is_some());
            assert!(files.get(other, number(2)).is_none());
            known
        });
        let is_open = |known: &[Weak<OpenFile>]| -> Vec<bool> {
            known.iter().map(|known| known.strong_count() > 0).collect()
        };
        assert_eq!(is_open(&made), [true, false, true]);
        let (third, known) = kept();
        files.keep(other, number(4), third);
        files.close_connection(one);
        assert_eq!(is_open(&made), [false; 3]);
        assert!(known.strong_count() > 0 && files.get(other, number(4)).is_some());
        files.close(other, number(5));
        files.close(other, number(4));
        assert_eq!(known.strong_count(), 0);
        let (again, known) = kept();
        files.keep(other, number(4), again);
        files.close_all();
        assert_eq!(known.strong_count(), 0);
    }

    #[test]
    fn who_goes_through_more_than_there_is_room_for_finds_most_of_it_again() {
        let files = KeptFiles::with_room_for(100);
        let connection = Connection::new();
        let mut found = 0;
        for round in 0..20 {
            for value in 2..152 {
                let number = Number::new(value).unwrap();
                match files.get(connection, number) {
                    Some(_) if round > 0 => found += 1,
                    Some(_) => unreachable!("it was never kept"),
                    None => files.keep(connection, number, kept().0),
                }
            }
        }
        // Of 19 rounds of 150; the least recently opened would never be found.
        assert!(found > 19 * 75, "{found}");

        // What is opened again and again gets its place in time, whatever was there before.
        let hot = Number::new(1000).unwrap();
        let mut missed = 0;
        for value in 2000..4000 {
            if files.get(connection, hot).is_none() {
                missed += 1;
                files.keep(connection, hot, kept().0);
            }
            let other = Number::new(value).unwrap();
            files.keep(connection, other, kept().0);
        }
        assert!(missed < 500, "{missed}");
    }
}
