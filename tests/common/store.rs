//! Temporary stores, the foldfs program, and mounts that never outlive their test.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::sample;
use super::snapshot::{Fields, Snapshot};

/// What daemons of a store are told, below the store's place.
const CONFIGURATION: &str = "foldfs.conf";

/// No ordinary command of a test takes longer.
const PATIENCE: Duration = Duration::from_secs(120);

/// The program under test; FOLDFS_TEST_PROGRAM names another build of it.
pub fn program() -> PathBuf {
    let other = std::env::var_os("FOLDFS_TEST_PROGRAM").map(PathBuf::from);
    other.unwrap_or_else(|| env!("CARGO_BIN_EXE_foldfs").into())
}

/// What a program left behind.
#[derive(Debug, Clone)]
pub struct Ran {
    /// The command line, for messages.
    pub line: String,
    /// The exit code; -1 if a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: String,
}

impl Ran {
    /// Panics with everything the program said if it ended otherwise, or panicked.
    #[track_caller]
    pub fn exits(self, code: i32) -> Ran {
        let Ran { line, stderr, .. } = &self;
        let stdout = String::from_utf8_lossy(&self.stdout);
        assert!(
            self.code == code && !stderr.contains("panicked at"),
            "{line}\nended with {}, expected {code}\n{stdout}\n{stderr}",
            self.code
        );
        self
    }

    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout)
            .unwrap_or_else(|error| panic!("{}: {error}\n{}", self.line, self.text()))
    }

    /// Panics unless standard error has all the words: object, cause, remedy.
    #[track_caller]
    pub fn says(self, words: &[&str]) -> Ran {
        for word in words {
            let found = self.stderr.contains(word);
            assert!(
                found,
                "{}\nsays nothing of {word:?}:\n{}",
                self.line, self.stderr
            );
        }
        self
    }
}

/// Runs a program to its end; one that hangs is killed, and the test fails.
#[track_caller]
pub fn run(command: &mut Command, input: &[u8]) -> Ran {
    run_within(PATIENCE, command, input)
}

/// The same of one that takes longer than others.
#[track_caller]
pub fn run_within(patience: Duration, command: &mut Command, input: &[u8]) -> Ran {
    let line = format!("{command:?}");
    let line = if line.len() > 2000 {
        format!("{}...", &line[..2000])
    } else {
        line
    };
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .unwrap_or_else(|error| panic!("{line}: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = thread::spawn(move || stdin.write_all(&input));
    let stdout = reader(child.stdout.take().unwrap());
    let stderr = reader(child.stderr.take().unwrap());
    let code = wait(&mut child, patience).unwrap_or_else(|| panic!("{line} hangs"));
    // A program need not read all that it is given.
    let _unread = writer.join().unwrap();
    let stdout = stdout.join().unwrap();
    let stderr = String::from_utf8_lossy(&stderr.join().unwrap()).into_owned();
    Ran {
        line,
        code,
        stdout,
        stderr,
    }
}

fn reader(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).unwrap();
        bytes
    })
}

/// Waits for a process of ours; kills it when the time is over.
fn wait(child: &mut Child, patience: Duration) -> Option<i32> {
    let start = Instant::now();
    let mut pause = Duration::from_micros(200);
    while start.elapsed() < patience {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status.code().unwrap_or(-1));
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    None
}

/// A shell's first commands in a mount namespace of its own, in which it works below `$1`: they let
/// go of the mounts of other tests, which could not be unmounted as long as the namespace is there.
pub const LET_GO: &str = r#"awk -v kept="$1" '/ fuse\.foldfs / && index(kept, $5) != 1 { print $5 }' \
    /proc/self/mountinfo | while read -r point; do umount -l "$point" || true; done 2>/dev/null
"#;

/// Runs a program of the system and expects success.
#[track_caller]
pub fn tool<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> Ran {
    run(Command::new(program).args(arguments), b"").exits(0)
}

/// A store and all that belongs to it, in a directory that goes with it.
#[derive(Debug)]
pub struct TestStore {
    /// For trees, mount points and what else the test needs.
    pub place: PathBuf,
    /// The store.
    pub path: PathBuf,
    directory: Option<TempDir>,
}

impl TestStore {
    /// An empty store in a directory of its own.
    pub fn new() -> TestStore {
        Self::with_configuration("")
    }

    /// One whose daemons keep what was opened before a promotion coherent with what is written after it,
    /// everywhere in an image.
    pub fn coherent() -> TestStore {
        Self::with_configuration("coherent = ['/']\n")
    }

    fn with_configuration(text: &str) -> TestStore {
        let directory = super::scratch();
        let mut store = TestStore::at(directory.path());
        store.configure(text);
        store.directory = Some(directory);
        store
    }

    /// What daemons are told that a mount of this store starts.
    pub fn configure(&self, text: &str) {
        // Every suite can be run without passthrough, too.
        let text = match super::without_passthrough() {
            true => "passthrough = false\n",
            false => text,
        };
        fs::write(self.place.join(CONFIGURATION), text).unwrap();
    }

