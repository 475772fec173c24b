//! A source that is a directory of this host.
//!
//! One thread walks the tree through directory descriptors (so no path is ever too long and no
//! symlink is followed), several read files, one writes the rows:
//!
//! ```text
//! Walk ──batches of names of one directory──► readers ──rows──► tree_writer
//! ```
//! Everything between them is bounded. Of the directories from the root to where the walk stands
//! only the deepest are open; the others are found again through `..`.

use std::collections::HashMap;
use std::fmt;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};

use parking_lot::Mutex;

use super::intake::Intake;
use super::numbers::ImportNumbers;
use super::source_file::{self, SourceFile};
use super::staged::StagedImport;
use super::staging::{Purpose, Staging};
use super::tree_writer::{RowSender, TreeRow, TreeWriter, initial_links, spawn_writer};
use super::walk::{Batch, Walk};
use crate::error::{Context, Error, Result};
use crate::progress::Progress;
use crate::store::Store;
use crate::store::metadata::{Content, FileType, Metadata, SharedInode, Time, Xattrs};
use crate::store::number::Number;
use crate::sys::lease;

/// Batches that may wait for a reader: each keeps a directory open.
const QUEUE: usize = 32;
/// Warnings that are kept; more are only counted.
const WARNINGS_MAX: usize = 100;

/// Stages a directory of this host.
///
/// Files are read without changing their atime; times are exact. A mount point of another file
/// system within the directory becomes an empty directory (or file), with a warning.
///
/// # Errors
/// When the directory is inside the store or holds it, when a file changes whenever it is read,
/// when anything cannot be read or written. Nothing is left in the store then.
pub fn import_directory(
    store: &Store,
    source: &Path,
    progress: &dyn Progress,
) -> Result<StagedImport> {
    stage_directory(store, source, Purpose::Commit, progress)
}

/// The same for a given purpose.
///
/// # Errors
/// Those of [`import_directory`].
pub fn stage_directory(
    store: &Store,
    source: &Path,
    purpose: Purpose,
    progress: &dyn Progress,
) -> Result<StagedImport> {
    lease::ignore_break_signal();
    let staging = Staging::create(store, purpose)?;
    let writer = TreeWriter::create(staging.path())?;
    let reading = Reading {
        intake: Intake::new(store, &staging)?,
        numbers: ImportNumbers::new(store, purpose)?,
        links: Mutex::default(),
        warnings: Mutex::default(),
        failure: Mutex::default(),
        failed: AtomicBool::new(false),
        now: Time::now(),
        progress,
    };
    let (root, writer) = reading.run(store, source, writer)?;
    let warnings = reading.warnings.into_inner().list();
    StagedImport::finish(store, staging, writer, root, warnings)
}

/// Warnings, as many as anybody reads.
#[derive(Default)]
struct Warnings {
    kept: Vec<String>,
    more: usize,
}

impl Warnings {
    fn list(mut self) -> Vec<String> {
        if self.more > 0 {
            self.kept
                .push(format!("{} more warnings like these", self.more));
        }
        self.kept
    }
}

/// A file with several names: its number, and how many names are still to come.
struct Linked {
    number: Number,
    left: u64,
}

/// What the threads of one import share.
pub(super) struct Reading<'a> {
    intake: Intake<'a>,
    pub(super) numbers: ImportNumbers,
    /// By (device, inode); only files some of whose names have not been seen.
    links: Mutex<HashMap<(u64, u64), Linked>>,
    warnings: Mutex<Warnings>,
    /// The first error.
    failure: Mutex<Option<Error>>,
    failed: AtomicBool,
    /// The ctime of everything that is imported.
    now: Time,
    progress: &'a dyn Progress,
}

