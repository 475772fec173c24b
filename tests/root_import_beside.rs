//! Needs root. An import beside what else happens to its store, and one that is interrupted.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on should panic"
)]

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

struct Fixture {
    directory: TempDir,
}

impl Fixture {
    fn new(test: &str) -> Option<Self> {
        if !common::can_run(test, common::needs_root()) {
            return None;
        }
        let directory = common::scratch();
        let fixture = Self { directory };
        fixture.ok(&["init"]);
        Some(fixture)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn store(&self) -> PathBuf {
        self.path("store")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_foldfs"));
        command.arg("--store").arg(self.store()).args(arguments);
        command
    }

    fn ok(&self, arguments: &[&str]) -> Output {
        let output = self.command(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        output
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_slice(&self.ok(&[arguments, &["--json"]].concat()).stdout).unwrap()
    }

    fn staged(&self) -> usize {
        fs::read_dir(self.store().join("staging")).unwrap().count()
    }

    /// A tree of files, and an archive of it.
    fn archive(&self, name: &str, files: u32) -> (PathBuf, Vec<u8>) {
        let tree = self.path(name);
        fs::create_dir(&tree).unwrap();
        for number in 0..files {
            let content = format!("{number} ").repeat(1000);
            fs::write(tree.join(format!("file{number}")), content).unwrap();
        }
        let archive = self.path(&format!("{name}.tar"));
        let mut tar = Command::new("tar");
        tar.arg("--sort=name").arg("-C").arg(&tree);
        assert!(
            tar.arg("-cf")
                .arg(&archive)
                .arg(".")
                .status()
                .unwrap()
                .success()
        );
        (tree, fs::read(archive).unwrap())
    }

    /// An import that has read the first half of an archive and waits for the other.
    fn half_way(&self, archive: &[u8]) -> Child {
        let mut command = self.command(&["import", "piped", "-"]);
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = pipes.stderr(Stdio::piped()).spawn().unwrap();
        let half = archive.len() / 2;
        child
            .stdin
            .as_mut()
            .unwrap()
            .write_all(&archive[..half])
            .unwrap();
        let pins = |import: &Path| fs::metadata(import.join("pins")).is_ok_and(|m| m.len() > 32);
        eventually("it reads", || {
            let imports = fs::read_dir(self.store().join("staging")).unwrap();
            imports.flatten().any(|import| pins(&import.path()))
        });
        child
    }
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn kill(child: &Child, signal: &str) {
    let pid = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-s", signal, &pid])
            .status()
            .unwrap()
            .success()
    );
}

#[test]
fn an_interrupted_import_leaves_nothing() {
    let Some(fixture) = Fixture::new("an_interrupted_import_leaves_nothing") else {
        return;
    };
    let (_, archive) = fixture.archive("tree", 200);
    for (signal, number) in [("INT", 2), ("TERM", 15), ("HUP", 1)] {
        let child = fixture.half_way(&archive);
        kill(&child, signal);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.signal(), Some(number));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("import piped: it was interrupted"), "{said}");
        assert_eq!(fixture.staged(), 0, "{signal}");
    }
    let child = fixture.half_way(&archive);
    kill(&child, "KILL");
    child.wait_with_output().unwrap();
    assert_eq!(fixture.staged(), 1);
    fixture.ok(&["collect"]);
    assert_eq!(
        fixture.staged(),
        0,
        "left for the next who opens the store for writing"
    );
    assert_eq!(
        fixture.json(&["list"])["images"].as_array().unwrap().len(),
        0
    );
    fixture.ok(&["check", "--content"]);
}

#[test]
fn a_cut_off_archive_leaves_nothing() {
    let Some(fixture) = Fixture::new("a_cut_off_archive_leaves_nothing") else {
        return;
    };
    let (_, archive) = fixture.archive("tree", 200);
    let mut child = fixture.half_way(&archive);
    drop(child.stdin.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(fixture.staged(), 0);
}

/// Everything that the import has found in the store loses its last other reference while the
/// import waits, and is collected, or rather is not.
#[test]
fn collect_keeps_what_is_being_imported() {
    let Some(fixture) = Fixture::new("collect_keeps_what_is_being_imported") else {
        return;
    };
    let (tree, archive) = fixture.archive("tree", 200);
    fixture.ok(&[
        "import",
        "first",
        tree.to_str().unwrap(),
        "--family",
        "family",
    ]);
    let mut child = fixture.half_way(&archive);
    fixture.ok(&["remove", "first"]);
    fixture.ok(&["remove", "family"]);
    let planned = fixture.json(&["collect", "--dry-run"]);
    let collected = fixture.json(&["collect"]);
    assert_eq!(planned["examined"], 200);
    assert_eq!(planned["removed"], collected["removed"]);
    let removed = collected["removed"].as_array().unwrap().len();
    assert!((1..200).contains(&removed), "{removed} removed");

    let half = archive.len() / 2;
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&archive[half..]).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    fixture.ok(&["check", "--content"]);
    assert_eq!(fixture.json(&["status"])["objects"], 200);
    for name in ["file0", "file99", "file199"] {
        let why = fixture.json(&["why", "piped", name]);
        let stored = fixture.store().join(why["stored"].as_str().unwrap());
        let (mut object, mut source) = (Vec::new(), Vec::new());
        std::io::Read::read_to_end(&mut File::open(stored).unwrap(), &mut object).unwrap();
        std::io::Read::read_to_end(&mut File::open(tree.join(name)).unwrap(), &mut source).unwrap();
        assert_eq!(object, source, "{name}");
    }
}
