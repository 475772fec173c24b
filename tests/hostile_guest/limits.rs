//! What lies at the limits: names, depths, counts, sizes. A plain directory says what is right.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rustix::fs::{FileType, Mode, OFlags, XattrFlags, mknodat, openat};
use rustix::io::Errno;

use super::bystanders::Bystanders;
use super::can_run;
use super::common::snapshot::{Fields, Snapshot};
use super::mount::Served;

type Call = rustix::io::Result<()>;

fn name(bytes: &[u8]) -> PathBuf {
    std::ffi::OsStr::from_bytes(bytes).into()
}

/// A file for each byte that a name may have, alone and in the middle, and names of each length.
fn names(root: &Path) -> Vec<Call> {
    let bytes = (1..=255u8).filter(|byte| *byte != b'/');
    let single = bytes.flat_map(|byte| [vec![byte], vec![b'n', byte, b'n']]);
    let lengths = [200, 254, 255, 256, 257, 4095, 4096, 5000].map(|length| vec![b'l'; length]);
    let make = |bytes: Vec<u8>| mknod(&root.join(name(&bytes)));
    single.chain(lengths).map(make).collect()
}

fn mknod(path: &Path) -> Call {
    let mode = Mode::from_raw_mode(0o644);
    mknodat(rustix::fs::CWD, path, FileType::RegularFile, mode, 0)
}

/// Names and values of xattrs at their limits, and as many as there is room for.
fn xattrs(root: &Path) -> Vec<Call> {
    let file = root.join("xattrs");
    fs::write(&file, "").unwrap();
    let set = |name: &str, length: usize| {
        rustix::fs::lsetxattr(&file, name, &vec![7; length], XattrFlags::empty())
    };
    let mut outcomes = Vec::new();
    for length in [200, 250, 255, 256, 300] {
        outcomes.push(set(&format!("user.{}", "n".repeat(length - 5)), 1));
    }
    for length in [0, 1, 65_537, 100_000] {
        outcomes.push(set("user.value", length));
    }
    for other in [
        "user.",
        "user",
        "",
        "nothing.x",
        "system.x",
        "trusted.",
        "security.",
    ] {
        outcomes.push(set(other, 3));
    }
    outcomes
}

fn offsets(root: &Path) -> Vec<Call> {
    let path = root.join("offsets");
    let file = openat(
        rustix::fs::CWD,
        &path,
        OFlags::CREATE | OFlags::RDWR,
        Mode::from_raw_mode(0o644),
    )
    .unwrap();
    let mut outcomes = Vec::new();
    for offset in [
        0,
        1 << 31,
        (1 << 32) - 1,
        1 << 43,
        1 << 44,
        1 << 62,
        i64::MAX as u64 - 1,
    ] {
        outcomes.push(rustix::io::pwrite(&file, b"x", offset).map(drop));
        outcomes.push(rustix::io::pread(&file, &mut [0; 10], offset).map(drop));
        outcomes.push(rustix::fs::ftruncate(&file, offset));
        let none = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
        outcomes.push(rustix::fs::fallocate(&file, none, offset, 1 << 20));
        outcomes.push(rustix::fs::ftruncate(&file, 0));
    }
    outcomes
}

fn symlinks(root: &Path) -> Vec<Call> {
    let lengths = [1, 59, 60, 1000, 4094, 4095, 4096, 5000];
    let make = |length: usize| {
        let target = "t".repeat(length);
        rustix::fs::symlink(target, root.join(format!("symlink{length}")))
    };
    lengths.map(make).to_vec()
}

