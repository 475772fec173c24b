//! The ways in which a thing of a store can be damaged.

use std::os::unix::fs::MetadataExt;

use rustix::fs::{CWD, FileType, Mode, XattrFlags, lgetxattr, lremovexattr, lsetxattr, mknodat};

use super::*;

/// Random numbers, the same for the same seed.
pub struct Random(pub u64);

impl Random {
    /// One below a limit.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit.max(1)
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.below(256) as u8).collect()
    }
}

/// A way to damage a thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Truncated,
    Emptied,
    /// Some bytes, at random places.
    BytesFlipped,
    /// 4 KiB at a multiple of it.
    PageOfNoise,
    Missing,
    Directory,
    /// To a file that nobody may touch.
    Symlink,
    Fifo,
    Device,
    /// A file of terabytes, all of it a hole.
    Hole,
    NoMark,
    MarkOfNoise,
    MarkFlipped,
}

pub const WAYS: [Way; 13] = [
    Way::Truncated,
    Way::Emptied,
    Way::BytesFlipped,
    Way::PageOfNoise,
    Way::Missing,
    Way::Directory,
    Way::Symlink,
    Way::Fifo,
    Way::Device,
    Way::Hole,
    Way::NoMark,
    Way::MarkOfNoise,
    Way::MarkFlipped,
];

const MARK: &str = "trusted.foldfs";

/// Larger than any disk here.
const TERABYTES: u64 = 4 << 40;

/// Damages a thing, which need not be there; whether it can be damaged so.
pub fn damage(path: &Path, way: Way, bystander: &Path, random: &mut Random) -> bool {
    let stat = path.symlink_metadata().ok();
    let size = match &stat {
        Some(stat) if stat.is_file() => stat.size(),
        _ => 0,
    };
    let remove = || match &stat {
        Some(stat) if stat.is_dir() => fs::remove_dir_all(path).unwrap(),
        Some(_) => fs::remove_file(path).unwrap(),
        None => {}
    };
    let node = |kind, device| {
        remove();
        mknodat(CWD, path, kind, Mode::from_raw_mode(0o600), device).unwrap();
    };
    match way {
        Way::Truncated if size > 1 => truncate(path, 1 + random.below(size - 1)),
        Way::Emptied if size > 0 => truncate(path, 0),
        Way::BytesFlipped if size > 0 => {
            for _ in 0..=random.below(8) {
                flip(path, random.below(size));
            }
        }
        Way::PageOfNoise if size > 4096 => {
            let file = fs::File::options().write(true).open(path).unwrap();
            let page = random.below(size / 4096);
            file.write_all_at(&random.bytes(4096), page * 4096).unwrap();
        }
        Way::Missing if stat.is_some() => remove(),
        Way::Directory if stat.as_ref().is_none_or(|stat| !stat.is_dir()) => {
            remove();
            fs::create_dir(path).unwrap();
        }
        Way::Symlink => {
            remove();
            std::os::unix::fs::symlink(bystander, path).unwrap();
        }
        Way::Fifo => node(FileType::Fifo, 0),
        // /dev/full.
        Way::Device => node(FileType::CharacterDevice, rustix::fs::makedev(1, 7)),
        Way::Hole if size > 0 => {
            truncate(path, 0);
            truncate(path, TERABYTES);
        }
        Way::Hole if stat.is_none() => {
            fs::write(path, "").unwrap();
            truncate(path, TERABYTES);
        }
        Way::NoMark | Way::MarkOfNoise | Way::MarkFlipped if stat.is_some() => {
            return damage_mark(path, way, random);
        }
        _ => return false,
    }
    true
}

fn damage_mark(path: &Path, way: Way, random: &mut Random) -> bool {
    let mut value = [0; 64];
    let Ok(length) = lgetxattr(path, MARK, &mut value[..]) else {
        return false;
    };
    let mut mark = value[..length].to_vec();
    match way {
        Way::NoMark => {
            lremovexattr(path, MARK).unwrap();
            return true;
        }
        Way::MarkOfNoise => mark = random.bytes(length),
        _ => mark[random.below(length as u64) as usize] ^= 1 << random.below(8),
    }
    lsetxattr(path, MARK, &mark, XattrFlags::empty()).unwrap();
    true
}
