//! Needs root and FUSE. Two processes at the same time on one store, each pair of commands there is:
//! each does its work, or says that the store is busy; the store is whole afterwards, and every image
//! shows what it showed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on should panic"
)]

mod common;
mod family;

#[path = "mounted_beside/command.rs"]
mod command;
#[path = "mounted_beside/look.rs"]
mod look;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use command::{COMMANDS, Command, Started};
use common::sample;
use common::store::{TestStore, tool};

/// How often each pair is tried, with a daemon and without: FOLDFS_TEST_ROUNDS. Without it half of
/// them are tried with one, the other half without one, once.
fn rounds() -> Option<u32> {
    let given = std::env::var("FOLDFS_TEST_ROUNDS").ok();
    given.map(|value| value.parse().expect("a number"))
}

/// A store with three images of a family, in each of which there is something to fold, and with
/// objects to collect.
struct Original {
    store: TestStore,
    /// Trees to import.
    trees: PathBuf,
}

impl Original {
    fn new() -> Original {
        let store = TestStore::new();
        let trees = store.place.join("trees");
        fs::create_dir(&trees).unwrap();
        for variant in 0..3 {
            let tree = trees.join(variant.to_string());
            sample::make(&tree, variant);
            // Views are compared by paths that are text.
            fs::remove_file(tree.join(OsStr::from_bytes(b"\xff\xfe\x01 bytes"))).unwrap();
        }
        // Nothing but this refers to it once it is removed.
        let garbage = trees.join("garbage");
        fs::create_dir(&garbage).unwrap();
        for number in 0..20 {
            fs::write(
                garbage.join(number.to_string()),
                format!("garbage {number}"),
            )
            .unwrap();
        }
        for (image, tree) in [("first", "0"), ("second", "1"), ("third", "2")] {
            store.import(image, &trees.join(tree), "family");
        }
        store.import("waste", &garbage, "wasted");
        store.ok(&["remove", "waste"]);
        store.ok(&["remove", "wasted"]);
        let config = store.place.join("never.toml");
        fs::write(&config, "interval = 'never'").unwrap();
        let mounts =
            ["first", "second", "third"].map(|image| store.mount_configured(image, &config));
        for (index, mounted) in mounts.iter().enumerate() {
            for number in 0..30 {
                let path = mounted.join(format!("etc/new{number}"));
                fs::write(path, format!("what is in all {number}").repeat(9)).unwrap();
            }
            fs::write(mounted.join("etc/own"), format!("image {index}")).unwrap();
            fs::remove_file(mounted.join("usr/dangling")).unwrap();
            fs::rename(mounted.join("usr/lib/deep"), mounted.join("var/deep")).unwrap();
        }
        mounts.into_iter().for_each(common::store::Mounted::unmount);
        store.wait_for_daemons();
        Original { store, trees }
    }

    /// The same store once more.
    fn copy(&self) -> TestStore {
        // In memory where it can be: most of the time would go into syncs.
        let directory = tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| common::scratch());
        let from = self.store.path.as_os_str();
        tool("cp", &["-a".as_ref(), from, directory.path().as_os_str()]);
        TestStore::existing(directory)
    }
}

/// Both at once, beside a daemon or not; what they said, in one word each.
fn run_pair(
    original: &Original,
    pair: [&Command; 2],
    delay: Duration,
    beside: Option<&Beside>,
) -> [bool; 2] {
    let store = original.copy();
    let before = look::views(&store);
    let what = format!(
        "{} and, {delay:?} later, {}{}",
        pair[0].name,
        pair[1].name,
        beside.map_or("", |_| ", beside a daemon")
    );
    let guest = beside.map(|beside| beside.mount(&store));
    let stop = AtomicBool::new(false);
    let started = thread::scope(|scope| {
        if let Some(guest) = &guest {
            scope.spawn(|| work(&guest.join("var"), &stop));
        }
        let first = Started::new(pair[0], &store, &original.trees, 0);
        thread::sleep(delay);
        let second = Started::new(pair[1], &store, &original.trees, 1);
        let started = Started::end_both([first, second], &store, guest.is_some(), &what);
        stop.store(true, Ordering::SeqCst);
        started
    });
    let done = command::judge(&pair, &started, guest.is_some(), &what);
    command::unmount_all(&store);
    drop(guest);
    store.wait_for_daemons();
    let staged: Vec<_> = fs::read_dir(store.path.join("staging")).unwrap().collect();
    assert!(staged.is_empty(), "{what}: left over: {staged:?}");
    store.assert_sound();
    let views = look::Expected {
        before,
        trees: &original.trees,
        beside: beside.is_some(),
    };
    views.assert_shown(&store, &pair, &done, &what);
    done
}

/// A daemon with an image in which a guest works.
struct Beside;

impl Beside {
    fn mount(&self, store: &TestStore) -> common::store::Mounted {
        // Passes as close as the configuration allows.
        let config = store.place.join("often.toml");
        fs::write(&config, "interval = '1s'\nquiet = '0s'").unwrap();
        store.mount_configured("first", &config)
    }
}

/// What a guest does meanwhile: it leaves nothing behind.
fn work(directory: &Path, stop: &AtomicBool) {
    for round in 0.. {
        let path = directory.join(format!("at work {}", round % 3));
        let moved = directory.join("moved");
        fs::write(&path, vec![7; 5000 + round % 9]).unwrap();
        fs::rename(&path, &moved).unwrap();
        assert_eq!(fs::read(&moved).unwrap(), vec![7; 5000 + round % 9]);
        fs::remove_file(&moved).unwrap();
        if stop.load(Ordering::SeqCst) {
            return;
        }
    }
}

fn all_pairs(test: &str, beside: Option<&Beside>) {
    if !common::can_run(test, common::needs_fuse()) {
        return;
    }
    let original = Original::new();
    let (mut pairs, mut both, mut one, mut none) = (0, 0, 0, 0);
    for round in 0..rounds().unwrap_or(1) {
        for (index, first) in COMMANDS.iter().enumerate() {
            for (other, second) in COMMANDS.iter().enumerate().skip(index) {
                // Which begins, and how much earlier, changes.
                let turn = round as usize + index * 3 + other;
                let half = (index + other) % 2 == usize::from(beside.is_some());
                if rounds().is_none() && !half {
                    continue;
                }
                let delay = Duration::from_millis([0, 3, 12, 30, 70][turn / 2 % 5]);
                let pair = match turn / 4 % 2 {
                    0 => [first, second],
                    _ => [second, first],
                };
                let done = run_pair(&original, pair, delay, beside);
                pairs += 1;
                match done.iter().filter(|done| **done).count() {
                    2 => both += 1,
                    1 => one += 1,
                    _ => none += 1,
                }
            }
        }
    }
    eprintln!("{test}: {pairs} pairs; both did their work in {both}, one in {one}, none in {none}");
    // What is mounted already, or served, is refused twice.
    assert!(
        none == 0 || beside.is_some(),
        "each was refused for the other's sake"
    );
}

#[test]
fn each_two_commands_at_once() {
    all_pairs("each_two_commands_at_once", None);
}

#[test]
fn each_two_commands_at_once_beside_a_daemon() {
    all_pairs("each_two_commands_at_once_beside_a_daemon", Some(&Beside));
}
