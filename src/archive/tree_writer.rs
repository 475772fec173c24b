//! `staging/NAME/tree.db`: the tree of an import while it is written. A scratch SQLite database, so
//! that memory stays bounded however many files the tree has.
//!
//! | table | columns | meaning |
//! |---|---|---|
//! | inodes, entries | as in catalog.db, family = 0, without its checks | the tree; the root, too, has a number of the store's counter |
//! | staged | digest, size | contents in `objects/`: those that the store lacks |
//! | import | key, value | `root`, what [`super::Statistics`] has, and, as the last, `finished` |

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};

use rusqlite::{Connection, OptionalExtension, params};

use crate::error::{Error, Result};
use crate::store::catalog::fault::Fault;
use crate::store::catalog::inode_row::{bind, number};
use crate::store::digest::Digest;
use crate::store::metadata::{Content, SharedInode};
use crate::store::number::Number;

/// The tables. Indices that reading needs are made when all rows are in.
const SCHEMA: &str = "
    PRAGMA page_size = 8192;
    PRAGMA journal_mode = OFF;
    PRAGMA synchronous = OFF;
    PRAGMA locking_mode = EXCLUSIVE;
    PRAGMA cache_size = -32768;
    CREATE TABLE inodes (
        number INTEGER PRIMARY KEY, family INTEGER NOT NULL, kind INTEGER NOT NULL,
        mode INTEGER NOT NULL, uid INTEGER NOT NULL, gid INTEGER NOT NULL, size INTEGER NOT NULL,
        mtime_s INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, ctime_s INTEGER NOT NULL,
        ctime_ns INTEGER NOT NULL, rdev INTEGER NOT NULL, links INTEGER NOT NULL, digest BLOB,
        target BLOB, xattrs BLOB
    ) STRICT;
    CREATE TABLE entries (
        parent INTEGER NOT NULL, name BLOB NOT NULL, number INTEGER NOT NULL,
        PRIMARY KEY (parent, name)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE staged (digest BLOB PRIMARY KEY, size INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE import (key TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    BEGIN;
";

/// How many batches may wait for the writer.
const QUEUE: usize = 16;
/// Rows of one batch.
const BATCH: usize = 256;

/// One row.
#[derive(Debug)]
pub(super) enum TreeRow {
    /// `links` is counted later.
    Inode(SharedInode),
    Entry {
        parent: Number,
        name: Box<[u8]>,
        number: Number,
    },
    /// A content in `objects/`.
    Staged { digest: Digest, size: u64 },
}

/// The connection that writes.
pub(super) struct TreeWriter {
    connection: Connection,
    path: PathBuf,
}

impl TreeWriter {
    /// Creates the database in the directory of an import.
    pub(super) fn create(staging: &Path) -> Result<Self> {
        let path = staging.join("tree.db");
        let open = || -> Result<Connection, Fault> {
            let connection = Connection::open(&path)?;
            connection.set_prepared_statement_cache_capacity(64);
            connection.execute_batch(SCHEMA)?;
            Ok(connection)
        };
        let connection = open().map_err(|fault| fault.about(&path.to_string_lossy()))?;
        Ok(Self { connection, path })
    }

    fn with<T>(&self, query: impl FnOnce(&Connection) -> Result<T, Fault>) -> Result<T> {
        query(&self.connection).map_err(|fault| fault.about(&self.path.to_string_lossy()))
    }

    /// Inserts a row.
    ///
    /// # Errors
    /// For an entry, when its directory has the name already.
    pub(super) fn insert(&self, row: &TreeRow) -> Result<()> {
        match row {
            TreeRow::Inode(inode) => self.insert_inode(inode),
            TreeRow::Entry {
                parent,
                name,
                number,
            } => self.with(|connection| {
                let sql = "INSERT INTO entries (parent, name, number) VALUES (?1, ?2, ?3)";
                let mut statement = connection.prepare_cached(sql)?;
                statement.execute(params![parent.get(), name, number.get()])?;
                Ok(())
            }),
            TreeRow::Staged { digest, size } => self.with(|connection| {
                let sql = "INSERT INTO staged (digest, size) VALUES (?1, ?2)";
                let mut statement = connection.prepare_cached(sql)?;
                statement.execute(params![digest.as_bytes(), size])?;
                Ok(())
            }),
        }
    }

    fn insert_inode(&self, inode: &SharedInode) -> Result<()> {
        const SQL: &str = "INSERT OR REPLACE INTO inodes (number, kind, mode, uid, gid, size, \
             mtime_s, mtime_ns, ctime_s, ctime_ns, rdev, links, digest, target, xattrs, family) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, 0)";
        self.with(|connection| {
            let mut statement = connection.prepare_cached(SQL)?;
            bind(inode, |values| statement.execute(values))?;
            Ok(())
        })
    }

    /// What `name` in directory `parent` is: its number and, once its inode is inserted, whether
    /// it is a directory.
    pub(super) fn lookup(
        &self,
        parent: Number,
        name: &[u8],
    ) -> Result<Option<(Number, Option<bool>)>> {
        let sql = "SELECT e.number, i.kind = 4 FROM entries e LEFT JOIN inodes i \
                   ON i.number = e.number WHERE e.parent = ?1 AND e.name = ?2";
        self.with(|connection| {
            let mut statement = connection.prepare_cached(sql)?;
            let mut rows = statement.query(params![parent.get(), name])?;
            let Some(row) = rows.next()? else {
                return Ok(None);
            };
            Ok(Some((number(row, 0, "entries")?, row.get(1)?)))
        })
    }

    /// Whether a directory holds no names.
    pub(super) fn is_empty(&self, directory: Number) -> Result<bool> {
        let sql = "SELECT 1 FROM entries WHERE parent = ?1 LIMIT 1";
        self.with(|connection| {
            let mut statement = connection.prepare_cached(sql)?;
            Ok(!statement.exists([directory.get()])?)
        })
    }

    /// Removes a name.
    pub(super) fn remove_entry(&self, parent: Number, name: &[u8]) -> Result<()> {
        let sql = "DELETE FROM entries WHERE parent = ?1 AND name = ?2";
        self.with(|connection| {
            let mut statement = connection.prepare_cached(sql)?;
            statement.execute(params![parent.get(), name])?;
            Ok(())
        })
    }

    /// Removes inodes without a name and contents without an inode, which later entries of an
    /// archive replaced; hands each such content to `drop_content`.
    pub(super) fn remove_unnamed(
        &self,
        root: Number,
        mut drop_content: impl FnMut(Digest) -> Result<()>,
    ) -> Result<()> {
        self.with(|connection| {
            connection.execute_batch("CREATE INDEX entries_by_number ON entries (number)")?;
            connection.execute(
                "DELETE FROM inodes WHERE number <> ?1 \
                 AND NOT EXISTS (SELECT 1 FROM entries e WHERE e.number = inodes.number)",
                [root.get()],
            )?;
            connection.execute_batch("CREATE INDEX inodes_by_digest ON inodes (digest)")?;
            let unused = "FROM staged WHERE NOT EXISTS \
                          (SELECT 1 FROM inodes i WHERE i.digest = staged.digest)";
            {
                let mut statement = connection.prepare(&format!("SELECT digest {unused}"))?;
                let mut rows = statement.query([])?;
                while let Some(row) = rows.next()? {
                    drop_content(Digest::from_bytes(row.get(0)?))?;
                }
            }
            connection.execute(&format!("DELETE {unused}"), [])?;
            Ok(())
        })
    }

    /// Counts links, makes what reading needs, and ends the writing: everything is in the file
    /// (though not yet on the disk) when it returns.
    pub(super) fn complete(self, root: Number) -> Result<()> {
        self.with(|connection| {
            connection.execute_batch(
                "CREATE INDEX IF NOT EXISTS entries_by_number ON entries (number);
                 UPDATE inodes SET links = n.count FROM
                   (SELECT number, count(*) AS count FROM entries GROUP BY number HAVING count(*) > 1) n
                   WHERE inodes.number = n.number AND inodes.kind <> 4;
                 UPDATE inodes SET links = 2 + n.count FROM
                   (SELECT e.parent, count(*) AS count FROM inodes i JOIN entries e
                    ON e.number = i.number WHERE i.kind = 4 GROUP BY e.parent) n
                   WHERE inodes.number = n.parent;",
            )?;
            connection.execute("INSERT INTO import VALUES ('root', ?1)", [root.get()])?;
            for (key, sql) in STATISTICS {
                let sql = format!("INSERT INTO import SELECT '{key}', {sql}");
                connection.execute(&sql, [])?;
            }
            connection.execute_batch("COMMIT")?;
            Ok(())
        })?;
        let path = self.path;
        self.connection
            .close()
            .map_err(|(_, error)| Fault::Sql(error).about(&path.to_string_lossy()))
    }
}

/// Key in `import` and how it is counted.
const STATISTICS: [(&str, &str); 6] = [
    ("inodes", "count(*) FROM inodes"),
    ("directories", "count(*) FROM inodes WHERE kind = 4"),
    ("logical_bytes", "coalesce(sum(size), 0) FROM inodes"),
    (
        "known_bytes",
        "coalesce(sum(size), 0) FROM inodes WHERE digest IS NOT NULL \
         AND digest NOT IN (SELECT digest FROM staged)",
    ),
    ("new_objects", "count(*) FROM staged"),
    ("new_bytes", "coalesce(sum(size), 0) FROM staged"),
];

/// Records that everything is on the disk; after this the import can be opened.
pub(super) fn mark_finished(staging: &Path) -> Result<()> {
    let path = staging.join("tree.db");
    let mark = || -> Result<(), Fault> {
        let connection = Connection::open(&path)?;
        connection
            .execute_batch("PRAGMA synchronous = OFF; INSERT INTO import VALUES ('finished', 1)")?;
        Ok(())
    };
    mark().map_err(|fault| fault.about(&path.to_string_lossy()))
}

/// A value of the table `import`.
pub(super) fn import_value(connection: &Connection, key: &str) -> Result<Option<u64>, Fault> {
    let sql = "SELECT value FROM import WHERE key = ?1";
    Ok(connection
        .query_row(sql, [key], |row| row.get(0))
        .optional()?)
}

/// A directory's inode with `content`'s type gets its number of links when the tree is complete.
pub(super) fn initial_links(content: &Content) -> u32 {
    match content {
        Content::Directory => 2,
        _ => 1,
    }
}

/// Takes rows from many threads and inserts them in one.
pub(super) struct RowSender {
    rows: Vec<TreeRow>,
    queue: SyncSender<Vec<TreeRow>>,
}

impl Clone for RowSender {
    fn clone(&self) -> Self {
        Self {
            rows: Vec::new(),
            queue: self.queue.clone(),
        }
    }
}

impl RowSender {
    /// Adds a row; waits while the writer is behind.
    ///
    /// # Errors
    /// When the writer has ended, with an error of its own.
    pub(super) fn send(&mut self, row: TreeRow) -> Result<()> {
        self.rows.push(row);
        if self.rows.len() >= BATCH {
            return self.flush();
        }
        Ok(())
    }

    /// Hands over what has been added. To be called at the end.
    pub(super) fn flush(&mut self) -> Result<()> {
        let rows = std::mem::take(&mut self.rows);
        let stopped = |_| Error::failed("tree.db", "the thread that writes it has stopped");
        self.queue.send(rows).map_err(stopped)
    }
}

/// Starts the thread that writes; it ends when all senders are gone and returns the writer.
pub(super) fn spawn_writer<'scope>(
    scope: &'scope Scope<'scope, '_>,
    writer: TreeWriter,
) -> (RowSender, ScopedJoinHandle<'scope, Result<TreeWriter>>) {
    let (queue, batches): (_, Receiver<Vec<TreeRow>>) = sync_channel(QUEUE);
    let thread = scope.spawn(move || {
        for batch in batches {
            for row in &batch {
                writer.insert(row)?;
            }
        }
        Ok(writer)
    });
    let rows = Vec::new();
    (RowSender { rows, queue }, thread)
}
