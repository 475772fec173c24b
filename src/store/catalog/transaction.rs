//! Changing the catalog: a transaction, and its writes of shared inodes and entries.

use std::thread::ThreadId;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use rusqlite::{Connection, Params, params};

use super::Catalog;
use super::fault::Fault;
use super::inode_row::bind;
use super::read::Reads;
use crate::error::{Error, Result};
use crate::store::metadata::{Metadata, SharedInode, Time, encode_xattrs};
use crate::store::number::{FamilyId, Number};
use crate::sys::durable::{self, Step};

/// The one connection that writes, and the thread that has it.
pub(super) struct Writer {
    connection: Mutex<Connection>,
    holder: Mutex<Option<ThreadId>>,
}

impl Writer {
    pub(super) fn new(connection: Connection) -> Self {
        Self {
            connection: Mutex::new(connection),
            holder: Mutex::new(None),
        }
    }

    /// Moves what is committed from the log into the database and cuts the log, unless a reader
    /// still needs it.
    pub(super) fn empty_log(&self) -> rusqlite::Result<()> {
        let connection = self.connection.lock();
        connection.busy_timeout(Duration::from_millis(100))?;
        // It reports a reader in its row, not as an error.
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
    }
}

/// Changes that happen together or, unless [`Transaction::commit`] is called, not at all.
///
/// There is one at a time, in the whole system: what waits for something else while it has one
/// keeps every [`super::Numbers`] that runs dry waiting. Its reads see its own writes.
/// Foreign keys are checked at the commit, so rows may be written in any order.
pub struct Transaction<'a> {
    writer: &'a Writer,
    connection: MutexGuard<'a, Connection>,
}

impl Catalog {
    /// Begins a transaction; waits for the one that is under way.
    ///
    /// # Errors
    /// When the catalog was opened for reading, when another process keeps it busy for longer
    /// than 10 seconds, and when the calling thread has a transaction already.
    pub fn transaction(&self) -> Result<Transaction<'_>> {
        let writer = self.writer()?;
        let this = std::thread::current().id();
        if *writer.holder.lock() == Some(this) {
            return Err(Error::failed(
                self.path(),
                "a transaction within a transaction",
            ));
        }
        let connection = writer.connection.lock();
        connection
            .execute_batch("BEGIN IMMEDIATE")
            .map_err(|error| Fault::Sql(error).about(self.path()))?;
        *writer.holder.lock() = Some(this);
        Ok(Transaction { writer, connection })
    }
}

impl Reads for Transaction<'_> {
    fn with<T>(&self, query: impl FnOnce(&Connection) -> Result<T, Fault>) -> Result<T> {
        query(&self.connection)
            .map_err(|fault| fault.about(self.connection.path().unwrap_or("catalog.db")))
    }
}

