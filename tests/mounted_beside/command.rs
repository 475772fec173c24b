//! The commands of the matrix, and how each of them may end.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::store::{Ran, TestStore, is_mounted, mounts_below, unmount};

/// No command takes longer, whatever it waits for.
const PATIENCE: Duration = Duration::from_secs(60);

/// One command line.
pub struct Command {
    /// What it is called here.
    pub name: &'static str,
    /// Its words; `PLACE` is a directory of its own, `TREES` that of the trees to import, `NEW` a
    /// name of its own.
    words: &'static [&'static str],
    /// What it does to the image `third`.
    pub third: Third,
}

/// What a command does to the image that some of them are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Third {
    /// Nothing.
    Nothing,
    /// It uses it: fails where it is gone.
    Uses,
    /// It keeps others from removing it.
    Holds,
    /// It takes it away from those who come later, by that name.
    Takes,
}

const fn command(name: &'static str, words: &'static [&'static str], third: Third) -> Command {
    Command { name, words, third }
}

/// One of each kind that there is.
pub const COMMANDS: [Command; 14] = [
    command("daemon", &["daemon"], Third::Nothing),
    command("mount", &["mount", "third", "PLACE"], Third::Holds),
    command("mount-all", &["mount", "PLACE"], Third::Holds),
    command(
        "import",
        &["import", "NEW", "TREES/1", "--family", "family"],
        Third::Nothing,
    ),
    command(
        "found",
        &["import", "NEW", "TREES/garbage", "--family", "NEW-family"],
        Third::Nothing,
    ),
    command("clone", &["clone", "third", "NEW"], Third::Uses),
    command("rename", &["rename", "third", "NEW"], Third::Takes),
    command("remove", &["remove", "third"], Third::Takes),
    command("fold", &["fold"], Third::Nothing),
    command("collect", &["collect"], Third::Nothing),
    command("check", &["check", "--content"], Third::Nothing),
    command("export", &["export", "third", "PLACE/out"], Third::Uses),
    command("why", &["why", "third", "/etc/own"], Third::Uses),
    command(
        "same-name",
        &["import", "same", "TREES/2", "--family", "family"],
        Third::Nothing,
    ),
];

impl Command {
    fn is_daemon(&self) -> bool {
        self.name == "daemon"
    }

    /// The name of the image that it makes.
    pub fn makes(&self, index: usize) -> Option<String> {
        match self.name {
            "import" | "found" | "clone" | "rename" => Some(new_name(index)),
            "same-name" => Some("same".into()),
            _ => None,
        }
    }

    /// What it may say when it does nothing because of what the other one does.
    fn excuses(&self, other: &Command, beside: bool) -> Vec<(i32, &'static str)> {
        let mut excuses = vec![
            (4, "is using it"),
            (4, "is ending"),
            (4, "serves it already"),
            (4, "the daemon does not answer"),
        ];
        if self.third != Third::Nothing && other.third == Third::Takes {
            excuses.push((1, "there is no such image"));
            excuses.push((4, "it is in use"));
        }
        if self.name == "export" && other.name == "remove" {
            excuses.push((1, "it was removed while it was read"));
        }
        if self.third == Third::Takes && other.third != Third::Nothing {
            excuses.push((4, "it is in use"));
        }
        if self.third == Third::Takes && other.third == Third::Holds {
            excuses.push((4, "it is mounted on"));
        }
        let is_mounted = beside && self.name == "mount-all";
        if is_mounted || (self.third == Third::Holds && other.third == Third::Holds) {
            excuses.push((4, "is mounted on"));
        }
        if self.name == "same-name" && other.name == "same-name" {
            excuses.push((1, "it exists already"));
        }
        excuses
    }
}

fn new_name(index: usize) -> String {
    format!("new{index}")
}

/// A command under way.
pub struct Started {
    child: Child,
    is_daemon: bool,
    line: String,
}

impl Started {
    /// Starts it; `index` keeps the two apart.
    pub fn new(command: &Command, store: &TestStore, trees: &Path, index: usize) -> Started {
        let place = store.place.join(format!("place{index}"));
        fs::create_dir(&place).unwrap();
        let words: Vec<String> = command
            .words
            .iter()
            .map(|word| {
                word.replace("PLACE", place.to_str().unwrap())
                    .replace("TREES", trees.to_str().unwrap())
                    .replace("NEW", &new_name(index))
            })
            .collect();
        // To files: a daemon in the background keeps what it inherits.
        let output = |name: &str| fs::File::create(place.with_extension(name)).unwrap();
        let mut line = store.command(&words);
        line.stdin(Stdio::null())
            .stdout(output("out"))
            .stderr(output("err"));
        Started {
            line: format!("{index}: foldfs {}", words.join(" ")),
            child: line.spawn().unwrap(),
            is_daemon: command.is_daemon(),
        }
    }

    /// Waits for both; a daemon is told to end once the other one has ended.
    pub fn end_both(
        mut both: [Started; 2],
        store: &TestStore,
        beside: bool,
        what: &str,
    ) -> [Ran; 2] {
        let begun = Instant::now();
        let mut codes: [Option<i32>; 2] = [None, None];
        let mut told = [false, false];
        while codes.contains(&None) {
            assert!(begun.elapsed() < PATIENCE, "{what}: it hangs: {codes:?}");
            for index in 0..2 {
                if codes[index].is_none()
                    && let Some(status) = both[index].child.try_wait().unwrap()
                {
                    codes[index] = Some(status.code().unwrap_or(-1));
                }
            }
            for index in 0..2 {
                let other = codes[1 - index].is_some();
                if both[index].is_daemon && codes[index].is_none() && other && !told[index] {
                    // One that has not taken the lock yet, or waits for it, has not set up signals.
                    if !beside && store.run(&["status"]).code == 0 && serves(store, &both[index]) {
                        signal(&both[index].child, "TERM");
                        told[index] = true;
                    }
                }
            }
            thread::sleep(Duration::from_millis(2));
        }
        let mut index = 0;
        both.map(|started| {
            let place = store.place.join(format!("place{index}"));
            let read = |name: &str| fs::read(place.with_extension(name)).unwrap();
            let code = codes[index].unwrap();
            index += 1;
            Ran {
                line: started.line,
                code,
                stdout: read("out"),
                stderr: String::from_utf8_lossy(&read("err")).into_owned(),
            }
        })
    }
}

/// Whether this process listens on the control socket.
fn serves(store: &TestStore, started: &Started) -> bool {
    let lock = fs::read_to_string(store.path.join("run/lock")).unwrap_or_default();
    let ours = lock.trim() == started.child.id().to_string();
    ours && std::os::unix::net::UnixStream::connect(store.path.join("run/control.sock")).is_ok()
}

fn signal(child: &Child, signal: &str) {
    let mut kill = std::process::Command::new("kill");
    let sent = kill.args(["-s", signal, &child.id().to_string()]).status();
    assert!(sent.unwrap().success());
}

/// Whether each did its work; else it must have an excuse.
pub fn judge(pair: &[&Command; 2], ran: &[Ran; 2], beside: bool, what: &str) -> [bool; 2] {
    [0, 1].map(|index| {
        let (ran, command, other) = (&ran[index], pair[index], pair[1 - index]);
        assert!(
            !ran.stderr.contains("panicked at"),
            "{what}: {}\n{}",
            ran.line,
            ran.stderr
        );
        if ran.code == 0 {
            return true;
        }
        let excuses = command.excuses(other, beside);
        let excused = excuses
            .iter()
            .any(|(code, words)| ran.code == *code && ran.stderr.contains(words));
        assert!(
            excused,
            "{what}: {}\nended with {}\n{}\n{}",
            ran.line,
            ran.code,
            ran.text(),
            ran.stderr
        );
        false
    })
}

/// Unmounts what the pair has mounted.
pub fn unmount_all(store: &TestStore) {
    for mount in mounts_below(&store.place).into_iter().rev() {
        unmount(&store.path, &mount);
        assert!(!is_mounted(&mount), "{}", mount.display());
    }
}
