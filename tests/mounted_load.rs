//! Needs root, FUSE, mmdebstrap, a Debian archive and the tools that `scripts/install-deps.sh test`
//! brings. Three images at work at once, with all that moves bytes about, while they are folded
//! back to back; and, to compare, the same in plain directories.
//!
//! FOLDFS_TEST_LOAD_SECONDS says for how long (`make soak`: an hour).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on should panic"
)]

mod common;

#[path = "mounted_load/contest.rs"]
mod contest;
#[path = "mounted_load/database.rs"]
mod database;
#[path = "mounted_load/random.rs"]
mod random;
#[path = "real_software/workshop.rs"]
#[allow(dead_code, reason = "of the workshop its chroot is used")]
mod workshop;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use common::fsx::{EVERYTHING, Fsx, tool};
use common::snapshot::{Fields, Snapshot};
use common::store::{Mounted, TestStore};
use common::{assert_same_text, op, sample};
use workshop::{debian_tree, run_chroot};

/// Two images of one family, in which the same is done, and a plain directory.
pub struct Pair<'a> {
    /// The directory.
    pub plain: &'a Path,
    /// Where the images are mounted.
    pub images: [&'a Path; 2],
    /// When to end.
    pub over: &'a Over,
}

impl Pair<'_> {
    /// All three.
    pub fn roots(&self) -> [&Path; 3] {
        [self.plain, self.images[0], self.images[1]]
    }
}

/// When it is over: after some time, or when something has failed.
pub struct Over {
    end: Instant,
    failed: AtomicBool,
}

impl Over {
    fn new() -> Over {
        let given = std::env::var("FOLDFS_TEST_LOAD_SECONDS").ok();
        let seconds = given.map_or(20, |value| value.parse().expect("a number of seconds"));
        Over {
            end: Instant::now() + Duration::from_secs(seconds),
            failed: AtomicBool::new(false),
        }
    }

    /// Whether it is.
    pub fn is(&self) -> bool {
        self.failed.load(Ordering::SeqCst) || Instant::now() >= self.end
    }
}

/// Ends all others when one panics.
struct Alarm<'a>(&'a Over);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.failed.store(true, Ordering::SeqCst);
        }
    }
}

/// What folding came to.
#[derive(Debug, Default)]
struct Folds {
    commands: u64,
    passes: u64,
    files: u64,
    busy: u64,
    paths_moved: u64,
    collects: u64,
    objects_collected: u64,
}

/// Folds, has a pass made, collects and checks, again and again.
fn fold_on(store: &TestStore, over: &Over) -> Folds {
    let mut folds = Folds::default();
    let passes = || {
        let status = store.ok(&["status", "--json"]).json();
        status["folding"]["passes"].as_u64().unwrap()
    };
    while !over.is() {
        let report = store.ok(&["fold", "--json"]).json();
        folds.commands += 1;
        for family in report["families"].as_array().unwrap() {
            let count = |key: &str| family[key].as_u64().unwrap();
            folds.files += count("folded_files");
            folds.busy += count("busy_files");
            folds.paths_moved += count("shared_paths") + count("unshared_paths");
        }
        if folds.commands % 3 == 0 {
            let report = store.ok(&["collect", "--json"]).json();
            folds.collects += 1;
            folds.objects_collected += report["removed"].as_array().unwrap().len() as u64;
        }
        if folds.commands % 7 == 0 {
            store.ok(&["check"]);
        }
        let before = passes();
        while !over.is() && passes() == before {
            thread::sleep(Duration::from_millis(50));
        }
    }
    let status = store.ok(&["status", "--json"]).json();
    let count = |key: &str| status["folding"][key].as_u64().unwrap();
    folds.passes = count("passes");
    folds.files += count("folded_files");
    folds
}

/// Builds a program in a chroot, from nothing, as often as there is time.
fn compile(pair: &Pair<'_>) -> u64 {
    let script = concat!(
        "rm -rf /usr/src/words /usr/local/bin/*\n",
        include_str!("real_software/build.sh")
    );
    let mut rounds = 0;
    while rounds == 0 || !pair.over.is() {
        let expected = run_chroot(pair.plain, None, script).exits(0);
        thread::scope(|scope| {
            for image in pair.images {
                let expected = &expected;
                scope.spawn(move || {
                    let found = run_chroot(image, None, script).exits(0);
                    assert_same_text(&expected.text(), &found.text(), "a compile");
                });
            }
        });
        rounds += 1;
    }
    rounds
}

