//! A Debian tree as an image, its twin and a plain copy, and programs that run inside.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, SystemTime};

use crate::common::sample;
use crate::common::snapshot::{Fields, Snapshot};
use crate::common::store::{LET_GO, Mounted, Ran, TestStore, run_within};
use crate::common::{self, assert_same_text, installed};

/// Nothing that runs in a chroot takes longer, a cold archive included.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// Between two folds of an image that works; with FOLDFS_TEST_SUITES=full (`make soak`) a tenth of it.
const PAUSE: Duration = Duration::from_secs(2);

/// Namespaces of its own: what is mounted for the chroot goes with it, and so does every process,
/// also when it is killed. There is no network in it.
const CHROOT: &str = r#"
    root=$1 shared=$2 text=$3
    mount -t proc proc "$root/proc"
    mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
    if [ -n "$shared" ]; then mount --bind "$shared" "$root/mnt"; fi
    exec chroot "$root" /bin/bash -euo pipefail -c "$text"
"#;

/// An image that works, an equal one beside it, and a plain directory with the same tree.
#[derive(Debug)]
pub struct Workshop {
    pub store: TestStore,
    /// The tree that all three were made of. Never written to.
    pub tree: PathBuf,
    /// A plain copy of it.
    pub plain: PathBuf,
    /// The image that works.
    pub first: Mounted,
    /// A directory of the host that every chroot shows as /mnt.
    pub shared: Option<PathBuf>,
    twin: Mounted,
    since: SystemTime,
}

impl Workshop {
    /// Imports a tree of scripts/trees.sh and mounts the images; nothing where that cannot be done.
    pub fn open(test: &str, tree: &str) -> Option<Workshop> {
        let tree = debian_tree(test, tree)?;
        let store = TestStore::new();
        store.import("first", &tree, "family");
        store.ok(&["clone", "first", "twin"]);
        let plain = store.place.join("plain");
        sample::copy(&tree, &plain);
        let first = mount(&store, "first");
        let twin = mount(&store, "twin");
        Some(Workshop {
            since: SystemTime::now() - Duration::from_secs(1),
            store,
            tree,
            plain,
            first,
            shared: None,
            twin,
        })
    }

    /// Runs a script in a chroot, to its end.
    #[track_caller]
    pub fn run_in(&self, root: &Path, text: &str) -> Ran {
        run_chroot(root, self.shared.as_deref(), text)
    }

    /// Runs a script in the plain directory, then in the image, which is folded again and again
    /// meanwhile. Both must say the same, and end well. Returns how many files were folded.
    #[track_caller]
    pub fn both(&self, text: &str) -> u64 {
        let expected = self.run_in(&self.plain, text).exits(0);
        let (found, folded) = self.while_folding(|| self.run_in(&self.first.path, text));
        let found = found.exits(0);
        assert_same_text(&expected.text(), &found.text(), "standard output");
        assert_same_text(&expected.stderr, &found.stderr, "standard error");
        folded
    }

    /// Folds until something is done, and at least once before it is. Returns how many files were
    /// folded meanwhile.
    pub fn while_folding<T: Send>(&self, work: impl FnOnce() -> T + Send) -> (T, u64) {
        let is_full = std::env::var("FOLDFS_TEST_SUITES").is_ok_and(|form| form == "full");
        let pause = if is_full { PAUSE / 10 } else { PAUSE };
        thread::scope(|scope| {
            let working = scope.spawn(work);
            let (mut folds, mut folded) = (0, 0);
            while !working.is_finished() {
                folded += self.fold();
                folds += 1;
                thread::sleep(pause);
            }
            let done = working.join().unwrap();
            assert!(folds > 0, "it ended before it could be folded");
            eprintln!("folded {folds} times meanwhile, {folded} files");
            (done, folded)
        })
    }

    /// Folds, and returns how many files.
    #[track_caller]
    pub fn fold(&self) -> u64 {
        let report = self.store.ok(&["fold", "--json"]).json();
        let families = report["families"].as_array().unwrap();
        let counts = families.iter().map(|family| &family["folded_files"]);
        counts.map(|count| count.as_u64().unwrap()).sum()
    }

