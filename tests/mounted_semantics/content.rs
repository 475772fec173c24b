//! Content: appending, direct I/O, truncating, holes, large files, reflinks.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{SeekFrom, copy_file_range, seek, statvfs};
use sha2::{Digest, Sha256};

use super::common::device::{Device, Kind};
use super::common::store::TestStore;
use super::common::{can_run, needs_fuse, op, sample};
use super::places::{Files, PLACES, Places, Probe};

#[test]
fn appending_processes_lose_nothing() {
    let files = Files {
        names: vec![String::from("log")],
        length: 3_000,
        ..Files::default()
    };
    let Some(places) = Places::new("appending_processes_lose_nothing", &files) else {
        return;
    };
    let (processes, lines) = (4, 200);
    for place in PLACES {
        let path = places.first.join(place).join("log");
        let before = fs::read(&path).unwrap();
        let append = "for i in $(seq \"$2\"); do echo \"$1 $i\"; done >> \"$0\"";
        let children: Vec<_> = (0..processes)
            .map(|process| {
                let mut command = Command::new("bash");
                command.args(["-euc", append]).arg(&path);
                command.args([process.to_string(), lines.to_string()]);
                command.stdin(Stdio::null()).spawn().unwrap()
            })
            .collect();
        for mut child in children {
            assert!(child.wait().unwrap().success());
        }
        let after = fs::read(&path).unwrap();
        let text = after.strip_prefix(&before[..]).unwrap();
        let found: BTreeSet<&str> = std::str::from_utf8(text).unwrap().lines().collect();
        let expected = (0..processes).flat_map(|p| (1..=lines).map(move |i| format!("{p} {i}")));
        let expected: BTreeSet<String> = expected.collect();
        assert!(found.iter().eq(expected.iter()), "{place}: {text:?}");
        assert_eq!(text.split(|byte| *byte == b'\n').count(), 801, "{place}");
    }
    fs::remove_dir_all(&places.plain).unwrap();
    sample::copy(&places.first.path, &places.plain);
    places.finish();
}

/// A page of memory at a page's address, as O_DIRECT wants it.
fn with_page<T>(work: impl FnOnce(&mut [u8]) -> T) -> T {
    let mut bytes = vec![0; 8192];
    let start = bytes.as_ptr().align_offset(4096);
    work(&mut bytes[start..start + 4096])
}

fn direct(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true);
    options.custom_flags(libc::O_DIRECT).open(path)
}

const DIRECT: [(&str, Probe); 4] = [
    ("direct-read", |path| {
        let early = direct(path)?;
        OpenOptions::new()
            .write(true)
            .open(path)?
            .write_all_at(b"cached", 4_100)?;
        with_page(|page| {
            let count = early.read_at(page, 4_096)?;
            Ok(format!("{count} {:?}", &page[..16]))
        })
    }),
    ("direct-read-of-the-end", |path| {
        let file = direct(path)?;
        with_page(|page| Ok(format!("{:?}", file.read_at(page, 8_192)?)))
    }),
    ("direct-write", |path| {
        let (early, file) = (File::open(path)?, direct(path)?);
        early.read_at(&mut [0; 100], 4_096)?;
        let count = with_page(|page| {
            page.fill(b'd');
            file.write_at(page, 4_096)
        })?;
        let mut seen = [0; 8];
        early.read_exact_at(&mut seen, 4_092)?;
        Ok(format!("{count} {seen:?} {}", early.metadata()?.len()))
    }),
    ("direct-write-behind-end", |path| {
        let file = direct(path)?;
        let count = with_page(|page| file.write_at(page, 16_384))?;
        Ok(format!("{count} {}", path.metadata()?.len()))
    }),
];

#[test]
fn direct_io_and_the_page_cache_agree() {
    let test = "direct_io_and_the_page_cache_agree";
    let Some(places) = Places::new(test, &Files::of(&DIRECT, 9_000)) else {
        return;
    };
    places.assert_same(&DIRECT);
    places.finish();
}

/// How many bytes the store's daemon has read and written, in whatever way.
fn moved(store: &TestStore) -> u64 {
    let daemons = store.daemons();
    let text = fs::read_to_string(format!("/proc/{}/io", daemons[0])).unwrap();
    let count = |line: &str| -> u64 { line.split(' ').nth(1).unwrap().parse().unwrap() };
    let chars = |line: &&str| line.starts_with("rchar") || line.starts_with("wchar");
    text.lines().filter(chars).map(count).sum()
}

