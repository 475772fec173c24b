//! A staged import: a whole tree whose contents are on the store's file system, and which no view
//! shows yet. Made by [`super::directory`] and the tar reader; read by who makes an image of it.

use std::os::fd::{BorrowedFd, OwnedFd};

use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags};
use rustix::fs::{self, Mode, OFlags};

use super::identity::Identity;
use super::intake;
use super::staging::Staging;
use super::tree_writer::{self, TreeWriter, import_value};
use crate::error::{Context, Error, Result};
use crate::store::Store;
use crate::store::catalog::Reads;
use crate::store::catalog::fault::Fault;
use crate::store::digest::Digest;
use crate::store::metadata::SharedInode;
use crate::store::number::{FamilyId, Number};
use crate::store::objects::Objects;

/// What the rows of `tree.db` have as their family.
const NO_FAMILY: FamilyId = FamilyId(0);

/// What an import consists of. Bytes are contents' sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Statistics {
    /// Inodes, the root among them.
    pub inodes: u64,
    /// Of these, directories.
    pub directories: u64,
    /// Sum of the sizes of its regular files, each inode once.
    pub logical_bytes: u64,
    /// Of these, content that is in the store already.
    pub known_bytes: u64,
    /// Contents that the store lacks.
    pub new_objects: u64,
    /// Sum of their sizes.
    pub new_bytes: u64,
}

/// A finished staged import. The process that made it holds its lock and removes it when this is
/// dropped, contents that were not moved into the store with it; who opened it by name does not.
pub struct StagedImport {
    staging: Staging,
    known: Objects,
    tree: Tree,
    root: Number,
    statistics: Statistics,
    warnings: Vec<String>,
}

impl StagedImport {
    /// Opens one that another process has staged and keeps locked.
    ///
    /// # Errors
    /// When there is none of that name, it is not finished, or its process is gone.
    pub fn open(store: &Store, name: &str) -> Result<Self> {
        Self::read(store, Staging::open(store, name)?, Vec::new())
    }

    /// Makes everything durable and marks it as finished.
    pub(super) fn finish(
        store: &Store,
        staging: Staging,
        writer: TreeWriter,
        root: Number,
        warnings: Vec<String>,
    ) -> Result<Self> {
        writer.complete(root)?;
        staging.sync()?;
        tree_writer::mark_finished(staging.path())?;
        Self::read(store, staging, warnings)
    }

    fn read(store: &Store, staging: Staging, warnings: Vec<String>) -> Result<Self> {
        let known = store.objects().directory().try_clone_to_owned();
        let known = Objects::new(known.about(store.path().display())?);
        let tree = Tree {
            path: staging.path().join("tree.db").to_string_lossy().into(),
            idle: Mutex::new(Vec::new()),
        };
        let object = staging.path().display();
        let value = |key: &str| -> Result<Option<u64>> {
            Reads::with(&tree, |connection| import_value(connection, key))
        };
        let unfinished =
            || Error::failed(&object, "the import is not finished").remedy("import again");
        value("finished")?.ok_or_else(unfinished)?;
        let need = |key: &str| value(key)?.ok_or_else(unfinished);
        let root = Number::new(need("root")?).ok_or_else(unfinished)?;
        let statistics = Statistics {
            inodes: need("inodes")?,
            directories: need("directories")?,
            logical_bytes: need("logical_bytes")?,
            known_bytes: need("known_bytes")?,
            new_objects: need("new_objects")?,
            new_bytes: need("new_bytes")?,
        };
        Ok(Self {
            known,
            root,
            statistics,
            warnings,
            tree,
            staging,
        })
    }

    /// The name below `staging/`, by which another process can open it.
    pub fn name(&self) -> &str {
        self.staging.name()
    }