    /// An empty store in a directory that exists.
    pub fn at(place: &Path) -> TestStore {
        super::fix_umask();
        let path = place.join("store");
        let place = place.to_owned();
        let store = TestStore {
            place,
            path,
            directory: None,
        };
        store.ok(&["init"]);
        store
    }

    /// The store that is in such a directory already, as `store`.
    pub fn existing(directory: TempDir) -> TestStore {
        super::fix_umask();
        TestStore {
            place: directory.path().to_owned(),
            path: directory.path().join("store"),
            directory: Some(directory),
        }
    }

    /// A store that is there already; `place` is for what else the test needs.
    pub fn on_medium(place: &Path, path: PathBuf) -> TestStore {
        TestStore {
            place: place.to_owned(),
            path,
            directory: None,
        }
    }

    /// A command for this store.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(program());
        command
            .env_remove("FOLDFS_STORE")
            .env("RUST_BACKTRACE", "1");
        command.arg("--store").arg(&self.path).args(arguments);
        command
    }

    /// Runs foldfs.
    #[track_caller]
    pub fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Ran {
        run(&mut self.command(arguments), b"")
    }

    /// Runs foldfs and expects success.
    #[track_caller]
    pub fn ok<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Ran {
        self.run(arguments).exits(0)
    }

    /// Imports a tree into a family.
    #[track_caller]
    pub fn import(&self, name: &str, source: &Path, family: &str) -> Ran {
        let source = source.as_os_str();
        self.ok(&[
            "import".as_ref(),
            name.as_ref(),
            source,
            "--family".as_ref(),
            family.as_ref(),
        ])
    }

    /// A sample tree, made once for each variant.
    pub fn sample(&self, variant: u32) -> PathBuf {
        let tree = self.place.join(format!("sample{variant}"));
        if !tree.exists() {
            sample::make(&tree, variant);
        }
        tree
    }

    /// Mounts an image on a directory of its own.
    #[track_caller]
    pub fn mount(&self, image: &str) -> Mounted {
        self.mount_with(image, "dev,suid")
    }

    /// Mounts an image with options.
    #[track_caller]
    pub fn mount_with(&self, image: &str, options: &str) -> Mounted {
        let options = [OsStr::new("-o"), options.as_ref()];
        let given = if options[1].is_empty() { 0 } else { 2 };
        self.mount_given(image, &options[..given])
    }

    /// Mounts an image; a daemon that is started for it has this configuration.
    #[track_caller]
    pub fn mount_configured(&self, image: &str, file: &Path) -> Mounted {
        self.mount_given(
            image,
            &[
                "-o".as_ref(),
                "dev,suid".as_ref(),
                "--config".as_ref(),
                file.as_os_str(),
            ],
        )
    }

    /// Mounts an image with these arguments.
    #[track_caller]
    pub fn mount_given(&self, image: &str, more: &[&OsStr]) -> Mounted {
        let path = self.place.join(format!("mnt-{image}"));
        fs::create_dir_all(&path).unwrap();
        let mut arguments: Vec<&OsStr> = vec!["mount".as_ref(), image.as_ref(), path.as_os_str()];
        arguments.extend(more);
        let configuration = self.place.join(CONFIGURATION);
        if !more.contains(&OsStr::new("--config")) && configuration.exists() {
            arguments.extend([OsStr::new("--config"), configuration.as_os_str()]);
        }
        let mut ran = self.run(&arguments);
        if ran.code != 0 {
            // The daemon's log goes with the test's directory.
            let log = fs::read_to_string(self.path.join("run/daemon.log"));
            ran.stderr += &format!("the daemon's log: {log:?}\n");
        }
        ran.exits(0);
        assert!(is_mounted(&path), "{} is no mount", path.display());
        Mounted {
            path,
            store: self.path.clone(),
        }
    }

    /// Expects that check finds nothing, contents included.
    #[track_caller]
    pub fn assert_sound(&self) {
        self.ok(&["check", "--content"]);
    }

    /// The processes that serve this store.
    pub fn daemons(&self) -> Vec<i32> {
        self.processes(false)
    }

    /// Those that start the ones in the background, and start them again.
    pub fn keepers(&self) -> Vec<i32> {
        self.processes(true)
    }

    /// Whom one has to kill, in this order, so that nobody serves the store afterwards.
    pub fn keepers_and_daemons(&self) -> Vec<i32> {
        [self.keepers(), self.daemons()].concat()
    }

    fn processes(&self, keepers: bool) -> Vec<i32> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            else {
                continue;
            };
            let Ok(line) = fs::read(entry.path().join("cmdline")) else {
                continue;
            };
            let mut words = line.split(|byte| *byte == 0);
            let program = words.next().unwrap_or_default();
            let path = self.path.as_os_str().as_encoded_bytes();
            let is_keeper = words.clone().next() == Some(b"keeper")
                || words.clone().any(|word| word == b"--keep");
            if program.ends_with(b"foldfs")
                && is_keeper == keepers
                && words.any(|word| word == path)
            {
                found.push(pid);
            }
        }
        found
    }

    /// Who holds the store's lock, or held it last. Tests put other things in its place, which would keep us
    /// waiting, or have no end.
    fn lock_holder(&self) -> Option<i32> {
        let path = self.path.join("run/lock");
        if !path.symlink_metadata().ok()?.is_file() {
            return None;
        }
        let mut text = String::new();
        let lock = fs::File::open(path).ok()?;
        lock.take(16).read_to_string(&mut text).ok()?;
        text.trim().parse().ok()
    }

    /// Waits until no daemon serves the store, and those that did have closed what they had open: a process
    /// has no command line any more some time before that.
    #[track_caller]
    pub fn wait_for_daemons(&self) {
        let start = Instant::now();
        let mut known: Vec<i32> = self.lock_holder().into_iter().collect();
        known.retain(|pid| is_foldfs(*pid));
        loop {
            known.extend(self.keepers_and_daemons());
            known.retain(|pid| !has_ended(*pid));
            if known.is_empty() {
                return;
            }
            let patient = start.elapsed() < Duration::from_secs(20);
            assert!(patient, "a daemon goes on without mounts: {known:?}");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

fn is_foldfs(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "foldfs")
}

/// Whether a process and all of its threads have ended, waited for or not.
fn has_ended(pid: i32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return true;
    };
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
    threads.count() <= 1 && (state.is_empty() || state.starts_with(['Z', 'X']))
}