#[test]
fn what_truncation_takes_away_is_not_copied() {
    let probes: [(&str, Probe); 5] = [
        ("written", |path| {
            let file = OpenOptions::new().write(true).open(path)?;
            file.write_all_at(b"x", 3).map(|()| String::new())
        }),
        ("open-truncate", |path| {
            let file = OpenOptions::new().write(true).truncate(true).open(path)?;
            file.write_all_at(b"new", 0).map(|()| String::new())
        }),
        ("create", |path| File::create(path).map(|_| String::new())),
        ("ftruncate", |path| {
            let file = OpenOptions::new().write(true).open(path)?;
            file.set_len(5_000).map(|()| String::new())
        }),
        ("ftruncate-to-nothing", |path| {
            let file = OpenOptions::new().write(true).open(path)?;
            file.set_len(0)?;
            file.set_len(9 << 20).map(|()| String::new())
        }),
    ];
    let test = "what_truncation_takes_away_is_not_copied";
    // Where promotions are no reflinks, which nobody could count.
    if !can_run(test, needs_fuse().or(Device::missing(Kind::Ext4))) {
        return;
    }
    let device = Device::new(Kind::Ext4, 300);
    let length = 1 << 20;
    let store = TestStore::at(&device.path);
    let places = Places::within_store(store, &Files::of(&probes, length));
    for place in ["shared", "restated", "folded", "renamed", "linked"] {
        for (name, probe) in probes {
            let before = moved(&places.store);
            for root in [&places.plain, &places.first.path] {
                probe(&root.join(place).join(name)).unwrap();
            }
            let moved = moved(&places.store) - before;
            match name {
                "written" => assert!(moved > u64::from(length), "{place} {name}: {moved}"),
                _ => assert!(moved < 100_000, "{place} {name}: {moved}"),
            }
        }
    }
    places.finish();
}

/// Bytes that the private layers take.
fn private_bytes(store: &TestStore) -> u64 {
    let (mut pending, mut bytes) = (vec![store.path.join("images")], 0);
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let meta = entry.as_ref().unwrap().metadata().unwrap();
            bytes += meta.blocks() * 512;
            if meta.is_dir() {
                pending.push(entry.unwrap().path());
            }
        }
    }
    bytes
}

/// Where the data of a file begins and ends.
fn data(file: &File) -> Vec<(u64, u64)> {
    let (mut ranges, mut at) = (Vec::new(), 0);
    while let Ok(start) = seek(file, SeekFrom::Data(at)) {
        at = seek(file, SeekFrom::Hole(start)).unwrap();
        ranges.push((start, at));
    }
    ranges
}

fn digest(path: &Path) -> [u8; 32] {
    let (mut file, mut hash) = (File::open(path).unwrap(), Sha256::new());
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).unwrap() {
            0 => return hash.finalize().into(),
            count => hash.update(&buffer[..count]),
        }
    }
}

/// A sparse file of more than 4 GiB: shared, promoted, and written behind 4 GiB.
#[test]
fn large_and_sparse_files_stay_what_they_are() {
    let test = "large_and_sparse_files_stay_what_they_are";
    if !can_run(test, needs_fuse()) {
        return;
    }
    let store = TestStore::coherent();
    let (tree, plain) = (store.place.join("tree"), store.place.join("plain"));
    fs::create_dir(&tree).unwrap();
    let four = 4u64 << 30;
    let file = File::create(tree.join("large")).unwrap();
    for (offset, seed) in [(0, 1), (1 << 31, 2), (four - 4096, 3), (four + 8192, 4)] {
        file.write_all_at(&op::pattern(seed, 4096), offset).unwrap();
    }
    file.set_len(four + (1 << 20)).unwrap();
    drop(file);
    sample::copy(&tree, &plain);
    store.import("first", &tree, "family");
    let first = store.mount("first");
    let before = private_bytes(&store);
    assert!(before < 1 << 20, "{before}");
    for root in [&plain, &first.path] {
        let file = OpenOptions::new()
            .write(true)
            .open(root.join("large"))
            .unwrap();
        file.write_all_at(b"over the border", four - 7).unwrap();
        file.write_all_at(b"behind", four + (2 << 20)).unwrap();
    }
    let open = |root: &Path| File::open(root.join("large")).unwrap();
    let (expected, found) = (open(&plain), open(&first.path));
    assert_eq!(found.metadata().unwrap().len(), four + (2 << 20) + 6);
    assert_eq!(data(&found), data(&expected));
    for (start, end) in data(&expected) {
        let length = (end - start) as usize;
        let (mut a, mut b) = (vec![0; length], vec![0; length]);
        expected.read_exact_at(&mut a, start).unwrap();
        found.read_exact_at(&mut b, start).unwrap();
        assert!(a == b, "at {start}");
    }
    let taken = private_bytes(&store) - before;
    assert!(taken < 1 << 20, "a sparse file took {taken} bytes");
    drop((expected, found));
    first.unmount();
    let first = store.mount("first");
    let found = open(&first.path);
    assert_eq!(data(&found), data(&open(&plain)), "a remount shows");
    drop(found);
    first.unmount();
    store.wait_for_daemons();
    store.ok(&["check"]);
}

