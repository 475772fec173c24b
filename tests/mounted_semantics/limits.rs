//! What is at the ends of ranges: offsets, sizes, xattrs, times, identities.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, chown, symlink};
use std::path::Path;
use std::process::Command;

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags,
    fallocate, getxattr, makedev, mknodat, openat, removexattr, setxattr, utimensat,
};

use super::common::mapping::truncate_path;
use super::common::store::run;
use super::places::{Files, Places, Probe, tell};

/// Numbers around the ends of what file systems and the kernel take.
const ENDS: [u64; 12] = [
    1 << 31,
    1 << 32,
    (1 << 43) + 1,
    (1 << 44) - 4097,
    (1 << 44) - 4096,
    1 << 44,
    1 << 62,
    i64::MAX as u64 - 1,
    i64::MAX as u64,
    1 << 63,
    u64::MAX - 1,
    u64::MAX,
];

/// Does something at each end, and tells what came of it and how large the file is.
fn at_ends(path: &Path, work: impl Fn(&File, u64) -> io::Result<String>) -> io::Result<String> {
    let mut told = String::new();
    for end in ENDS {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let outcome = tell(work(&file, end));
        told += &format!("\n  {end}: {outcome}, {} bytes", file.metadata()?.len());
        file.set_len(9_000)?;
    }
    Ok(told)
}

fn counted(count: usize) -> String {
    count.to_string()
}

const OFFSETS: [(&str, Probe); 9] = [
    ("pread", |path| {
        at_ends(path, |file, end| {
            file.read_at(&mut [0; 9], end).map(counted)
        })
    }),
    ("pwrite", |path| {
        at_ends(path, |file, end| file.write_at(b"x", end).map(counted))
    }),
    ("pwrite-across", |path| {
        at_ends(path, |file, end| {
            file.write_at(b"across", end.wrapping_sub(3)).map(counted)
        })
    }),
    ("read", |path| {
        at_ends(path, |mut file, end| {
            // Where one may seek to is among the exceptions.
            match file.seek(SeekFrom::Start(end)) {
                Ok(_) if end < 1 << 44 => file.read(&mut [0; 9]).map(counted),
                _ => Ok(String::new()),
            }
        })
    }),
    ("ftruncate", |path| {
        at_ends(path, |file, end| file.set_len(end).map(|()| String::new()))
    }),
    ("truncate", |path| {
        at_ends(path, |_, end| {
            Ok(truncate_path(path, end).map(|()| String::new())?)
        })
    }),
    ("fallocate", |path| {
        at_ends(path, |file, end| {
            Ok(
                fallocate(file, FallocateFlags::KEEP_SIZE, 0, end.max(1 << 44))
                    .map(|()| String::new())?,
            )
        })
    }),
    ("fallocate-punch", |path| {
        at_ends(path, |file, end| {
            let mode = FallocateFlags::KEEP_SIZE | FallocateFlags::PUNCH_HOLE;
            Ok(fallocate(file, mode, end, 100).map(|()| String::new())?)
        })
    }),
    ("fallocate-no-length", |path| {
        at_ends(path, |file, end| {
            Ok(fallocate(file, FallocateFlags::empty(), end, 0).map(|()| String::new())?)
        })
    }),
];

#[test]
fn offsets_at_the_ends_of_their_range_are_taken_or_refused_alike() {
    let test = "offsets_at_the_ends_of_their_range_are_taken_or_refused_alike";
    let Some(places) = Places::new(test, &Files::of(&OFFSETS, 9_000)) else {
        return;
    };
    places.assert_same(&OFFSETS);
    places.finish();
}

#[test]
fn a_limit_of_file_sizes_counts() {
    let test = "a_limit_of_file_sizes_counts";
    let Some(places) = Places::new(test, &Files::default()) else {
        return;
    };
    let probe: Probe = |path| {
        // In blocks of 1 KiB. The signal would end the program; ignored, the call fails.
        let script = "ulimit -f 20; trap '' XFSZ; \
            head -c 15000 /dev/zero >> \"$0\"; wc -c < \"$0\"; \
            truncate -s 1M \"$0\"; head -c 5000 /dev/zero > \"$0\"; wc -c < \"$0\"; \
            fallocate -l 30000 \"$0\"; wc -c < \"$0\"";
        let mut command = Command::new("bash");
        let ran = run(
            command.env("LC_ALL", "C").args(["-c", script]).arg(path),
            b"",
        );
        Ok(format!("{} {} {}", ran.code, ran.text(), ran.stderr))
    };
    places.assert_same(&[("file", probe)]);
    places.finish();
}

