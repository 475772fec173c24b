//! Why a request on a live image is not carried out.

use std::fmt;

use rustix::io::Errno;

use crate::error::{Error, ErrorKind};

/// The reason, kept until the adapter answers (and logs what is not the caller's doing).
#[derive(Debug)]
pub enum Failure {
    /// What a plain directory would answer as well: ENOENT, EEXIST, ENOSPC and the like.
    Refused(Errno),
    /// The store is damaged or cannot be read.
    Store(Error),
    /// It would alter what no guest may alter.
    Locked(Box<Locked>),
}

/// What is locked, and by what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Locked {
    /// From the root, without a leading '/'. Of a file with several names, one that is locked.
    pub path: Vec<u8>,
    /// The pattern.
    pub pattern: String,
}

/// Some entry of a private layer.
const PRIVATE_LAYER: &str = "private layer";

/// What every operation of a live image gives.
pub type Outcome<T> = std::result::Result<T, Failure>;

impl Failure {
    /// The error number the caller gets.
    pub fn errno(&self) -> Errno {
        match self {
            Failure::Refused(errno) => *errno,
            Failure::Locked(_) => Errno::PERM,
            Failure::Store(error) => match error.errno {
                Some(libc::ENOSPC) => Errno::NOSPC,
                Some(libc::EDQUOT) => Errno::DQUOT,
                Some(libc::EMFILE | libc::ENFILE) => Errno::NFILE,
                Some(_) | None => Errno::IO,
            },
        }
    }
}

impl Failure {
    /// Whether the host was short of something, of which it may have enough a moment later.
    pub fn is_shortage(&self) -> bool {
        let errno = match self {
            Failure::Refused(errno) => Some(errno.raw_os_error()),
            Failure::Store(error) if error.kind == ErrorKind::Busy => return true,
            Failure::Store(error) => error.errno,
            Failure::Locked(_) => None,
        };
        let short = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::EAGAIN];
        errno.is_some_and(|errno| short.contains(&errno))
    }

    /// As the error of a command that dealt with `object`.
    pub fn about(self, object: impl fmt::Display) -> Error {
        match self {
            Failure::Refused(errno) => Error {
                errno: Some(errno.raw_os_error()),
                ..Error::failed(object, std::io::Error::from(errno))
            },
            // Who found it knew no more of where it was.
            Failure::Store(error) if error.object == PRIVATE_LAYER => Error {
                object: object.to_string(),
                ..error
            },
            Failure::Store(error) => error,
            Failure::Locked(_) => {
                let errno = Some(libc::EPERM);
                Error {
                    errno,
                    ..Error::failed(object, "it is locked")
                }
            }
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Refused(errno) => errno.fmt(f),
            Failure::Store(error) => error.fmt(f),
            Failure::Locked(locked) => write!(f, "/{} is locked", locked.path.escape_ascii()),
        }
    }
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        // EBADMSG: an entry of the private layer that foldfs did not make.
        if errno == Errno::BADMSG {
            let error = Error::failed(PRIVATE_LAYER, "an entry without a valid mark");
            return Failure::Store(error.remedy("run `foldfs check`"));
        }
        Failure::Refused(errno)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Store(error)
    }
}
