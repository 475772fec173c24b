//! fsx, a compile and PostgreSQL under load.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use super::common::fsx::{EVERYTHING, Fsx, tool};
use super::common::killer::{Random, finish, wanted, while_killing};
use super::common::snapshot::{Fields, Snapshot};
use super::common::store::TestStore;
use super::common::{self, assert_same_text, sample};
use super::workshop::{debian_tree, mount, run_chroot};

/// Operations of fsx with each seed.
const OPERATIONS: u64 = 1500;

/// A shared and a private file at once, with one seed after the other.
fn exercise(test: &str, configuration: &str) {
    let Some(program) = tool(test, "fsx") else {
        return;
    };
    let store = TestStore::new();
    store.configure(configuration);
    let tree = store.place.join("tree");
    fs::create_dir(&tree).unwrap();
    let original = Random(7).bytes(200_000);
    fs::write(tree.join("shared"), &original).unwrap();
    store.import("first", &tree, "family");
    store.import("second", &tree, "family");
    let (first, second) = (store.mount("first"), store.mount("second"));
    let fsx = Fsx::new(program, &store.place, EVERYTHING);
    let rounds = while_killing(test, &store, |killer| {
        let mut seed = 0;
        while !killer.is_enough() {
            seed += 1;
            let plain = store.place.join("plain");
            fs::write(&plain, &original).unwrap();
            fsx.exercise(&plain, seed, OPERATIONS);
            let files = ["shared", "private"].map(|name| first.join(name));
            fs::write(&files[1], &original).unwrap();
            thread::scope(|scope| {
                for file in &files {
                    scope.spawn(|| fsx.exercise(file, seed, OPERATIONS));
                }
            });
            let expected = fs::read(&plain).unwrap();
            for file in &files {
                let found = fs::read(file).unwrap();
                assert!(expected == found, "{} of seed {seed}", file.display());
            }
        }
        seed
    });
    eprintln!("{test}: {rounds} times {OPERATIONS} operations in two files");
    second.assert_shows(&tree);
    finish(&store, [first, second]);
}

#[test]
fn fsx_goes_on() {
    exercise("fsx_goes_on", "");
}

#[test]
fn fsx_goes_on_without_passthrough() {
    let test = "fsx_goes_on_without_passthrough";
    exercise(test, "passthrough = false\n");
}

/// A Debian tree, and a store with an image of it.
struct Debian {
    tree: PathBuf,
    store: TestStore,
}

impl Debian {
    fn open(test: &str, name: &str) -> Option<Debian> {
        let tree = debian_tree(test, name)?;
        let store = TestStore::new();
        store.import("first", &tree, "family");
        Some(Debian { tree, store })
    }
}

/// A plain directory that shows the tree and takes what is written, until it is dropped.
struct Plain(PathBuf);

impl Plain {
    fn of(debian: &Debian) -> Plain {
        let place = debian.store.place.join("overlay");
        for name in ["plain", "upper", "work"] {
            fs::create_dir_all(place.join(name)).unwrap();
        }
        let (tree, below) = (debian.tree.display(), place.display());
        let options = format!("lowerdir={tree},upperdir={below}/upper,workdir={below}/work");
        let plain = place.join("plain");
        let arguments = ["-t", "overlay", "overlay", "-o", &options].map(OsStr::new);
        let arguments = arguments.into_iter().chain([plain.as_os_str()]);
        common::store::tool("mount", &arguments.collect::<Vec<_>>());
        Plain(plain)
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        common::store::tool("umount", &["-l".as_ref(), self.0.as_os_str()]);
    }
}

/// What a build makes.
const BUILT: [&str; 2] = ["usr/src/words", "usr/local/bin"];

#[test]
fn a_compile_goes_on() {
    let test = "a_compile_goes_on";
    let Some(debian) = Debian::open(test, "workshop") else {
        return;
    };
    let store = &debian.store;
    let since = SystemTime::now() - Duration::from_secs(1);
    let again = "rm -rf /usr/src/words\n";
    let build = format!("{again}{}", include_str!("../real_software/build.sh"));
    let plain = Plain::of(&debian);
    let expected = run_chroot(&plain.0, None, &build).exits(0);
    let first = mount(store, "first");
    let rounds = while_killing(test, store, |killer| {
        let mut rounds = 0;
        while !killer.is_enough() {
            let found = run_chroot(&first.path, None, &build).exits(0);
            assert_same_text(&expected.text(), &found.text(), "standard output");
            assert_same_text(&expected.stderr, &found.stderr, "standard error");
            rounds += 1;
        }
        rounds
    });
    eprintln!("{test}: built {rounds} times");
    for made in BUILT {
        // An overlay has other link counts of directories.
        let copy = store.place.join("copy");
        sample::copy(&plain.0.join(made), &copy);
        let look = |root: &Path| Snapshot::of(root).with_recent_alike(since);
        look(&copy).assert_same(&look(&first.join(made)), Fields::COPY, made);
        fs::remove_dir_all(copy).unwrap();
    }
    drop(plain);
    finish(store, [first]);
}

#[test]
fn postgresql_goes_on() {
    let test = "postgresql_goes_on";
    let Some(debian) = Debian::open(test, "postgresql") else {
        return;
    };
    let store = &debian.store;
    let first = mount(store, "first");
    let shared = store.place.join("shared");
    fs::create_dir(&shared).unwrap();
    let ran = while_killing(test, store, |killer| {
        thread::scope(|scope| {
            let script = include_str!("postgresql.sh");
            let working = scope.spawn(|| run_chroot(&first.path, Some(&shared), script));
            let mut before = None;
            while !working.is_finished() {
                let killed = killer.killed();
                if before.is_none() && shared.join("begun").exists() {
                    before = Some(killed);
                }
                if before.is_some_and(|before| killed >= before + wanted()) {
                    fs::write(shared.join("enough"), "").unwrap();
                }
                thread::sleep(Duration::from_millis(20));
            }
            working.join().unwrap()
        })
    });
    let ran = ran.exits(0);
    eprint!("{}", ran.stderr);
    let expected = "t|t|t|t\nsound\nnothing failed\n";
    assert_same_text(expected, &ran.text(), "standard output");
    finish(store, [first]);
}
