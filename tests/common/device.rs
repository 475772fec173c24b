//! File systems on loop devices, for what the root's file system lacks.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

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
        tool("umount", &[mount]);
        let image = self.path.with_file_name("image");
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