#[test]
fn limits_are_those_of_a_plain_directory() {
    if !can_run("limits_are_those_of_a_plain_directory") {
        return;
    }
    let bystanders = Bystanders::new(128);
    let served = Served::new(&bystanders.store);
    for (what, work) in [
        ("names", names as fn(&Path) -> Vec<Call>),
        ("xattrs", xattrs),
        ("offsets", offsets),
        ("symlinks", symlinks),
    ] {
        let places = [bystanders.store.place.join(what), served.path.join(what)];
        let [plain, found] = places.each_ref().map(|place| {
            fs::create_dir(place).unwrap();
            work(place)
        });
        for (index, (plain, found)) in plain.iter().zip(&found).enumerate() {
            assert_eq!(plain, found, "{what} {index}");
        }
        let fields = Fields::COPY
            .without(Fields::MTIME)
            .without(Fields::DIRECTORY_MTIME);
        let [plain, found] = places.each_ref().map(|place| Snapshot::of(place));
        plain.assert_same(&found, fields, what);
        assert!(plain.entries.len() > 1, "{what}");
    }
    served.finish();
    bystanders.assert_unchanged();
    bystanders.assert_clean();
}

/// A tree as deep as the guest likes: 3,000 directories, each in the one before.
#[test]
fn a_deep_tree() {
    if !can_run("a_deep_tree") {
        return;
    }
    const DEPTH: usize = 3000;
    let bystanders = Bystanders::new(128);
    let served = Served::new(&bystanders.store);
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let mut directory = super::common::at::open_root(&served.path);
    for _ in 0..DEPTH {
        rustix::fs::mkdirat(&directory, "deep", Mode::RWXU).unwrap();
        directory = openat(&directory, "deep", flags, Mode::empty()).unwrap();
    }
    mknodat(&directory, "bottom", FileType::RegularFile, Mode::RUSR, 0).unwrap();
    let bottom = rustix::fs::fstat(&directory).unwrap().st_ino;
    // Up again, step by step, with nothing cached.
    super::common::directory::drop_caches();
    for _ in 0..DEPTH {
        directory = openat(&directory, "..", flags, Mode::empty()).unwrap();
    }
    let root = fs::metadata(&served.path).unwrap().ino();
    assert_eq!(rustix::fs::fstat(&directory).unwrap().st_ino, root);
    for _ in 0..DEPTH {
        directory = openat(&directory, "deep", flags, Mode::empty()).unwrap();
    }
    assert_eq!(rustix::fs::fstat(&directory).unwrap().st_ino, bottom);
    drop(directory);
    served.finish();
    bystanders.assert_unchanged();
    bystanders.assert_clean();
}

/// How many entries a directory gets: FOLDFS_TEST_ENTRIES, else as many as a short run allows.
fn entries() -> usize {
    let given = std::env::var("FOLDFS_TEST_ENTRIES").ok();
    given.map_or(100_000, |value| value.parse().unwrap())
}

#[test]
fn very_many_entries() {
    if !can_run("very_many_entries") {
        return;
    }
    let count = entries();
    // Inodes of 256 bytes, one for each entry of the image.
    let bystanders = Bystanders::with(64 + count as u64 / 512, count as u64 + 3000);
    let mut served = Served::new(&bystanders.store);
    let directory = served.path.join("many");
    fs::create_dir(&directory).unwrap();
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let open = super::common::at::open_root(&directory);
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    let mode = Mode::from_raw_mode(0o644);
                    let name = number.to_string();
                    mknodat(open.as_fd(), name, FileType::RegularFile, mode, 0).unwrap();
                }
            });
        }
    });
    let list = |directory: &Path| {
        let mut seen = vec![false; count];
        for entry in fs::read_dir(directory).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let number: usize = name.parse().unwrap();
            assert!(
                !std::mem::replace(&mut seen[number], true),
                "{number} twice"
            );
        }
        assert!(seen.iter().all(|seen| *seen));
    };
    list(&directory);
    for number in (0..count).step_by(count / 1000) {
        fs::remove_file(directory.join(number.to_string())).unwrap();
        File::create(directory.join(number.to_string())).unwrap();
    }
    super::common::directory::drop_caches();
    list(&directory);
    assert_eq!(
        rustix::fs::rmdir(&directory),
        Err(Errno::NOTEMPTY),
        "it is not empty"
    );
    let peak = served.peak_memory();
    println!("{count} entries: the daemon had {peak} KiB");
    assert!(peak < super::MEMORY_MAX_KIB + count as u64, "{peak} KiB");
    served.finish();
    let served = Served::new(&bystanders.store);
    list(&served.path.join("many"));
    served.finish();
    bystanders.assert_unchanged();
}
