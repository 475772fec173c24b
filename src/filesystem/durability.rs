//! fsync(2): what was synced is there after a crash, under its name.

use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use lru::LruCache;
use parking_lot::Mutex;
use rustix::fs::{self, OFlags};
use rustix::io::Errno;

use super::Filesystem;
use super::failure::Outcome;
use super::node::{Backing, Node, Place, Source};
use super::open::open_private;
use super::resolve::Host;
use crate::store::layer::{self, Layer};
use crate::store::metadata::{FileType, Time};
use crate::store::number::Number;
use crate::sys::durable;

/// Private directories that are known not to have changed since they were synced, by their ctime
/// then. A leaf lock.
pub(super) struct SyncedDirectories(Mutex<LruCache<Number, Time>>);

/// How many directories are remembered.
const REMEMBERED: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1023);

/// The host's clock of inode times may stand still for so long.
const CLOCK_TICK_NANOSECONDS: i64 = 50_000_000;

impl Default for SyncedDirectories {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(REMEMBERED)))
    }
}

impl SyncedDirectories {
    fn sync(&self, number: Number, directory: &OwnedFd) -> Outcome<()> {
        let stat = fs::fstat(directory)?;
        let ctime = Time {
            seconds: stat.st_ctime,
            nanoseconds: stat.st_ctime_nsec as u32,
        };
        if self.0.lock().get(&number) == Some(&ctime) {
            return Ok(());
        }
        let now = Time::now();
        let listing = layer::open_directory(directory, b".", OFlags::RDONLY)?;
        durable::sync(listing)?;
        // A change in the same tick of the clock would leave the ctime as it is.
        let age = (now.seconds - ctime.seconds).saturating_mul(1_000_000_000)
            + i64::from(now.nanoseconds)
            - i64::from(ctime.nanoseconds);
        if age > CLOCK_TICK_NANOSECONDS {
            self.0.lock().put(number, ctime);
        }
        Ok(())
    }
}

impl Filesystem {
    /// fsync(2), or with `data_only` fdatasync(2), of an open file: its content, metadata and name.
    pub fn sync_file(&self, handle: u64, data_only: bool) -> Outcome<()> {
        let handle = self.handles.file(handle)?;
        let node = &handle.node;
        let open = self.open_to_read(node)?;
        if let Backing::Object { .. } = open.backing {
            self.sync_metadata(node)?;
        } else if data_only {
            durable::sync_data(&open.file)?;
        } else {
            durable::sync(&open.file)?;
        }
        self.sync_place(node)
    }

    /// fsync(2) of a directory: its entries, its metadata and its own name.
    pub fn sync_directory(&self, node: &Arc<Node>) -> Outcome<()> {
        self.sync_place(node)
    }

    /// What is private of a file whose content is an object.
    fn sync_metadata(&self, node: &Arc<Node>) -> Outcome<()> {
        let stub = {
            let _names = self.names.read();
            match (node.file_type, self.host(node)?) {
                (FileType::Regular, Some(host)) => open_private(self, &host, OFlags::RDONLY)?,
                _ => return Ok(()),
            }
        };
        Ok(durable::sync(stub)?)
    }

    /// Makes durable that a node stands where it stands: the private directories from it to the
    /// root. The host's journals would do it with the file; POSIX promises it of directories only.
    fn sync_place(&self, node: &Arc<Node>) -> Outcome<()> {
        let mut directories = Vec::new();
        let mut token = None;
        let is_indexed;
        {
            let _names = self.names.read();
            is_indexed = matches!(node.place(), Place::Index);
            let mut current = node.clone();
            loop {
                if let (Source::PrivateDirectory(_), Some(directory)) =
                    (current.source(), self.private_directory(&current)?)
                {
                    directories.push((current.number, directory));
                }
                match current.place() {
                    Place::Entry { parent, .. } => current = parent,
                    Place::Index => {
                        let name = Layer::token_name(current.number);
                        match open_private(self, &Host::Index(name), OFlags::RDONLY) {
                            Ok(file) => token = Some(file),
                            Err(failure) if failure.errno() == Errno::NOENT => {}
                            Err(failure) => return Err(failure),
                        }
                        break;
                    }
                    Place::Root | Place::Unlinked => break,
                }
            }
        }
        if is_indexed {
            durable::sync(self.view.layer.index())?;
        }
        // A link's transaction holds the token and the directory of the name.
        if let Some(token) = token {
            durable::sync(token)?;
        }
        for (number, directory) in directories {
            self.synced.sync(number, &directory)?;
        }
        Ok(())
    }
}