#[test]
fn copies_within_an_image_are_reflinks_where_the_host_can() {
    let test = "copies_within_an_image_are_reflinks_where_the_host_can";
    if !can_run(test, needs_fuse().or(Device::missing(Kind::Xfs))) {
        return;
    }
    let device = Device::new(Kind::Xfs, 400);
    let store = TestStore::at(&device.path);
    let tree = device.path.join("tree");
    fs::create_dir(&tree).unwrap();
    let length = 64u32 << 20;
    for (name, seed) in [("one", 1), ("two", 2)] {
        fs::write(tree.join(name), op::pattern(seed, length)).unwrap();
    }
    store.import("first", &tree, "family");
    let first = store.mount("first");
    let free = || {
        let file = File::open(&device.path).unwrap();
        rustix::fs::syncfs(&file).unwrap();
        let space = statvfs(&device.path).unwrap();
        space.f_bfree * space.f_frsize
    };
    let before = free();
    let from = File::open(first.join("one")).unwrap();
    let to = File::create(first.join("copy")).unwrap();
    let (mut start, mut end, mut left) = (0, 0, length as usize);
    while left > 0 {
        left -= copy_file_range(&from, Some(&mut start), &to, Some(&mut end), left).unwrap();
    }
    let promoted = OpenOptions::new()
        .write(true)
        .open(first.join("two"))
        .unwrap();
    promoted.write_all_at(b"x", 0).unwrap();
    drop((from, to, promoted));
    let taken = before - free();
    assert!(taken < 4 << 20, "a copy and a promotion took {taken} bytes");
    assert_eq!(digest(&first.join("copy")), digest(&tree.join("one")));
    let file = OpenOptions::new()
        .write(true)
        .open(first.join("copy"))
        .unwrap();
    file.write_all_at(b"mine", 0).unwrap();
    drop(file);
    assert_eq!(digest(&first.join("one")), digest(&tree.join("one")));
    first.unmount();
    store.wait_for_daemons();
    store.assert_sound();
}

#[test]
fn holes_are_sought_as_in_a_plain_directory() {
    let seeks: [(&str, Probe); 8] = [
        ("data-at-start", |path| sought(path, SeekFrom::Data(0))),
        ("data-inside", |path| sought(path, SeekFrom::Data(5_000))),
        ("data-at-end", |path| sought(path, SeekFrom::Data(9_000))),
        ("data-far-behind", |path| {
            sought(path, SeekFrom::Data(i64::MAX as u64))
        }),
        ("hole-at-start", |path| sought(path, SeekFrom::Hole(0))),
        ("hole-inside", |path| sought(path, SeekFrom::Hole(5_000))),
        ("hole-at-end", |path| sought(path, SeekFrom::Hole(9_000))),
        ("hole-behind-growth", |path| {
            OpenOptions::new()
                .write(true)
                .open(path)?
                .set_len(1 << 20)?;
            sought(path, SeekFrom::Hole(5_000))
        }),
    ];
    let test = "holes_are_sought_as_in_a_plain_directory";
    let Some(places) = Places::new(test, &Files::of(&seeks, 9_000)) else {
        return;
    };
    places.assert_same(&seeks);
    places.finish();
}

fn sought(path: &Path, to: SeekFrom) -> io::Result<String> {
    Ok(format!("{}", seek(&File::open(path)?, to)?))
}
