//! A store with a family of mounted images, patches for it, and an end for a mount that hangs.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::Value;

use super::common::store::{Mounted, Ran, TestStore, mounts_below, tool};

/// Longer no test may take: what hangs then fails. A sync may wait for all that others write to the disk.
const PATIENCE: Duration = Duration::from_secs(200);

/// Kills the daemons of a store when the time is over, so that what waits for them gets an error.
pub struct Deadline {
    done: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Deadline {
    fn of(place: PathBuf, path: PathBuf) -> Self {
        let (done, over) = mpsc::channel::<()>();
        let watch = move || {
            if over.recv_timeout(PATIENCE) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            eprintln!("it hangs: the daemon is killed");
            for pid in TestStore::on_medium(&place, path).keepers_and_daemons() {
                kill(pid);
            }
            for mount in mounts_below(&place) {
                let _gone = Command::new("umount").arg("-l").arg(mount).status();
            }
        };
        Self {
            done: Some(done),
            thread: Some(thread::spawn(watch)),
        }
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.done = None;
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

/// SIGKILL, to a daemon of ours, or its keeper.
pub fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    let _gone = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
}

pub struct World {
    _deadline: Deadline,
    pub store: TestStore,
}

impl World {
    /// A family "f" with images "one" and "two" of the tree that `make` makes.
    pub fn new(make: impl Fn(&Path)) -> Self {
        let store = TestStore::new();
        let world = Self {
            _deadline: Deadline::of(store.place.clone(), store.path.clone()),
            store,
        };
        let tree = world.tree("first", make);
        world.store.import("one", &tree, "f");
        world.store.import("two", &tree, "f");
        world
    }

    /// A tree.
    pub fn tree(&self, name: &str, make: impl Fn(&Path)) -> PathBuf {
        let tree = self.store.place.join(name);
        fs::create_dir(&tree).unwrap();
        make(&tree);
        // Two trees differ in what they are made to differ in.
        let arguments = "-exec touch -h -d @1100000000 {} +";
        let arguments = arguments.split(' ').map(AsRef::as_ref);
        let arguments: Vec<&OsStr> = [tree.as_os_str()].into_iter().chain(arguments).collect();
        tool("find", &arguments);
        tree
    }

    /// The patch that makes one tree of another.
    pub fn patch(&self, old: &Path, new: &Path) -> PathBuf {
        let file = new.with_extension("patch");
        let arguments = ["patch", "create"].map(AsRef::as_ref);
        let rest = [
            old.as_os_str(),
            new.as_os_str(),
            "-o".as_ref(),
            file.as_os_str(),
        ];
        self.store.ok(&[&arguments[..], &rest].concat());
        file
    }

    /// Applies a patch.
    pub fn apply(&self, file: &Path) -> Ran {
        let arguments = ["patch", "apply", "--family", "f", "--json"].map(AsRef::as_ref);
        self.store
            .run(&[&arguments[..], &[file.as_os_str()]].concat())
    }

    pub fn mount(&self, image: &str) -> Mounted {
        self.store.mount(image)
    }
}

/// The paths that an image keeps, with the reasons.
pub fn kept(report: &Value, image: &str) -> Vec<(String, String)> {
    let images = report["images"].as_array().unwrap();
    let found = images.iter().find(|found| found["image"] == image).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let conflicts = found["conflicts"].as_array().unwrap().iter();
    conflicts
        .map(|conflict| (text(&conflict["path"]), text(&conflict["reason"])))
        .collect()
}

/// Writes a file, with directories above it.
pub fn write(root: &Path, path: &str, content: impl AsRef<[u8]>) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// A tree of one of everything.
pub fn tree(root: &Path, is_new: bool) {
    let text = if is_new { "new" } else { "old" };
    write(root, "etc/os-release", "ID=debian\nVERSION_ID=\"13\"\n");
    write(root, "etc/conf", text);
    write(root, "etc/own", text);
    write(root, "etc/dir/inside", text);
    write(root, "etc/same", "same");
    write(root, "lib/data", text.repeat(100_000));
    write(root, "lib/written", text);
    write(root, "share/a", text);
    fs::hard_link(root.join("share/a"), root.join("share/b")).unwrap();
    write(root, "mounted/on/x", "x");
    fs::create_dir(root.join("bin")).unwrap();
    fs::copy("/bin/sleep", root.join("bin/tool")).unwrap();
    let mode = |path: &str, mode: u32| {
        fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("bin/tool", 0o755);
    mode("etc/dir", if is_new { 0o700 } else { 0o755 });
    mode("mounted", if is_new { 0o711 } else { 0o755 });
    symlink(text, root.join("link")).unwrap();
    if is_new {
        write(root, "etc/added", "added");
        write(root, "opt/new/file", "deep");
        let mut tool = fs::read(root.join("bin/tool")).unwrap();
        tool.extend(b"new");
        fs::write(root.join("bin/tool"), tool).unwrap();
    } else {
        write(root, "gone/file", "gone");
        write(root, "gone/below/file", "gone");
    }
}
