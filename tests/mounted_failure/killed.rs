//! The daemon is killed: every file is the old one or the new one, what was done stays done, and
//! nothing is left over.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::thread;
use std::time::{Duration, Instant};

use super::assert_no_debris;
use super::common::snapshot::{Fields, Snapshot};
use super::common::store::{Mounted, TestStore};
use super::common::{can_run, needs_fuse, op};

/// Kills the daemon of a store, after who would start it again, and waits until it is gone.
pub fn kill(store: &TestStore, keeper_and_daemon: &[i32]) {
    assert_eq!(keeper_and_daemon.len(), 2);
    for &pid in keeper_and_daemon {
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
    let start = Instant::now();
    while !store.daemons().is_empty() {
        assert!(start.elapsed() < Duration::from_secs(20), "it does not end");
        thread::sleep(Duration::from_millis(1));
    }
}

/// The image mounted again by the next daemon, after which nothing may be left of the last one.
pub fn mount_again(store: &TestStore, dead: Mounted, image: &str, what: &str) -> Mounted {
    drop(dead);
    let mounted = store.mount(image);
    // The start of a daemon, not a check that anybody runs, has cleared up.
    assert_no_debris(store, &["work", "orphans"], what);
    mounted
}

/// How many times each test kills: FOLDFS_TEST_KILLS, else `default`.
pub fn kills(default: u64) -> u64 {
    let given = std::env::var("FOLDFS_TEST_KILLS").ok();
    given.map_or(default, |value| value.parse().unwrap())
}

/// Bytes in `work/` of all images.
fn on_its_way(store: &TestStore) -> u64 {
    let images = fs::read_dir(store.path.join("images")).unwrap();
    let work = images.flat_map(|image| fs::read_dir(image.unwrap().path().join("work")));
    let entries = work.flatten().flatten();
    entries
        .filter_map(|entry| entry.metadata().ok())
        .map(|metadata| metadata.len())
        .sum()
}

#[test]
fn a_promotion_is_killed() {
    let test = "a_promotion_is_killed";
    if !can_run(test, needs_fuse()) {
        return;
    }
    const LENGTH: usize = 96 << 20;
    let store = TestStore::new();
    let tree = store.place.join("tree");
    fs::create_dir(&tree).unwrap();
    let piece = op::pattern(3, 1 << 20);
    let old: Vec<u8> = piece.iter().cycle().take(LENGTH).copied().collect();
    fs::write(tree.join("large"), &old).unwrap();
    fs::write(tree.join("other"), "other").unwrap();
    store.import("first", &tree, "family");
    fs::remove_dir_all(&tree).unwrap();
    let mut new = old.clone();
    new[LENGTH / 2..LENGTH / 2 + 7].copy_from_slice(b"changed");
    let mut first = store.mount("first");
    let ino = fs::metadata(first.join("large")).unwrap().ino();
    let (mut ended_old, mut ended_new) = (0, 0);
    let rounds = kills(8);
    for round in 0..rounds {
        // Whether the copy is there by half, complete, or in place.
        let enough = LENGTH as u64 * round / rounds.saturating_sub(2).max(1);
        let what = format!("killed with {enough} bytes copied");
        let synced = File::create(first.join("synced")).unwrap();
        synced.write_all_at(what.as_bytes(), 0).unwrap();
        synced.sync_all().unwrap();
        drop(synced);
        let path = first.join("large");
        let processes = store.keepers_and_daemons();
        thread::scope(|scope| {
            let writer = scope.spawn(move || {
                let file = OpenOptions::new().write(true).open(path)?;
                file.write_all_at(b"changed", LENGTH as u64 / 2)
            });
            while on_its_way(&store) < enough && !writer.is_finished() {
                thread::yield_now();
            }
            kill(&store, &processes);
            let written = writer.join().unwrap();
            if round == 0 {
                assert!(written.is_err(), "{what}: it was not killed in time");
            }
        });
        first = mount_again(&store, first, "first", &what);
        let found = fs::read(first.join("large")).unwrap();
        assert!(found == old || found == new, "{what}: a mixture");
        assert_eq!(fs::read_to_string(first.join("synced")).unwrap(), what);
        let now = fs::metadata(first.join("large")).unwrap();
        assert_eq!(now.ino(), ino, "{what}");
        store.assert_sound();
        if found == new {
            ended_new += 1;
            // Shared again for the next round.
            first.unmount();
            store.ok(&["remove", "first"]);
            store.ok(&["clone", "family", "first"]);
            first = store.mount("first");
        } else {
            ended_old += 1;
        }
    }
    println!("{ended_old} ended as before, {ended_new} as after");
    assert!(ended_old > 0, "none was killed before its end");
    first.unmount();
    store.wait_for_daemons();
    store.assert_sound();
}

#[test]
fn a_fold_is_killed() {
    let test = "a_fold_is_killed";
    if !can_run(test, needs_fuse()) {
        return;
    }
    let store = TestStore::new();
    let tree = store.sample(0);
    store.import("first", &tree, "family");
    store.import("second", &tree, "family");
    let mut first = store.mount("first");
    let mut second = store.mount("second");
    for round in 0..kills(8) {
        let what = format!("kill {round}");
        for mounted in [&first, &second] {
            for number in 0..40u32 {
                let path = mounted.join(format!("var/{number}"));
                fs::write(path, op::pattern(round as u8, 5000 + number * 10)).unwrap();
            }
            fs::write(mounted.join("etc/hosts"), &what).unwrap();
        }
        let shown = [first.snapshot(), second.snapshot()];
        let processes = store.keepers_and_daemons();
        thread::scope(|scope| {
            let folding = scope.spawn(|| store.run(&["fold"]));
            let start = Instant::now();
            // A random moment of what takes some 100 ms.
            let moment = Duration::from_micros(shown[0].entries.len() as u64 * 97 * round % 90_000);
            while start.elapsed() < moment && !folding.is_finished() {
                thread::yield_now();
            }
            kill(&store, &processes);
            folding.join().unwrap();
        });
        drop(second);
        first = mount_again(&store, first, "first", &what);
        second = store.mount("second");
        for (before, mounted) in shown.iter().zip([&first, &second]) {
            let after = Snapshot::of(&mounted.path);
            before.assert_same(&after, Fields::ALL, &what);
        }
        store.assert_sound();
    }
    first.unmount();
    second.unmount();
    store.wait_for_daemons();
    store.assert_sound();
}
