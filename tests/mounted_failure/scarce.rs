//! File systems on which something is used up but for a little.

use std::fs::{self, File};
use std::path::PathBuf;

use rustix::fs::{FallocateFlags, fallocate};

use super::common::device::{Device, Kind};
use super::common::store::tool;

/// What is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Blocks of an ext4.
    Blocks,
    /// Inodes of an ext4.
    Inodes,
    /// A quota of a btrfs.
    Quota,
}

/// A file system that can be filled and emptied again.
pub struct Scarce {
    /// The directory to work in.
    pub path: PathBuf,
    what: What,
    device: Device,
}

impl Scarce {
    /// Makes one with nothing used up yet.
    pub fn new(what: What) -> Scarce {
        let device = match what {
            What::Blocks => Device::with(Kind::Ext4, 48, &["-b", "4096", "-m", "0"]),
            What::Inodes => Device::with(Kind::Ext4, 48, &["-b", "4096", "-m", "0", "-N", "2000"]),
            What::Quota => Device::new(Kind::Btrfs, 300),
        };
        let root = device.path.to_str().unwrap();
        let mut path = device.path.clone();
        if what == What::Quota {
            tool("btrfs", &["quota", "enable", root]);
            path = device.path.join("volume");
            tool("btrfs", &["subvolume", "create", path.to_str().unwrap()]);
        }
        Scarce { path, what, device }
    }

    /// What is missing to make one.
    pub fn missing(what: What) -> Option<&'static str> {
        match what {
            What::Blocks | What::Inodes => Device::missing(Kind::Ext4),
            What::Quota => Device::missing(Kind::Btrfs),
        }
    }

    /// The error number of what does not fit any more.
    pub fn errno(&self) -> i32 {
        match self.what {
            What::Blocks | What::Inodes => libc::ENOSPC,
            What::Quota => libc::EDQUOT,
        }
    }

    fn filler(&self) -> PathBuf {
        self.device.path.join("filler")
    }

    fn sync(&self) {
        rustix::fs::syncfs(File::open(&self.device.path).unwrap()).unwrap();
    }

    /// Leaves room for this many blocks of 4 KiB, inodes, or 16 KiB of quota.
    pub fn leave(&self, count: u64) {
        self.restore();
        self.sync();
        match self.what {
            What::Blocks => {
                let filler = File::create(self.filler()).unwrap();
                let (mut length, mut step) = (0, 16 << 20);
                while step >= 4096 {
                    match fallocate(&filler, FallocateFlags::empty(), length, step) {
                        Ok(()) => length += step,
                        Err(_) => step /= 2,
                    }
                }
                filler.set_len(length - count * 4096).unwrap();
            }
            What::Inodes => {
                fs::create_dir(self.filler()).unwrap();
                let path = |number: u64| self.filler().join(number.to_string());
                let made = (0..).take_while(|n| File::create_new(path(*n)).is_ok());
                let made = made.count() as u64;
                for number in made - count..made {
                    fs::remove_file(path(number)).unwrap();
                }
            }
            What::Quota => {
                let volume = self.path.to_str().unwrap();
                let shown = tool("btrfs", &["qgroup", "show", "-f", "--raw", volume]).text();
                let line = shown.lines().last().unwrap();
                let used: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
                self.limit(&(used + count * 16_384).to_string());
            }
        }
        self.sync();
    }

    /// Nothing is used up any more.
    pub fn restore(&self) {
        let filler = self.filler();
        match self.what {
            What::Blocks if filler.exists() => fs::remove_file(filler).unwrap(),
            What::Inodes if filler.exists() => fs::remove_dir_all(filler).unwrap(),
            What::Blocks | What::Inodes => {}
            What::Quota => {
                self.limit("none");
            }
        }
        self.sync();
    }

    /// Limits the first subvolume, by way of the one above it, which has no limit.
    fn limit(&self, bytes: &str) {
        let root = self.device.path.to_str().unwrap();
        tool("btrfs", &["qgroup", "limit", bytes, "0/256", root]);
    }
}