impl Transaction<'_> {
    /// Makes the changes, durably.
    ///
    /// # Errors
    /// The changes are not made then. A foreign key that refers to nothing is such an error.
    #[track_caller]
    pub fn commit(self) -> Result<()> {
        let commit = || -> Result<(), Fault> { Ok(self.connection.execute_batch("COMMIT")?) };
        let done = durable::perform(Step::Commit, commit);
        self.with(|_| done)
    }

    /// Runs a statement and returns how many rows it changed.
    pub(super) fn run(&self, sql: &str, params: impl Params) -> Result<usize> {
        self.with(|connection| Ok(connection.prepare_cached(sql)?.execute(params)?))
    }

    /// Runs a statement that must change a row.
    pub(super) fn run_one(
        &self,
        table: &'static str,
        row: impl ToString,
        sql: &str,
        params: impl Params,
    ) -> Result<()> {
        self.with(
            |connection| match connection.prepare_cached(sql)?.execute(params)? {
                0 => Err(Fault::row(table, row, "it does not exist")),
                _ => Ok(()),
            },
        )
    }

    /// Runs an INSERT and returns the new row's id.
    pub(super) fn insert(&self, sql: &str, params: impl Params) -> Result<i64> {
        self.with(|connection| Ok(connection.prepare_cached(sql)?.insert(params)?))
    }

    /// Adds a shared inode to a family.
    ///
    /// # Errors
    /// When the number is taken.
    pub fn insert_inode(&self, family: FamilyId, inode: &SharedInode) -> Result<()> {
        const SQL: &str = "INSERT INTO inodes (number, kind, mode, uid, gid, size, mtime_s, \
             mtime_ns, ctime_s, ctime_ns, rdev, links, digest, target, xattrs, family) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)";
        self.with(|connection| {
            let mut statement = connection.prepare_cached(SQL)?;
            bind(inode, |values| {
                let mut all = [values[0]; 16];
                all[..15].copy_from_slice(values);
                all[15] = &family.0;
                statement.execute(&all[..])
            })?;
            Ok(())
        })
    }

    /// Gives a shared inode new content and metadata.
    ///
    /// # Errors
    /// When it does not exist.
    pub fn replace_inode(&self, inode: &SharedInode) -> Result<()> {
        const SQL: &str = "UPDATE inodes SET kind = ?2, mode = ?3, uid = ?4, gid = ?5, size = ?6, \
             mtime_s = ?7, mtime_ns = ?8, ctime_s = ?9, ctime_ns = ?10, rdev = ?11, links = ?12, \
             digest = ?13, target = ?14, xattrs = ?15 WHERE number = ?1";
        bind(inode, |values| {
            self.run_one("inodes", inode.number, SQL, values)
        })
    }

    /// Gives a shared inode new metadata and ctime; content and links stay.
    ///
    /// # Errors
    /// When it does not exist.
    pub fn set_metadata(&self, number: Number, metadata: &Metadata, ctime: Time) -> Result<()> {
        self.run_one(
            "inodes",
            number,
            "UPDATE inodes SET mode = ?2, uid = ?3, gid = ?4, mtime_s = ?5, mtime_ns = ?6, \
             ctime_s = ?7, ctime_ns = ?8, xattrs = ?9 WHERE number = ?1",
            params![
                number.get(),
                metadata.mode,
                metadata.uid,
                metadata.gid,
                metadata.mtime.seconds,
                metadata.mtime.nanoseconds,
                ctime.seconds,
                ctime.nanoseconds,
                encode_xattrs(&metadata.xattrs),
            ],
        )
    }

    /// Adds `delta` to the link count of a shared inode.
    ///
    /// # Errors
    /// When it does not exist or the count would become negative.
    pub fn adjust_links(&self, number: Number, delta: i32) -> Result<()> {
        self.run_one(
            "inodes",
            number,
            "UPDATE inodes SET links = links + ?2 WHERE number = ?1",
            params![number.get(), delta],
        )
    }

    /// Removes a shared inode. Its names and aliases must be gone when the transaction commits.
    ///
    /// # Errors
    /// When it does not exist.
    pub fn delete_inode(&self, number: Number) -> Result<()> {
        let sql = "DELETE FROM inodes WHERE number = ?1";
        self.run_one("inodes", number, sql, [number.get()])
    }

    /// Adds a name to a shared directory. Link counts are the caller's
    /// ([`Transaction::adjust_links`]).
    ///
    /// # Errors
    /// When the directory holds the name already, or it is no name (empty, longer than 255 bytes,
    /// `.`, `..`, with `/` or a zero byte).
    pub fn insert_entry(&self, parent: Number, name: &[u8], number: Number) -> Result<()> {
        let sql = "INSERT INTO entries (parent, name, number) VALUES (?1, ?2, ?3)";
        self.run(sql, params![parent.get(), name, number.get()])?;
        Ok(())
    }

    /// Makes an existing name of a shared directory refer to another inode.
    ///
    /// # Errors
    /// When the directory does not hold the name.
    pub fn replace_entry(&self, parent: Number, name: &[u8], number: Number) -> Result<()> {
        self.run_one(
            "entries",
            entry(parent, name),
            "UPDATE entries SET number = ?3 WHERE parent = ?1 AND name = ?2",
            params![parent.get(), name, number.get()],
        )
    }

    /// Removes a name from a shared directory.
    ///
    /// # Errors
    /// When the directory does not hold the name.
    pub fn delete_entry(&self, parent: Number, name: &[u8]) -> Result<()> {
        self.run_one(
            "entries",
            entry(parent, name),
            "DELETE FROM entries WHERE parent = ?1 AND name = ?2",
            params![parent.get(), name],
        )
    }
}

fn entry(parent: Number, name: &[u8]) -> String {
    format!("{parent}/{}", name.escape_ascii())
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if !self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            log::error!("rolling back a catalog transaction: {error}");
        }
        *self.writer.holder.lock() = None;
    }
}