    /// The directory with the new contents, each named by its digest (64 hexadecimal digits), mode
    /// 0400, synced: for rename(2) into the store.
    pub fn objects(&self) -> BorrowedFd<'_> {
        self.staging.objects()
    }

    /// The number of the root directory.
    pub fn root(&self) -> Number {
        self.root
    }

    /// How much it holds.
    pub fn statistics(&self) -> Statistics {
        self.statistics
    }

    /// What of the source could not be taken as it was; empty where it was opened by name.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// An inode.
    pub fn inode(&self, number: Number) -> Result<Option<SharedInode>> {
        self.tree.inode(number)
    }

    /// A directory's names, sorted by their bytes; empty for a number that is none.
    pub fn directory(&self, number: Number) -> Result<Vec<(Box<[u8]>, SharedInode)>> {
        self.tree.directory(number)
    }

    /// What `name` in the directory `parent` is.
    pub fn lookup(&self, parent: Number, name: &[u8]) -> Result<Option<SharedInode>> {
        self.tree.lookup(parent, name)
    }

    /// Where an inode stands: (directory, name), in no order.
    pub fn names_of(&self, number: Number) -> Result<Vec<(Number, Box<[u8]>)>> {
        self.tree.names_of(number)
    }

    /// Hands every inode to `take`, in the order of their numbers.
    pub fn for_each_inode(&self, take: impl FnMut(SharedInode) -> Result<()>) -> Result<()> {
        self.tree.for_each_inode(NO_FAMILY, take)
    }

    /// Hands every entry to `take` as (directory, name, number), sorted by directory and name.
    pub fn for_each_entry(
        &self,
        take: impl FnMut(Number, &[u8], Number) -> Result<()>,
    ) -> Result<()> {
        self.tree.for_each_entry(NO_FAMILY, take)
    }

    /// Hands digest and size of every content to `take`, new or known, once each, sorted.
    pub fn for_each_digest(&self, take: impl FnMut(Digest, u64) -> Result<()>) -> Result<()> {
        self.tree.for_each_digest(take)
    }

    /// Hands digest and size of every content in [`StagedImport::objects`] to `take`, sorted.
    pub fn for_each_new(&self, mut take: impl FnMut(Digest, u64) -> Result<()>) -> Result<()> {
        self.tree.with(|connection| {
            let sql = "SELECT digest, size FROM staged ORDER BY digest";
            let mut statement = connection.prepare_cached(sql)?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                take(Digest::from_bytes(row.get(0)?), row.get(1)?)?;
            }
            Ok(())
        })
    }

    /// Opens a content for reading, wherever it is by now.
    ///
    /// # Errors
    /// When neither the import nor the store has it.
    pub fn open_content(&self, digest: &Digest) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let staged = digest.to_string();
        match fs::openat(self.staging.objects(), &staged[..], flags, Mode::empty()) {
            Err(rustix::io::Errno::NOENT) => {
                intake::open_known(&self.known, digest)?.ok_or_else(|| {
                    Error::failed(format!("object {digest}"), "it does not exist")
                        .remedy("import again, and run `foldfs check`")
                })
            }
            opened => opened.about(format!("object {digest}")),
        }
    }

    /// Which operating system the tree is, as far as it says so.
    pub fn identity(&self) -> Result<Identity> {
        Identity::of(self)
    }
}

/// The scratch database, for reading by many threads.
struct Tree {
    path: String,
    idle: Mutex<Vec<Connection>>,
}

impl Reads for Tree {
    fn with<T>(&self, query: impl FnOnce(&Connection) -> Result<T, Fault>) -> Result<T> {
        let run = || -> Result<T, Fault> {
            let idle = self.idle.lock().pop();
            let connection = match idle {
                Some(connection) => connection,
                None => {
                    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
                    let connection = Connection::open_with_flags(&self.path, flags)?;
                    connection.set_prepared_statement_cache_capacity(64);
                    connection
                }
            };
            let result = query(&connection);
            self.idle.lock().push(connection);
            result
        };
        run().map_err(|fault| fault.about(&self.path))
    }
}
