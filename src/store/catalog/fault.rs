//! What goes wrong inside the catalog, before the catalog's path is known to the message.

use rusqlite::ErrorCode;

use crate::error::{Error, ErrorKind};

/// Why a catalog operation failed.
#[derive(Debug)]
pub enum Fault {
    /// SQLite's own error.
    Sql(rusqlite::Error),
    /// A row that does not mean anything, or is not there although it must be.
    Row {
        table: &'static str,
        row: String,
        cause: String,
    },
    /// An error that already names its object.
    Known(Error),
}

impl Fault {
    /// A bad or missing row of `table`.
    pub fn row(table: &'static str, row: impl ToString, cause: impl ToString) -> Self {
        Fault::Row {
            table,
            row: row.to_string(),
            cause: cause.to_string(),
        }
    }

    /// The error for a person; `path` is the database's.
    pub fn about(self, path: &str) -> Error {
        const RESTORE: &str = "`foldfs check --repair` restores it from catalog.bak";
        match self {
            Fault::Known(error) => error,
            Fault::Row { table, row, cause } => {
                Error::failed(format!("{path}: table {table}, row {row}"), cause).remedy(format!(
                    "run `foldfs check`; if the catalog is damaged, {RESTORE}"
                ))
            }
            Fault::Sql(error) => {
                let code = error.sqlite_error_code();
                let (kind, errno, remedy) = match code {
                    Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                        (ErrorKind::Busy, Some(libc::EBUSY), "try again later")
                    }
                    Some(ErrorCode::DiskFull) => (
                        ErrorKind::Failed,
                        Some(libc::ENOSPC),
                        "free space on its file system and try again",
                    ),
                    Some(ErrorCode::SystemIoFailure) => (
                        ErrorKind::Failed,
                        Some(libc::EIO),
                        "see in the kernel's log what is wrong with the disk",
                    ),
                    Some(ErrorCode::ReadOnly) => (
                        ErrorKind::Failed,
                        Some(libc::EROFS),
                        "mount its file system writable",
                    ),
                    Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                        (ErrorKind::Failed, Some(libc::EUCLEAN), RESTORE)
                    }
                    _ => (ErrorKind::Failed, None, ""),
                };
                Error {
                    errno,
                    ..Error::new(kind, path, error).remedy(remedy)
                }
            }
        }
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Fault::Sql(error)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Fault::Known(error)
    }
}

impl From<rustix::io::Errno> for Fault {
    fn from(errno: rustix::io::Errno) -> Self {
        Fault::Known(Error {
            errno: Some(errno.raw_os_error()),
            ..Error::failed("catalog.db", errno)
        })
    }
}
