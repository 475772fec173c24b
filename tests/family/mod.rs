//! A store in a temporary directory, images made of small trees, and what their views look like.
//! Needs root.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test; each file of tests uses its part"
)]

pub mod commands;
pub mod fault;
pub mod guest;
pub mod live;
pub mod random;
pub mod seen;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use foldfs::filesystem::Filesystem;
use foldfs::filesystem::attributes::Attributes;
use foldfs::filesystem::node::Node;
use foldfs::ops::{Context, check};
use foldfs::progress::Silent;
use foldfs::store::catalog::{Image, Reads, Share};
use foldfs::store::mark::Role;
use foldfs::store::metadata::Content;
use foldfs::store::number::ImageId;
use foldfs::store::{Access, Store};

#[allow(unused_imports, reason = "each file of tests uses its part")]
pub use seen::{Seen, Snapshot, assert_same};

/// A store of a test, and where its sources are.
pub struct Fixture {
    directory: tempfile::TempDir,
    pub context: Context,
}

impl Fixture {
    pub fn new() -> Self {
        // In memory where it can be: what a test of placement waits for are syncs.
        let directory = tempfile::tempdir_in("/dev/shm");
        let directory = directory.or_else(|_| tempfile::tempdir_in("/var/tmp"));
        let directory = directory.unwrap();
        let store = directory.path().join("store");
        std::fs::create_dir(&store).unwrap();
        std::fs::set_permissions(&store, PermissionsExt::from_mode(0o700)).unwrap();
        Store::init(&store).unwrap();
        let store = Arc::new(Store::open(&store, Access::Write).unwrap());
        let context = Context::new(store, 0);
        Self { directory, context }
    }

    /// The store that is in `directory` already, as `store`.
    pub fn existing(directory: tempfile::TempDir) -> Self {
        let store = Store::open(&directory.path().join("store"), Access::Write).unwrap();
        let context = Context::new(Arc::new(store), 0);
        Self { directory, context }
    }

    /// Closes the store and opens it again, as a later process would.
    pub fn reopen(self) -> Self {
        self.reopen_after(|| ())
    }

    /// Closes the store, does something, and opens it again.
    pub fn reopen_after(self, between: impl FnOnce()) -> Self {
        let Self { directory, context } = self;
        drop(context);
        between();
        let store = Store::open(&directory.path().join("store"), Access::Write).unwrap();
        let context = Context::new(Arc::new(store), 0);
        Self { directory, context }
    }

    /// A copy of the store, which nobody may be changing, with one thread to fold.
    pub fn copy(&self) -> Self {
        self.copy_to(tempfile::tempdir_in("/var/tmp").unwrap())
    }

    fn copy_to(&self, directory: tempfile::TempDir) -> Self {
        let status = std::process::Command::new("cp")
            .arg("-a")
            .arg(self.context.store.path())
            .arg(directory.path())
            .status();
        assert!(status.unwrap().success());
        let store = Store::open(&directory.path().join("store"), Access::Write).unwrap();
        let context = Context::new(Arc::new(store), 1);
        Self { directory, context }
    }

    /// The same in memory, where nothing waits for the disk.
    pub fn copy_in_memory(&self) -> Self {
        let directory = tempfile::tempdir_in("/dev/shm");
        let directory = directory.or_else(|_| tempfile::tempdir_in("/var/tmp"));
        self.copy_to(directory.unwrap())
    }

    /// An empty directory for a source.
    pub fn source(&self, name: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    /// Imports a directory.
    pub fn import(&self, name: &str, source: &Path) -> ImageId {
        self.import_as(name, source, None, Share::Majority)
    }

    /// Imports a directory into a family, or founds it.
    pub fn import_as(
        &self,
        name: &str,
        source: &Path,
        family: Option<&str>,
        share: Share,
    ) -> ImageId {
        commands::import(&self.context, name, source, family, share).unwrap()
    }

    /// The row of an image; a family's name is its base's.
    pub fn image(&self, name: &str) -> Image {
        let image = self.context.store.catalog().image_by_name(name);
        image.unwrap().expect(name)
    }

    /// The live image.
    pub fn filesystem(&self, name: &str) -> Arc<Filesystem> {
        let image = self.image(name);
        self.context.images.filesystem(image.id).unwrap()
    }

    /// What a view shows.
    pub fn snapshot(&self, name: &str) -> Snapshot {
        seen::in_layers(&self.context.store, &self.filesystem(name))
    }

    /// Expects `check --content` to find nothing.
    #[track_caller]
    pub fn assert_sound(&self, what: &str) {
        let report = check::run(&self.context, check::Options { content: true }, &Silent);
        assert_eq!(report.unwrap().findings, [], "{what}");
    }

    /// The names of everything in an image's private layer, with their roles.
    pub fn private(&self, name: &str) -> Vec<String> {
        let image = self.image(name);
        let root = self
            .context
            .store
            .path()
            .join(format!("images/{}/private", image.id));
        let mut found = Vec::new();
        list_private(&root, "", &mut found);
        found.sort();
        found
    }

    /// The paths of the shared layer of the family that an image belongs to.
    pub fn shared(&self, name: &str) -> Vec<String> {
        let catalog = self.context.store.catalog();
        let family = catalog.family(self.image(name).family).unwrap().unwrap();
        let mut found = Vec::new();
        let mut pending = vec![(String::new(), family.root)];
        while let Some((path, directory)) = pending.pop() {
            for (name, inode) in catalog.directory(directory).unwrap() {
                let path = format!("{path}/{}", name.escape_ascii());
                if inode.content == Content::Directory {
                    pending.push((path.clone(), inode.number));
                }
                found.push(path);
            }
        }
        found.sort();
        found
    }
}

fn list_private(directory: &Path, path: &str, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{path}/{}", entry.file_name().to_string_lossy());
        let parent = std::fs::File::open(directory).unwrap();
        use std::os::fd::AsFd;
        use std::os::unix::ffi::OsStrExt;
        let name = entry.file_name();
        let read = foldfs::store::layer::read_entry(parent.as_fd(), name.as_bytes());
        let role = match read.unwrap().unwrap() {
            foldfs::store::layer::PrivateEntry::Whiteout => String::from("whiteout"),
            foldfs::store::layer::PrivateEntry::Marked { mark, .. } => match mark.role {
                Role::File => "file".into(),
                Role::Stub { .. } => "stub".into(),
                Role::Name => "name".into(),
                Role::Directory(role) => format!("{role:?}")
                    .split(' ')
                    .next()
                    .unwrap()
                    .to_lowercase(),
            },
        };
        found.push(format!("{path} {role}"));
        if entry.file_type().unwrap().is_dir() {
            list_private(&entry.path(), &path, found);
        }
    }
}

