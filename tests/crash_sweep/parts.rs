//! A part of the sweep is one scenario in one mode. Each runs in a process of its own, as many at a
//! time as there are processors: a process has one hook.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use rustix::io::Errno;
use tempfile::TempDir;

use super::common::device::Kind;
use super::disk::{self, Disk};
use super::losing::Loss;
use super::report::{Random, Report};
use super::scenarios::{self, Scenario};
use super::{base, failing, losing};

/// Parts of the names of scenarios in which the power goes when the whole sweep is not asked for.
const USUAL: [&str; 5] = [
    "shared file",
    "synced",
    "import joins",
    "fold",
    "placement shares less",
];

/// How operations are disturbed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A step fails, with ENOSPC or EIO in turn.
    Fails,
    /// Likewise, with the other one of them.
    FailsOtherwise,
    /// The process goes, or the power.
    Lost(Kind, Loss),
}

const MODES: [Mode; 7] = [
    Mode::Fails,
    Mode::FailsOtherwise,
    Mode::Lost(Kind::Ext4, Loss::Killed),
    Mode::Lost(Kind::Ext4, Loss::Unsynced),
    Mode::Lost(Kind::Ext4, Loss::Content),
    Mode::Lost(Kind::Xfs, Loss::Unsynced),
    Mode::Lost(Kind::Xfs, Loss::Content),
];

const PART: &str = "FOLDFS_CRASH_PART";
const BASE: &str = "FOLDFS_CRASH_BASE";
const REPORT: &str = "FOLDFS_CRASH_REPORT";
/// `operations`: a few steps of every operation. `whole`: every step of every operation.
const WHOLE: &str = "FOLDFS_TEST_CRASH";
const SEED: &str = "FOLDFS_CRASH_SEED";
/// Only parts whose names (mode/scenario) hold this.
const ONLY: &str = "FOLDFS_CRASH_ONLY";

/// Runs the part that this process is for, if it is for one.
pub fn is_child(test: &str) -> bool {
    let Ok(part) = std::env::var(PART) else {
        return false;
    };
    let (mode, name) = part.split_once('/').unwrap();
    let mode = MODES.into_iter().find(|known| format!("{known:?}") == mode);
    let all = scenarios::all();
    let scenario = all.iter().find(|scenario| scenario.name == name);
    let (mode, scenario) = (mode.expect(test), scenario.expect(test));
    let place = PathBuf::from(std::env::var_os(BASE).unwrap());
    let mut report = Report {
        is_whole: is_whole(),
        random: Random(seed()),
        ..Report::default()
    };
    if let Ok(known) = fs::read_to_string(place.with_file_name(format!("{mode:?}"))) {
        let lines = known.lines().map(|line| line.split_once(' ').unwrap());
        let sites = lines.map(|(line, file)| (file.to_owned(), line.parse().unwrap()));
        report.dark = sites.collect();
    }
    run(mode, scenario, &place, &mut report);
    report.write(Path::new(&std::env::var_os(REPORT).unwrap()));
    true
}

fn run(mode: Mode, scenario: &Scenario, base: &Path, report: &mut Report) {
    match mode {
        Mode::Fails => failing::sweep(scenario, base, &[Errno::NOSPC, Errno::IO], report),
        Mode::Lost(kind, loss) => losing::sweep(scenario, kind, loss, &image(base, kind), report),
        Mode::FailsOtherwise => failing::sweep(scenario, base, &[Errno::IO, Errno::NOSPC], report),
    }
}

/// The file system with the world in it.
fn image(base: &Path, kind: Kind) -> PathBuf {
    base.with_file_name(format!("{kind:?}.image"))
}

/// Makes it.
fn make_image(base: &Path, kind: Kind) {
    let image = image(base, kind);
    disk::format(kind, &image);
    let disk = Disk::mount(kind, &image, &base.with_file_name("mnt"));
    let world = disk.path.join("world");
    failing::copy(base, &world);
    if kind == Kind::Xfs {
        // Imports are reflinks there.
        fs::remove_file(world.join("sources")).unwrap();
        failing::copy(&base.with_file_name("sources"), &world.join("sources"));
    }
    disk.unmount();
}

/// Says something that cargo test shows although all is well.
pub fn say(text: &str) {
    let _unheard = writeln!(std::io::stderr(), "{text}");
}

/// Whether every step of everything is to be tried.
pub fn is_whole() -> bool {
    std::env::var_os(WHOLE).is_some_and(|value| value == "whole")
}

