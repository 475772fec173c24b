//! The daemon of a store killed again and again while its mounts are at work.

use std::fs;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, Signal, kill_process};

use super::store::{Mounted, TestStore};

/// How long a daemon lives, in milliseconds. The shorter ones are killed while they take over.
const LIFE: RangeInclusive<u64> = 50..=1500;

/// After so many daemons in a row that live less than so many milliseconds comes one that lives longer: a keeper waits
/// longer each time before it starts one whose predecessor did not begin well.
const SHORT_ONES: u64 = 4;
const LONG: u64 = 1100;

/// Between two looks at something.
const LOOK: Duration = Duration::from_millis(2);

/// Nothing that goes on while a daemon is killed takes longer.
const PATIENCE: Duration = Duration::from_secs(480);

/// Kills of each test at least: FOLDFS_TEST_SURVIVED (`make soak`), else a few.
pub fn wanted() -> u64 {
    let given = std::env::var("FOLDFS_TEST_SURVIVED").ok();
    given.map_or(8, |value| value.parse().unwrap())
}

/// FOLDFS_TEST_SEED, else another one with each run. It is told.
pub fn seed(test: &str) -> u64 {
    let given = std::env::var("FOLDFS_TEST_SEED").ok();
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = given.map_or_else(|| now().as_secs(), |seed| seed.parse().unwrap());
    eprintln!("{test}: FOLDFS_TEST_SEED={seed}");
    seed
}

/// The same numbers for the same seed (splitmix64).
#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let words = std::iter::repeat_with(|| self.next().to_le_bytes());
        words.flatten().take(length).collect()
    }
}

/// Who kills.
#[derive(Debug)]
pub struct Killer<'a> {
    store: &'a TestStore,
    keeper: i32,
    killed: AtomicU64,
    is_over: AtomicBool,
}

impl Killer<'_> {
    /// Of the daemon of a store that has one, under a keeper.
    pub fn of(store: &TestStore) -> Killer<'_> {
        let keepers = store.keepers();
        assert_eq!(keepers.len(), 1, "{keepers:?}");
        Killer {
            store,
            keeper: keepers[0],
            killed: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
        }
    }

    /// Whether there were as many kills as are wanted.
    pub fn is_enough(&self) -> bool {
        self.killed.load(Ordering::SeqCst) >= wanted()
    }

    /// How many there were.
    pub fn killed(&self) -> u64 {
        self.killed.load(Ordering::SeqCst)
    }

    /// The daemon, which may have begun just now. One that was killed before it may not have ended yet.
    fn daemon(&self) -> Option<i32> {
        let children = format!("/proc/{0}/task/{0}/children", self.keeper);
        let children = fs::read_to_string(children).unwrap_or_default();
        let last = children.split_whitespace().next_back();
        last.map(|pid| pid.parse().unwrap())
    }

    /// Waits for a daemon that is not this one.
    #[track_caller]
    fn other_than(&self, last: i32) -> i32 {
        let start = Instant::now();
        loop {
            if let Some(found) = self.daemon().filter(|daemon| *daemon != last) {
                return found;
            }
            let patient = start.elapsed() < Duration::from_secs(60);
            assert!(patient, "nobody follows daemon {last}");
            thread::sleep(LOOK);
        }
    }

    /// Kills the daemon, whatever it does, and waits until another one is there.
    #[track_caller]
    pub fn kill(&self) {
        let daemon = self.other_than(0);
        self.kill_one(daemon);
        self.other_than(daemon);
    }

    fn kill_one(&self, daemon: i32) {
        kill_process(Pid::from_raw(daemon).unwrap(), Signal::KILL).unwrap();
        self.killed.fetch_add(1, Ordering::SeqCst);
    }

    fn kill_until_it_is_over(&self, mut random: Random) {
        let begun = Instant::now();
        let mut last = 0;
        let mut short_ones = 0;
        while !self.is_over.load(Ordering::SeqCst) {
            let daemon = self.other_than(last);
            let start = if short_ones < SHORT_ONES {
                *LIFE.start()
            } else {
                LONG
            };
            let life = Duration::from_millis(start + random.next() % (LIFE.end() - start + 1));
            short_ones = if life.as_millis() < u128::from(LONG) {
                short_ones + 1
            } else {
                0
            };
            let born = Instant::now();
            while born.elapsed() < life && !self.is_over.load(Ordering::SeqCst) {
                thread::sleep(LOOK);
            }
            if !self.is_over.load(Ordering::SeqCst) {
                self.kill_one(daemon);
                last = daemon;
            }
            if begun.elapsed() > PATIENCE {
                // Whoever waits for an answer gets an error now.
                eprintln!("it hangs: {} kills", self.killed());
                for pid in self.store.keepers_and_daemons() {
                    let _gone = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
                }
                return;
            }
        }
        self.other_than(last);
    }
}

/// Says so when it goes, in a panic too.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Does something while the daemon is killed at random moments; it goes on until that is enough.
#[track_caller]
pub fn while_killing<T>(test: &str, store: &TestStore, work: impl FnOnce(&Killer<'_>) -> T) -> T {
    let killer = Killer::of(store);
    let random = Random(seed(test));
    let begun = Instant::now();
    let done = thread::scope(|scope| {
        let killing = scope.spawn(|| killer.kill_until_it_is_over(random));
        let done = {
            let _ends = Ends(&killer.is_over);
            work(&killer)
        };
        killing.join().unwrap();
        done
    });
    let killed = killer.killed();
    eprintln!("{test}: {killed} kills in {:.1?}", begun.elapsed());
    assert!(killed >= wanted(), "only {killed} kills");
    done
}

/// Unmounts; nothing may be left of what was open, and the store must be sound.
#[track_caller]
pub fn finish(store: &TestStore, mounts: impl IntoIterator<Item = Mounted>) {
    mounts.into_iter().for_each(Mounted::unmount);
    store.wait_for_daemons();
    store.assert_sound();
    for image in fs::read_dir(store.path.join("images")).unwrap() {
        for place in ["orphans", "work"] {
            let place = image.as_ref().unwrap().path().join(place);
            let left: Vec<_> = fs::read_dir(&place).into_iter().flatten().collect();
            assert!(left.is_empty(), "{}: {left:?}", place.display());
        }
    }
    let log = fs::read_to_string(store.path.join("run/daemon.log")).unwrap();
    // That an interruption is not understood is told to a request that may have its answer by then.
    let late = |line: &str| line.contains("FUSE reply: No such file or directory");
    let serious = |line: &&str| line.contains("ERROR") && !late(line) || line.contains("panicked");
    let serious: Vec<&str> = log.lines().filter(serious).collect();
    assert!(serious.is_empty(), "{}", serious.join("\n"));
    let warnings = log.lines().filter(|line| line.contains("WARN"));
    warnings.take(20).for_each(|line| eprintln!("{line}"));
}
