//! The catalog: families, shared layers, images (docs/format.md, The catalog). SQLite in WAL mode,
//! synchronous=FULL: what is committed is durable.
//!
//! One connection writes, in [`Transaction`]s; a pool of others reads, each query on the last
//! commit, so that a read never waits for a transaction. Nothing else may open `catalog.db` in
//! this process: closing any descriptor of it drops SQLite's locks.
//!
//! Lock order: [`Numbers`]'s block, then the writer, then the pool.

mod changes;
mod entries;
pub(crate) mod fault;
mod images;
pub(crate) mod inode_row;
mod migrations;
mod name;
mod numbers;
mod read;
mod records;
#[cfg(test)]
mod tests;
mod transaction;

use std::cell::RefCell;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::{Mutex, ReentrantMutex};
use rusqlite::{Connection, OpenFlags};

pub use changes::{Change, ChangeKind, ChangeReads, Untouched};
pub use name::check_name;
pub use numbers::Numbers;
pub use read::Reads;
pub use records::{
    Alias, Family, FamilyCounts, Image, ImageRole, NewFamily, NewImage, NewUncover, Share, Uncover,
    UncoverAction,
};
pub use transaction::Transaction;

use crate::error::{Context, Error, Result};
use fault::Fault;
use transaction::Writer;

/// Idle readers that are kept open.
const IDLE_READERS: usize = 4;

/// The page cache of a reader, in KiB: the daemon's memory is counted.
const READER_CACHE: i64 = 1024;

/// How a catalog is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CatalogMode {
    /// For reading and writing.
    Write,
    /// For reading, while others may write.
    Read,
    /// For reading from a medium that nobody can write to: a file system mounted read-only.
    ReadOnlyMedium,
}

/// An open catalog.
pub struct Catalog {
    path: PathBuf,
    mode: CatalogMode,
    /// Closed before the writer: the last connection to be closed empties the log, and a reader
    /// could not.
    readers: Mutex<Vec<Connection>>,
    /// In a transaction: all reads go there ([`Catalog::stand_still`]).
    still: ReentrantMutex<RefCell<Option<Connection>>>,
    writer: Option<Writer>,
}

impl Catalog {
    /// Creates an empty catalog at `path`.
    ///
    /// # Errors
    /// When there is a file of that name already, and where SQLite fails.
    pub fn create(path: &Path) -> Result<Self> {
        if path.try_exists().about(path.display())? {
            return Err(Error::failed(path.display(), "it exists already"));
        }
        let run = || -> Result<Connection, Fault> {
            let flags = OpenFlags::SQLITE_OPEN_CREATE | write_flags();
            let connection = Connection::open_with_flags(path, flags)?;
            prepare_writer(&connection)?;
            migrations::create(&connection)?;
            Ok(connection)
        };
        let writer = run().map_err(|fault| fault.about(&path.to_string_lossy()))?;
        Ok(Self::new(path, CatalogMode::Write, Some(writer)))
    }

