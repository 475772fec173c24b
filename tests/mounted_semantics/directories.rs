//! Reading directories while they change, and removing them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::fs::{RawDir, SeekFrom, seek};

use super::common::directory::drop_caches;
use super::common::snapshot::{Fields, Snapshot};
use super::common::store::TestStore;
use super::common::{at, can_run, needs_fuse};
use super::places::{Files, PLACES, Places};

/// An open directory that is read on from where it stands: names and the cookies behind them.
fn read(directory: &OwnedFd, most: usize) -> Vec<(String, u64)> {
    let mut buffer = Vec::with_capacity(2_048);
    let mut entries = RawDir::new(directory, buffer.spare_capacity_mut());
    let mut found = Vec::new();
    while found.len() < most
        && let Some(entry) = entries.next()
    {
        let entry = entry.unwrap();
        let name = entry.file_name().to_str().unwrap().to_owned();
        found.push((name, entry.next_entry_cookie()));
    }
    found
}

fn rewind(directory: &OwnedFd) {
    seek(directory, SeekFrom::Start(0)).unwrap();
}

#[test]
fn readdir_shows_what_is_untouched_exactly_once() {
    let test = "readdir_shows_what_is_untouched_exactly_once";
    let names = (0..150).map(|i| format!("untouched-{i}")).collect();
    let files = Files {
        names,
        length: 10,
        ..Files::default()
    };
    let Some(places) = Places::new(test, &files) else {
        return;
    };
    let untouched = files.names.len();
    let place = "shared";
    let path = places.first.join(place);
    let stop = AtomicBool::new(false);
    let listings = thread::scope(|scope| {
        let churn = scope.spawn(|| {
            for round in 0..10_000 {
                let name = path.join(format!("new-{round}"));
                File::create(&name).unwrap();
                if round >= 60 {
                    let old = path.join(format!("new-{}", round - 30));
                    fs::rename(&old, path.join(format!("moved-{}", round - 30))).unwrap();
                    fs::remove_file(path.join(format!("moved-{}", round - 60))).ok();
                }
            }
            stop.store(true, Ordering::SeqCst);
        });
        let (mut listings, mut kept) = (0, at::open_root(&path));
        while !stop.load(Ordering::SeqCst) {
            match listings % 3 {
                0 => kept = at::open_root(&path),
                _ => rewind(&kept),
            }
            let mut seen: BTreeMap<String, usize> = BTreeMap::new();
            for (name, _) in read(&kept, usize::MAX) {
                *seen.entry(name).or_default() += 1;
            }
            seen.retain(|name, _| name.starts_with("untouched"));
            assert_eq!(seen.len(), untouched, "{place}: some are missing");
            assert!(seen.values().all(|count| *count == 1), "{place}: {seen:?}");
            listings += 1;
            // The other thread is to get on.
            thread::sleep(Duration::from_millis(8));
        }
        churn.join().unwrap();
        listings
    });
    assert!(listings > 10, "{place}: only {listings} listings");
    let plain = places.plain.join(place);
    for name in fs::read_dir(&path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
    {
        if !plain.join(&name).exists() {
            File::create(plain.join(&name)).unwrap();
        }
    }
    places.finish();
}

#[test]
fn a_position_in_a_directory_outlives_what_happens() {
    let test = "a_position_in_a_directory_outlives_what_happens";
    let names: Vec<_> = (0..150).map(|i| format!("name-{i}")).collect();
    let files = Files {
        names,
        length: 10,
        ..Files::default()
    };
    let Some(mut places) = Places::new(test, &files) else {
        return;
    };
    let root = places.first.path.clone();
    let positions = |directory: &OwnedFd| {
        rewind(directory);
        read(directory, usize::MAX)
    };
    let open = |root: &Path| PLACES.map(|place| at::open_root(&root.join(place)));
    let opened = open(&root);
    let known: Vec<_> = opened.iter().map(positions).collect();
    assert!(known.iter().all(|known| known.len() == 152));
    // Behind each cookie comes the next entry; behind the last one nothing.
    let look = |opened: &[OwnedFd], when: &str| {
        for ((directory, known), place) in opened.iter().zip(&known).zip(PLACES) {
            for at in [0, 1, 2, 77, 130, 149, known.len() - 1] {
                seek(directory, SeekFrom::Start(known[at].1)).unwrap();
                let next = read(directory, 3);
                let expected = &known[at + 1..(at + 4).min(known.len())];
                assert_eq!(next, expected, "{place} behind {at}, {when}");
            }
            rewind(directory);
            assert_eq!(
                &read(directory, usize::MAX),
                known,
                "{place} rewound, {when}"
            );
        }
    };
    look(&opened, "at once");
    for root in [&places.plain, &root] {
        for place in PLACES {
            fs::write(root.join(place).join("name-7"), "promoted").unwrap();
        }
    }
    look(&opened, "after a promotion");
    look(&open(&root), "in another descriptor");
    places.store.ok(&["fold"]);
    look(&opened, "after a fold");
    drop_caches();
    look(&opened, "after drop_caches");
    drop(opened);
    places.first.unmount();
    places.first = places.store.mount_with("first", "dev,suid,allow_other");
    look(&open(&root), "after a remount");
    // What goes leaves the others where they are.
    let opened = open(&root);
    for (directory, (place, known)) in opened.iter().zip(PLACES.iter().zip(&known)) {
        seek(directory, SeekFrom::Start(known[50].1)).unwrap();
        for root in [&places.plain, &root] {
            for (name, _) in &known[51..90] {
                fs::remove_file(root.join(place).join(name)).unwrap();
            }
        }
        // Whether this descriptor still shows what is gone is nowhere specified.
        let mut left = read(directory, usize::MAX);
        left.retain(|entry| !known[51..90].contains(entry));
        assert_eq!(left, known[90..], "{place}");
    }
    drop(opened);
    places.finish();
}

#[test]
fn large_directories_are_removed_and_made_again_empty() {
    let test = "large_directories_are_removed_and_made_again_empty";
    if !can_run(test, needs_fuse()) {
        return;
    }
    let store = TestStore::coherent();
    let tree = store.place.join("tree");
    for directory in ["large", "large/inner"] {
        fs::create_dir_all(tree.join(directory)).unwrap();
        for i in 0..5_000 {
            fs::write(tree.join(directory).join(i.to_string()), "few contents").unwrap();
        }
    }
    store.import("first", &tree, "family");
    store.import("second", &tree, "family");
    let (first, second) = (store.mount("first"), store.mount("second"));
    fs::remove_file(first.join("large/17")).unwrap();
    fs::write(first.join("large/18"), "promoted").unwrap();
    fs::write(first.join("large/new"), "new").unwrap();
    super::common::store::tool("rm", &["-rf".as_ref(), first.join("large").as_os_str()]);
    assert!(!first.join("large").exists());
    fs::create_dir(first.join("large")).unwrap();
    assert_eq!(fs::read_dir(first.join("large")).unwrap().count(), 0);
    fs::create_dir(first.join("large/inner")).unwrap();
    let look = |root: &Path| {
        assert_eq!(fs::read_dir(root.join("large/inner")).unwrap().count(), 0);
        assert!(!root.join("large/inner/18").exists());
        let snapshot = Snapshot::of(root);
        assert_eq!(snapshot.entries.len(), 3);
        snapshot
    };
    let shown = look(&first.path);
    drop_caches();
    look(&first.path);
    store.ok(&["fold"]);
    shown.assert_same(&look(&first.path), Fields::ALL, "a fold shows");
    first.unmount();
    let first = store.mount("first");
    shown.assert_same(&look(&first.path), Fields::ALL, "a remount shows");
    second.assert_shows(&tree);
    first.unmount();
    second.unmount();
    store.wait_for_daemons();
    store.assert_sound();
}
