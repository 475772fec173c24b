//! The shared layer is changed while the daemon is killed. To tell the kernel which names it must not believe any longer
//! the daemon waits for a directory's lock, and whoever holds that waits for the daemon.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::common::killer::{finish, while_killing};
use super::common::store::TestStore;
use super::common::{can_run, needs_fuse};

/// Files that each change alters.
const FILES: usize = 12;

/// How long it may take until all that is asked for again shows a change.
const PATIENCE: Duration = Duration::from_secs(60);

fn write(directory: &Path, version: u64) {
    fs::create_dir_all(directory.join("etc")).unwrap();
    for file in 0..FILES {
        let text = format!("version {version} of {file}\n");
        fs::write(directory.join(format!("etc/file{file}")), text).unwrap();
    }
}

fn shows(root: &Path, version: u64) -> bool {
    (0..FILES).all(|file| {
        let text = fs::read_to_string(root.join(format!("etc/file{file}"))).unwrap();
        text == format!("version {version} of {file}\n")
    })
}

/// Holds the directory's lock as often as it can: of its own names, which are nobody else's.
fn keep_busy(directory: &Path, who: usize, over: &AtomicBool) -> u64 {
    let [one, other] = ["one", "other"].map(|name| directory.join(format!("{name}{who}")));
    let mut turns = 0;
    while !over.load(Ordering::Relaxed) {
        fs::write(&one, [who as u8; 10]).unwrap();
        fs::rename(&one, &other).unwrap();
        assert_eq!(fs::read(&other).unwrap(), [who as u8; 10]);
        fs::remove_file(&other).unwrap();
        turns += 1;
    }
    turns
}

struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Until the whole of it has happened, however often the daemon dies over it.
fn change(store: &TestStore, source: &Path) {
    let begun = Instant::now();
    let arguments = ["patch", "apply", "--family", "family"].map(AsRef::as_ref);
    let arguments = [&arguments[..], &[source.as_os_str()]].concat();
    loop {
        let ran = store.run(&arguments);
        if ran.code == 0 {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{}", ran.stderr);
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn changes_of_busy_directories_go_on() {
    let test = "changes_of_busy_directories_go_on";
    if !can_run(test, needs_fuse()) {
        return;
    }
    let store = TestStore::new();
    store.configure("");
    let (tree, source) = (store.place.join("tree"), store.place.join("source"));
    write(&tree, 0);
    store.import("first", &tree, "family");
    store.import("second", &tree, "family");
    let mounts = ["first", "second"].map(|image| store.mount(image));
    let roots = [0, 1].map(|number| mounts[number].path.as_path());
    let (changes, turns) = while_killing(test, &store, |killer| {
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let ends = Ends(&over);
            let busy: Vec<_> = (0..4)
                .map(|who| {
                    let (directory, over) = (roots[who % 2].join("etc"), &over);
                    scope.spawn(move || keep_busy(&directory, who, over))
                })
                .collect();
            let mut version = 0;
            while !killer.is_enough() {
                version += 1;
                write(&source, version);
                change(&store, &source);
                // Who has died over it may not have told the kernel: the next one does.
                let begun = Instant::now();
                while !roots.iter().all(|root| shows(root, version)) {
                    assert!(begun.elapsed() < PATIENCE, "version {version} is not shown");
                    thread::sleep(Duration::from_millis(5));
                }
            }
            drop(ends);
            let turns = busy.into_iter().map(|busy| busy.join().unwrap());
            (version, turns.sum::<u64>())
        })
    });
    eprintln!("{changes} changes beside {turns} turns");
    assert!(changes > 0 && turns > 0);
    finish(&store, mounts);
}
