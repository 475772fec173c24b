//! Writes of every kind: what they return, what the file contains then, and which times they set.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, copy_file_range, fallocate, sendfile};
use rustix::io::{ReadWriteFlags, pwritev2, writev};
use rustix::pipe::{SpliceFlags, pipe, splice};
use sha2::{Digest, Sha256};

use super::common::mapping::{Mapped, Sharing, truncate_path};
use super::places::{Files, Places, Probe, with_times};

/// The length of every file: two pages and a bit.
const LENGTH: u32 = 9_000;

/// What an operation leaves of a file.
fn left(path: &Path, work: impl FnOnce() -> io::Result<String>) -> io::Result<String> {
    let told = with_times(path, work)?;
    let content = std::fs::read(path)?;
    let digest = Sha256::digest(&content);
    let digest = &digest[..4];
    Ok(format!("{told}, {} bytes, {digest:02x?}", content.len()))
}

/// For an operation on a file opened for reading and writing.
fn opened<T: std::fmt::Debug>(
    path: &Path,
    work: impl FnOnce(&mut File) -> io::Result<T>,
) -> io::Result<String> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    left(path, || Ok(format!("{:?}", work(&mut file)?)))
}

fn allocated(path: &Path, mode: FallocateFlags, offset: u64, length: u64) -> io::Result<String> {
    opened(path, |file| Ok(fallocate(file, mode, offset, length)?))
}

/// Another file to copy from, in the same directory.
fn source(path: &Path) -> io::Result<File> {
    File::open(path.with_file_name("read"))
}

const KEEP: FallocateFlags = FallocateFlags::KEEP_SIZE;

const WRITES: [(&str, Probe); 35] = [
    ("write", |path| opened(path, |file| file.write(b"new"))),
    ("write-nothing", |path| opened(path, |file| file.write(b""))),
    ("write-behind-end", |path| {
        opened(path, |file| {
            file.seek(SeekFrom::Start(20_000))?;
            file.write(b"new")
        })
    }),
    ("pwrite", |path| {
        opened(path, |file| file.write_at(b"new", 4_095))
    }),
    ("pwrite-at-end", |path| {
        opened(path, |file| file.write_at(b"new", LENGTH.into()))
    }),
    ("writev", |path| {
        opened(path, |file| {
            Ok(writev(&*file, &[IoSlice::new(b"ne"), IoSlice::new(b"w")])?)
        })
    }),
    ("pwritev2-append", |path| {
        opened(path, |file| {
            let parts = [IoSlice::new(b"new")];
            Ok(pwritev2(&*file, &parts, 5, ReadWriteFlags::APPEND)?)
        })
    }),
    ("append", |path| {
        let mut file = OpenOptions::new().append(true).open(path)?;
        left(path, || {
            Ok(format!("{}", file.write(b"new")? + file.write(b"er")?))
        })
    }),
    ("append-pwrite", |path| {
        let file = OpenOptions::new().append(true).open(path)?;
        left(path, || Ok(format!("{}", file.write_at(b"new", 7)?)))
    }),
    ("write-synced", |path| {
        let mut file = OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_SYNC)
            .open(path)?;
        left(path, || Ok(format!("{}", file.write(b"new")?)))
    }),
    ("read", |path| {
        opened(path, |file| file.read_exact(&mut [0; 9_000]))
    }),
    ("read-behind-end", |path| {
        opened(path, |file| file.read_at(&mut [0; 10], 9_000))
    }),
    ("open-truncate", |path| {
        left(path, || {
            let options = OpenOptions::new().write(true).truncate(true).open(path);
            options.map(|_| String::new())
        })
    }),
    ("open-for-writing-only", |path| opened(path, |_| Ok(()))),
    ("ftruncate-shorter", |path| {
        opened(path, |file| file.set_len(4_097))
    }),
    ("ftruncate-longer", |path| {
        opened(path, |file| file.set_len(30_000))
    }),
    ("ftruncate-same", |path| {
        opened(path, |file| file.set_len(LENGTH.into()))
    }),
    ("ftruncate-to-nothing", |path| {
        opened(path, |file| file.set_len(0))
    }),
    ("truncate-shorter", |path| truncated(path, 100)),
    ("truncate-longer", |path| truncated(path, 1 << 20)),
    ("truncate-same", |path| truncated(path, LENGTH.into())),
    ("truncate-and-grow", |path| {
        opened(path, |file| {
            file.set_len(10)?;
            file.set_len(5_000)
        })
    }),
    ("fallocate", |path| {
        allocated(path, FallocateFlags::empty(), 8_000, 9_000)
    }),
    ("fallocate-inside", |path| {
        allocated(path, FallocateFlags::empty(), 0, 4_096)
    }),
    ("fallocate-keep-size", |path| {
        allocated(path, KEEP, 8_000, 9_000)
    }),
    ("fallocate-punch", |path| {
        allocated(path, FallocateFlags::PUNCH_HOLE | KEEP, 100, 8_000)
    }),
    ("fallocate-punch-behind", |path| {
        allocated(path, FallocateFlags::PUNCH_HOLE | KEEP, 20_000, 10)
    }),
    ("fallocate-zero", |path| {
        allocated(path, FallocateFlags::ZERO_RANGE, 5_000, 9_000)
    }),
    ("fallocate-zero-keep-size", |path| {
        allocated(path, FallocateFlags::ZERO_RANGE | KEEP, 5_000, 9_000)
    }),
    ("copy-file-range", |path| {
        let from = source(path)?;
        opened(path, |file| {
            let (mut start, mut to) = (50, 4_000);
            Ok(copy_file_range(
                &from,
                Some(&mut start),
                &*file,
                Some(&mut to),
                5_500,
            )?)
        })
    }),
    ("copy-file-range-within", |path| {
        let from = File::open(path)?;
        opened(path, |file| {
            let (mut start, mut to) = (0, 8_500);
            Ok(copy_file_range(
                &from,
                Some(&mut start),
                &*file,
                Some(&mut to),
                3_000,
            )?)
        })
    }),
    ("sendfile", |path| {
        let from = source(path)?;
        opened(path, |file| Ok(sendfile(&*file, &from, None, 5_500)?))
    }),
    ("splice", |path| {
        let (out, mut into) = {
            let (out, into) = pipe()?;
            (out, File::from(into))
        };
        into.write_all(b"through a pipe")?;
        opened(path, |file| {
            let mut at = 300;
            Ok(splice(
                &out,
                None,
                &*file,
                Some(&mut at),
                14,
                SpliceFlags::empty(),
            )?)
        })
    }),
    ("mapped-store", |path| {
        opened(path, |file| {
            let mapped = Mapped::new(file.as_fd(), LENGTH as usize, true)?;
            Ok(mapped.store(4_000, b"through a mapping")?)
        })
    }),
    ("mapped-store-of-ones-own", |path| {
        opened(path, |file| {
            let mapped = Mapped::of(file.as_fd(), LENGTH as usize, true, Sharing::Private)?;
            Ok(mapped.store(4_000, b"seen by nobody")?)
        })
    }),
];

fn truncated(path: &Path, length: u64) -> io::Result<String> {
    left(path, || {
        truncate_path(path, length)?;
        Ok(String::new())
    })
}

#[test]
fn writes_of_every_kind_do_what_they_do_in_a_plain_directory() {
    let test = "writes_of_every_kind_do_what_they_do_in_a_plain_directory";
    let Some(places) = Places::new(test, &Files::of(&WRITES, LENGTH)) else {
        return;
    };
    places.assert_same(&WRITES);
    places.finish();
}
