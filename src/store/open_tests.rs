//! Tests of making, opening and clearing up a store.

use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::process::Uid;

use super::catalog::{ImageRole, NewFamily, NewImage, Reads, Share};
use super::digest::Digest;
use super::layout;
use super::metadata::{Content, Metadata, SharedInode, Time, Xattrs};
use super::number::{FamilyId, ImageId, Number};
use super::open::{Access, Store, check_caller};
use crate::error::ErrorKind;

struct Fixture(tempfile::TempDir);

impl Fixture {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("store")
    }

    fn init(&self) -> Store {
        Store::init(&self.path()).unwrap()
    }

    fn open(&self) -> Store {
        Store::open(&self.path(), Access::Write).unwrap()
    }

    fn refused(&self, expected: &str) {
        for access in [Access::Read, Access::Write] {
            let error = Store::open(&self.path(), access).map(|_| ()).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
            assert_eq!(error.kind, ErrorKind::Failed);
        }
    }
}

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// A family with its base image, directories included.
pub(super) fn add_family(store: &Store) -> (FamilyId, ImageId) {
    let base = store.catalog().reserve_image_id().unwrap();
    let number = store.numbers().next().unwrap();
    store
        .publish_image(store.create_image_dirs().unwrap(), base)
        .unwrap();
    let transaction = store.catalog().transaction().unwrap();
    let family = transaction
        .create_family(&NewFamily {
            name: "debian",
            root: number,
            base,
            os: "",
            os_version: "",
            architecture: "",
            share: Share::Majority,
            created: 0,
            source: "",
        })
        .unwrap();
    let root = SharedInode {
        number,
        content: Content::Directory,
        metadata: Metadata {
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: Time::default(),
            xattrs: Xattrs::new(),
        },
        ctime: Time::default(),
        links: 2,
    };
    transaction.insert_inode(family, &root).unwrap();
    transaction.commit().unwrap();
    (family, base)
}

/// An image with its directories.
pub(super) fn add_image(store: &Store, family: FamilyId, name: &str) -> ImageId {
    let id = store.catalog().reserve_image_id().unwrap();
    let staged = store.create_image_dirs().unwrap();
    store.publish_image(staged, id).unwrap();
    let transaction = store.catalog().transaction().unwrap();
    let image = NewImage {
        id,
        family,
        name,
        role: ImageRole::Guest,
        created: 0,
        source: "",
    };
    transaction.create_image(&image).unwrap();
    transaction.commit().unwrap();
    id
}

fn count(path: &Path) -> usize {
    std::fs::read_dir(path).unwrap().count()
}

#[test]
fn init_makes_what_open_opens() {
    let fixture = Fixture::new();
    let id = {
        let store = fixture.init();
        assert_eq!(store.access(), Access::Write);
        assert_eq!(store.numbers().next().unwrap(), Number::FIRST);
        store.id().to_owned()
    };
    let metadata = fixture.path().metadata().unwrap();
    assert_eq!((metadata.mode() & 0o7777, metadata.uid()), (0o700, 0));
    let store = Store::open(&fixture.path(), Access::Read).unwrap();
    assert_eq!((store.id(), store.access()), (id.as_str(), Access::Read));
    assert!(store.catalog().families().unwrap().is_empty());
    assert!(store.numbers().next().is_err());
    let error = Store::init(&fixture.path()).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("a store already"), "{error}");
}

#[test]
fn init_takes_an_empty_directory_and_nothing_else() {
    let fixture = Fixture::new();
    std::fs::create_dir(fixture.path()).unwrap();
    chmod(&fixture.path(), 0o755);
    drop(fixture.init());
    assert_eq!(fixture.path().metadata().unwrap().mode() & 0o7777, 0o700);

    let refused = |path: &Path, expected: &str| {
        let error = Store::init(path).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    };
    let other = fixture.0.path().join("other");
    refused(&other.join("deeper"), "parent");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("file"), b"").unwrap();
    refused(&other, "not empty");
    refused(&other.join("file"), "a file");
    assert_eq!(count(&other), 1);
}