/// The largest length for which `fits`.
fn largest(most: usize, fits: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, most);
    while low < high {
        let middle = (low + high).div_ceil(2);
        match fits(middle) {
            true => low = middle,
            false => high = middle - 1,
        }
    }
    low
}

#[test]
fn xattrs_of_every_size_are_kept_or_refused_alike() {
    let test = "xattrs_of_every_size_are_kept_or_refused_alike";
    let Some(places) = Places::new(test, &Files::default()) else {
        return;
    };
    let probe: Probe = |path| {
        let set =
            |name: &str, length: usize| setxattr(path, name, &vec![7; length], XattrFlags::empty());
        // A note that some have and that takes some of the room; exceptions.rs tells of it.
        let _gone = removexattr(path, "user.place");
        let mut told = String::new();
        for name in ["user.large", "trusted.large", "security.large"] {
            let most = largest(70_000, |length| set(name, length).is_ok());
            set(name, most)?;
            let mut value = vec![0; 70_000];
            let got = getxattr(path, name, &mut value[..])?;
            let short = getxattr(path, name, &mut value[..got - 1]);
            let empty = set(name, 0).and_then(|()| getxattr(path, name, &mut value[..]));
            let refused = set(name, 65_537);
            told += &format!("\n  {name}: {most} {got} {short:?} {empty:?} {refused:?}");
            removexattr(path, name)?;
        }
        for length in [0, 1, 249, 250, 251, 1_000] {
            let name = format!("user.{}", "n".repeat(length));
            let outcome = set(&name, 3);
            told += &format!(
                "\n  name {length}: {outcome:?} {:?}",
                removexattr(path, &name[..])
            );
        }
        for name in [
            "",
            "user",
            "user.",
            "trusted.",
            "system.x",
            "none.x",
            "security.",
            "system.posix_acl_access",
        ] {
            let got = getxattr(path, name, &mut [0; 9][..]);
            told += &format!("\n  {name:?}: {:?} {got:?}", set(name, 3));
        }
        Ok(told)
    };
    places.assert_same(&[("file", probe)]);
    places.finish();
}

#[test]
fn times_owners_targets_and_devices_have_the_same_range() {
    let test = "times_owners_targets_and_devices_have_the_same_range";
    let Some(places) = Places::new(test, &Files::default()) else {
        return;
    };
    let probe: Probe = |path| {
        let mut told = String::new();
        for tv_sec in [
            -(1 << 40),
            -(1 << 31) - 1,
            -(1 << 31),
            -1,
            0,
            (1 << 31) - 1,
            1 << 31,
            (1 << 34) - 1,
            1 << 34,
            15_032_385_535,
            15_032_385_536,
            1 << 40,
        ] {
            for tv_nsec in [0, 1, 999_999_999] {
                let last = Timespec { tv_sec, tv_nsec };
                let times = Timestamps {
                    last_access: last,
                    last_modification: last,
                };
                let set = utimensat(CWD, path, &times, AtFlags::empty());
                let meta = path.metadata()?;
                told += &format!(
                    "\n  {tv_sec}.{tv_nsec}: {set:?} {}.{} {}.{}",
                    meta.mtime(),
                    meta.mtime_nsec(),
                    meta.atime(),
                    meta.atime_nsec()
                );
            }
        }
        for id in [0, 65_534, 65_535, 65_536, u32::MAX - 1] {
            let outcome = chown(path, Some(id), Some(id));
            let meta = path.metadata()?;
            told += &format!(
                "\n  owner {id}: {} {}:{}",
                outcome.is_ok(),
                meta.uid(),
                meta.gid()
            );
        }
        for length in [0, 1, 59, 60, 4_094, 4_095, 4_096] {
            let (link, target) = (path.with_extension("link"), "t".repeat(length));
            let made = tell(symlink(&target, &link).map(|()| String::from("made")));
            let read = fs::read_link(&link).is_ok_and(|read| read.as_os_str() == target.as_str());
            let size = link.symlink_metadata().map_or(0, |meta| meta.len());
            told += &format!("\n  target of {length}: {made} {read} {size}");
            let _gone = fs::remove_file(link);
        }
        for (major, minor) in [
            (0, 0),
            (0, 1),
            (8, 255),
            (8, 256),
            (4_095, 0),
            (4_095, (1 << 20) - 1),
        ] {
            let node = path.with_extension("node");
            for kind in [FileType::CharacterDevice, FileType::BlockDevice] {
                mknodat(CWD, &node, kind, Mode::RUSR, makedev(major, minor))?;
                let meta = node.metadata()?;
                told += &format!(
                    "\n  device {major}:{minor}: {:x} {:o}",
                    meta.rdev(),
                    meta.mode()
                );
                fs::remove_file(&node)?;
            }
        }
        Ok(told)
    };
    places.assert_same(&[("file", probe)]);
    places.finish();
}

