//! What a fold leaves alone because it, or the object that it equals, cannot be read: each is told of
//! in the log, and the rest is folded. What concerns the whole store ends a fold.

use crate::error::{Error, Result};

/// So many of one image are told of one by one.
const TOLD: u64 = 100;

/// What is left alone of one image.
#[derive(Debug, Clone, Default)]
pub struct Damage {
    /// How many files; a directory that cannot be listed counts as one.
    pub files: u64,
    /// What is wrong with the first of them.
    pub first: Option<Error>,
}

impl Damage {
    /// Notes that so many files are left alone.
    ///
    /// # Errors
    /// The error itself, if it is one that every file would meet.
    pub(super) fn note(&mut self, files: u64, error: Error) -> Result<()> {
        if concerns_all(&error) {
            return Err(error);
        }
        let error = match error.remedy.is_empty() {
            true => error.remedy(
                "see in the kernel's log what is wrong with the disk, then write the file anew or \
                 restore it from a backup",
            ),
            false => error,
        };
        if self.files < TOLD {
            let Error {
                object,
                cause,
                remedy,
                ..
            } = &error;
            log::warn!(object = object.as_str(), cause = cause.as_str(), remedy = remedy.as_str();
                "a fold leaves it alone");
        }
        self.files += files;
        self.first.get_or_insert(error);
        Ok(())
    }
}

/// Whether what went wrong is not the matter of one file: there is no room, or no descriptor left.
pub(super) fn concerns_all(error: &Error) -> bool {
    matches!(
        error.errno,
        Some(
            libc::ENOSPC
                | libc::EDQUOT
                | libc::EROFS
                | libc::EMFILE
                | libc::ENFILE
                | libc::ENOMEM
                | libc::EAGAIN
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Context as _;
    use rustix::io::Errno;

    fn failed(errno: Errno) -> Error {
        let failed: rustix::io::Result<()> = Err(errno);
        failed.about("images/2: etc/own").unwrap_err()
    }

    #[test]
    fn a_bad_file_is_noted_and_a_full_disk_ends_a_fold() {
        let mut damage = Damage::default();
        damage.note(1, failed(Errno::IO)).unwrap();
        damage.note(3, failed(Errno::ACCESS)).unwrap();
        assert_eq!(damage.files, 4);
        let first = damage.first.clone().unwrap().to_string();
        for needed in ["images/2: etc/own", "Input/output error", "backup"] {
            assert!(first.contains(needed), "{first}");
        }
        assert_eq!(
            damage.note(1, failed(Errno::NOSPC)).unwrap_err().errno,
            Some(libc::ENOSPC)
        );
    }
}
