//! File systems on loop devices, for what the root's file system lacks.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::store::{mounts_below, tool};

/// What to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// ext4 with inodes of 256 bytes: xattrs beyond 100 bytes take a block.
    Ext4,
    /// xfs with reflinks.
    Xfs,
    /// btrfs, which has quotas of its own.
    Btrfs,
}

/// A mounted loop device in a directory that goes with it.
#[derive(Debug)]
pub struct Device {
    /// Its root directory.
    pub path: PathBuf,
    _directory: TempDir,
}

impl Device {
    /// Makes a file system of this many mebibytes.
    pub fn new(kind: Kind, mebibytes: u64) -> Device {
        Device::with(kind, mebibytes, &[])
    }

    /// Likewise, with more arguments for mkfs.
    pub fn with(kind: Kind, mebibytes: u64, arguments: &[&str]) -> Device {
        let directory = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let image = directory.path().join("image");
        let file = File::create(&image).unwrap();
        file.set_len(mebibytes << 20).unwrap();
        drop(file);
        let name = image.to_str().unwrap();
        let (program, usual): (_, &[&str]) = match kind {
            Kind::Ext4 => ("mkfs.ext4", &["-q", "-F", "-I", "256"]),
            Kind::Xfs => ("mkfs.xfs", &["-q", "-f", "-m", "reflink=1"]),
            Kind::Btrfs => ("mkfs.btrfs", &["-q", "-f"]),
        };
        tool(program, &[usual, arguments, &[name]].concat());
        let path = directory.path().join("mnt");
        fs::create_dir(&path).unwrap();
        tool("mount", &["-o", "loop", name, path.to_str().unwrap()]);
        Device {
            path,
            _directory: directory,
        }
    }

    /// Unmounts it, hands the file that it lies in to somebody, and mounts it again.
    pub fn meanwhile(&self, alter: impl FnOnce(&Path)) {
        let mount = self.path.to_str().unwrap();
        let image = self.path.with_file_name("image");
        unmount(&self.path, &image);
        alter(&image);
        tool("mount", &["-o", "loop", image.to_str().unwrap(), mount]);
    }

    /// What is missing to make one.
    pub fn missing(kind: Kind) -> Option<&'static str> {
        let program = match kind {
            Kind::Ext4 => "/usr/sbin/mkfs.ext4",
            Kind::Xfs => "/usr/sbin/mkfs.xfs",
            Kind::Btrfs => "/usr/sbin/mkfs.btrfs",
        };
        let there = Path::new(program).exists() && Path::new("/dev/loop-control").exists();
        (!there).then_some("it needs loop devices, mkfs.ext4, mkfs.xfs and mkfs.btrfs")
    }
}

/// Unmounts the file system in a file, and waits until its loop device is given back. As long as another
/// process looks at that device, and each mount(8) of a loop looks at all of them, it stays, and the
/// next mount of the same file is on it, with what the kernel still has in its cache of it.
pub fn unmount(mount: &Path, file: &Path) {
    tool("umount", &[mount.to_str().unwrap()]);
    let start = Instant::now();
    while is_looped(file) {
        assert!(start.elapsed() < PATIENCE, "{} is in use", file.display());
        std::thread::sleep(Duration::from_millis(1));
    }
}

const PATIENCE: Duration = Duration::from_secs(60);

/// Whether a loop device lies in a file.
fn is_looped(file: &Path) -> bool {
    let devices = fs::read_dir("/sys/block").unwrap();
    let files = devices
        .filter_map(|device| fs::read(device.unwrap().path().join("loop/backing_file")).ok());
    let mut files = files.map(|name| PathBuf::from(OsStr::from_bytes(name.trim_ascii_end())));
    files.any(|used| used == file)
}

impl Drop for Device {
    fn drop(&mut self) {
        for mount in mounts_below(&self.path).iter().rev() {
            let status = Command::new("umount").arg(mount).status();
            if !status.is_ok_and(|status| status.success()) {
                let _gone = Command::new("umount").arg("-l").arg(mount).status();
            }
        }
    }
}
