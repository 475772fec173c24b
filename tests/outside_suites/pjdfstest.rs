//! pjdfstest: what each system call does to names and metadata, and how it fails.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use super::common::device::{Device, Kind};
use super::common::snapshot::{Fields, Snapshot};
use super::common::store::{LET_GO, Mounted, TestStore, run};
use super::*;

/// Tests of pjdfstest 0.2.2.
const TESTS: usize = 398;

/// Tests that remount the file system read-only. Others leave files open for writing behind, so
/// these run by themselves.
const REMOUNTING: &str = "erofs";
const REMOUNTING_TESTS: usize = 13;

/// What comes out otherwise in an image, and why. What does not any more has to leave the list.
const EXCEPTIONS: [(&str, &str, &str); 1] = [(
    "link::link_count_max",
    "skipped",
    "pathconf(3) knows the limit of file systems by their type; it is looked at in \
     a_file_has_one_name_less_than_in_a_plain_directory",
)];

/// Directories of the image in which the suite runs, and what they are at the start.
const PLACES: [(&str, &str, &str); 6] = [
    ("fresh", "private", "own"),
    ("shared", "shared", "shared"),
    ("merged", "private", "merged"),
    ("opaque", "private", "own"),
    ("renamed", "private", "merged"),
    ("renamed/inner", "shared", "shared"),
];

/// The outcome of each test: `ok`, `skipped`, or `FAILED` with what was said.
type Outcomes = BTreeMap<String, String>;

/// The program, its configuration, and a mount(8) that asks no helper.
struct Suite {
    program: PathBuf,
    place: PathBuf,
    other: PathBuf,
}

impl Suite {
    /// `other` is another file system than those in which it runs.
    fn new(program: PathBuf, place: &Path, other: &Path) -> Suite {
        let place = place.join("pjdfstest");
        fs::create_dir(&place).unwrap();
        let mount = place.join("mount");
        // For a remount mount(8) would call the file system's own program.
        let text = "#!/bin/sh\nPATH=/usr/bin:/bin exec mount -i \"$@\"\n";
        fs::write(&mount, text).unwrap();
        fs::set_permissions(&mount, Permissions::from_mode(0o755)).unwrap();
        let other = other.to_owned();
        Suite {
            program,
            place,
            other,
        }
    }

    /// All tests but those that remount, in a directory below a mounted file system.
    fn run(&self, root: &Path, below: &str) -> Outcomes {
        let outcomes = self.start(root, below, false, &[]);
        assert_eq!(outcomes.len(), TESTS);
        outcomes
    }

    /// Those that remount.
    fn run_remounting(&self, root: &Path, below: &str) -> Outcomes {
        let outcomes = self.start(root, below, true, &[REMOUNTING]);
        assert_eq!(outcomes.len(), REMOUNTING_TESTS);
        outcomes
    }

    /// Runs it at /mnt in a mount namespace of its own: the users that it takes on must be able to
    /// get there, and paths are as long everywhere.
    fn start(&self, root: &Path, below: &str, remount: bool, tests: &[&str]) -> Outcomes {
        let configuration = self.place.join("configuration.toml");
        let text = format!(
            "[features]\nsecondary_fs = {:?}\nposix_fallocate = {{}}\nrename_ctime = {{}}\n\
             utimensat = {{}}\nutime_now = {{}}\nstat_st_birthtime = {{}}\n\
             [settings]\nnaptime = 0.02\nallow_remount = {remount}\n\
             [dummy_auth]\nentries = [[\"nobody\", \"nogroup\"], [\"daemon\", \"daemon\"]]\n",
            self.other
        );
        fs::write(&configuration, text).unwrap();
        let script = "mount --bind \"$1\" /mnt; PATH=$2:$PATH; export PATH; program=$3; shift 3; \
                      exec \"$program\" \"$@\"";
        let mut command = Command::new("unshare");
        let script = format!("{LET_GO}{script}");
        command.args(["-m", "sh", "-euc", &script, "sh"]).arg(root);
        command.arg(&self.place).arg(&self.program);
        command.arg("-c").arg(&configuration);
        command.arg("-p").arg(Path::new("/mnt").join(below));
        command.args(tests).env("NO_COLOR", "1");
        let ran = run(command.current_dir("/"), b"");
        let text = ran.text();
        assert!(text.contains("\nSummary: "), "{text}\n{}", ran.stderr);
        outcomes(&text)
    }
}

