//! The kernel of an image. The image is a guest's and not trusted: nothing in it leads out of it.

use std::cmp::Ordering;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::{Context, Error, Result};
use crate::sys::process::descriptor_path;

/// Where a link to the kernel that shall boot may be.
const LINKS: [&str; 2] = ["vmlinuz", "boot/vmlinuz"];
/// How a kernel's file begins, before its version.
const PREFIX: &str = "vmlinuz-";
/// Lists of modules are smaller.
const LIST_MAX: u64 = 16 << 20;

/// A regular file of the image.
#[derive(Debug)]
pub struct Found {
    /// Where it was, as a path of the host. For people: the guest can have something else there by now.
    pub path: PathBuf,
    /// Open for reading.
    pub file: File,
}

/// A kernel, open, so that it stays the one that was found.
#[derive(Debug)]
pub struct Kernel {
    /// As `uname -r` says it there, where its file's name says so.
    pub version: String,
    /// The kernel.
    pub file: Found,
    /// Its initramfs; a kernel in which all is built in needs none.
    pub initramfs: Option<Found>,
    /// What may keep it from booting, for people.
    pub doubt: Option<String>,
}

/// How a kernel has virtiofs.
enum Virtiofs {
    BuiltIn,
    Module,
    /// Nobody can tell: there is no list of its modules.
    Unknown,
    Missing,
}

/// The kernel that the image boots with which is mounted on `root`: where its link leads, else the newest in /boot.
///
/// # Errors
/// There is none; it has no virtiofs, or no initramfs with which to load that; the image cannot be read.
pub fn find(root: &Path) -> Result<Kernel> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(CWD, root, flags, Mode::empty()).about(root.display())?;
    let image = Image {
        root: directory,
        path: root,
    };
    let file = image.kernel()?;
    let name = file.path.file_name().map(OsStr::to_string_lossy);
    let version = name.unwrap_or_default();
    let version = version.strip_prefix(PREFIX).unwrap_or(&version).to_owned();
    let initramfs = image.initramfs(&version)?;
    let doubt = match (image.virtiofs(&version)?, &initramfs) {
        (Virtiofs::BuiltIn, _) => None,
        (Virtiofs::Missing, _) => {
            let cause = "it has no virtiofs";
            return Err(Error::failed(format!("kernel {version}"), cause).remedy(
                "install one that has it into the image: Debian's linux-image-cloud-amd64 or linux-image-amd64",
            ));
        }
        (Virtiofs::Module | Virtiofs::Unknown, None) => {
            let cause = "the image has no initramfs for it, which would load virtiofs";
            let remedy = "make one there: Debian's package initramfs-tools, then update-initramfs -c -k VERSION";
            return Err(Error::failed(format!("kernel {version}"), cause).remedy(remedy));
        }
        (Virtiofs::Module | Virtiofs::Unknown, Some(_)) => image.doubt()?,
    };
    Ok(Kernel {
        version,
        file,
        initramfs,
        doubt,
    })
}

struct Image<'a> {
    root: OwnedFd,
    path: &'a Path,
}

