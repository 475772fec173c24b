//! Several at work at the same time, in directories of their own and in files that they have in common.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;

use rustix::fs::{FlockOperation, XattrFlags};
use rustix::io::Errno;

use super::common::killer::{Killer, Random, finish, seed, while_killing};
use super::common::store::TestStore;
use super::common::{can_run, needs_fuse, scratch};
use super::stress::{self, Worker};

const WORKERS: u64 = 3;

/// Files that nobody alters, in directories of a hundred.
const READ: usize = 1200;

/// Whether the images have anything in common at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Base {
    Empty,
    Full,
}

fn read_name(number: usize) -> String {
    format!("read/{}/{number}", number / 100)
}

fn read_content(number: usize) -> Vec<u8> {
    Random(number as u64).bytes(number % 50 * 211)
}

fn make(tree: &Path, base: Base) {
    fs::create_dir_all(tree.join("common")).unwrap();
    for name in ["log", "counter", "marked"] {
        fs::write(tree.join("common").join(name), "").unwrap();
    }
    if base == Base::Full {
        (0..WORKERS).for_each(|worker| stress::furnish(&tree.join(format!("work{worker}"))));
        for number in 0..READ {
            let path = tree.join(read_name(number));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, read_content(number)).unwrap();
        }
    }
}

/// Reads what nobody alters.
fn read(root: &Path, over: impl Fn() -> bool) -> u64 {
    let mut random = Random(1);
    let mut done = 0;
    while !over() {
        let number = random.below(READ);
        let found = fs::read(root.join(read_name(number))).expect("read");
        assert!(found == read_content(number), "{number} has changed");
        done += 1;
    }
    done
}

/// Appends numbered lines, of which none may be lost or come twice.
fn append(root: &Path, who: &str, over: impl Fn() -> bool) -> u64 {
    let log = root.join("common/log");
    let mut file = OpenOptions::new().append(true).open(&log).expect("open");
    let mut done = 0;
    while !over() {
        file.write_all(format!("{who} {done:011}\n").as_bytes())
            .expect("append");
        done += 1;
        if done % 50 == 0 {
            file = OpenOptions::new().append(true).open(&log).expect("open");
        }
    }
    done
}

fn assert_all_are_there(root: &Path, who: &str, appended: u64) {
    let text = fs::read_to_string(root.join("common/log")).expect("read");
    let mut lines = text.lines().filter(|line| line.starts_with(who));
    for number in 0..appended {
        assert_eq!(lines.next(), Some(&*format!("{who} {number:011}")));
    }
    assert_eq!(lines.next(), None);
}

/// Counts in a file that two share by its lock.
fn count(root: &Path, over: impl Fn() -> bool) -> u64 {
    let mut done = 0;
    while !over() {
        let counter = root.join("common/counter");
        let file = OpenOptions::new().read(true).write(true).open(counter);
        let file = file.expect("open");
        rustix::fs::flock(&file, FlockOperation::LockExclusive).expect("flock");
        let mut number = [0; 8];
        let length = file.read_at(&mut number, 0).expect("read");
        assert!(length == 8 || length == 0);
        let next = u64::from_le_bytes(number) + 1;
        file.write_all_at(&next.to_le_bytes(), 0).expect("write");
        done += 1;
    }
    done
}

/// What is refused once is refused when it is asked for again.
fn mark(root: &Path, over: impl Fn() -> bool) -> u64 {
    let path = root.join("common/marked");
    let remove = || rustix::fs::removexattr(&path, "user.mark");
    let create = || rustix::fs::setxattr(&path, "user.mark", b"value", XattrFlags::CREATE);
    let mut done = 0;
    while !over() {
        assert_eq!(remove(), Err(Errno::NODATA), "removed without being there");
        assert_eq!(create(), Ok(()), "not created");
        assert_eq!(create(), Err(Errno::EXIST), "created twice");
        assert_eq!(remove(), Ok(()), "not removed");
        done += 1;
    }
    done
}

