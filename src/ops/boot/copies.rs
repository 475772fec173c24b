//! Copies of a kernel and its initramfs outside of the image, for programs of the host that open files by name.
//!
//! The image is its guest's: when QEMU opens a name in it, the name may lead out of it, though it did not when it was
//! looked for; and QEMU takes names with commas apart. So it gets names that we chose, of files that no guest reaches.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::kernel::{Found, Kernel};
use crate::error::{Context, Error, Result};
use crate::sys::copy;

/// Kernels and initramfs are smaller; what is larger shall not fill the host's memory.
const SIZE_MAX: u64 = 512 << 20;
/// Where a bzImage says what it is (Linux, Documentation/arch/x86/boot.rst).
const MAGIC_AT: u64 = 0x202;
const MAGIC: &[u8; 4] = b"HdrS";

/// Where the copies are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copies {
    /// The kernel's: a bzImage.
    pub kernel: PathBuf,
    /// The initramfs's, if the kernel has one.
    pub initramfs: Option<PathBuf>,
}

impl Copies {
    /// Where [`Copies::make`] puts them.
    pub fn planned(kernel: &Kernel, directory: &Path) -> Self {
        Self {
            kernel: directory.join("kernel"),
            initramfs: kernel
                .initramfs
                .as_ref()
                .map(|_| directory.join("initramfs")),
        }
    }

    /// Copies both, readable for their owner only, into this directory, which is made if it is not there; in place of
    /// earlier copies. QEMU takes files of other formats for more than a kernel, and a Multiboot kernel's `-initrd` for
    /// a list of files, so a kernel that is no bzImage is refused.
    ///
    /// # Errors
    /// The kernel is no bzImage; a file is too large; reading or writing.
    pub fn make(kernel: &Kernel, directory: &Path) -> Result<Self> {
        let made = DirBuilder::new().mode(0o711).create(directory);
        match made {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(error).about(directory.display());
            }
            _ => {}
        }
        let copies = Self::planned(kernel, directory);
        replace(&kernel.file, &copies.kernel, check_format)?;
        match (&kernel.initramfs, &copies.initramfs) {
            (Some(found), Some(path)) => replace(found, path, |_, _| Ok(()))?,
            _ => remove(&directory.join("initramfs"))?,
        }
        Ok(copies)
    }

    /// Removes what may be of copies in this directory.
    ///
    /// # Errors
    /// A file is there and stays.
    pub fn remove(directory: &Path) -> Result<()> {
        for name in ["kernel", "initramfs"] {
            let path = directory.join(name);
            remove(&path)?;
            remove(&unfinished(&path))?;
        }
        Ok(())
    }
}

fn unfinished(path: &Path) -> PathBuf {
    path.with_extension("new")
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error).about(path.display()),
        _ => Ok(()),
    }
}

fn replace(
    found: &Found,
    path: &Path,
    check: impl FnOnce(&Found, &File) -> Result<()>,
) -> Result<()> {
    let new = unfinished(path);
    remove(&new)?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o400);
    let file = options.open(&new).about(new.display())?;
    let filled = fill(found, &file).and_then(|()| check(found, &file));
    let named = filled.and_then(|()| fs::rename(&new, path).about(path.display()));
    if named.is_err() {
        remove(&new)?;
    }
    named
}

fn fill(found: &Found, copied: &File) -> Result<()> {
    let about = || found.path.display();
    let size = found.file.metadata().about(about())?.len();
    if size > SIZE_MAX {
        let cause = format!("it is larger than {} MiB", SIZE_MAX >> 20);
        return Err(Error::failed(about(), cause));
    }
    copy::copy(found.file.as_fd(), copied.as_fd(), size).about(about())
}

/// Looks at the copy: the guest may write to its own file meanwhile.
fn check_format(found: &Found, copied: &File) -> Result<()> {
    let mut magic = [0; MAGIC.len()];
    let length = copy::read_at(copied, &mut magic, MAGIC_AT).about(found.path.display())?;
    if length == magic.len() && &magic == MAGIC {
        return Ok(());
    }
    Err(Error::failed(
        found.path.display(),
        "it is no Linux kernel in the format bzImage",
    )
    .remedy("install one into the image: Debian's linux-image-cloud-amd64"))
}

#[cfg(test)]
#[path = "copies_tests.rs"]
mod tests;
