//! While a fold hashes a large file everything goes on: whoever opens that very file for writing
//! calls the fold of it off.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::common::lease::is_leased;
use super::common::store::TestStore;
use super::common::{can_run, needs_fuse};
use super::promotion::{SIZE, churn, look, page, write_pages};

/// It is tried again where this test does not get a core soon enough to see anything.
const TRIES: u8 = 5;

/// What the daemon has read of files so far.
fn bytes_read(daemon: i32) -> u64 {
    let io = fs::read_to_string(format!("/proc/{daemon}/io")).unwrap();
    let line = io.lines().find_map(|line| line.strip_prefix("rchar: "));
    line.unwrap().parse().unwrap()
}

/// The private file of an image's `dir/large`.
fn private(store: &TestStore) -> File {
    let images = fs::read_dir(store.path.join("images")).unwrap();
    let paths = images.map(|image| image.unwrap().path().join("private/dir/large"));
    let mut found: Vec<_> = paths.filter(|path| path.exists()).collect();
    found.sort();
    File::open(&found[0]).unwrap()
}

/// What happened while the file was being hashed.
#[derive(Debug)]
struct Seen {
    /// Operations on other files that began and ended meanwhile.
    others: u64,
    /// What was read of files, for the hash among others, until the open had succeeded.
    read: u64,
    busy: u64,
}

fn try_once(store: &TestStore, directory: &Path, large: &Path, change: u8) -> Option<Seen> {
    let daemon = store.daemons()[0];
    let host = private(store).metadata().unwrap().ino();
    thread::scope(|scope| {
        let fold = scope.spawn(|| store.ok(&["fold", "--json"]).json());
        let begun = Instant::now();
        let mut leased = false;
        while !leased && !fold.is_finished() && begun.elapsed() < Duration::from_secs(60) {
            leased = is_leased(host);
        }
        let at_first = bytes_read(daemon);
        let mut others = 0;
        while is_leased(host) && others < 20 {
            churn(directory, others);
            let file = OpenOptions::new()
                .append(true)
                .open(directory.join("small file"));
            drop(file.unwrap());
            others += u64::from(is_leased(host));
        }
        let still = is_leased(host);
        let file = OpenOptions::new().write(true).open(large).unwrap();
        let read = bytes_read(daemon) - at_first;
        file.write_all_at(&[change], 0).unwrap();
        drop(file);
        let report = fold.join().unwrap();
        let busy = report["families"][0]["busy_files"].as_u64().unwrap();
        (leased && still).then_some(Seen { others, read, busy })
    })
}

#[test]
fn a_writer_does_not_wait_until_a_gibibyte_is_hashed() {
    let test = "a_writer_does_not_wait_until_a_gibibyte_is_hashed";
    if !can_run(test, needs_fuse()) {
        return;
    }
    let store = TestStore::new();
    let tree = store.place.join("tree");
    fs::create_dir_all(tree.join("dir")).unwrap();
    fs::write(tree.join("dir/small file"), "small").unwrap();
    for image in ["first", "second"] {
        store.import(image, &tree, "family");
    }
    let config = store.place.join("config.toml");
    fs::write(&config, "interval = 'never'\nthreads = 1").unwrap();
    let [first, second] = ["first", "second"].map(|image| store.mount_configured(image, &config));
    let (directory, large) = (first.join("dir"), first.join("dir/large"));
    write_pages(&large);
    // Of the same size, else it would not be hashed; for the rest of it nothing is asked.
    let other = File::create(second.join("dir/large")).unwrap();
    rustix::fs::fallocate(&other, rustix::fs::FallocateFlags::empty(), 0, SIZE).unwrap();
    drop(other);

    let mut seen = Vec::new();
    for change in 1..=TRIES {
        let Some(this) = try_once(&store, &directory, &large, change) else {
            continue;
        };
        assert!(
            this.busy >= 1,
            "the fold does not say that it was in use: {this:?}"
        );
        let is_enough = this.read < SIZE / 2 && this.others >= 5;
        seen.push(this);
        if is_enough {
            break;
        }
    }
    println!("while a file of {SIZE} bytes was hashed: {seen:?}");
    let last = seen.last().unwrap();
    assert!(last.read < SIZE / 2 && last.others >= 5, "{seen:?}");

    let file = File::open(&large).unwrap();
    let mut start = [0; 8];
    file.read_exact_at(&mut start, 0).unwrap();
    assert!((1..=TRIES).contains(&start[0]) && start[1..] == page(0)[1..8]);
    (0..1000).for_each(|round| look(&file, round));
    drop(file);
    first.unmount();
    second.unmount();
    store.wait_for_daemons();
    store.assert_sound();
}
