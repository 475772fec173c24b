//! A row of `inodes` to and from [`SharedInode`].

use rusqlite::{Row, ToSql};

use super::fault::Fault;
use crate::store::digest::Digest;
use crate::store::metadata::{
    Content, FileType, Metadata, SharedInode, Time, Xattrs, decode_xattrs, encode_xattrs,
};
use crate::store::number::Number;

/// The columns that [`decode`] reads, in its order, for a table alias `i`.
macro_rules! inode_columns {
    () => {
        "i.number, i.kind, i.mode, i.uid, i.gid, i.size, i.mtime_s, i.mtime_ns, i.ctime_s, \
         i.ctime_ns, i.rdev, i.links, i.digest, i.target, i.xattrs"
    };
}
pub(crate) use inode_columns;

/// Reads a [`SharedInode`] from the columns `first..` of a row.
pub(crate) fn decode(row: &Row<'_>, first: usize) -> Result<SharedInode, Fault> {
    let number = number(row, first, "inodes")?;
    decode_columns(row, first, number).map_err(|cause| Fault::row("inodes", number, cause))
}

/// Reads a [`Number`] of `table`.
pub(crate) fn number(row: &Row<'_>, column: usize, table: &'static str) -> Result<Number, Fault> {
    let value: i64 = row
        .get(column)
        .map_err(|error| Fault::row(table, "unknown", error))?;
    u64::try_from(value)
        .ok()
        .and_then(Number::new)
        .ok_or_else(|| Fault::row(table, value, "a number out of range"))
}

fn decode_columns(row: &Row<'_>, first: usize, number: Number) -> Result<SharedInode, String> {
    let text = |error: rusqlite::Error| error.to_string();
    let get_u32 = |column: usize| row.get::<_, u32>(first + column).map_err(text);
    let get_u64 = |column: usize| row.get::<_, u64>(first + column).map_err(text);
    let blob = |column: usize| {
        row.get_ref(first + column)
            .map_err(text)?
            .as_blob_or_null()
            .map_err(|error| format!("column {}: {error}", first + column))
    };
    let time = |seconds: usize, nanoseconds: usize| {
        let time = Time {
            seconds: row.get(first + seconds).map_err(text)?,
            nanoseconds: get_u32(nanoseconds)?,
        };
        if time.nanoseconds >= 1_000_000_000 {
            return Err(String::from("nanoseconds out of range"));
        }
        Ok(time)
    };

    let kind = get_u32(1)?;
    let file_type = kind
        .checked_mul(1 << 12)
        .and_then(FileType::from_mode)
        .filter(|file_type| file_type.bits() >> 12 == kind)
        .ok_or_else(|| format!("unknown kind {kind}"))?;
    let size = get_u64(5)?;
    let rdev = get_u64(10)?;
    let content = match file_type {
        FileType::Directory => Content::Directory,
        FileType::Regular => {
            let digest = blob(12)?
                .map(|bytes| <[u8; 32]>::try_from(bytes).map(Digest::from_bytes))
                .transpose()
                .map_err(|_| "a digest that is not 32 bytes long")?;
            if digest.is_some() != (size > 0) {
                return Err(format!("a file of {size} bytes with digest {digest:?}"));
            }
            Content::Regular { size, digest }
        }
        FileType::Symlink => Content::Symlink {
            target: blob(13)?.ok_or("a symbolic link without a target")?.into(),
        },
        FileType::CharDevice => Content::CharDevice { rdev },
        FileType::BlockDevice => Content::BlockDevice { rdev },
        FileType::Fifo => Content::Fifo,
        FileType::Socket => Content::Socket,
    };
    let mode = get_u32(2)?;
    if mode & !0o7777 != 0 {
        return Err(format!("mode {mode:o}"));
    }
    let xattrs = match blob(14)? {
        None => Xattrs::new(),
        Some(bytes) => decode_xattrs(bytes).ok_or("xattrs that cannot be decoded")?,
    };
    Ok(SharedInode {
        number,
        content,
        metadata: Metadata {
            mode,
            uid: get_u32(3)?,
            gid: get_u32(4)?,
            mtime: time(6, 7)?,
            xattrs,
        },
        ctime: time(8, 9)?,
        links: get_u32(11)?,
    })
}

/// Binds an inode's values, in the order: number, kind, mode, uid, gid, size, mtime, ctime, rdev,
/// links, digest, target, xattrs; `run` gets them.
pub(crate) fn bind<T>(inode: &SharedInode, run: impl FnOnce(&[&dyn ToSql]) -> T) -> T {
    let (size, digest, target) = match &inode.content {
        Content::Regular { size, digest } => (*size, digest.as_ref().map(Digest::as_bytes), None),
        Content::Symlink { target } => (0, None, Some(&**target)),
        _ => (0, None, None),
    };
    let metadata = &inode.metadata;
    run(&[
        &inode.number.get(),
        &(inode.content.file_type().bits() >> 12),
        &metadata.mode,
        &metadata.uid,
        &metadata.gid,
        &size,
        &metadata.mtime.seconds,
        &metadata.mtime.nanoseconds,
        &inode.ctime.seconds,
        &inode.ctime.nanoseconds,
        &inode.content.rdev(),
        &inode.links,
        &digest.map(|bytes| bytes.as_slice()),
        &target,
        &encode_xattrs(&metadata.xattrs),
    ])
}