#[test]
fn an_interrupted_init_is_made_anew() {
    let fixture = Fixture::new();
    drop(fixture.init());
    std::fs::remove_file(fixture.path().join(layout::FORMAT)).unwrap();
    std::fs::write(fixture.path().join(layout::NEW_FORMAT), b"form").unwrap();
    fixture.refused("half-made");
    drop(fixture.init());
    drop(fixture.open());
    // But not when it holds something.
    std::fs::remove_file(fixture.path().join(layout::FORMAT)).unwrap();
    std::fs::create_dir(fixture.path().join("objects/ab")).unwrap();
    fixture.refused("no store");
    assert!(Store::init(&fixture.path()).is_err());
}

#[test]
fn what_is_no_store_is_refused() {
    let fixture = Fixture::new();
    fixture.refused("no such directory");
    std::fs::write(fixture.path(), b"").unwrap();
    fixture.refused("a file, not a directory");
    std::fs::remove_file(fixture.path()).unwrap();
    std::fs::create_dir(fixture.path()).unwrap();
    fixture.refused("empty directory");
    std::fs::create_dir(fixture.path().join("run")).unwrap();
    fixture.refused("no store");
    std::fs::write(fixture.path().join("data"), b"").unwrap();
    fixture.refused("no store");
}

#[test]
fn a_store_that_others_can_get_at_is_refused() {
    let fixture = Fixture::new();
    drop(fixture.init());
    for mode in [0o755, 0o710, 0o707, 0o600, 0o500] {
        chmod(&fixture.path(), mode);
        fixture.refused("chmod 700");
    }
    chmod(&fixture.path(), 0o700);
    std::os::unix::fs::chown(fixture.path(), Some(1000), None).unwrap();
    fixture.refused("belongs to user 1000");
    std::os::unix::fs::chown(fixture.path(), Some(0), None).unwrap();
    drop(fixture.open());
    assert!(check_caller(Uid::ROOT).is_ok());
    let error = check_caller(Uid::from_raw(1000)).unwrap_err();
    assert!(error.to_string().contains("as root"), "{error}");
}

#[test]
fn a_damaged_or_newer_store_is_refused() {
    let fixture = Fixture::new();
    drop(fixture.init());
    let format = fixture.path().join(layout::FORMAT);
    let text = std::fs::read(&format).unwrap();
    std::fs::write(&format, b"format = 99\n").unwrap();
    fixture.refused("newer foldfs");
    std::fs::write(&format, b"").unwrap();
    fixture.refused("damaged");
    std::fs::write(&format, [0; 100_000]).unwrap();
    fixture.refused("damaged");
    std::fs::write(&format, &text).unwrap();
    let objects = fixture.path().join("objects");
    std::fs::remove_dir(&objects).unwrap();
    fixture.refused("objects");
    std::fs::create_dir(&objects).unwrap();
    std::fs::remove_file(fixture.path().join(layout::CATALOG)).unwrap();
    fixture.refused("catalog.db");
}

#[test]
fn one_writer_at_a_time() {
    let fixture = Fixture::new();
    let store = fixture.init();
    let error = Store::open(&fixture.path(), Access::Write)
        .map(|_| ())
        .unwrap_err();
    assert_eq!((error.kind, error.kind.exit_code()), (ErrorKind::Busy, 4));
    let pid = std::process::id().to_string();
    assert!(error.to_string().contains(&pid), "{error}");
    Store::open(&fixture.path(), Access::Read).unwrap();
    drop(store);
    drop(fixture.open());
}

