//! `cache.db`: the hash cache. It tells the digest of a file that has been hashed before and not
//! been altered since, by (device, inode, size, mtime, ctime). It may be deleted at any time, and
//! never stops anything: what goes wrong with it is logged, and the file is made anew.

use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

use super::digest::{Digest, Hasher};
use super::metadata::Time;

/// `PRAGMA user_version`; a cache of another version is made anew.
const VERSION: i64 = 1;

const SCHEMA: &str = "
    CREATE TABLE digests (
        device   INTEGER NOT NULL,
        inode    INTEGER NOT NULL,
        size     INTEGER NOT NULL,
        mtime_s  INTEGER NOT NULL,
        mtime_ns INTEGER NOT NULL,
        ctime_s  INTEGER NOT NULL,
        ctime_ns INTEGER NOT NULL,
        digest   BLOB NOT NULL,
        seal     BLOB NOT NULL,
        used     INTEGER NOT NULL,
        PRIMARY KEY (device, inode)
    ) STRICT, WITHOUT ROWID;
    PRAGMA user_version = 1;
";

/// A file may be altered again within the granularity of its timestamps: one that was altered less
/// than this many seconds ago is not remembered.
const SETTLED: i64 = 2;

/// What identifies a file and the state it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileKey {
    /// st_dev
    pub device: u64,
    /// st_ino
    pub inode: u64,
    /// Bytes.
    pub size: u64,
    /// When its content was altered.
    pub mtime: Time,
    /// When anything of it was altered.
    pub ctime: Time,
}

impl FileKey {
    /// The key of a file that was hashed after `stat` was taken.
    pub fn of(stat: &rustix::fs::Stat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: stat.st_size as u64,
            mtime: Time {
                seconds: stat.st_mtime,
                nanoseconds: stat.st_mtime_nsec as u32,
            },
            ctime: Time {
                seconds: stat.st_ctime,
                nanoseconds: stat.st_ctime_nsec as u32,
            },
        }
    }

    /// Ties a digest to the key: SQLite has no checksums, and the file is never synced.
    fn seal(&self, digest: &Digest) -> [u8; 8] {
        let mut hasher = Hasher::default();
        for value in [self.device, self.inode, self.size] {
            hasher.update(&value.to_le_bytes());
        }
        for time in [self.mtime, self.ctime] {
            hasher.update(&time.seconds.to_le_bytes());
            hasher.update(&time.nanoseconds.to_le_bytes());
        }
        hasher.update(digest.as_bytes());
        let mut seal = [0; 8];
        seal.copy_from_slice(&hasher.finish().as_bytes()[..8]);
        seal
    }
}

/// The open hash cache; for many threads.
pub struct HashCache {
    path: PathBuf,
    /// `None` when there can be none: then nothing is ever found.
    connection: Mutex<Option<Connection>>,
}

impl HashCache {
    /// Opens the cache at `path`, or makes it. A damaged one is deleted.
    pub fn open(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            connection: Mutex::new(open_or_renew(path)),
        }
    }

    /// The digests of files, as far as they are known, in the order of the keys.
    pub fn get(&self, keys: &[FileKey]) -> Vec<Option<Digest>> {
        let today = today();
        self.attempt(|connection| match is_large_part(connection, keys.len())? {
            true => find_in_passing(connection, keys, today),
            false => find(connection, keys, today),
        })
        .unwrap_or_else(|| vec![None; keys.len()])
    }

    /// Remembers digests. Files that were altered less than two seconds ago are left out: they
    /// may be altered again without their times showing it.
    pub fn put(&self, digests: &[(FileKey, Digest)]) {
        self.put_at(digests, Time::now().seconds);
    }

    fn put_at(&self, digests: &[(FileKey, Digest)], now: i64) {
        let today = today();
        let settled = |key: &FileKey| key.mtime.seconds.max(key.ctime.seconds) < now - SETTLED;
        self.attempt(|connection| {
            let transaction = connection.unchecked_transaction()?;
            let mut insert = transaction.prepare_cached(
                "INSERT OR REPLACE INTO digests VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            )?;
            for (key, digest) in digests.iter().filter(|(key, _)| settled(key)) {
                insert.execute(params![
                    key.device as i64,
                    key.inode as i64,
                    key.size as i64,
                    key.mtime.seconds,
                    key.mtime.nanoseconds,
                    key.ctime.seconds,
                    key.ctime.nanoseconds,
                    digest.as_bytes(),
                    key.seal(digest),
                    today,
                ])?;
            }
            drop(insert);
            transaction.commit()
        });
    }

    /// Forgets what has not been used for `days` days.
    pub fn prune(&self, days: i64) {
        let before = today() - days;
        self.attempt(|connection| {
            connection.execute("DELETE FROM digests WHERE used < ?1", [before])
        });
    }

    /// Runs `action`; when it fails, makes the cache anew, and returns `None`.
    fn attempt<T>(&self, action: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Option<T> {
        let mut slot = self.connection.lock();
        let error = match action(slot.as_ref()?) {
            Ok(value) => return Some(value),
            Err(error) => error,
        };
        log::warn!("{}: {error}", self.path.display());
        if !passing(&error) {
            *slot = None;
            *slot = renew(&self.path);
        }
        None
    }
}

/// Whether an error says nothing against the file: another process is writing, the disk is full.
fn passing(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode;
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::DiskFull)
    )
}

