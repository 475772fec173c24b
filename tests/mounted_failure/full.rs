//! A host that has no room: the call that needs it says so, as on a plain directory of the same file
//! system, and everything is as it was before.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, PermissionsExt, chown, symlink};
use std::path::Path;

use rustix::fs::{FallocateFlags, XattrFlags, fallocate, lsetxattr};

use super::assert_no_debris;
use super::common::directory::drop_caches;
use super::common::mapping::Mapped;
use super::common::snapshot::{Fields, Snapshot};
use super::common::store::TestStore;
use super::common::{self, can_run, needs_fuse, op};
use super::scarce::{Scarce, What};

type Operation = fn(&Path) -> io::Result<()>;

/// What each directory of the image begins with; the operations work in one each.
const OPERATIONS: [(&str, Operation); 18] = [
    ("write", |at| {
        open(&at.join("file"))?.write_all_at(b"changed", 30_000)
    }),
    ("truncate", |at| open(&at.join("file"))?.set_len(20_000)),
    ("open with O_TRUNC", |at| {
        File::create(at.join("file")).map(drop)
    }),
    ("write to one of two names", |at| {
        open(&at.join("twin"))?.write_all_at(b"changed", 0)
    }),
    ("chmod", |at| {
        fs::set_permissions(at.join("file"), PermissionsExt::from_mode(0o600))
    }),
    ("chown", |at| chown(at.join("sub"), Some(7), Some(8))),
    ("setxattr", |at| xattr(&at.join("file"), 100)),
    ("setxattr of a block", |at| xattr(&at.join("sub"), 3000)),
    ("create", |at| {
        File::create_new(at.join("sub/new")).map(drop)
    }),
    ("mkdir", |at| fs::create_dir(at.join("sub/new"))),
    ("symlink", |at| symlink("x".repeat(200), at.join("new"))),
    ("link", |at| {
        fs::hard_link(at.join("file"), at.join("sub/new"))
    }),
    ("link of one of two names", |at| {
        fs::hard_link(at.join("twin"), at.join("sub/new"))
    }),
    ("unlink", |at| fs::remove_file(at.join("file"))),
    ("unlink one of two names", |at| {
        fs::remove_file(at.join("twin"))
    }),
    ("rename", |at| {
        fs::rename(at.join("file"), at.join("sub/new"))
    }),
    ("rename over another file", |at| {
        fs::rename(at.join("twin"), at.join("sub/inner"))
    }),
    ("rename a directory", |at| {
        fs::rename(at.join("sub"), at.join("new"))
    }),
];

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

fn xattr(path: &Path, length: usize) -> io::Result<()> {
    Ok(lsetxattr(
        path,
        "user.x",
        &vec![b'x'; length],
        XattrFlags::empty(),
    )?)
}

fn make_tree(root: &Path, levels: u64) {
    for level in 0..levels {
        for number in 0..OPERATIONS.len() {
            let at = root.join(format!("{level}/{number}"));
            fs::create_dir_all(at.join("sub")).unwrap();
            let seed = (level * 50) as u8 + number as u8;
            fs::write(at.join("file"), op::pattern(seed, 40_000)).unwrap();
            fs::write(at.join("one"), op::pattern(seed, 9_000)).unwrap();
            fs::hard_link(at.join("one"), at.join("twin")).unwrap();
            fs::write(at.join("sub/inner"), "inner").unwrap();
        }
    }
}

/// Carries every operation out with room for a little more each time, so that it fails at another
/// step each time, until it succeeds.
fn sweep(test: &str, what: What, levels: u64) {
    if !can_run(test, needs_fuse().or(Scarce::missing(what))) {
        return;
    }
    let scarce = Scarce::new(what);
    let store = TestStore::at(&scarce.path);
    let tree = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    make_tree(tree.path(), levels);
    store.import("first", tree.path(), "family");
    store.import("second", tree.path(), "family");
    let first = store.mount("first");
    // A block of the catalog's log is there, and the numbers of new files are reserved.
    fs::write(first.join("early"), "early").unwrap();
    let mut refused = 0;
    for level in 0..levels {
        for (number, (name, operation)) in OPERATIONS.iter().enumerate() {
            let at = first.join(format!("{level}/{number}"));
            let about = format!("{name}, with room for {level}");
            let before = Snapshot::of(&at);
            scarce.leave(level);
            let outcome = operation(&at);
            let refusal = outcome.as_ref().err().and_then(io::Error::raw_os_error);
            if let Err(error) = &outcome {
                assert_eq!(refusal, Some(scarce.errno()), "{about}: {error}");
                let after = Snapshot::of(&at);
                before.assert_same(&after, Fields::ALL, &about);
            }
            assert_no_debris(&store, &["work", "orphans"], &about);
            scarce.restore();
            if outcome.is_err() {
                refused += 1;
                operation(&at).unwrap_or_else(|error| panic!("{about}, again: {error}"));
            }
        }
    }
    let shown = first.snapshot();
    first.unmount();
    let first = store.mount("first");
    // btrfs counts no subdirectories in st_nlink.
    let fields = match what {
        What::Blocks | What::Inodes => Fields::ALL,
        What::Quota => Fields::ALL.without(Fields::NLINK),
    };
    shown.assert_same(&first.snapshot(), fields, "a remount shows");
    first.unmount();
    store.wait_for_daemons();
    store.assert_sound();
    println!("{refused} operations were refused");
    assert!(refused >= OPERATIONS.len(), "{refused} were refused only");
}

