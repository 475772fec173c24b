//! The places where a file of an image may lie, and probes that must find the same in each of them
//! as in a plain directory.

use std::fmt::Write as _;
use std::fs::{self, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{
    AtFlags, CWD, RenameFlags, Timespec, Timestamps, XattrFlags, renameat_with, setxattr, utimensat,
};
use rustix::time::{ClockId, clock_gettime};

use super::common::snapshot::{Fields, Snapshot};
use super::common::store::{Mounted, TestStore};
use super::common::user::{ROOT, User, within};
use super::common::{self, op, sample};

/// The directories that the files lie in; what their names say has been done to the files or to
/// the directory.
pub const PLACES: [&str; 10] = [
    "shared",
    "promoted",
    "restated",
    "folded",
    "private",
    "renamed",
    "opaque",
    "linked",
    "unlinked",
    "exchanged",
];

/// Looks at one file, or does something to it, and tells what was seen. The path is relative to
/// the root, which is the working directory.
pub type Probe = fn(&Path) -> io::Result<String>;

/// What the files are like before anything is done to them.
pub struct Files<'a> {
    /// Their names, the same in each place.
    pub names: Vec<String>,
    /// Their length.
    pub length: u32,
    /// Gives a new or promoted file what it needs besides its content.
    pub adorn: &'a dyn Fn(&Path),
    /// Gives a place that is being made what it needs besides its files.
    pub furnish: &'a dyn Fn(&Path),
}

impl Default for Files<'_> {
    fn default() -> Self {
        Files {
            names: vec![String::from("file")],
            length: 9_000,
            adorn: &|_| {},
            furnish: &|_| {},
        }
    }
}

/// An image with files in every place, a plain directory with the same files, and a second image
/// that nothing must happen to.
pub struct Places {
    pub store: TestStore,
    pub plain: PathBuf,
    pub first: Mounted,
    second: Mounted,
    twin: Snapshot,
    since: SystemTime,
}

impl Places {
    pub fn new(test: &str, files: &Files<'_>) -> Option<Places> {
        common::can_run(test, common::needs_fuse())
            .then(|| Places::within_store(TestStore::coherent(), files))
    }

    /// In a store that exists and is empty.
    pub fn within_store(store: TestStore, files: &Files<'_>) -> Places {
        let since = SystemTime::now() - Duration::from_secs(1);
        let (tree, plain) = (store.place.join("tree"), store.place.join("plain"));
        files.make_tree(&tree);
        sample::copy(&tree, &plain);
        store.import("first", &tree, "family");
        store.import("second", &tree, "family");
        let options = "dev,suid,allow_other";
        let first = store.mount_with("first", options);
        let second = store.mount_with("second", options);
        for root in [&plain, &first.path, &second.path] {
            fs::create_dir(root.join("folded")).unwrap();
            files.fill(&root.join("folded"));
            age(&root.join("folded"));
        }
        store.ok(&["fold"]);
        for root in [&plain, &first.path] {
            files.place(root);
            for place in ["promoted", "restated", "private", "opaque"] {
                age(&root.join(place));
            }
        }
        let twin = second.snapshot();
        Places {
            store,
            plain,
            first,
            second,
            twin,
            since,
        }
    }

    /// Has a user probe the file `name` of every place; one line for each difference.
    pub fn differences(&self, name: &str, user: User, probe: Probe) -> String {
        self.differences_with(name, user, common::UMASK, probe)
    }

    /// Likewise with a umask of the user's.
    pub fn differences_with(&self, name: &str, user: User, mask: u32, probe: Probe) -> String {
        let mut lines = String::new();
        for place in PLACES {
            let path = Path::new(place).join(name);
            let look = |root: &Path| within(root, user, mask, || tell(probe(&path)));
            let (expected, found) = (look(&self.plain), look(&self.first.path));
            if expected != found {
                let who = user.uid;
                writeln!(
                    lines,
                    "{place}, {name} by {who}: {found}, in a plain directory: {expected}"
                )
                .unwrap();
            }
        }
        lines
    }

    /// Has root carry each probe out on the file of its name.
    #[track_caller]
    pub fn assert_same(&self, probes: &[(&str, Probe)]) {
        let lines: String = probes
            .iter()
            .map(|(name, probe)| self.differences(name, ROOT, *probe))
            .collect();
        assert!(lines.is_empty(), "\n{lines}");
    }