#[test]
fn opening_for_writing_clears_debris_and_nothing_else() {
    let fixture = Fixture::new();
    let store = fixture.init();
    let (_, base) = add_family(&store);
    let never_committed = store.catalog().reserve_image_id().unwrap();
    store
        .publish_image(store.create_image_dirs().unwrap(), never_committed)
        .unwrap();
    drop(store);
    let path = fixture.path();
    let image = path.join("images").join(base.to_string());
    let write = |path: PathBuf| std::fs::write(path, b"x").unwrap();
    for part in layout::IMAGE_PARTS {
        write(image.join(part).join("16"));
        std::fs::create_dir_all(image.join(part).join("a/b")).unwrap();
    }
    std::fs::create_dir_all(path.join("staging/x/y")).unwrap();
    write(path.join("staging/file"));
    std::fs::create_dir_all(path.join("images/99/private")).unwrap();
    std::fs::create_dir_all(path.join("images/foreign")).unwrap();
    write(path.join("run/other"));

    drop(Store::open(&path, Access::Read).unwrap());
    assert_eq!(count(&path.join("staging")), 2);
    drop(fixture.open());
    assert_eq!(count(&path.join("staging")), 0);
    assert_eq!(count(&image.join("orphans")), 0);
    assert_eq!(count(&image.join("work")), 0);
    for part in ["private", "index", "redirects"] {
        assert_eq!(count(&image.join(part)), 2, "{part}");
    }
    assert!(path.join("images/99/private").exists());
    assert!(path.join("images/foreign").exists());
    assert!(path.join("run/other").exists());
    let gone = path.join("images").join(never_committed.to_string());
    assert!(!gone.exists());
}

#[test]
fn a_file_on_its_way_to_become_an_object_is_finished_or_dropped() {
    let fixture = Fixture::new();
    let store = fixture.init();
    let (_, base) = add_family(&store);
    drop(store);
    let image = fixture.path().join("images").join(base.to_string());
    let work = |content: &[u8]| image.join("work").join(Digest::of(content).to_string());
    // The stub is in place: the file has no other name.
    std::fs::write(work(b"finished"), b"finished").unwrap();
    std::os::unix::fs::chown(work(b"finished"), Some(5), Some(5)).unwrap();
    chmod(&work(b"finished"), 0o4755);
    // The stub is not in place.
    std::fs::write(image.join("private/file"), b"dropped").unwrap();
    std::fs::hard_link(image.join("private/file"), work(b"dropped")).unwrap();
    // Not the content that it was.
    std::fs::write(work(b"whole"), b"who").unwrap();
    std::fs::create_dir(work(b"directory")).unwrap();

    let store = fixture.open();
    let digest = Digest::of(b"finished");
    assert!(store.objects().verify(&digest).unwrap());
    let stat = store.objects().stat(&digest).unwrap().unwrap();
    assert_eq!(
        (stat.st_mode & 0o7777, stat.st_uid, stat.st_nlink),
        (0o400, 0, 1)
    );
    assert!(!store.objects().exists(&Digest::of(b"dropped")).unwrap());
    assert!(image.join("private/file").exists());
    assert!(!store.objects().exists(&Digest::of(b"whole")).unwrap());
    assert!(work(b"whole").exists(), "kept: a stub may refer to it");
    assert_eq!(count(&image.join("work")), 1);
    drop(store);
    // The object is there already; then it is there, but damaged.
    let object = fixture
        .path()
        .join("objects")
        .join(layout::object_name(&digest));
    for content in ["finished", "damaged!", "short"] {
        chmod(&object, 0o600);
        std::fs::write(&object, content).unwrap();
        chmod(&object, 0o400);
        std::fs::write(work(b"finished"), b"finished").unwrap();
        let store = fixture.open();
        assert!(!work(b"finished").exists());
        assert!(store.objects().verify(&digest).unwrap(), "{content}");
    }
}

