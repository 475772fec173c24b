//! A Debian with a kernel and systemd, and what runs it.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::store::run_within;
use super::{can_run, installed, needs_fuse};

/// Making the tree takes longest.
const PATIENCE: Duration = Duration::from_secs(600);

/// The Debian tree with a kernel, made once for all tests of all runs; nothing where these programs are not there.
pub fn tree(test: &str, programs: &[&str]) -> Option<PathBuf> {
    let missing = needs_fuse().or_else(|| {
        let needed = ["mmdebstrap", "apt-get", "unshare", "dpkg-deb"];
        let there = needed.iter().all(|program| installed(program));
        (!there).then_some("it needs mmdebstrap, apt-get, unshare and dpkg-deb")
    });
    let missing = missing.map(str::to_owned).or_else(|| {
        let there = programs.iter().all(|program| find(program).is_some());
        let text = || format!("it needs {programs:?}: scripts/install-deps.sh test");
        (!there).then(text)
    });
    if !can_run(test, missing.as_deref()) {
        return None;
    }
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(project.join("scripts/trees.sh"));
    let made = run_within(PATIENCE, command.arg("guest"), b"");
    let missing = (made.code != 0).then_some(made.stderr.as_str());
    if !can_run(test, missing) {
        return None;
    }
    let trees = std::env::var_os("FOLDFS_TREES").map(PathBuf::from);
    let trees = trees.unwrap_or_else(|| project.join("target/trees"));
    Some(fs::canonicalize(trees.join("guest")).unwrap())
}

/// PATH, with what `scripts/install-deps.sh` brings.
pub fn tools_first() -> OsString {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = [ours].into_iter().chain(std::env::split_paths(&path));
    std::env::join_paths(places).unwrap()
}

/// A program of [`tools_first`].
pub fn find(program: &str) -> Option<PathBuf> {
    let path = tools_first();
    let mut places = std::env::split_paths(&path);
    places.find_map(|place| Some(place.join(program)).filter(|program| program.exists()))
}
