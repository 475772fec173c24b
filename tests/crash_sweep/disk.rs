//! A small file system on a loop device that nothing reaches before somebody asks for it, and what
//! it would hold if the power went now.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustix::fs::{SeekFrom, seek};

use super::common::device::{self, Kind};
use super::common::store::{mounts_below, tool};

const CHUNK: usize = 64 << 10;
const PAGE: usize = 4 << 10;

/// Nothing that the kernel would initialize later.
const NOTHING_LATER: &str = "lazy_itable_init=0,lazy_journal_init=0";

/// What a device holds, without what is zero.
pub struct Image {
    size: u64,
    chunks: BTreeMap<u64, Box<[u8]>>,
}

/// Pages in which a device differs from an [`Image`].
pub type Pages = BTreeMap<u64, Box<[u8]>>;

impl Image {
    /// What a file holds.
    pub fn read(path: &Path) -> Image {
        let mut chunks = BTreeMap::new();
        let size = for_each_chunk(path, &mut |offset, chunk| {
            if chunk.iter().any(|byte| *byte != 0) {
                chunks.insert(offset, chunk.into());
            }
        });
        Image { size, chunks }
    }

    /// What a file, which nobody may be writing to, holds beside this.
    fn difference(&self, path: &Path) -> Pages {
        let mut pages = Pages::new();
        let zero = [0; CHUNK];
        for_each_chunk(path, &mut |offset, chunk| {
            let known = self.chunks.get(&offset).map_or(&zero[..], |known| known);
            if known == chunk {
                return;
            }
            let both = known.chunks(PAGE).zip(chunk.chunks(PAGE));
            for (number, (known, page)) in both.enumerate() {
                if known != page {
                    pages.insert(offset + (number * PAGE) as u64, page.into());
                }
            }
        });
        pages
    }

    /// Writes a file that holds this, with some pages in place.
    pub fn write(&self, pages: &Pages, path: &Path) {
        let file = File::create(path).unwrap();
        file.set_len(self.size).unwrap();
        for (offset, bytes) in self.chunks.iter().chain(pages) {
            file.write_all_at(bytes, *offset).unwrap();
        }
    }
}

/// Hands on the parts of a file that are no holes; its size.
fn for_each_chunk(path: &Path, take: &mut dyn FnMut(u64, &[u8])) -> u64 {
    let file = File::open(path).unwrap();
    let size = file.metadata().unwrap().len();
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    while let Ok(data) = seek(&file, SeekFrom::Data(at)) {
        let end = seek(&file, SeekFrom::Hole(data)).unwrap();
        at = data / CHUNK as u64 * CHUNK as u64;
        while at < end {
            buffer.fill(0);
            let length = CHUNK.min((size - at) as usize);
            file.read_exact_at(&mut buffer[..length], at).unwrap();
            take(at, &buffer);
            at += CHUNK as u64;
        }
    }
    size
}

/// What makes mkfs.xfs make a small file system, as xfstests do: all of it is read at every step.
const SMALL: [(&str, &str); 3] = [
    ("TEST_DIR", "none"),
    ("TEST_DEV", "none"),
    ("QA_CHECK_FS", "none"),
];

/// Makes an empty file system in a file.
pub fn format(kind: Kind, path: &Path) {
    let file = File::create(path).unwrap();
    let (mebibytes, program, arguments): (u64, _, &[&str]) = match kind {
        Kind::Xfs => (72, "mkfs.xfs", &["-q", "-f"]),
        _ => (
            48,
            "mkfs.ext4",
            &["-q", "-F", "-b", "4096", "-I", "256", "-E", NOTHING_LATER],
        ),
    };
    file.set_len(mebibytes << 20).unwrap();
    let mut command = Command::new(program);
    let status = command.args(arguments).arg(path).envs(SMALL).status();
    assert!(status.unwrap().success(), "{program}");
}

/// The file that a file system lies in, and its loop device.
#[derive(Debug, Clone)]
pub struct Backing {
    file: PathBuf,
    /// What the device has done so far, in sysfs.
    stat: PathBuf,
}

/// What is on a disk.
#[derive(Debug, Clone)]
pub struct Held {
    /// What its device had done by then.
    counters: String,
    /// In what it differs from what was there at first.
    pub pages: Arc<Pages>,
}

impl Backing {
    /// What a device has done so far, when nothing is under way.
    fn counters(&self) -> String {
        loop {
            let text = fs::read_to_string(&self.stat).unwrap();
            let in_flight = text.split_whitespace().nth(8).unwrap();
            if in_flight == "0" {
                return text;
            }
            std::thread::yield_now();
        }
    }

    /// What is on the disk while nobody writes to it; `last` was there before.
    pub fn held(&self, base: &Image, last: Option<&Held>) -> Held {
        let mut counters = self.counters();
        if let Some(last) = last
            && last.counters == counters
        {
            return last.clone();
        }
        loop {
            let pages = Arc::new(base.difference(&self.file));
            let now = self.counters();
            if now == counters {
                return Held { counters, pages };
            }
            counters = now;
        }
    }
}

/// A mounted file system, which goes with its guard.
pub struct Disk {
    /// Its root directory.
    pub path: PathBuf,
    /// Where it lies.
    pub backing: Backing,
}

impl Disk {
    /// Mounts a file system. ext4 commits its journal when it is asked for only, and does not write
    /// a file because another name was renamed over it.
    pub fn mount(kind: Kind, file: &Path, path: &Path) -> Disk {
        fs::create_dir_all(path).unwrap();
        let options = match kind {
            Kind::Xfs => "loop,nouuid",
            _ => "loop,commit=1000,noauto_da_alloc",
        };
        let arguments = [
            "-o",
            options,
            file.to_str().unwrap(),
            path.to_str().unwrap(),
        ];
        tool("mount", &arguments);
        let device = fs::metadata(path).unwrap().dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        Disk {
            path: path.to_owned(),
            backing: Backing {
                file: file.to_owned(),
                stat: format!("/sys/dev/block/{major}:{minor}/stat").into(),
            },
        }
    }

    /// Unmounts it.
    pub fn unmount(self) {
        device::unmount(&self.path, &self.backing.file);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if !mounts_below(&self.path).is_empty() {
            let path = self.path.to_str().unwrap();
            let _gone = Command::new("umount").args(["-l", path]).status();
        }
    }
}
