use super::super::data::SetId;
use super::super::open::OpenFlags;
use super::super::test_image::{ROOT, TestImage};
use super::*;
use crate::filesystem::create::Permissions;

const PERMISSIONS: Permissions = Permissions {
    mode: 0o644,
    umask: 0,
    caller: ROOT,
};

fn locking(image: &TestImage, patterns: &[&str]) -> Arc<Locks> {
    let locks = Arc::new(Locks::new(patterns).unwrap());
    image.fs.locks.family.set(locks.clone());
    locks
}

fn path_refused<T>(outcome: Outcome<T>) -> String {
    match outcome {
        Err(Failure::Locked(locked)) => String::from_utf8(locked.path).unwrap(),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was not refused"),
    }
}

#[test]
fn a_file_is_locked_by_each_of_its_names() {
    let image = TestImage::new();
    let fs = &image.fs;
    locking(&image, &["/dir/twin"]);
    let write = OpenFlags {
        write: true,
        ..OpenFlags::default()
    };
    let twin = image.node("twin");
    assert_eq!(path_refused(fs.open(&twin, write)), "dir/twin");
    assert_eq!(path_refused(fs.unlink(fs.root(), b"twin")), "dir/twin");
    assert_eq!(
        path_refused(fs.link(&twin, fs.root(), b"third")),
        "dir/twin"
    );
    fs.release(fs.open(&twin, OpenFlags::default()).unwrap());
    fs.release(fs.open(&image.node("dir/file"), write).unwrap());

    // In `index/`, and known by its number only.
    locking(&image, &[]);
    fs.link(&twin, fs.root(), b"third").unwrap();
    locking(&image, &["/dir/twin"]);
    let twin = image.node("third");
    path_refused(fs.open(&twin, write));
    path_refused(fs.unlink(fs.root(), b"third"));
    locking(&image, &["/dir/file"]);
    fs.unlink(fs.root(), b"third").unwrap();
}

#[test]
fn a_change_of_the_family_makes_a_name_locked() {
    let image = TestImage::new();
    let fs = &image.fs;
    locking(&image, &["/dir/new"]);
    let twin = image.node("twin");
    let spare = image.node("spares/a1");
    fs.remove_xattr(&twin, b"user.kind").unwrap();
    let mut alteration = fs.alter();
    alteration.begin();
    alteration.link(b"spares/a1", b"dir/new").unwrap();
    alteration.finish();
    drop(alteration);
    path_refused(fs.remove_xattr(&spare, b"user.kind"));
    fs.remove_xattr(&image.node("spares/a2"), b"user.kind")
        .unwrap();
}

#[test]
fn who_writes_is_found() {
    let image = TestImage::new();
    let fs = &image.fs;
    let locks = Arc::new(Locks::new(&["/dir/twin", "/big"]).unwrap());
    assert_eq!(fs.locked_writer(&locks).unwrap(), None);
    for (name, path) in [("big", "big"), ("twin", "dir/twin")] {
        let handle = image.writer(&image.node(name));
        assert_eq!(fs.locked_writer(&locks).unwrap().unwrap(), path.as_bytes());
        fs.write(handle, 0, b"X", SetId::Keep).unwrap();
        assert_eq!(fs.locked_writer(&locks).unwrap().unwrap(), path.as_bytes());
        fs.release(handle);
        assert_eq!(fs.locked_writer(&locks).unwrap(), None);
    }
    let handle = image.writer(&image.node("dir/file"));
    assert_eq!(fs.locked_writer(&locks).unwrap(), None);
    fs.release(handle);
}

#[test]
fn what_is_refused_leaves_nothing_private() {
    let image = TestImage::new();
    let fs = &image.fs;
    locking(&image, &["/dir"]);
    let dir = image.node("dir");
    path_refused(fs.create(&dir, b"new", &PERMISSIONS));
    path_refused(fs.unlink(&dir, b"file"));
    path_refused(fs.remove_xattr(&dir, b"user.kind"));
    let (from, to) = (
        Entry {
            parent: fs.root(),
            name: b"dir",
        },
        Entry {
            parent: fs.root(),
            name: b"dir2",
        },
    );
    path_refused(fs.rename(from, to, RenameFlags::empty(), ROOT));
    assert!(matches!(dir.source(), Source::SharedDirectory(_)));
    assert_eq!(image.debris(), 0);
}
