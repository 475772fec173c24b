//! What the suites share: stores, mounts and devices that are always cleaned up, snapshots of
//! trees, and one vocabulary of operations that drives a model and real directories alike.
#![allow(dead_code, reason = "no suite uses all of it")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on should panic"
)]

pub mod at;
pub mod device;
pub mod directory;
pub mod drive;
pub mod fsx;
pub mod guest;
pub mod image;
pub mod killer;
pub mod lease;
pub mod mapping;
pub mod model;
pub mod op;
pub mod sample;
pub mod snapshot;
pub mod store;
pub mod user;

use std::path::PathBuf;
use std::sync::{Once, OnceLock};

use rustix::fs::Mode;
use tempfile::TempDir;

/// Whether the test can run here. If not, says why on standard error; with
/// FOLDFS_TEST_REQUIRE_ALL=1 (CI) it panics instead.
pub fn can_run(test: &str, missing: Option<&str>) -> bool {
    let Some(missing) = missing else { return true };
    let required = std::env::var_os("FOLDFS_TEST_REQUIRE_ALL").is_some_and(|v| v == "1");
    assert!(!required, "{test} cannot run: {missing}");
    eprintln!("{test} skipped: {missing}");
    false
}

/// A directory that goes with its guard, on the file system that stores are tried on.
pub fn scratch() -> TempDir {
    let place = place();
    let made = TempDir::new_in(&place);
    made.unwrap_or_else(|error| panic!("{}: {error}", place.display()))
}

/// Where the tests' directories are: below target/, or in FOLDFS_TEST_DIR.
fn place() -> PathBuf {
    let place = std::env::var_os("FOLDFS_TEST_DIR");
    place.map_or_else(|| env!("CARGO_TARGET_TMPDIR").into(), PathBuf::from)
}

/// Whether [`scratch`] is on xfs.
pub fn on_xfs() -> bool {
    const XFS_SUPER_MAGIC: i64 = 0x5846_5342;
    // Asked first by root; others may not see the place.
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| rustix::fs::statfs(place()).unwrap().f_type == XFS_SUPER_MAGIC)
}

/// What keeps a test that needs root from running.
pub fn needs_root() -> Option<&'static str> {
    fix_umask();
    let root = rustix::process::geteuid().is_root();
    (!root).then_some("it needs root")
}

/// What keeps a test that mounts from running.
pub fn needs_fuse() -> Option<&'static str> {
    needs_root().or_else(|| {
        let device = std::path::Path::new("/dev/fuse").exists();
        (!device).then_some("it needs /dev/fuse")
    })
}

/// Whether the suites run without passthrough this time.
pub fn without_passthrough() -> bool {
    std::env::var_os("FOLDFS_TEST_PASSTHROUGH").is_some_and(|value| value == "0")
}

/// Sets the umask that the model assumes; it belongs to the whole process.
pub fn fix_umask() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        rustix::process::umask(Mode::from_raw_mode(UMASK));
    });
}

/// The umask of every test process.
pub const UMASK: u32 = 0o022;

/// Whether a program is there.
pub fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).exists())
}

/// Panics with the lines that are not in both.
#[track_caller]
pub fn assert_same_text(expected: &str, found: &str, what: &str) {
    let only = |a: &str, b: &str| -> String {
        let lines = a
            .lines()
            .filter(|line| !b.lines().any(|other| other == *line));
        lines.map(|line| format!("{line}\n")).collect()
    };
    let (plain, image) = (only(expected, found), only(found, expected));
    assert!(
        expected == found,
        "{what}: in the plain directory\n{plain}in the image\n{image}"
    );
}