/// Flags of open(2) that ask for something of the file system.
#[test]
fn open_flags_do_what_they_do_in_a_plain_directory() {
    let test = "open_flags_do_what_they_do_in_a_plain_directory";
    let Some(places) = Places::new(test, &Files::default()) else {
        return;
    };
    let probe: Probe = |path| {
        let mut told = String::new();
        let missing = path.with_extension("missing");
        let below = path.join("below");
        let slash = Path::new(path.parent().unwrap()).join("slash/");
        symlink(path.file_name().unwrap(), path.with_extension("link"))?;
        symlink("nowhere", path.with_extension("dangling"))?;
        mknodat(
            CWD,
            path.with_extension("fifo"),
            FileType::Fifo,
            Mode::RWXU,
            0,
        )?;
        mknodat(
            CWD,
            path.with_extension("socket"),
            FileType::Socket,
            Mode::RWXU,
            0,
        )?;
        let paths = [
            path.to_owned(),
            path.parent().unwrap().to_owned(),
            missing,
            below,
            slash,
            path.with_extension("link"),
            path.with_extension("dangling"),
            path.with_extension("fifo"),
            path.with_extension("socket"),
        ];
        let access = [OFlags::RDONLY, OFlags::WRONLY, OFlags::RDWR];
        let others = [
            OFlags::empty(),
            OFlags::PATH,
            OFlags::NOFOLLOW,
            OFlags::DIRECTORY,
            OFlags::CREATE,
            OFlags::CREATE | OFlags::EXCL,
            OFlags::CREATE | OFlags::DIRECTORY,
            OFlags::TRUNC,
            OFlags::APPEND | OFlags::TRUNC,
            OFlags::NOATIME,
            OFlags::SYNC,
            OFlags::DSYNC,
            OFlags::DIRECT,
            OFlags::CREATE | OFlags::NOFOLLOW,
            OFlags::CREATE | OFlags::TRUNC,
        ];
        for path in &paths {
            for access in access {
                for other in others {
                    let flags = access | other | OFlags::NONBLOCK | OFlags::CLOEXEC;
                    let opened = openat(CWD, path, flags, Mode::RWXU);
                    let size = opened.and_then(rustix::fs::fstat).map(|stat| {
                        (
                            stat.st_mode,
                            stat.st_size * i64::from(stat.st_mode & 0o170000 == 0o100000),
                        )
                    });
                    told += &format!("\n  {path:?} {flags:?}: {size:?}");
                }
            }
            // For the next one to be missing again.
            for made in ["missing", "dangling"] {
                let made = path.with_extension(made);
                if made.is_file() && made.symlink_metadata()?.is_file() {
                    fs::remove_file(made)?;
                }
            }
            fs::remove_file(path.with_file_name("nowhere")).ok();
            File::options()
                .write(true)
                .open(&paths[0])?
                .write_all(b"content")?;
        }
        Ok(told)
    };
    places.assert_same(&[("file", probe)]);
    places.finish();
}