    /// Compares the whole trees, then looks whether a fold and a remount show, and at the twin.
    pub fn finish(self) {
        let shown = self.first.snapshot();
        let plain = Snapshot::of(&self.plain).with_recent_alike(self.since);
        let recent = shown.clone().with_recent_alike(self.since);
        plain.assert_same(&recent, Fields::COPY, "beside the plain directory");
        self.store.ok(&["fold"]);
        shown.assert_same(&self.first.snapshot(), Fields::ALL, "a fold shows");
        self.first.unmount();
        let first = self.store.mount("first");
        shown.assert_same(&first.snapshot(), Fields::ALL, "a remount shows");
        let twin = &self.twin;
        twin.assert_same(&self.second.snapshot(), Fields::ALL, "the twin changed");
        first.unmount();
        self.second.unmount();
        self.store.wait_for_daemons();
        self.store.assert_sound();
    }
}

impl Files<'_> {
    /// One file for each probe, of this many bytes.
    pub fn of(probes: &[(&str, Probe)], length: u32) -> Files<'static> {
        Files {
            names: probes.iter().map(|(name, _)| String::from(*name)).collect(),
            length,
            ..Files::default()
        }
    }

    fn content(&self, path: &Path) -> Vec<u8> {
        let name = path.file_name().unwrap().as_encoded_bytes();
        let seed = name.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        op::pattern(seed, self.length)
    }

    fn fill(&self, directory: &Path) {
        for name in &self.names {
            let path = directory.join(name);
            fs::write(&path, self.content(&path)).unwrap();
            (self.adorn)(&path);
        }
        (self.furnish)(directory);
    }

    /// What is imported.
    fn make_tree(&self, tree: &Path) {
        fs::create_dir(tree).unwrap();
        for directory in [
            "shared",
            "promoted",
            "restated",
            "was renamed",
            "opaque",
            "linked",
            "unlinked",
            "was exchanged",
        ] {
            fs::create_dir(tree.join(directory)).unwrap();
            self.fill(&tree.join(directory));
        }
        for directory in ["linked", "unlinked"] {
            let other = tree.join(format!("other names of {directory}"));
            fs::create_dir(&other).unwrap();
            for name in &self.names {
                fs::hard_link(tree.join(directory).join(name), other.join(name)).unwrap();
            }
        }
        age(tree);
    }

    /// What is done in the image.
    fn place(&self, root: &Path) {
        let names = || self.names.iter().map(String::as_str);
        for name in names() {
            let path = root.join("promoted").join(name);
            let file = OpenOptions::new().write(true).open(&path).unwrap();
            file.write_all_at(&self.content(&path)[..1], 0).unwrap();
            drop(file);
            (self.adorn)(&path);
            let path = root.join("restated").join(name);
            setxattr(&path, "user.place", b"restated", XattrFlags::empty()).unwrap();
            fs::remove_file(root.join("other names of unlinked").join(name)).unwrap();
        }
        fs::create_dir(root.join("private")).unwrap();
        self.fill(&root.join("private"));
        fs::rename(root.join("was renamed"), root.join("renamed")).unwrap();
        fs::remove_dir_all(root.join("opaque")).unwrap();
        fs::create_dir(root.join("opaque")).unwrap();
        self.fill(&root.join("opaque"));
        fs::create_dir(root.join("exchanged")).unwrap();
        let (from, to) = (root.join("was exchanged"), root.join("exchanged"));
        renameat_with(CWD, &from, CWD, &to, RenameFlags::EXCHANGE).unwrap();
    }
}

/// Gives everything below a directory times of long ago.
fn age(root: &Path) {
    let time = Timespec {
        tv_sec: 1_500_000_000,
        tv_nsec: 987_654_321,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        if path.symlink_metadata().unwrap().is_dir() {
            pending.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        }
        utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

/// Waits for the next moment that a file system tells apart from this one.
fn tick() {
    let now = || clock_gettime(ClockId::RealtimeCoarse);
    let start = now();
    while now() == start {
        std::thread::yield_now();
    }
}

/// Does something, and tells the outcome and which times of an inode it has set.
pub fn with_times(path: &Path, work: impl FnOnce() -> io::Result<String>) -> io::Result<String> {
    let before = path.symlink_metadata()?;
    tick();
    let mut told = tell(work());
    let after = path.symlink_metadata()?;
    let times = |meta: &Metadata| {
        let mtime = (meta.mtime(), meta.mtime_nsec());
        (mtime, (meta.ctime(), meta.ctime_nsec()))
    };
    let (before, after) = (times(&before), times(&after));
    if before.0 != after.0 {
        told += ", mtime set";
    }
    if before.1 != after.1 {
        told += ", ctime set";
    }
    Ok(told)
}

/// An outcome as text; errors by their number.
pub fn tell(outcome: io::Result<String>) -> String {
    outcome.unwrap_or_else(|error| match error.raw_os_error() {
        Some(number) => rustix::io::Errno::from_raw_os_error(number).to_string(),
        None => error.to_string(),
    })
}