impl Drop for TestStore {
    fn drop(&mut self) {
        for mount in mounts_below(&self.place).iter().rev() {
            detach(mount);
        }
        for pid in self.keepers_and_daemons() {
            // Without mounts it ends by itself; a stuck one must not stay behind.
            let _ended = Command::new("kill").arg(pid.to_string()).status();
            let start = Instant::now();
            while self.keepers_and_daemons().contains(&pid)
                && start.elapsed() < Duration::from_secs(5)
            {
                thread::sleep(Duration::from_millis(20));
            }
            if self.keepers_and_daemons().contains(&pid) {
                let _killed = Command::new("kill").args(["-9", &pid.to_string()]).status();
                thread::sleep(Duration::from_millis(100));
            }
        }
        if let Some(directory) = self.directory.take() {
            if std::env::var_os("FOLDFS_TEST_KEEP").is_some() && thread::panicking() {
                eprintln!("kept: {}", directory.keep().display());
            } else if let Err(error) = directory.close() {
                eprintln!("{}: {error}", self.place.display());
            }
        }
    }
}

/// A mount that goes with its guard.
#[derive(Debug)]
pub struct Mounted {
    /// Where.
    pub path: PathBuf,
    store: PathBuf,
}

impl Mounted {
    /// What it shows.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::of(&self.path)
    }

    /// Expects that it shows what a plain tree shows, except what a copy cannot keep.
    #[track_caller]
    pub fn assert_shows(&self, tree: &Path) {
        let what = format!("{} and {}", self.path.display(), tree.display());
        Snapshot::of(tree).assert_same(&self.snapshot(), Fields::COPY, &what);
    }

    /// A path below it.
    pub fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        self.path.join(path)
    }

    /// Unmounts; panics if that does not work.
    #[track_caller]
    pub fn unmount(self) {
        unmount(&self.store, &self.path);
        assert!(
            !is_mounted(&self.path),
            "{} is still mounted",
            self.path.display()
        );
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if is_mounted(&self.path) {
            let ran = unmount_command(&self.store, &self.path);
            if ran.code != 0 || is_mounted(&self.path) {
                eprintln!("{}\n{}", ran.line, ran.stderr);
                detach(&self.path);
            }
        }
    }
}

/// Unmounts a directory; panics if that does not work.
#[track_caller]
pub fn unmount(store: &Path, path: &Path) {
    let start = Instant::now();
    loop {
        let ran = unmount_command(store, path);
        // Another test has made a namespace just now, and lets go of this mount in a moment.
        let kept = ran.stderr.contains("another mount namespace");
        if !kept || start.elapsed() > PATIENCE {
            ran.exits(0);
            return;
        }
    }
}

fn unmount_command(store: &Path, path: &Path) -> Ran {
    let mut command = Command::new(program());
    command.arg("--store").arg(store).arg("unmount").arg(path);
    run(&mut command, b"")
}

fn detach(path: &Path) {
    let _gone = Command::new("umount").arg("-l").arg(path).status();
}

/// Whether a path is a mount point.
pub fn is_mounted(path: &Path) -> bool {
    mounts_below(path).iter().any(|mount| mount == path)
}

/// All mount points at or below a path.
pub fn mounts_below(path: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    let points = points.map(|point| PathBuf::from(OsString::from(point.replace("\\040", " "))));
    points.filter(|point| point.starts_with(path)).collect()
}