impl Reading<'_> {
    fn run(
        &self,
        store: &Store,
        source: &Path,
        writer: TreeWriter,
    ) -> Result<(Number, TreeWriter)> {
        let threads = rayon::current_num_threads();
        std::thread::scope(|scope| {
            let (mut rows, writer) = spawn_writer(scope, writer);
            let (batches, queue) = sync_channel(QUEUE);
            let queue = Arc::new(Mutex::new(queue));
            for _ in 0..threads {
                let (rows, queue) = (rows.clone(), Arc::clone(&queue));
                scope.spawn(move || self.read_batches(&queue, rows));
            }
            let root = Walk::start(self, store, source)
                .and_then(|walk| walk.run(&mut rows, &batches))
                .and_then(|root| rows.flush().map(|()| root));
            drop((rows, batches));
            // Joining the writer waits for the readers: they hold its queue.
            let written = match writer.join() {
                Ok(written) => written,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            let writer = written?;
            match self.failure.lock().take() {
                Some(error) => Err(error),
                None => Ok((root?, writer)),
            }
        })
    }

    /// Whether some thread has failed, so that going on is of no use.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    pub(super) fn warn(&self, path: impl fmt::Display, text: &str) {
        let mut warnings = self.warnings.lock();
        if warnings.kept.len() < WARNINGS_MAX {
            warnings.kept.push(format!("{path}: {text}"));
        } else {
            warnings.more += 1;
        }
    }

    /// After a failure it only empties the queue, so that nobody waits.
    fn read_batches(&self, queue: &Mutex<Receiver<Batch>>, mut rows: RowSender) {
        let mut buffer = Vec::new();
        let mut read = |batch: &Batch, rows: &mut RowSender| -> Result<()> {
            for (name, file_type) in &batch.names {
                self.read_entry(batch, name, *file_type, &mut buffer, rows)?;
            }
            Ok(())
        };
        loop {
            // The guard is dropped before the batch is read.
            let received = queue.lock().recv();
            let Ok(batch) = received else { break };
            if !self.has_failed()
                && let Err(error) = read(&batch, &mut rows)
            {
                self.fail(error);
            }
        }
        if let Err(error) = rows.flush() {
            self.fail(error);
        }
    }

    fn fail(&self, error: Error) {
        self.failure.lock().get_or_insert(error);
        self.failed.store(true, Ordering::Relaxed);
    }

    fn read_entry(
        &self,
        batch: &Batch,
        name: &[u8],
        file_type: FileType,
        buffer: &mut Vec<u8>,
        rows: &mut RowSender,
    ) -> Result<()> {
        let directory = batch.directory.file.as_fd();
        let path = || batch.directory.path_of(name).to_string();
        let changed = || {
            Error::failed(path(), "it was replaced while the directory was read")
                .remedy("stop what writes to the directory, or import a snapshot")
        };
        let (content, metadata, number) = if file_type == FileType::Regular {
            let opened = SourceFile::open(directory, name).about(path())?;
            let file = opened.ok_or_else(changed)?;
            let stat = file.stat;
            let (number, seen) = self.number_of(&stat)?;
            if seen {
                return self.send_entry(batch, name, number, rows);
            }
            if stat.st_dev != batch.device && file.is_mount_point().about(path())? {
                self.warn(
                    batch.directory.path_of(name),
                    "a file is mounted here; an empty one is imported in its place",
                );
                let content = Content::Regular {
                    size: 0,
                    digest: None,
                };
                let metadata = source_file::metadata(&stat, Xattrs::new());
                (content, metadata, number)
            } else {
                let (taken, metadata) = file.take(&self.intake, buffer, path)?;
                if let (true, Some(digest)) = (taken.new, taken.digest) {
                    let size = taken.size;
                    rows.send(TreeRow::Staged { digest, size })?;
                }
                self.progress.advance(taken.size);
                (taken.content(), metadata, number)
            }
        } else {
            let read = source_file::special(directory, name).about(path())?;
            let (content, metadata, stat) = read.ok_or_else(changed)?;
            let (number, seen) = self.number_of(&stat)?;
            if seen {
                return self.send_entry(batch, name, number, rows);
            }
            (content, metadata, number)
        };
        rows.send(TreeRow::Inode(self.inode(number, content, metadata)))?;
        self.send_entry(batch, name, number, rows)
    }

    fn send_entry(
        &self,
        batch: &Batch,
        name: &[u8],
        number: Number,
        rows: &mut RowSender,
    ) -> Result<()> {
        rows.send(TreeRow::Entry {
            parent: batch.directory.number,
            name: name.into(),
            number,
        })
    }

    pub(super) fn inode(
        &self,
        number: Number,
        content: Content,
        metadata: Metadata,
    ) -> SharedInode {
        SharedInode {
            number,
            links: initial_links(&content),
            content,
            metadata,
            ctime: self.now,
        }
    }

    /// A file's number, and whether another of its names has been met: then it is being read.
    fn number_of(&self, stat: &rustix::fs::Stat) -> Result<(Number, bool)> {
        if stat.st_nlink < 2 {
            return Ok((self.numbers.next()?, false));
        }
        let key = (stat.st_dev, stat.st_ino);
        let mut links = self.links.lock();
        if let Some(linked) = links.get_mut(&key) {
            let number = linked.number;
            linked.left -= 1;
            if linked.left == 0 {
                links.remove(&key);
            }
            return Ok((number, true));
        }
        let number = self.numbers.next()?;
        let left = stat.st_nlink - 1;
        links.insert(key, Linked { number, left });
        Ok((number, false))
    }
}
