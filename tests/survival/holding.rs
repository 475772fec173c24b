//! All that a process can hold, over the death of daemons: in an image and, to compare, in a plain directory.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use super::common::directory::drop_caches;
use super::common::killer::{Killer, finish};
use super::common::snapshot::{Fields, Snapshot};
use super::common::store::TestStore;
use super::common::{assert_same_text, can_run, needs_fuse, sample};

/// How often it is looked, each time after a kill or two.
const TURNS: usize = 4;

/// tests/survival/holder.py at work; it is killed with its guard.
struct Holder {
    child: Child,
    said: BufReader<ChildStdout>,
    text: String,
}

impl Holder {
    fn start(root: &Path, log: &Path) -> Holder {
        let mut command = Command::new("python3");
        command.args(["-c", include_str!("holder.py")]).arg(root);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.stderr(File::create(log).unwrap());
        command.env("LC_ALL", "C");
        let mut child = command.spawn().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        let mut holder = Holder {
            child,
            said,
            text: String::new(),
        };
        holder.hear("holding", log);
        holder
    }

    fn hear(&mut self, last: &str, log: &Path) {
        loop {
            let mut line = String::new();
            let length = self.said.read_line(&mut line).unwrap();
            if line.trim() == last {
                return;
            }
            let error = || fs::read_to_string(log).unwrap();
            assert!(length > 0, "{}{}", self.text, error());
            self.text += &line;
        }
    }

    fn look(&mut self, log: &Path) {
        self.child
            .stdin
            .as_mut()
            .unwrap()
            .write_all(b"look\n")
            .unwrap();
        self.hear("looked", log);
    }

    /// All that it said.
    fn end(mut self, log: &Path) -> String {
        drop(self.child.stdin.take());
        let mut line = String::new();
        while self.said.read_line(&mut line).unwrap() > 0 {
            self.text += &std::mem::take(&mut line);
        }
        let error = fs::read_to_string(log).unwrap();
        assert!(self.child.wait().unwrap().success(), "{error}");
        std::mem::take(&mut self.text)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _waited = self.child.wait();
    }
}

fn make(tree: &Path) {
    fs::create_dir_all(tree.join("directory")).unwrap();
    for name in ["read", "promoted", "gone", "replaced", "directory/inner"] {
        fs::write(tree.join(name), format!("{name} as it was")).unwrap();
    }
    for name in ["linked", "given mode"] {
        fs::write(tree.join(name), format!("{name} as it was")).unwrap();
    }
    let content: Vec<u8> = (0..50_000_u32).map(|at| (at * 7 / 13) as u8).collect();
    fs::write(tree.join("mapped shared"), content).unwrap();
}

fn hold(test: &str, configuration: &str) {
    if !can_run(test, needs_fuse()) {
        return;
    }
    let store = TestStore::new();
    store.configure(configuration);
    let (tree, plain) = (store.place.join("tree"), store.place.join("plain"));
    make(&tree);
    sample::copy(&tree, &plain);
    store.import("first", &tree, "family");
    store.import("second", &tree, "family");
    let (first, second) = (store.mount("first"), store.mount("second"));
    let logs = ["plain.log", "first.log"].map(|name| store.place.join(name));
    let mut expected = Holder::start(&plain, &logs[0]);
    let mut found = Holder::start(&first.path, &logs[1]);
    let killer = Killer::of(&store);
    for turn in 0..TURNS {
        expected.look(&logs[0]);
        // One after the other, also where nothing was asked of one in between.
        for _ in 0..=turn % 2 {
            killer.kill();
            if turn > 1 {
                drop_caches();
            }
        }
        found.look(&logs[1]);
        if turn == 2 {
            store.ok(&["fold"]);
        }
    }
    let (expected, found) = (expected.end(&logs[0]), found.end(&logs[1]));
    assert_same_text(&expected, &found, "what was held");
    let shown = first.snapshot();
    let fields = Fields::COPY
        .without(Fields::MTIME)
        .without(Fields::DIRECTORY_MTIME);
    Snapshot::of(&plain).assert_same(&shown, fields, "what is left");
    second.assert_shows(&tree);
    first.unmount();
    let first = store.mount("first");
    shown.assert_same(&first.snapshot(), Fields::ALL, "a remount shows");
    finish(&store, [first, second]);
}

#[test]
fn what_is_held_stays() {
    hold("what_is_held_stays", "");
}

#[test]
fn what_is_held_stays_without_passthrough() {
    let test = "what_is_held_stays_without_passthrough";
    hold(test, "passthrough = false\n");
}