fn find(
    connection: &Connection,
    keys: &[FileKey],
    today: i64,
) -> rusqlite::Result<Vec<Option<Digest>>> {
    let transaction = connection.unchecked_transaction()?;
    let mut select = transaction.prepare_cached(
        "SELECT digest, seal, used FROM digests WHERE device = ?1 AND inode = ?2 AND size = ?3 \
         AND mtime_s = ?4 AND mtime_ns = ?5 AND ctime_s = ?6 AND ctime_ns = ?7",
    )?;
    let mut touch = transaction
        .prepare_cached("UPDATE digests SET used = ?3 WHERE device = ?1 AND inode = ?2")?;
    let mut found = Vec::with_capacity(keys.len());
    for key in keys {
        let values = params![
            key.device as i64,
            key.inode as i64,
            key.size as i64,
            key.mtime.seconds,
            key.mtime.nanoseconds,
            key.ctime.seconds,
            key.ctime.nanoseconds,
        ];
        let row: Option<([u8; 32], [u8; 8], i64)> = select
            .query_row(values, |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .optional()?;
        let row = row
            .map(|(bytes, seal, used)| (Digest::from_bytes(bytes), seal, used))
            .filter(|(digest, seal, _)| *seal == key.seal(digest));
        if row.is_some_and(|(_, _, used)| used != today) {
            touch.execute(params![key.device as i64, key.inode as i64, today])?;
        }
        found.push(row.map(|(digest, _, _)| digest));
    }
    drop((select, touch));
    transaction.commit()?;
    Ok(found)
}

/// Whether so many keys are a part of the table that reading all of it costs less than looking each
/// of them up.
fn is_large_part(connection: &Connection, keys: usize) -> rusqlite::Result<bool> {
    /// About as many rows fill a page.
    const ROWS: usize = 35;
    if keys < 100 {
        return Ok(false);
    }
    let pages: i64 = connection.pragma_query_value(None, "page_count", |row| row.get(0))?;
    Ok(keys * 5 > usize::try_from(pages).unwrap_or(0) * ROWS)
}

/// [`find`] by one pass through the table for each device.
fn find_in_passing(
    connection: &Connection,
    keys: &[FileKey],
    today: i64,
) -> rusqlite::Result<Vec<Option<Digest>>> {
    let position = |key: &FileKey| (key.device as i64, key.inode as i64);
    let mut order: Vec<usize> = (0..keys.len()).collect();
    order.sort_unstable_by_key(|&index| position(&keys[index]));
    let transaction = connection.unchecked_transaction()?;
    let mut select = transaction.prepare_cached(
        "SELECT inode, size, mtime_s, mtime_ns, ctime_s, ctime_ns, digest, seal, used \
         FROM digests WHERE device = ?1 AND inode BETWEEN ?2 AND ?3 ORDER BY inode",
    )?;
    let mut found = vec![None; keys.len()];
    let mut old = Vec::new();
    for same in order.chunk_by(|&left, &right| keys[left].device == keys[right].device) {
        let (Some(&first), Some(&last)) = (same.first(), same.last()) else {
            continue;
        };
        let device = keys[first].device;
        let mut wanted = same.iter().peekable();
        let range = params![
            device as i64,
            keys[first].inode as i64,
            keys[last].inode as i64
        ];
        let mut rows = select.query(range)?;
        while let Some(row) = rows.next()? {
            let inode: i64 = row.get(0)?;
            while wanted
                .next_if(|&&index| (keys[index].inode as i64) < inode)
                .is_some()
            {}
            while let Some(&index) = wanted.next_if(|&&index| keys[index].inode as i64 == inode) {
                let time = |seconds: usize| -> rusqlite::Result<Time> {
                    Ok(Time {
                        seconds: row.get(seconds)?,
                        nanoseconds: row.get(seconds + 1)?,
                    })
                };
                let key = FileKey {
                    device,
                    inode: inode as u64,
                    size: row.get::<_, i64>(1)? as u64,
                    mtime: time(2)?,
                    ctime: time(4)?,
                };
                let digest = Digest::from_bytes(row.get(6)?);
                if key == keys[index] && key.seal(&digest) == row.get::<_, [u8; 8]>(7)? {
                    found[index] = Some(digest);
                    if row.get::<_, i64>(8)? != today {
                        old.push((device, inode));
                    }
                }
            }
        }
    }
    drop(select);
    let mut touch = transaction
        .prepare_cached("UPDATE digests SET used = ?3 WHERE device = ?1 AND inode = ?2")?;
    for (device, inode) in old {
        touch.execute(params![device as i64, inode, today])?;
    }
    drop(touch);
    transaction.commit()?;
    Ok(found)
}

fn open_or_renew(path: &Path) -> Option<Connection> {
    let error = match open(path) {
        Ok(connection) => return Some(connection),
        Err(error) => error,
    };
    if passing(&error) {
        log::warn!("{}: {error}; going on without it", path.display());
        return None;
    }
    log::warn!("{}: {error}; making it anew", path.display());
    renew(path)
}

fn renew(path: &Path) -> Option<Connection> {
    for suffix in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        match std::fs::remove_file(&name) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                log::warn!("{}: {error}", Path::new(&name).display());
            }
            _ => {}
        }
    }
    open(path)
        .inspect_err(|error| log::warn!("{}: {error}; going on without it", path.display()))
        .ok()
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    // To open a fifo takes for ever.
    if path.metadata().is_ok_and(|found| !found.is_file()) {
        return Err(rusqlite::Error::InvalidPath(path.to_owned()));
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "OFF")?;
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version == 0 {
        connection.execute_batch(&format!("BEGIN IMMEDIATE; {SCHEMA} COMMIT"))?;
    } else if version != VERSION {
        return Err(rusqlite::Error::InvalidQuery);
    }
    Ok(connection)
}

