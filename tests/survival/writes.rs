//! Writes as large as the kernel makes them, while the daemon is killed: each is on the way for longer than anything else.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::thread;

use super::common::killer::{Random, finish, seed, while_killing};
use super::common::store::TestStore;
use super::common::{can_run, needs_fuse};

const WRITERS: u64 = 4;
const LENGTH: usize = 1 << 20;
const BLOCKS: u64 = 3;

#[test]
fn large_writes_go_on() {
    let test = "large_writes_go_on";
    if !can_run(test, needs_fuse()) {
        return;
    }
    let store = TestStore::new();
    // So that they come to the daemon.
    store.configure("passthrough = false\n");
    let tree = store.place.join("tree");
    fs::create_dir(&tree).unwrap();
    store.import("first", &tree, "family");
    let first = store.mount("first");
    let seed = seed(test);
    let writes: u64 = while_killing(test, &store, |killer| {
        thread::scope(|scope| {
            let writers = (0..WRITERS).map(|writer| {
                let path = first.join(format!("file{writer}"));
                scope.spawn(move || {
                    let mut random = Random(seed + writer);
                    let file = File::create_new(&path).unwrap();
                    let mut expected = vec![0; LENGTH * BLOCKS as usize];
                    let mut writes = 0;
                    while !killer.is_enough() {
                        let at = (writes % BLOCKS) as usize * LENGTH;
                        let bytes = random.bytes(LENGTH);
                        file.write_all_at(&bytes, at as u64).unwrap();
                        file.sync_data().unwrap();
                        expected[at..at + LENGTH].copy_from_slice(&bytes);
                        writes += 1;
                    }
                    let found = fs::read(&path).unwrap();
                    assert!(found == expected[..found.len()], "{}", path.display());
                    assert!(found.len() >= LENGTH.min(writes as usize * LENGTH));
                    writes
                })
            });
            let writers: Vec<_> = writers.collect();
            writers.into_iter().map(|it| it.join().unwrap()).sum()
        })
    });
    eprintln!("{test}: {writes} writes");
    finish(&store, [first]);
}