/// fsx in a file of each image, with other seeds as often as there is time.
fn exercise(pair: &Pair<'_>, program: &Path, place: &Path) -> u64 {
    let fsx = Fsx::new(program.to_owned(), place, EVERYTHING);
    for root in pair.roots() {
        fs::create_dir(root.join("srv/fsx")).unwrap();
    }
    let mut seed = 0;
    while seed == 0 || !pair.over.is() {
        seed += 1;
        let path = |root: &Path| root.join(format!("srv/fsx/{}", seed % 5));
        for root in pair.roots() {
            fs::write(path(root), op::pattern(seed as u8, 200_000)).unwrap();
        }
        fsx.exercise(&path(pair.plain), seed, 1000);
        let expected = fs::read(path(pair.plain)).unwrap();
        thread::scope(|scope| {
            for image in pair.images {
                scope.spawn(|| fsx.exercise(&path(image), seed, 1000));
            }
        });
        for image in pair.images {
            let found = fs::read(path(image)).unwrap();
            assert!(
                found == expected,
                "fsx left something else with seed {seed}"
            );
        }
    }
    seed
}

/// A tree of its own of each that is made of it.
fn plain_copy(store: &TestStore, tree: &Path, name: &str) -> PathBuf {
    let plain = store.place.join(name);
    sample::copy(tree, &plain);
    plain
}

/// What the two trees are to have in common.
fn look(tree: Snapshot, since: SystemTime) -> Snapshot {
    tree.with_recent_alike(since)
}

#[test]
fn three_images_at_work_while_they_are_folded() {
    let test = "three_images_at_work_while_they_are_folded";
    let Some(fsx) = tool(test, "fsx") else { return };
    let trees = ["workshop", "postgresql"].map(|name| debian_tree(test, name));
    let [Some(workshop), Some(postgresql)] = trees else {
        return;
    };
    let store = TestStore::new();
    store.import("one", &workshop, "workshop");
    store.ok(&["clone", "one", "two"]);
    store.import("three", &postgresql, "postgresql");
    let plain = plain_copy(&store, &workshop, "plain");
    let plain_database = plain_copy(&store, &postgresql, "plain-database");
    let config = store.place.join("config.toml");
    fs::write(&config, "interval = '1s'\nquiet = '0s'").unwrap();
    let arguments = ["-o", "dev,suid,allow_other", "--config"].map(OsStr::new);
    let arguments = [&arguments[..], &[config.as_os_str()]].concat();
    let images = ["one", "two", "three"].map(|image| store.mount_given(image, &arguments));
    let since = SystemTime::now() - Duration::from_secs(1);
    database::prepare(&store, &plain_database, &images[2].path);

    let database = [&*plain_database, &*images[2].path];
    let over = Over::new();
    let pair = Pair {
        plain: &plain,
        images: [&images[0].path, &images[1].path],
        over: &over,
    };
    let begun = Instant::now();
    let (folds, contest) = thread::scope(|scope| {
        macro_rules! at_work {
            ($work:expr) => {
                scope.spawn(|| {
                    let _alarm = Alarm(&over);
                    $work
                })
            };
        }
        let folding = at_work!(fold_on(&store, &over));
        let contest = at_work!(contest::run(&store, &pair));
        let operations = at_work!(random::run(&pair));
        let builds = at_work!(compile(&pair));
        let seeds = at_work!(exercise(&pair, &fsx, &store.place));
        let transactions = at_work!(database::run(database, &over));
        let operations = operations.join().unwrap();
        eprintln!(
            "{test}: {operations} random operations, {} builds, {} runs of fsx, {} transactions, each in a \
             plain directory and in images",
            builds.join().unwrap(),
            seeds.join().unwrap(),
            transactions.join().unwrap()
        );
        (folding.join().unwrap(), contest.join().unwrap())
    });
    eprintln!("{test}: {:?}; {folds:?}; {contest:?}", begun.elapsed());
    assert!(
        folds.commands > 0 && folds.passes > 0 && folds.files > 0,
        "{folds:?}"
    );
    assert!(
        contest.promoted > 0 && contest.leases_broken > 0,
        "{contest:?}"
    );

    database::finish(database);
    let expected = look(Snapshot::of(&plain), since);
    let shown = images.each_ref().map(Mounted::snapshot);
    for image in [0, 1] {
        let found = look(shown[image].clone(), since);
        expected.assert_same(&found, Fields::COPY, "the plain directory and an image");
    }
    store.ok(&["fold"]);
    store.ok(&["collect"]);
    images.into_iter().for_each(Mounted::unmount);
    store.wait_for_daemons();
    store.assert_sound();
    for (image, shown) in ["one", "two", "three"].iter().zip(&shown) {
        let mounted = store.mount(image);
        shown.assert_same(
            &mounted.snapshot(),
            Fields::ALL,
            "a fold and a remount show",
        );
        mounted.unmount();
    }
}