#[test]
fn images_come_and_go() {
    let fixture = Fixture::new();
    let store = fixture.init();
    let (family, _) = add_family(&store);
    let id = store.catalog().reserve_image_id().unwrap();
    let staged = store.create_image_dirs().unwrap();
    crate::sys::durable::create(staged.dirs().private.as_fd(), b"file", 0o600).unwrap();
    assert_eq!(count(&fixture.path().join("staging")), 1);
    drop(store.create_image_dirs().unwrap());
    let dirs = store.publish_image(staged, id).unwrap();
    assert_eq!(count(&fixture.path().join("staging")), 0);
    let path = fixture.path().join("images").join(id.to_string());
    assert!(path.join("private/file").exists());
    crate::sys::durable::create(dirs.work.as_fd(), b"file", 0o600).unwrap();
    assert!(path.join("work/file").exists());
    store.image_dirs(id).unwrap();
    assert!(store.image_allocated(id).unwrap() >= 6 * 4096);

    let twice = store.publish_image(store.create_image_dirs().unwrap(), id);
    assert!(twice.unwrap_err().to_string().contains("exists"));
    assert_eq!(count(&fixture.path().join("staging")), 0);
    let transaction = store.catalog().transaction().unwrap();
    let image = NewImage {
        id,
        family,
        name: "web",
        role: ImageRole::Guest,
        created: 0,
        source: "",
    };
    transaction.create_image(&image).unwrap();
    transaction.commit().unwrap();

    let transaction = store.catalog().transaction().unwrap();
    transaction.delete_image(id).unwrap();
    transaction.commit().unwrap();
    store.retire_image(id).unwrap();
    assert!(!path.exists());
    assert_eq!(count(&fixture.path().join("staging")), 0);
    assert!(
        store
            .image_dirs(id)
            .unwrap_err()
            .to_string()
            .contains("images/")
    );
}

#[test]
fn two_backups_are_kept() {
    let fixture = Fixture::new();
    let store = fixture.init();
    let path = |name: &str| fixture.path().join(name);
    std::fs::write(path(layout::NEW_BACKUP), b"left behind").unwrap();
    for _ in 0..3 {
        store.numbers().next().unwrap();
        store.back_up_catalog().unwrap();
    }
    assert!(!path(layout::NEW_BACKUP).exists());
    assert!(path(layout::OLDER_BACKUP).exists());
    add_family(&store);
    drop(store);
    // A copy serves in the catalog's place.
    for suffix in ["", "-wal", "-shm"] {
        let gone = path(&format!("catalog.db{suffix}"));
        if gone.exists() {
            std::fs::remove_file(gone).unwrap();
        }
    }
    std::fs::copy(path(layout::BACKUP), path(layout::CATALOG)).unwrap();
    let store = fixture.open();
    assert!(store.catalog().families().unwrap().is_empty());
    // Its image is not lost: the id was not given when the copy was made.
    assert_eq!(count(&path("images")), 1);
}

#[test]
fn a_store_allocates_what_du_says() {
    let fixture = Fixture::new();
    let store = fixture.init();
    add_family(&store);
    store.sync().unwrap();
    let output = std::process::Command::new("du")
        .args(["-s", "--block-size=1"])
        .arg(fixture.path())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let expected: u64 = text.split_whitespace().next().unwrap().parse().unwrap();
    assert_eq!(store.allocated().unwrap(), expected);
}

/// Run again by itself in a mount namespace in which the store is read-only.
#[test]
fn a_store_on_a_read_only_mount_is_read_only() {
    const STORE: &str = "FOLDFS_TEST_READ_ONLY_STORE";
    if let Some(path) = std::env::var_os(STORE) {
        let path = PathBuf::from(path);
        let store = Store::open(&path, Access::Read).unwrap();
        assert_eq!(store.catalog().families().unwrap().len(), 1);
        let error = Store::open(&path, Access::Write).map(|_| ()).unwrap_err();
        assert_eq!(error.errno, Some(libc::EROFS), "{error}");
        return;
    }
    let fixture = Fixture::new();
    let store = fixture.init();
    add_family(&store);
    let in_namespace = || {
        std::process::Command::new("unshare")
            .args(["-m", "sh", "-ec"])
            .arg("mount --bind \"$1\" \"$1\"; mount -o remount,ro,bind \"$1\"; exec \"$0\" --exact \"$2\"")
            .arg(std::env::current_exe().unwrap())
            .arg(fixture.path())
            .arg("store::open_tests::a_store_on_a_read_only_mount_is_read_only")
            .env(STORE, fixture.path())
            .output()
            .unwrap()
    };
    // Its log is not empty while it is open.
    let output = String::from_utf8(in_namespace().stdout).unwrap();
    assert!(output.contains("not closed cleanly"), "{output}");
    drop(store);
    let output = in_namespace();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
}