    /// Opens the catalog at `path`, which is absolute.
    ///
    /// # Errors
    /// When there is none, it is damaged or something else, its tables are of a newer version, or
    /// of an older one and it is not opened for writing; with
    /// [`CatalogMode::ReadOnlyMedium`] when it was not closed cleanly.
    pub fn open(path: &Path, mode: CatalogMode) -> Result<Self> {
        let unusable = |cause: &str| {
            Error::failed(path.display(), cause)
                .remedy("`foldfs check --repair` restores it from catalog.bak")
        };
        match path.symlink_metadata() {
            Ok(found) if found.is_file() => {}
            // To open a fifo takes for ever; what a symlink leads to is not ours.
            Ok(_) => return Err(unusable("it is no regular file")),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(unusable("it does not exist"));
            }
            Err(error) => return Err(error).about(path.display()),
        }
        check_beside(path)?;
        if mode == CatalogMode::ReadOnlyMedium {
            check_closed_cleanly(path)?;
        }
        let run = || -> Result<Self, Fault> {
            if mode == CatalogMode::Write {
                let connection = Connection::open_with_flags(path, write_flags())?;
                connection.busy_timeout(Duration::from_secs(10))?;
                migrations::bring_up(&connection, true)?;
                prepare_writer(&connection)?;
                return Ok(Self::new(path, mode, Some(connection)));
            }
            let catalog = Self::new(path, mode, None);
            let reader = catalog.open_reader()?;
            migrations::bring_up(&reader, false)?;
            catalog.readers.lock().push(reader);
            Ok(catalog)
        };
        run().map_err(|fault| fault.about(&path.to_string_lossy()))
    }

    fn new(path: &Path, mode: CatalogMode, writer: Option<Connection>) -> Self {
        Self {
            path: path.to_owned(),
            mode,
            writer: writer.map(Writer::new),
            readers: Mutex::new(Vec::new()),
            still: ReentrantMutex::default(),
        }
    }

    fn path(&self) -> &str {
        self.path.to_str().unwrap_or("catalog.db")
    }

    fn writer(&self) -> Result<&Writer> {
        self.writer
            .as_ref()
            .ok_or_else(|| Error::failed(self.path(), "it is open for reading only"))
    }

    fn open_reader(&self) -> Result<Connection, Fault> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = if self.mode == CatalogMode::ReadOnlyMedium {
            let flags = flags | OpenFlags::SQLITE_OPEN_URI;
            Connection::open_with_flags(immutable_uri(&self.path), flags)?
        } else {
            Connection::open_with_flags(&self.path, flags)?
        };
        connection.busy_timeout(Duration::from_secs(10))?;
        connection.set_prepared_statement_cache_capacity(64);
        connection.pragma_update(None, "cache_size", -READER_CACHE)?;
        Ok(connection)
    }

    fn take_reader(&self) -> Result<Connection, Fault> {
        let idle = self.readers.lock().pop();
        idle.map_or_else(|| self.open_reader(), Ok)
    }

    fn give_back(&self, reader: Connection) {
        let mut readers = self.readers.lock();
        if readers.len() < IDLE_READERS {
            readers.push(reader);
        }
    }

    /// The catalog as it is now, for several reads that must agree. Keep it short: the write-ahead
    /// log grows as long as it lives.
    ///
    /// # Errors
    /// Where SQLite fails.
    pub fn snapshot(&self) -> Result<Snapshot<'_>> {
        Ok(Snapshot {
            catalog: self,
            reader: Some(self.begin()?),
        })
    }

    /// A reader in a transaction.
    fn begin(&self) -> Result<Connection> {
        let begin = || -> Result<Connection, Fault> {
            let reader = self.take_reader()?;
            // A deferred transaction sees the state at its first read.
            reader.execute_batch("BEGIN; SELECT 1 FROM counter")?;
            Ok(reader)
        };
        begin().map_err(|fault| fault.about(self.path()))
    }

    /// Ends what [`Catalog::begin`] began.
    fn end(&self, reader: Connection) {
        match reader.execute_batch("COMMIT") {
            Ok(()) => self.give_back(reader),
            Err(error) => log::warn!("{}: ending a snapshot: {error}", self.path()),
        }
    }

    /// Until the answer is dropped everybody who has this catalog reads it as it is now; a query costs a
    /// fraction then. One that is open for writing goes on as before: its readers have to see what it
    /// writes. The write-ahead log grows as long as it lasts.
    ///
    /// # Errors
    /// Where SQLite fails.
    pub fn stand_still(&self) -> Result<StandStill<'_>> {
        if self.writer.is_none() {
            let reader = self.begin()?;
            self.still.lock().replace(Some(reader));
        }
        Ok(StandStill(self))
    }

    /// Copies the catalog, as of one commit, to a new file at `path`, without keeping anybody from
    /// writing. The caller syncs it.
    ///
    /// # Errors
    /// Where SQLite fails.
    pub fn copy_to(&self, path: &Path) -> Result<()> {
        self.with(|source| {
            let mut target = Connection::open(path)?;
            target.pragma_update(None, "synchronous", "OFF")?;
            let backup = rusqlite::backup::Backup::new(source, &mut target)?;
            backup.run_to_completion(i32::MAX, Duration::from_millis(10), None)?;
            Ok(())
        })
    }
}

