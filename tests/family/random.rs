//! Guests that do anything, anywhere in a small tree.

use std::path::Path;

use proptest::prelude::*;

use super::guest::Guest;
use super::{settle_at, symlink, write};

/// Paths that guests choose from; some exist at first.
const PATHS: [&str; 14] = [
    "etc/hosts",
    "etc",
    "etc/x",
    "usr/a",
    "usr/b",
    "usr",
    "usr/sub",
    "usr/sub/deep",
    "usr/sub/c",
    "opt",
    "opt/n",
    "opt/n/f",
    "link",
    "var",
];

/// What a guest does: indices of [`PATHS`].
#[derive(Debug, Clone)]
pub enum Act {
    Create(usize),
    Mkdir(usize),
    Unlink(usize),
    Rmdir(usize),
    Rename(usize, usize),
    Exchange(usize, usize),
    Link(usize, usize),
    Symlink(usize),
    Chmod(usize, u32),
    Write(usize, bool),
}

impl Act {
    /// Whether it was done; what is refused changes nothing.
    pub fn run(&self, guest: &Guest) -> bool {
        let p = |path: &usize| PATHS[*path];
        let done = match self {
            Act::Create(path) => guest.create(p(path)),
            Act::Mkdir(path) => guest.mkdir(p(path)),
            Act::Unlink(path) => guest.unlink(p(path)),
            Act::Rmdir(path) => guest.rmdir(p(path)),
            Act::Rename(old, new) => guest.rename(p(old), p(new)),
            Act::Exchange(old, new) => guest.exchange(p(old), p(new)),
            Act::Link(old, new) => guest.link(p(old), p(new)),
            Act::Symlink(path) => guest.symlink("target", p(path)),
            Act::Chmod(path, mode) => guest.chmod(p(path), *mode),
            Act::Write(path, other) => {
                let text: &[u8] = if *other { b"WRITTEN" } else { b"written" };
                guest.write(p(path), text)
            }
        };
        done.is_ok()
    }
}

/// Anything; [`WEIGHT`] says how often beside other operations.
pub fn acts() -> impl Strategy<Value = Act> {
    let path = || 0..PATHS.len();
    prop_oneof![
        2 => path().prop_map(Act::Create),
        2 => path().prop_map(Act::Mkdir),
        3 => path().prop_map(Act::Unlink),
        2 => path().prop_map(Act::Rmdir),
        5 => (path(), path()).prop_map(|(old, new)| Act::Rename(old, new)),
        1 => (path(), path()).prop_map(|(old, new)| Act::Exchange(old, new)),
        3 => (path(), path()).prop_map(|(old, new)| Act::Link(old, new)),
        1 => path().prop_map(Act::Symlink),
        5 => (path(), 0..2u32).prop_map(|(path, mode)| Act::Chmod(path, 0o700 + mode)),
        3 => (path(), any::<bool>()).prop_map(|(path, other)| Act::Write(path, other)),
    ]
}

/// The sum of the weights of [`acts`].
pub const WEIGHT: u32 = 27;

/// Makes the tree of an image: an old or a new version, with directories of this time.
pub fn tree(root: &Path, newer: bool, time: u64) {
    write(root, "etc/os-release", "ID=debian\nVERSION_ID=\"13\"\n");
    write(root, "etc/hosts", if newer { "new\n" } else { "old\n" });
    write(root, "usr/a", "a");
    write(root, "usr/b", "b");
    write(root, "usr/sub/deep/d", "d");
    write(root, "usr/sub/deep/e", "e");
    for (from, to) in [("usr/a", "usr/sub/c"), ("usr/sub/deep/e", "etc/e")] {
        std::fs::hard_link(root.join(from), root.join(to)).unwrap();
    }
    symlink(root, "usr/a", "link");
    if newer {
        write(root, "opt/n/f", "f");
        write(root, "opt/n/g", "");
        std::fs::remove_file(root.join("usr/b")).unwrap();
    }
    settle_at(root, time);
}

/// How many cases a test of these tries.
pub fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok();
    ProptestConfig {
        cases: cases.and_then(|n| n.parse().ok()).unwrap_or(24),
        max_shrink_iters: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}
