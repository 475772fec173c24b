//! Directories below /run/foldfs for what `foldfs boot` needs for a while.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::error::{Context, Error, Result};
use crate::ops::boot::Copies;

/// As foldfs.tmpfiles.conf makes it: users may pass through to what is theirs.
const RUN: &str = "/run/foldfs";
const RUN_MODE: u32 = 0o711;

/// A guest's directory, which is this process's alone.
pub struct Place {
    pub path: PathBuf,
    #[allow(dead_code, reason = "it is locked as long as it is open")]
    lock: File,
}

impl Place {
    /// Where a guest of this image has its root, its kernel and its socket.
    pub fn of_guest(image: &str) -> Result<Self> {
        Self::take(Path::new(RUN), "boot", image)
    }

    /// Where this image is mounted to copy a kernel from it.
    pub fn of_kernel(image: &str) -> Result<Self> {
        Self::take(Path::new(RUN), "kernels", image)
    }

    fn take(run: &Path, kind: &str, image: &str) -> Result<Self> {
        // What is no image's name is none's directory.
        if image.is_empty() || image.starts_with('.') || image.contains('/') {
            let error = Error::failed(format!("image {image:?}"), "there is no such image");
            return Err(error.remedy("`foldfs list` shows all images"));
        }
        if make(run, RUN_MODE)? {
            // Whatever this process's umask is.
            let mode = Permissions::from_mode(RUN_MODE);
            fs::set_permissions(run, mode).about(run.display())?;
        }
        let above = run.join(kind);
        make(&above, 0o700)?;
        let path = above.join(image);
        make(&path, 0o700)?;
        let lock = File::open(&path).about(path.display())?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path, lock }),
            Err(Errno::WOULDBLOCK) => {
                let cause = "a guest was booted from it, or from one of its name, and runs";
                Err(Error::busy(format!("image {image:?}"), cause).remedy("power it off first"))
            }
            Err(error) => Err(error).about(path.display()),
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.path.join("virtiofs.sock")
    }

    pub fn log(&self) -> PathBuf {
        self.path.join("virtiofsd.log")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // virtiofsd's lock is called like its socket.
        for file in [
            self.socket(),
            self.path.join("virtiofs.sock.pid"),
            self.log(),
        ] {
            match fs::remove_file(&file) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    log::warn!("{}: {error}", file.display());
                }
                _ => {}
            }
        }
        if let Err(error) = Copies::remove(&self.path) {
            log::warn!("{error}");
        }
        if let Err(error) = fs::remove_dir(&self.path) {
            log::warn!("{}: {error}", self.path.display());
        }
    }
}

/// Whether it was not there.
fn make(path: &Path, mode: u32) -> Result<bool> {
    match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error).about(path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_pass_through_to_their_sockets_but_see_no_guest() {
        let scratch = tempfile::TempDir::new().unwrap();
        let run = scratch.path().join("foldfs");
        let place = Place::take(&run, "boot", "web").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&run), 0o711);
        assert_eq!(mode(&run.join("boot")), 0o700);
        assert_eq!(mode(&place.path), 0o700);
        drop(place);
        assert!(!run.join("boot/web").exists());
    }
}