impl Drop for Catalog {
    /// Empties the log even when a reader of another process keeps it from being removed.
    fn drop(&mut self) {
        if let Some(writer) = &self.writer
            && let Err(error) = writer.empty_log()
        {
            log::warn!("{}: emptying its log: {error}", self.path());
        }
    }
}

impl Reads for Catalog {
    fn with<T>(&self, query: impl FnOnce(&Connection) -> Result<T, Fault>) -> Result<T> {
        let run = || {
            if let Some(reader) = &*self.still.lock().borrow() {
                return query(reader);
            }
            let reader = self.take_reader()?;
            let result = query(&reader);
            self.give_back(reader);
            result
        };
        run().map_err(|fault| fault.about(self.path()))
    }
}

/// What [`Catalog::stand_still`] gives.
pub struct StandStill<'a>(&'a Catalog);

impl Drop for StandStill<'_> {
    fn drop(&mut self) {
        let reader = self.0.still.lock().take();
        if let Some(reader) = reader {
            self.0.end(reader);
        }
    }
}

/// The catalog at one instant.
pub struct Snapshot<'a> {
    catalog: &'a Catalog,
    /// In a transaction; taken when dropped.
    reader: Option<Connection>,
}

impl Reads for Snapshot<'_> {
    fn with<T>(&self, query: impl FnOnce(&Connection) -> Result<T, Fault>) -> Result<T> {
        let result = match &self.reader {
            Some(reader) => query(reader),
            None => Err(Error::failed(self.catalog.path(), "the snapshot is over").into()),
        };
        result.map_err(|fault| fault.about(self.catalog.path()))
    }
}

impl Drop for Snapshot<'_> {
    fn drop(&mut self) {
        if let Some(reader) = self.reader.take() {
            self.catalog.end(reader);
        }
    }
}

/// SQLite says of something else in the place of its log, or of its shared memory, no more than that it
/// fails.
fn check_beside(path: &Path) -> Result<()> {
    let remedies = [
        ("-shm", "remove it: it is made anew"),
        (
            "-wal",
            "move it elsewhere, and run `foldfs check`: the last changes may be lost",
        ),
    ];
    for (suffix, remedy) in remedies {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        if Path::new(&name)
            .symlink_metadata()
            .is_ok_and(|found| !found.is_file())
        {
            return Err(Error {
                // The catalog itself need not be restored.
                errno: Some(libc::EIO),
                ..Error::failed(name.display(), "it is no regular file").remedy(remedy)
            });
        }
    }
    Ok(())
}

fn write_flags() -> OpenFlags {
    OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX
}

fn prepare_writer(connection: &Connection) -> Result<(), Fault> {
    connection.busy_timeout(Duration::from_secs(10))?;
    connection.set_prepared_statement_cache_capacity(64);
    let mode: String =
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if mode != "wal" {
        return Err(Fault::Known(Error::failed(
            connection.path().unwrap_or("catalog.db"),
            format!("its file system allows journal mode {mode} only, not WAL"),
        )));
    }
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // A large transaction leaves a large log behind; cut it when it is reset.
    connection.pragma_update_and_check(None, "journal_size_limit", 4 << 20, |_| Ok(()))?;
    Ok(())
}

/// SQLite would ignore a log beside an immutable database and return old rows.
fn check_closed_cleanly(path: &Path) -> Result<()> {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    match std::fs::metadata(&log) {
        Ok(metadata) if metadata.len() > 0 => Err(Error::failed(
            path.display(),
            "it was not closed cleanly, and its file system is mounted read-only",
        )
        .remedy("mount it writable and open the store once")),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).about(Path::new(&log).display())
        }
        _ => Ok(()),
    }
}

fn immutable_uri(path: &Path) -> String {
    let mut uri = String::from("file:");
    for &byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            uri.push_str(&format!("%{byte:02X}"));
        }
    }
    uri + "?immutable=1"
}
