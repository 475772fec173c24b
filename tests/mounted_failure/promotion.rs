//! While a large file is promoted everything else goes on.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;

use super::common::device::{Device, Kind};
use super::common::store::TestStore;
use super::common::{self, can_run, needs_fuse};

pub(super) const SIZE: u64 = 1 << 30;
const PAGE: usize = 4096;

/// What a page of the file holds.
pub(super) fn page(index: u64) -> [u8; PAGE] {
    let mut bytes = [index as u8; PAGE];
    bytes[..8].copy_from_slice(&index.to_ne_bytes());
    bytes
}

pub(super) fn write_pages(path: &Path) {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path).unwrap());
    let pages = SIZE / PAGE as u64;
    (0..pages).for_each(|index| file.write_all(&page(index)).unwrap());
    file.flush().unwrap();
}

const BEFORE: u8 = 0;
const DURING: u8 = 1;
const AFTER: u8 = 2;

/// Repeats an operation until the promotion is over, and counts those that began and ended in it.
fn count(phase: &AtomicU8, mut operation: impl FnMut(u64)) -> usize {
    let mut counted = 0;
    for round in 0.. {
        let began = phase.load(Ordering::SeqCst);
        operation(round);
        match (began, phase.load(Ordering::SeqCst)) {
            (_, AFTER) => break,
            (DURING, _) => counted += 1,
            (_, _) => {}
        }
    }
    counted
}

/// Reads somewhere in the file but at its start.
pub(super) fn look(file: &File, round: u64) {
    let index = 1 + round * 7919 % (SIZE / PAGE as u64 - 1);
    let mut bytes = [0; PAGE];
    file.read_exact_at(&mut bytes, index * PAGE as u64).unwrap();
    assert!(bytes == page(index), "page {index}");
}

/// A file beside the one that is promoted, from its creation to its end.
pub(super) fn churn(directory: &Path, round: u64) {
    let (path, moved) = (directory.join("small"), directory.join("moved"));
    let content = round.to_string();
    fs::write(&path, &content).unwrap();
    fs::rename(&path, &moved).unwrap();
    assert_eq!(fs::read_to_string(&moved).unwrap(), content);
    fs::remove_file(&moved).unwrap();
}

#[test]
fn everything_goes_on_while_a_gibibyte_is_promoted() {
    let test = "everything_goes_on_while_a_gibibyte_is_promoted";
    if !can_run(test, needs_fuse().or(Device::missing(Kind::Ext4))) {
        return;
    }
    // A file system that cannot reflink.
    let magic = rustix::fs::statfs(env!("CARGO_TARGET_TMPDIR"))
        .unwrap()
        .f_type;
    let ext4 = magic == 0xef53;
    let device = (!ext4).then(|| Device::new(Kind::Ext4, 4096));
    let store = device.as_ref().map(|device| TestStore::at(&device.path));
    let store = store.unwrap_or_else(TestStore::new);
    let tree = store.place.join("tree");
    fs::create_dir_all(tree.join("dir")).unwrap();
    write_pages(&tree.join("dir/large"));
    for number in 0..20 {
        fs::write(tree.join(format!("dir/{number}")), number.to_string()).unwrap();
    }
    store.import("first", &tree, "family");
    fs::remove_dir_all(&tree).unwrap();
    let first = store.mount("first");
    let (directory, large) = (first.join("dir"), first.join("dir/large"));
    let held = File::open(&large).unwrap();
    let phase = AtomicU8::new(BEFORE);

    let counts = thread::scope(|scope| {
        let workers: [thread::ScopedJoinHandle<'_, usize>; 5] = [
            scope.spawn(|| count(&phase, |round| churn(&directory, round))),
            scope.spawn(|| {
                count(&phase, |_| {
                    assert!(fs::read_dir(&directory).unwrap().count() >= 21);
                })
            }),
            scope.spawn(|| count(&phase, |round| look(&held, round))),
            scope.spawn(|| count(&phase, |round| look(&File::open(&large).unwrap(), round))),
            scope.spawn(|| {
                count(&phase, |round| {
                    let path = directory.join((round % 20).to_string());
                    let mut file = OpenOptions::new().append(true).open(path).unwrap();
                    file.write_all(b"+").unwrap();
                    assert_eq!(fs::metadata(&large).unwrap().len(), SIZE);
                })
            }),
        ];
        let file = OpenOptions::new().write(true).open(&large).unwrap();
        phase.store(DURING, Ordering::SeqCst);
        file.write_all_at(b"changed", 0).unwrap();
        phase.store(AFTER, Ordering::SeqCst);
        workers.map(|worker| worker.join().unwrap())
    });
    println!("done meanwhile: {counts:?}");
    assert!(counts.iter().all(|count| *count >= 30), "{counts:?}");
    let check = |file: &File| {
        let mut start = [0; PAGE];
        file.read_exact_at(&mut start, 0).unwrap();
        assert!(start.starts_with(b"changed") && start[7..] == page(0)[7..]);
        (0..1000).for_each(|round| look(file, round));
    };
    if common::without_passthrough() {
        check(&held);
    } else {
        // What was opened before goes on showing the shared file.
        let mut start = [0; PAGE];
        held.read_exact_at(&mut start, 0).unwrap();
        assert!(start == page(0));
        check(&File::open(&large).unwrap());
    }
    drop(held);
    first.unmount();
    let first = store.mount("first");
    check(&File::open(first.join("dir/large")).unwrap());
    first.unmount();
    store.wait_for_daemons();
    store.assert_sound();
}