/// All of them, until it is over; then what they did must be there.
fn work(root: &Path, base: Base, seed: u64, over: impl Fn() -> bool + Sync) -> Vec<Worker> {
    let over = &over;
    let whoever = |number| {
        let place = root.join(format!("work{number}"));
        Worker::new(place, seed + number, base == Base::Full)
    };
    let mut workers: Vec<Worker> = (0..WORKERS).map(whoever).collect();
    thread::scope(|scope| {
        let stressing: Vec<_> = workers
            .iter_mut()
            .map(|worker| {
                scope.spawn(move || {
                    let mut steps = 0;
                    while !over() {
                        worker.step();
                        steps += 1;
                    }
                    worker.look();
                    steps
                })
            })
            .collect();
        let appending = ["a", "b"].map(|who| scope.spawn(move || append(root, who, over)));
        let counting = [(); 2].map(|()| scope.spawn(move || count(root, over)));
        let marking = scope.spawn(move || mark(root, over));
        let reading = (base == Base::Full).then(|| scope.spawn(move || read(root, over)));
        let steps: Vec<u64> = stressing.into_iter().map(|it| it.join().unwrap()).collect();
        let appended = appending.map(|it| it.join().unwrap());
        for (who, appended) in ["a", "b"].into_iter().zip(appended) {
            assert_all_are_there(root, who, appended);
        }
        let counted: u64 = counting.into_iter().map(|it| it.join().unwrap()).sum();
        let number = fs::read(root.join("common/counter")).unwrap();
        assert_eq!(number, counted.to_le_bytes(), "a lock was no lock");
        let marked = marking.join().unwrap();
        let read = reading.map(|it| it.join().unwrap());
        eprintln!(
            "{steps:?} steps, {appended:?} appended, {counted} counted, {marked} marked, {read:?} read"
        );
    });
    workers
}

fn survive(test: &str, base: Base, configuration: &str) {
    if !can_run(test, needs_fuse()) {
        return;
    }
    let store = TestStore::new();
    store.configure(configuration);
    let tree = store.place.join("tree");
    make(&tree, base);
    store.import("first", &tree, "family");
    store.import("second", &tree, "family");
    let (first, second) = (store.mount("first"), store.mount("second"));
    let seed = seed(test);
    let mut workers = while_killing(test, &store, |killer: &Killer<'_>| {
        work(&first.path, base, seed, || killer.is_enough())
    });
    workers.iter_mut().for_each(Worker::look);
    workers.iter_mut().for_each(Worker::let_go);
    second.assert_shows(&tree);
    first.unmount();
    let first = store.mount("first");
    workers.iter_mut().for_each(Worker::look);
    finish(&store, [first, second]);
}

#[test]
fn what_is_done_in_a_new_image_goes_on() {
    survive("what_is_done_in_a_new_image_goes_on", Base::Empty, "");
}

#[test]
fn what_is_done_with_shared_files_goes_on() {
    survive("what_is_done_with_shared_files_goes_on", Base::Full, "");
}

#[test]
fn what_is_done_without_passthrough_goes_on() {
    let test = "what_is_done_without_passthrough_goes_on";
    survive(test, Base::Full, "passthrough = false\n");
}

/// With FOLDFS_TEST_SUITES=full (`make soak`): it takes as long as the others.
#[test]
fn what_is_done_in_coherent_files_goes_on() {
    let test = "what_is_done_in_coherent_files_goes_on";
    if std::env::var("FOLDFS_TEST_SUITES").is_ok_and(|form| form == "full") {
        survive(test, Base::Full, "coherent = ['/']\n");
    }
}

/// The work is right where nobody is killed: in a plain directory.
#[test]
fn the_same_in_a_plain_directory() {
    let place = scratch();
    make(place.path(), Base::Full);
    let counter = std::sync::atomic::AtomicU64::new(0);
    let over = || counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed) > 8_000;
    let mut workers = work(place.path(), Base::Full, seed("plain"), over);
    workers.iter_mut().for_each(Worker::look);
}