/// Looks a path up, from the root; the caller forgets the node.
pub fn find(filesystem: &Filesystem, path: &str) -> Option<(Arc<Node>, Attributes)> {
    let mut node = filesystem.root().clone();
    let mut attributes = filesystem.attributes(&node).unwrap();
    for name in path.split('/').filter(|name| !name.is_empty()) {
        attributes = filesystem.lookup(&node, &unescape(name)).ok()?;
        node = filesystem.node(attributes.number).unwrap();
    }
    Some((node, attributes))
}

fn unescape(name: &str) -> Vec<u8> {
    name.as_bytes().to_vec()
}

/// Asserts that a view shows what a directory holds: all but numbers and ctimes.
pub fn assert_shows(snapshot: &Snapshot, source: &Path) {
    use std::os::unix::fs::MetadataExt;
    let mut pending = vec![PathBuf::new()];
    let mut count = 0;
    while let Some(path) = pending.pop() {
        count += 1;
        let host = source.join(&path);
        let metadata = host.symlink_metadata().unwrap();
        let key = path.to_string_lossy().into_owned();
        let seen = snapshot
            .get(&key)
            .unwrap_or_else(|| panic!("{key:?} is missing"));
        let time = (metadata.mtime(), metadata.mtime_nsec() as u32);
        assert_eq!((seen.mtime.seconds, seen.mtime.nanoseconds), time, "{key}");
        assert_eq!(seen.mode, metadata.mode() & 0o7777, "{key}");
        assert_eq!(seen.owner, (metadata.uid(), metadata.gid()), "{key}");
        assert_eq!(u64::from(seen.links), metadata.nlink(), "{key}");
        if metadata.is_file() {
            assert_eq!(seen.content, std::fs::read(&host).unwrap(), "{key}");
        } else if metadata.is_symlink() {
            let target = std::fs::read_link(&host).unwrap();
            assert_eq!(seen.content, target.to_string_lossy().as_bytes(), "{key}");
        } else if metadata.is_dir() {
            for entry in std::fs::read_dir(&host).unwrap() {
                pending.push(path.join(entry.unwrap().file_name()));
            }
        }
    }
    assert_eq!(snapshot.len(), count);
}

/// Writes a file, with the directories above it, and gives it a time of long ago.
pub fn write(root: &Path, path: &str, content: &str) {
    let path = root.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, content).unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
    file.set_modified(time).unwrap();
}

/// Makes a symbolic link with a time of long ago.
pub fn symlink(root: &Path, target: &str, path: &str) {
    std::os::unix::fs::symlink(target, root.join(path)).unwrap();
    let time = rustix::fs::Timespec {
        tv_sec: 1_000_000_000,
        tv_nsec: 5,
    };
    let times = rustix::fs::Timestamps {
        last_access: time,
        last_modification: time,
    };
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::utimensat(rustix::fs::CWD, root.join(path), &times, flags).unwrap();
}

/// Gives all directories of a source the same time.
pub fn settle(root: &Path) {
    settle_at(root, 1_100_000_000);
}

/// Gives all directories of a source this time.
pub fn settle_at(root: &Path, seconds: u64) {
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        for entry in std::fs::read_dir(&path).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                pending.push(entry.path());
            }
        }
        let directory = std::fs::File::open(&path).unwrap();
        let time = std::time::UNIX_EPOCH + std::time::Duration::new(seconds, 7);
        directory.set_modified(time).unwrap();
    }
}
