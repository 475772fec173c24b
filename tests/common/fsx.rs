//! fsx at work on a file, and where suites by others are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::store::run_within;
use super::{can_run, needs_fuse};

/// Where a suite's program is, if the test can run.
pub fn tool(test: &str, name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/bin");
    let path = path.join(name);
    let missing = format!("{name} is missing: scripts/install-deps.sh test installs it");
    let missing = (!path.exists()).then_some(missing.as_str());
    can_run(test, needs_fuse().or(missing)).then_some(path)
}

/// Each operation there is.
pub const EVERYTHING: &str = "[weights]\nread = 10\nwrite = 10\nmapread = 10\nmapwrite = 10\n\
    truncate = 10\nclose_open = 10\ninvalidate = 10\nposix_fallocate = 10\npunch_hole = 10\n\
    sendfile = 10\nposix_fadvise = 10\ncopy_file_range = 10\nfsync = 1\nfdatasync = 1\n";

/// For 20,000 operations on a busy machine.
const PATIENCE: Duration = Duration::from_secs(900);

/// fsx with one configuration.
pub struct Fsx {
    program: PathBuf,
    place: PathBuf,
}

impl Fsx {
    /// `place` is for what belongs to it.
    pub fn new(program: PathBuf, place: &Path, configuration: &str) -> Fsx {
        let place = place.join("fsx");
        fs::create_dir(&place).unwrap();
        fs::write(place.join("fsx.toml"), configuration).unwrap();
        Fsx { program, place }
    }

    /// Works on a file; fails if anything is read that was not written.
    pub fn exercise(&self, file: &Path, seed: u64, operations: u64) {
        let mut command = Command::new(&self.program);
        command.args(["-S", &seed.to_string(), "-N", &operations.to_string()]);
        command.arg("-f").arg(self.place.join("fsx.toml"));
        command.arg("-P").arg(&self.place).arg(file);
        let ran = run_within(PATIENCE, &mut command, b"");
        assert!(ran.clone().exits(0).text().contains("A-OK"), "{}", ran.line);
    }
}
