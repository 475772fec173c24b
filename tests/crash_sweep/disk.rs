//! A small file system on a loop device that nothing reaches before somebody asks for it, and what
//! it would hold if the power went now.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{SeekFrom, seek};

use super::common::device::Kind;
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

    /// The same, seen twice alike: what the kernel writes behind our back is not torn.
    pub fn settled_difference(&self, path: &Path) -> Pages {
        let mut pages = self.difference(path);
        loop {
            let again = self.difference(path);
            if again == pages {
                return pages;
            }
            pages = again;
        }
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

/// Makes an empty file system in a file.
pub fn format(kind: Kind, path: &Path) {
    let file = File::create(path).unwrap();
    let (mebibytes, program, arguments): (u64, _, &[&str]) = match kind {
        Kind::Xfs => (300, "mkfs.xfs", &["-q", "-f"]),
        _ => (
            48,
            "mkfs.ext4",
            &["-q", "-F", "-b", "4096", "-I", "256", "-E", NOTHING_LATER],
        ),
    };
    file.set_len(mebibytes << 20).unwrap();
    tool(program, &[arguments, &[path.to_str().unwrap()]].concat());
}

/// A mounted file system, which goes with its guard.
pub struct Disk {
    /// Its root directory.
    pub path: PathBuf,
    /// The file that it lies in.
    pub file: PathBuf,
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
        Disk {
            path: path.to_owned(),
            file: file.to_owned(),
        }
    }

    /// Unmounts it.
    pub fn unmount(self) {
        tool("umount", &[self.path.to_str().unwrap()]);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if !mounts_below(&self.path).is_empty() {
            let path = self.path.to_str().unwrap();
            let _gone = std::process::Command::new("umount")
                .args(["-l", path])
                .status();
        }
    }
}