#[test]
fn without_blocks_everything_stays_as_it_was() {
    sweep("without_blocks", What::Blocks, 4);
}

#[test]
fn without_inodes_everything_stays_as_it_was() {
    sweep("without_inodes", What::Inodes, 3);
}

#[test]
fn without_quota_everything_stays_as_it_was() {
    sweep("without_quota", What::Quota, 2);
}

/// What is private to an image needs no more than the same in a plain directory.
const PLAIN: [(&str, Operation); 14] = [
    ("append", |at| {
        let file = open(&at.join("file"))?;
        file.write_all_at(&[7; 200_000], 40_000)
    }),
    ("fsync after it", |at| open(&at.join("file"))?.sync_all()),
    ("overwrite", |at| {
        open(&at.join("file"))?.write_all_at(&[9; 10_000], 1000)
    }),
    ("fsync after that", |at| open(&at.join("file"))?.sync_all()),
    ("write into a hole", |at| {
        open(&at.join("hole"))?.write_all_at(&[7; 5000], 100_000)
    }),
    ("fallocate", |at| {
        let file = open(&at.join("file"))?;
        Ok(fallocate(&file, FallocateFlags::empty(), 100_000, 900_000)?)
    }),
    ("store through a mapping of a hole", |at| {
        let file = open(&at.join("hole"))?;
        Ok(Mapped::new(file.as_fd(), 300_000, true)?.store(200_000, b"x")?)
    }),
    ("mkdir", |at| fs::create_dir(at.join("new directory"))),
    ("long symlink", |at| {
        symlink("x".repeat(200), at.join("link"))
    }),
    ("setxattr of a block", |at| xattr(&at.join("file"), 3000)),
    ("create", |at| File::create_new(at.join("new")).map(drop)),
    ("write to it", |at| {
        open(&at.join("new"))?.write_all_at(b"does not fit", 0)
    }),
    ("rename", |at| fs::rename(at.join("new"), at.join("newer"))),
    ("unlink", |at| fs::remove_file(at.join("newer"))),
];

/// The same calls fail, with the same error number, in an image and in a plain directory.
#[test]
fn a_full_disk_says_so_at_the_same_call_as_ext4() {
    // SIGBUS on ext4.
    say_alike(
        "a_full_disk_says_so_at_the_same_call_as_ext4",
        "",
        libc::EFAULT,
    );
}

#[test]
fn a_full_disk_says_so_to_cached_mappings_when_they_are_written() {
    let test = "a_full_disk_says_so_to_cached_mappings_when_they_are_written";
    say_alike(test, "passthrough = false", libc::ENOSPC);
}

fn say_alike(test: &str, configuration: &str, mapping: i32) {
    let mapping = match common::without_passthrough() {
        true => libc::ENOSPC,
        false => mapping,
    };
    if !can_run(test, needs_fuse().or(Scarce::missing(What::Blocks))) {
        return;
    }
    let (plain, host) = (Scarce::new(What::Blocks), Scarce::new(What::Blocks));
    let store = TestStore::at(&host.path);
    store.configure(configuration);
    let empty = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    fs::write(empty.path().join("shared"), "shared").unwrap();
    store.import("first", empty.path(), "family");
    let first = store.mount("first");
    let places = [plain.path.join("own"), first.join("own")];
    for place in &places {
        fs::create_dir(place).unwrap();
        fs::write(place.join("file"), op::pattern(1, 40_000)).unwrap();
        File::create(place.join("hole"))
            .unwrap()
            .set_len(300_000)
            .unwrap();
        File::open(place.join("file")).unwrap().sync_all().unwrap();
    }
    plain.leave(0);
    host.leave(0);
    let mut failed = 0;
    for (name, operation) in PLAIN {
        let outcomes = places.each_ref().map(|place| {
            let outcome = operation(place);
            outcome.err().map(|error| error.raw_os_error().unwrap())
        });
        failed += usize::from(outcomes[0].is_some());
        if name.contains("mapping") {
            assert_eq!(outcomes, [Some(libc::EFAULT), Some(mapping)], "{name}");
        } else {
            assert_eq!(outcomes[0], outcomes[1], "{name}: ext4 and the image");
        }
    }
    assert!(failed >= 6, "{failed} failed only");
    host.restore();
    plain.restore();
    // The kernel goes on showing the page that it could not write until it needs the memory.
    drop_caches();
    let shown = first.snapshot();
    assert_no_debris(&store, &["work", "orphans"], test);
    first.unmount();
    let first = store.mount("first");
    shown.assert_same(&first.snapshot(), Fields::ALL, "a remount shows");
    first.unmount();
    store.wait_for_daemons();
    store.assert_sound();
}
