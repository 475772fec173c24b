//! A writer and the folds want the same file: it is opened for writing whenever a fold has its
//! lease, and whenever it has become a stub.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use crate::Pair;
use crate::common::lease::is_leased;
use crate::common::op;
use crate::common::store::TestStore;

const SIZE: u32 = 24 << 20;

/// What the writer met.
#[derive(Debug, Default)]
pub struct Contest {
    /// A fold had taken the lease, and had to give it back.
    pub leases_broken: u64,
    /// A stub, that had to become a private file again.
    pub promoted: u64,
}

/// Where the file is on the host, in the first image's private layer.
fn private(store: &TestStore, name: &str) -> PathBuf {
    let listed = store.ok(&["why", "one", name, "--json"]).json();
    store.path.join(listed["stored"].as_str().unwrap())
}

/// Writes the same into all three, whenever a fold is at it in the first image.
pub fn run(store: &TestStore, pair: &Pair<'_>) -> Contest {
    let mut contest = Contest::default();
    let mut content = op::pattern(3, SIZE);
    let paths = pair.roots().map(|root| root.join("srv/large"));
    for path in &paths {
        fs::write(path, &content).unwrap();
    }
    let host = private(store, "/srv/large");
    let mut round = 0u64;
    while !pair.over.is() {
        let stat = fs::symlink_metadata(&host).unwrap();
        // A stub has a size, and nothing in it.
        let is_stub = stat.blocks() == 0;
        let is_leased = is_leased(stat.ino());
        // Else the one would always come before the other.
        let wanted = match round % 2 {
            0 => is_leased,
            _ => is_stub,
        };
        if !wanted {
            thread::sleep(Duration::from_micros(500));
            continue;
        }
        round += 1;
        let offset = round.wrapping_mul(7_919_333) % u64::from(SIZE - 8);
        // First where the lease is.
        for path in [&paths[1], &paths[2], &paths[0]] {
            let file = OpenOptions::new().write(true).open(path).unwrap();
            file.write_all_at(&round.to_ne_bytes(), offset).unwrap();
        }
        content[offset as usize..][..8].copy_from_slice(&round.to_ne_bytes());
        contest.promoted += u64::from(is_stub);
        contest.leases_broken += u64::from(is_leased);
        for path in &paths {
            if round.is_multiple_of(16) {
                assert!(fs::read(path).unwrap() == content, "{}", path.display());
            }
            let mut found = [0; 8];
            File::open(path)
                .unwrap()
                .read_exact_at(&mut found, offset)
                .unwrap();
            assert_eq!(found, round.to_ne_bytes(), "{}", path.display());
        }
    }
    contest
}