/// A line for each test; what follows a failed one tells of it.
fn outcomes(text: &str) -> Outcomes {
    let mut outcomes = Outcomes::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let mut words = line.split_whitespace();
        let (Some(test), Some(outcome), None) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let told = match outcome {
            "ok" | "skipped" => outcome.into(),
            "FAILED" => format!("FAILED: {}", lines.peek().unwrap_or(&"").trim()),
            _ => continue,
        };
        if test.contains("::") && !line.starts_with(char::is_whitespace) {
            let double = outcomes.insert(test.into(), told);
            assert!(double.is_none(), "{test} ran twice");
        }
    }
    outcomes
}

/// What comes out in a plain directory, and how to find out the same of an image.
struct Expected {
    ordinary: Outcomes,
    remounting: Outcomes,
}

impl Expected {
    /// A test that is not even passed there says nothing of an image.
    fn of_plain(suite: &Suite, root: &Path, kind: Kind) -> Expected {
        fs::create_dir(root.join("plain")).unwrap();
        let mut ordinary = suite.run(root, "plain");
        let remounting = suite.run_remounting(root, "plain");
        // The limit of xfs is too high to be reached.
        let unlimited = kind == Kind::Xfs;
        for (test, outcome) in ordinary.iter().chain(&remounting) {
            let known = remounting.contains_key(test) && remounting[test] == "ok";
            let known = known || unlimited && test == "link::link_count_max";
            assert!(outcome == "ok" || known, "plain: {test}: {outcome}");
        }
        for (test, outcome, _) in EXCEPTIONS {
            ordinary.insert(test.into(), outcome.into());
        }
        Expected {
            ordinary,
            remounting,
        }
    }

    fn of_ordinary(&self, image: &Outcomes, what: &str) {
        assert_same(&self.ordinary, image, what);
    }

    fn of_remounting(&self, image: &Outcomes, what: &str) {
        assert_same(&self.remounting, image, what);
    }
}

fn assert_same(expected: &Outcomes, image: &Outcomes, what: &str) {
    let differs = |(test, outcome): (&String, &String)| {
        let found = image.get(test).map_or("missing", String::as_str);
        (found != outcome).then(|| format!("{test}: {found}, expected {outcome}"))
    };
    let lines: Vec<String> = expected.iter().filter_map(differs).collect();
    assert!(lines.is_empty(), "{what}:\n{}", lines.join("\n"));
    let passed = image.values().filter(|outcome| *outcome == "ok").count();
    eprintln!(
        "{what}: {passed} of {} passed, as in a plain directory",
        image.len()
    );
}

/// Directories with files, links and directories in them.
fn tree(root: &Path) {
    fs::create_dir(root).unwrap();
    for name in ["shared", "merged", "opaque", "before", "churn"] {
        let directory = root.join(name);
        fs::create_dir_all(directory.join("inner/most")).unwrap();
        fs::write(directory.join("file"), name).unwrap();
        fs::write(directory.join("inner/file"), "inner").unwrap();
        fs::hard_link(directory.join("file"), directory.join("inner/most/link")).unwrap();
        std::os::unix::fs::symlink("inner/file", directory.join("symlink")).unwrap();
    }
}

/// Brings the directories of the image about.
fn prepare(image: &Mounted) {
    fs::create_dir(image.join("fresh")).unwrap();
    fs::write(image.join("merged/new"), "new").unwrap();
    fs::write(image.join("merged/file"), "altered").unwrap();
    fs::remove_dir_all(image.join("opaque")).unwrap();
    fs::create_dir(image.join("opaque")).unwrap();
    fs::rename(image.join("before"), image.join("renamed")).unwrap();
}

/// What an image shows, but for what the folding needs, and the times that change where the suite
/// makes its directories.
fn shown(mounted: &Path) -> Snapshot {
    let mut shown = Snapshot::of(mounted);
    shown.entries.retain(|path, _| !path.starts_with(b"churn"));
    shown
}

const LEFT: Fields = Fields::ALL
    .without(Fields::DIRECTORY_MTIME)
    .without(Fields::CTIME);