impl Image<'_> {
    /// What a path leads to inside, symlinks followed there.
    fn open(&self, path: &str, flags: OFlags) -> Result<Option<OwnedFd>> {
        let flags = flags | OFlags::PATH | OFlags::CLOEXEC;
        let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(&self.root, path, flags, Mode::empty(), inside) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(error) => Err(error).about(self.path.join(path).display()),
        }
    }

    /// A regular file, opened once: what is looked at is what is read.
    fn file(&self, path: &str) -> Result<Option<Found>> {
        let about = || self.path.join(path);
        let Some(found) = self.open(path, OFlags::empty())? else {
            return Ok(None);
        };
        // Nothing but a regular file is opened for reading: that could wait, or do something.
        let status = rustix::fs::fstat(&found).about(about().display())?;
        if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
            return Ok(None);
        }
        let name = descriptor_path(found.as_fd());
        let shown = rustix::fs::readlinkat(CWD, &name, Vec::new()).about(about().display())?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::open(&name, flags, Mode::empty()).about(about().display())?;
        Ok(Some(Found {
            path: OsStr::from_bytes(shown.as_bytes()).into(),
            file: file.into(),
        }))
    }

    /// The text of a regular file.
    fn text(&self, path: &str) -> Result<Option<String>> {
        let Some(found) = self.file(path)? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        let read = found.file.take(LIST_MAX).read_to_end(&mut bytes);
        read.about(found.path.display())?;
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    fn kernel(&self) -> Result<Found> {
        for link in LINKS {
            if let Some(file) = self.file(link)? {
                return Ok(file);
            }
        }
        let mut names = self.names("boot")?;
        names.retain(|name| name.starts_with(PREFIX) && !name.contains("rescue"));
        names.sort_by(|a, b| by_version(b, a));
        for name in names {
            if let Some(file) = self.file(&format!("boot/{name}"))? {
                return Ok(file);
            }
        }
        let cause = "it has no kernel: no /vmlinuz, and no vmlinuz-VERSION in /boot";
        Err(Error::failed(self.path.display(), cause)
            .remedy("install one into the image: Debian's linux-image-cloud-amd64"))
    }

    fn names(&self, path: &str) -> Result<Vec<String>> {
        let Some(directory) = self.open(path, OFlags::DIRECTORY)? else {
            return Ok(Vec::new());
        };
        let about = self.path.join(path);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(&directory, ".", flags, Mode::empty());
        let entries = Dir::new(directory.about(about.display())?).about(about.display())?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.about(about.display())?;
            names.extend(entry.file_name().to_str().map(str::to_owned));
        }
        Ok(names)
    }

    fn initramfs(&self, version: &str) -> Result<Option<Found>> {
        // As Debian, Fedora (and Arch), Gentoo and SUSE name them.
        for (before, after) in [
            ("initrd.img-", ""),
            ("initramfs-", ".img"),
            ("initramfs-", ""),
            ("initrd-", ""),
        ] {
            if let Some(file) = self.file(&format!("boot/{before}{version}{after}"))? {
                return Ok(Some(file));
            }
        }
        Ok(None)
    }

    fn virtiofs(&self, version: &str) -> Result<Virtiofs> {
        let list = |name: &str| self.text(&format!("lib/modules/{version}/{name}"));
        let has = |list: &str| list.contains("/virtiofs.ko");
        if list("modules.builtin")?.as_deref().is_some_and(has) {
            return Ok(Virtiofs::BuiltIn);
        }
        Ok(match list("modules.dep")? {
            Some(list) if has(&list) => Virtiofs::Module,
            Some(_) => Virtiofs::Missing,
            None => Virtiofs::Unknown,
        })
    }

    /// Debian's initramfs-tools put virtiofs into an initramfs only if they are told to.
    fn doubt(&self) -> Result<Option<String>> {
        let path = "etc/initramfs-tools/modules";
        let Some(list) = self.text(path)? else {
            return Ok(None);
        };
        let is_named = list.lines().any(|line| line.trim() == "virtiofs");
        let doubt = format!(
            "/{path} in the image does not name virtiofs: if the guest finds no root file system, add the line \
             there and run update-initramfs -u in it"
        );
        Ok((!is_named).then_some(doubt))
    }
}

/// Orders names by the versions in them: runs of digits are numbers.
fn by_version(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    loop {
        let order = match (a.first(), b.first()) {
            (Some(x), Some(y)) if x.is_ascii_digit() && y.is_ascii_digit() => {
                let (x, y) = (number(&mut a), number(&mut b));
                x.len().cmp(&y.len()).then(x.cmp(y))
            }
            (Some(x), Some(y)) => {
                (a, b) = (&a[1..], &b[1..]);
                x.cmp(y)
            }
            (x, y) => return x.cmp(&y),
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

/// Takes digits off, without leading zeros.
fn number<'a>(text: &mut &'a [u8]) -> &'a [u8] {
    let end = text.iter().position(|byte| !byte.is_ascii_digit());
    let (digits, rest) = text.split_at(end.unwrap_or(text.len()));
    *text = rest;
    let zeros = digits.iter().take_while(|&&byte| byte == b'0').count();
    &digits[zeros..]
}

#[cfg(test)]
#[path = "kernel_tests.rs"]
mod tests;