/// Days since 1970.
fn today() -> i64 {
    Time::now().seconds / 86_400
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(inode: u64) -> FileKey {
        let time = |seconds| Time {
            seconds,
            nanoseconds: 5,
        };
        FileKey {
            device: u64::MAX,
            inode,
            size: 1 << 40,
            mtime: time(-7),
            ctime: time(1000),
        }
    }

    #[test]
    fn many_keys_are_found_as_few_are() {
        let (_directory, path) = fixture();
        let cache = HashCache::open(&path);
        let digests: Vec<_> = (0..1000u64)
            .map(|n| (key(n * 2), Digest::of(&n.to_le_bytes())))
            .collect();
        cache.put(&digests);
        let mut keys: Vec<_> = (0..2000).rev().map(key).collect();
        keys.push(key(4));
        keys.push(FileKey { size: 1, ..key(8) });
        keys.push(FileKey {
            device: 1,
            ..key(8)
        });
        let together = cache.get(&keys);
        assert_eq!(together.iter().flatten().count(), 1001);
        for (key, digest) in keys.iter().zip(together) {
            assert_eq!(cache.get(&[*key]), [digest]);
        }
    }

    fn fixture() -> (tempfile::TempDir, PathBuf) {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("cache.db");
        (temporary, path)
    }

    #[test]
    fn finds_files_in_the_very_state_they_were_hashed_in() {
        let (_temporary, path) = fixture();
        let digest = Digest::of(b"x");
        let cache = HashCache::open(&path);
        cache.put(&[(key(u64::MAX), digest), (key(2), Digest::of(b"y"))]);
        drop(cache);
        let cache = HashCache::open(&path);
        let found = cache.get(&[key(1), key(u64::MAX), key(2)]);
        assert_eq!(found, [None, Some(digest), Some(Digest::of(b"y"))]);
        let mut altered = [key(2); 6];
        altered[0].device = 1;
        altered[1].size += 1;
        altered[2].mtime.seconds += 1;
        altered[3].mtime.nanoseconds += 1;
        altered[4].ctime.seconds += 1;
        altered[5].ctime.nanoseconds += 1;
        assert_eq!(cache.get(&altered), [None; 6]);
        cache.put(&[(altered[2], digest)]);
        assert_eq!(cache.get(&[key(2), altered[2]]), [None, Some(digest)]);
    }

    #[test]
    fn what_may_still_change_unseen_is_not_remembered() {
        let (_temporary, path) = fixture();
        let cache = HashCache::open(&path);
        let digest = Digest::of(b"x");
        for now in [900, 1000, 1001, 1002] {
            cache.put_at(&[(key(1), digest)], now);
            assert_eq!(cache.get(&[key(1)]), [None], "{now}");
        }
        cache.put_at(&[(key(1), digest)], 1003);
        assert_eq!(cache.get(&[key(1)]), [Some(digest)]);
    }

    #[test]
    fn what_is_not_used_is_pruned() {
        let (_temporary, path) = fixture();
        let cache = HashCache::open(&path);
        let digest = Digest::of(b"x");
        cache.put(&[(key(1), digest), (key(2), digest)]);
        let raw = Connection::open(&path).unwrap();
        raw.execute("UPDATE digests SET used = used - 31", [])
            .unwrap();
        assert_eq!(cache.get(&[key(1)]), [Some(digest)]);
        cache.prune(30);
        assert_eq!(cache.get(&[key(1), key(2)]), [Some(digest), None]);
    }

    #[test]
    fn a_damaged_cache_is_made_anew() {
        let (_temporary, path) = fixture();
        let digest = Digest::of(b"x");
        let works = |cache: &HashCache| {
            assert_eq!(cache.get(&[key(1)]), [None]);
            cache.put(&[(key(1), digest)]);
            assert_eq!(cache.get(&[key(1)]), [Some(digest)]);
        };
        for content in [&[b'x'; 10_000][..], b"short"] {
            std::fs::write(&path, content).unwrap();
            works(&HashCache::open(&path));
        }
        let raw = Connection::open(&path).unwrap();
        raw.pragma_update(None, "user_version", 7).unwrap();
        drop(raw);
        works(&HashCache::open(&path));
        // Damaged while it is open.
        let cache = HashCache::open(&path);
        let raw = Connection::open(&path).unwrap();
        raw.execute_batch("DROP TABLE digests").unwrap();
        drop(raw);
        assert_eq!(cache.get(&[key(1)]), [None]);
        works(&cache);
    }

    #[test]
    fn a_digest_that_was_altered_is_not_believed() {
        let (_temporary, path) = fixture();
        let cache = HashCache::open(&path);
        cache.put(&[(key(1), Digest::of(b"x"))]);
        let raw = Connection::open(&path).unwrap();
        raw.execute("UPDATE digests SET digest = zeroblob(32)", [])
            .unwrap();
        assert_eq!(cache.get(&[key(1)]), [None]);
    }

    #[test]
    fn without_a_place_for_it_nothing_is_found_and_nothing_fails() {
        let (_temporary, path) = fixture();
        std::fs::create_dir(&path).unwrap();
        for path in [path.as_path(), Path::new("/nonexistent/cache.db")] {
            let cache = HashCache::open(path);
            cache.put(&[(key(1), Digest::of(b"x"))]);
            assert_eq!(cache.get(&[key(1)]), [None]);
            cache.prune(0);
        }
    }
}