/// Whether every operation is to be tried.
pub fn has_every_operation() -> bool {
    let asked = std::env::var_os(WHOLE).is_some_and(|value| value == "operations");
    !is_filtered() && (asked || is_whole())
}

/// Whether only some scenarios were asked for.
pub fn is_filtered() -> bool {
    std::env::var_os(ONLY).is_some()
}

/// What decides which steps are tried.
fn seed() -> u64 {
    let given = std::env::var(SEED).ok();
    given.map_or_else(rand, |seed| seed.parse().unwrap())
}

fn rand() -> u64 {
    let now = std::time::SystemTime::now();
    let since = now.duration_since(std::time::UNIX_EPOCH).unwrap();
    u64::from(since.subsec_nanos())
}

/// All parts of some modes.
pub struct Sweep {
    test: &'static str,
    directory: TempDir,
    parts: Vec<String>,
    next: AtomicUsize,
    report: Mutex<Report>,
    failures: Mutex<Vec<String>>,
    seed: u64,
}

impl Sweep {
    /// Runs them; panics with what went wrong.
    pub fn run(test: &'static str, modes: &[Mode]) -> Report {
        let directory = failing::scratch();
        let seed = seed();
        say(&format!("{test}: {SEED}={seed}"));
        let place = directory.path().join("base");
        base::make(&place);
        for kind in [Kind::Ext4, Kind::Xfs] {
            let on_it = |mode: &Mode| matches!(mode, Mode::Lost(on, _) if *on == kind);
            if modes.iter().any(on_it) {
                make_image(&place, kind);
            }
        }
        let only = std::env::var(ONLY).unwrap_or_default();
        let known = scenarios::all();
        let mut parts = Vec::new();
        for mode in modes {
            let all = has_every_operation() || is_filtered();
            // A part of them in each run, that the whole test suite may end in time; another one each
            // time. Xfs takes longest.
            let (turns, must_be_usual) = match mode {
                Mode::Fails | Mode::FailsOtherwise | Mode::Lost(_, Loss::Killed) => (8, false),
                Mode::Lost(Kind::Ext4, _) => (7, true),
                Mode::Lost(_, _) => (10, true),
            };
            for (number, scenario) in known.iter().enumerate() {
                let is_turn = (number as u64 + seed).is_multiple_of(turns);
                let is_usual = USUAL.iter().any(|name| scenario.name.contains(name));
                let part = format!("{mode:?}/{}", scenario.name);
                if part.contains(&only) && (all || is_turn && (is_usual || !must_be_usual)) {
                    parts.push(part);
                }
            }
        }
        let sweep = Sweep {
            test,
            directory,
            parts,
            next: AtomicUsize::new(0),
            report: Mutex::default(),
            failures: Mutex::default(),
            seed,
        };
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            for _ in 0..processors {
                scope.spawn(|| sweep.work());
            }
        });
        let failures = sweep.failures.into_inner();
        assert!(
            failures.is_empty(),
            "{} of {} parts\n{}",
            failures.len(),
            sweep.parts.len(),
            failures.join("\n")
        );
        sweep.report.into_inner()
    }

    fn work(&self) {
        loop {
            let number = self.next.fetch_add(1, Ordering::SeqCst);
            let Some(part) = self.parts.get(number) else {
                return;
            };
            let report = self.directory.path().join(format!("report-{number}"));
            let start = std::time::Instant::now();
            let output = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", self.test, "--nocapture"])
                .env(PART, part)
                .env(SEED, self.seed.to_string())
                .env(BASE, self.directory.path().join("base"))
                .env(REPORT, &report)
                .stdin(Stdio::null())
                .output()
                .unwrap();
            if output.status.success() {
                let mut seen = Report::default();
                seen.add(&report);
                let (points, looks) = (seen.points, seen.looks);
                if has_every_operation() || is_filtered() {
                    let seconds = start.elapsed().as_secs_f32();
                    say(&format!(
                        "{part}: {points} points, {looks} looks, {seconds:.1} s"
                    ));
                }
                let (mode, _) = part.split_once('/').unwrap();
                let mut known = String::new();
                for (file, line) in &seen.dark {
                    known += &format!("{line} {file}\n");
                }
                fs::write(self.directory.path().join(mode), known).unwrap();
                self.report.lock().add(&report);
            } else {
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                println!("{part}: FAILED\n{said}");
                self.failures.lock().push(format!("{part}\n{said}"));
            }
        }
    }
}