    /// Expects that the image and the plain directory look alike, but for the content of what lies
    /// at or below `varying`, and when what was done here was done.
    #[track_caller]
    pub fn assert_alike(&self, varying: &[&str]) -> Snapshot {
        let shown = self.first.snapshot();
        let look = |snapshot: Snapshot| {
            let snapshot = snapshot.with_recent_alike(self.since);
            without_content(snapshot, varying)
        };
        let expected = look(Snapshot::of(&self.plain));
        let what = "the plain directory and the image";
        expected.assert_same(&look(shown.clone()), Fields::COPY, what);
        shown
    }

    /// Folds and mounts again, which must not show, nor in what a script says, which is the same as
    /// in the plain directory; the twin must be as it was imported, and the store sound.
    #[track_caller]
    pub fn finish(self, shown: &Snapshot, again: &str) {
        let expected = self.run_in(&self.plain, again).exits(0);
        let folded = self.fold();
        shown.assert_same(&self.first.snapshot(), Fields::ALL, "a fold shows");
        let workshop = self.remount();
        let first = &workshop.first;
        shown.assert_same(&first.snapshot(), Fields::ALL, "a remount shows");
        let found = workshop.run_in(&first.path, again).exits(0);
        assert_same_text(&expected.text(), &found.text(), "after a remount");
        let Workshop { store, first, .. } = workshop;
        workshop.twin.assert_shows(&workshop.tree);
        first.unmount();
        workshop.twin.unmount();
        store.wait_for_daemons();
        store.assert_sound();
        eprintln!("folded {folded} files at the end");
    }

    /// Unmounts the image that works and mounts it again.
    #[track_caller]
    pub fn remount(self) -> Workshop {
        self.first.unmount();
        let first = mount(&self.store, "first");
        Workshop { first, ..self }
    }
}

/// The command that runs a script in a chroot, which shows a directory of the host as /mnt.
fn chroot(root: &Path, shared: Option<&Path>, text: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--net", "--ipc", "--fork"]);
    command.args(["--kill-child", "--propagation", "private"]);
    let enter = format!("{LET_GO}{CHROOT}");
    command.args(["bash", "-euc", &enter, "bash"]).arg(root);
    command.arg(shared.unwrap_or(Path::new("")));
    command.arg(text).env_clear();
    command.envs([
        ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
        ("HOME", "/root"),
        ("LC_ALL", "C"),
        ("TZ", "UTC"),
        ("DEBIAN_FRONTEND", "noninteractive"),
    ]);
    command
}

/// Runs a script in a chroot, to its end.
#[track_caller]
pub fn run_chroot(root: &Path, shared: Option<&Path>, text: &str) -> Ran {
    let mut ran = run_within(PATIENCE, &mut chroot(root, shared, text), b"");
    // The command line is mostly the script, which has nothing to say here.
    ran.line = format!("in {}", root.display());
    ran
}

/// Mounts an image so that programs of all its users work in it.
#[track_caller]
pub fn mount(store: &TestStore, image: &str) -> Mounted {
    store.mount_with(image, "dev,suid,allow_other")
}

/// A tree, made once for all tests of all runs.
pub fn debian_tree(test: &str, name: &str) -> Option<PathBuf> {
    let missing = common::needs_fuse().or_else(|| {
        let needed = ["mmdebstrap", "apt-get", "unshare"];
        let there = needed.iter().all(|program| installed(program));
        (!there).then_some("it needs mmdebstrap, apt-get and unshare")
    });
    if !common::can_run(test, missing) {
        return None;
    }
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(project.join("scripts/trees.sh"));
    let made = run_within(PATIENCE, command.arg(name), b"");
    let missing = (made.code != 0).then_some(made.stderr.as_str());
    if !common::can_run(test, missing) {
        return None;
    }
    let trees = std::env::var_os("FOLDFS_TREES").map(PathBuf::from);
    let trees = trees.unwrap_or_else(|| project.join("target/trees"));
    Some(fs::canonicalize(trees.join(name)).unwrap())
}

/// The snapshot without contents and sizes of what lies at or below these paths.
fn without_content(mut snapshot: Snapshot, varying: &[&str]) -> Snapshot {
    for (path, entry) in &mut snapshot.entries {
        let below = |prefix: &&str| {
            let rest = path.strip_prefix(prefix.as_bytes());
            rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
        };
        if varying.iter().any(below) {
            (entry.size, entry.digest) = (0, None);
        }
    }
    snapshot
}