/// The suite in each of the directories; once more after a fold and a remount, while it is folded.
fn suite(test: &str, kind: Kind) {
    let program = tool(test, "pjdfstest");
    let Some(program) = program.filter(|_| can_run(test, Device::missing(kind))) else {
        return;
    };
    let (device, beside) = (Device::new(kind, 3_000), Device::new(kind, 3_000));
    let store = TestStore::at(&device.path);
    let source = store.place.join("tree");
    tree(&source);
    store.import("first", &source, "family");
    store.import("second", &source, "family");
    let options = "dev,suid,allow_other";
    let second = store.mount_with("second", options);
    let suite = Suite::new(program, &store.place, &second.path);

    let expected = Expected::of_plain(&suite, &beside.path, kind);

    let first = store.mount_with("first", options);
    prepare(&first);
    for (place, layer, role) in PLACES {
        let (layer, role) = (layer.to_owned(), role.to_owned());
        assert_eq!(why(&store, "first", &format!("/{place}")), (layer, role));
    }
    let before = shown(&first.path);
    for (place, ..) in PLACES {
        expected.of_ordinary(&suite.run(&first.path, place), place);
        expected.of_remounting(&suite.run_remounting(&first.path, place), place);
    }
    before.assert_same(&shown(&first.path), LEFT, "the suite left something");

    put(&first.join("fresh/copy"), b"inner", SystemTime::now());
    let mut folds = Folds::default();
    folds.add(&store);
    assert!(folds.folded >= 1, "{folds:?}");
    let before = Snapshot::of(&first.path);
    first.unmount();
    let first = store.mount_with("first", options);
    before.assert_same(&Snapshot::of(&first.path), Fields::ALL, "a remount shows");

    let before = shown(&first.path);
    let churn = |round: u64| {
        let mtime = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000 + round);
        for image in [&first, &second] {
            put(&image.join("churn/new"), &vec![round as u8; 9_000], mtime);
        }
    };
    let ((), folds) = while_folding(&store, churn, || {
        for (place, ..) in PLACES {
            let what = format!("{place}, remounted, while it is folded");
            expected.of_ordinary(&suite.run(&first.path, place), &what);
        }
    });
    eprintln!("{test}: {folds:?}");
    assert!(folds.folded >= 2 && folds.moved >= 1, "{folds:?}");
    before.assert_same(&shown(&first.path), LEFT, "the suite left something");
    let fields = Fields::COPY.without(Fields::DIRECTORY_MTIME);
    let other = shown(&second.path);
    shown(&source).assert_same(&other, fields, "the other image changed");
    finish(&store, [first, second]);
}

#[test]
fn pjdfstest_in_images_on_ext4() {
    suite("pjdfstest_in_images_on_ext4", Kind::Ext4);
}

#[test]
fn pjdfstest_in_images_on_xfs() {
    suite("pjdfstest_in_images_on_xfs", Kind::Xfs);
}

/// As many links to a file as the file system lets one make.
fn link_to_the_limit(file: &Path, directory: &Path) -> (u64, Option<i32>) {
    fs::create_dir(directory).unwrap();
    for count in 1.. {
        if let Err(error) = fs::hard_link(file, directory.join(count.to_string())) {
            assert_eq!(fs::metadata(file).unwrap().nlink(), count);
            return (count, error.raw_os_error());
        }
    }
    unreachable!()
}

/// What pjdfstest cannot find out (see EXCEPTIONS), and an exception of docs/semantics.md: of a
/// private file's links on the host one is no name.
#[test]
fn a_file_has_one_name_less_than_in_a_plain_directory() {
    let test = "a_file_has_one_name_less_than_in_a_plain_directory";
    if !can_run(test, needs_fuse().or(Device::missing(Kind::Ext4))) {
        return;
    }
    let device = Device::new(Kind::Ext4, 400);
    let store = TestStore::at(&device.path);
    let source = store.place.join("tree");
    tree(&source);
    store.import("first", &source, "family");
    let first = store.mount("first");
    let limit = |root: &Path| {
        fs::write(root.join("linked"), "linked").unwrap();
        link_to_the_limit(&root.join("linked"), &root.join("links"))
    };
    let (plain, image) = (limit(&device.path), limit(&first.path));
    assert_eq!(plain, (65_000, Some(libc::EMLINK)));
    assert_eq!(image, (64_999, Some(libc::EMLINK)));
    store.ok(&["fold"]);
    assert_eq!(fs::metadata(first.join("links/1")).unwrap().nlink(), 64_999);
    finish(&store, [first]);
}
