//! The error that commands end with: what was being dealt with, what went wrong, what to do.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

/// How a command ends when it does not end well. The numbers are part of the command line's
/// contract and are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ErrorKind {
    /// It failed, and nothing was changed (exit 1).
    Failed,
    /// The arguments or the configuration are wrong (exit 2).
    Usage,
    /// It is done, but there are conflicts or findings (exit 3).
    Findings,
    /// The store is in use by another process, or locked (exit 4).
    Busy,
}

impl ErrorKind {
    /// The process's exit code.
    pub fn exit_code(self) -> u8 {
        match self {
            ErrorKind::Failed => 1,
            ErrorKind::Usage => 2,
            ErrorKind::Findings => 3,
            ErrorKind::Busy => 4,
        }
    }
}

/// An error for a person: object, cause and remedy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// What kind of end this is.
    pub kind: ErrorKind,
    /// What was being dealt with: a path, an image, a table.
    pub object: String,
    /// What went wrong.
    pub cause: String,
    /// What the reader can do about it; empty when the cause says it.
    pub remedy: String,
    /// The host's error number, where there is one.
    pub errno: Option<i32>,
}

/// The result of everything that a command calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of kind [`ErrorKind::Failed`].
    pub fn failed(object: impl fmt::Display, cause: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Failed, object, cause)
    }

    /// An error of kind [`ErrorKind::Usage`].
    pub fn usage(object: impl fmt::Display, cause: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Usage, object, cause)
    }

    /// An error of kind [`ErrorKind::Busy`].
    pub fn busy(object: impl fmt::Display, cause: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Busy, object, cause)
    }

    /// An error of the given kind, without a remedy.
    pub fn new(kind: ErrorKind, object: impl fmt::Display, cause: impl fmt::Display) -> Self {
        Self {
            kind,
            object: object.to_string(),
            cause: cause.to_string(),
            remedy: String::new(),
            errno: None,
        }
    }

    /// The same error with what to do about it.
    pub fn remedy(mut self, remedy: impl fmt::Display) -> Self {
        self.remedy = remedy.to_string();
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.cause)?;
        if !self.remedy.is_empty() {
            write!(f, "; {}", self.remedy)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// Names the object an I/O error is about.
pub trait Context<T> {
    /// Turns the error into one about `object`.
    fn about(self, object: impl fmt::Display) -> Result<T>;
}

impl<T> Context<T> for io::Result<T> {
    fn about(self, object: impl fmt::Display) -> Result<T> {
        self.map_err(|error| {
            let errno = error.raw_os_error();
            let remedy = match errno {
                Some(libc::ENOSPC) => "free space on its file system and try again",
                Some(libc::EDQUOT) => "raise the quota and try again",
                Some(libc::EACCES | libc::EPERM) => "run foldfs as root",
                Some(libc::EROFS) => "mount its file system writable",
                _ => "",
            };
            Error {
                errno,
                ..Error::failed(object, describe(&error)).remedy(remedy)
            }
        })
    }
}

/// The text of an I/O error without the number that std puts after it.
fn describe(error: &io::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" (os error ") {
        Some((text, _)) if error.raw_os_error().is_some() => text.to_owned(),
        _ => text,
    }
}

impl<T> Context<T> for rustix::io::Result<T> {
    fn about(self, object: impl fmt::Display) -> Result<T> {
        self.map_err(io::Error::from).about(object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_sentence_with_object_cause_and_remedy() {
        let full: io::Result<()> = Err(io::Error::from_raw_os_error(libc::ENOSPC));
        let error = full.about("objects").unwrap_err();
        assert_eq!(
            error.to_string(),
            "objects: No space left on device; free space on its file system and try again"
        );
        assert_eq!(error.errno, Some(libc::ENOSPC));
        let own: io::Result<()> = Err(io::Error::other("broken (os error 7)"));
        let error = own.about("x").unwrap_err();
        assert_eq!(error.to_string(), "x: broken (os error 7)");
    }
}
