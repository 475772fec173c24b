//! Small operations, one after the other, each on files of its own, until the daemon is killed:
//! those before it have happened, one has happened or not, and those after it have not.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use rustix::fs::{XattrFlags, getxattr, lsetxattr};

use super::common::op;
use super::common::store::TestStore;
use super::common::{can_run, needs_fuse};
use super::killed::{kill, kills, mount_again};

const ITEMS: usize = 270;

/// An operation in the directory of one item, and whether it has happened; anything else is an
/// error.
type Operation = (
    &'static str,
    fn(&Path) -> io::Result<()>,
    fn(&Path) -> Result<bool, String>,
);

fn content(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_default()
}

fn old_or_new(is_old: bool, is_new: bool) -> Result<bool, String> {
    match (is_old, is_new) {
        (true, false) => Ok(false),
        (false, true) => Ok(true),
        both => Err(format!("old and new: {both:?}")),
    }
}

fn file() -> Vec<u8> {
    op::pattern(5, 12_000)
}

fn changed() -> Vec<u8> {
    let mut bytes = file();
    bytes[5000..5007].copy_from_slice(b"changed");
    bytes
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).open(path)
}

const OPERATIONS: [Operation; 9] = [
    (
        "promotion",
        |at| open(&at.join("file"))?.write_all_at(b"changed", 5000),
        |at| {
            // The write itself comes after the promotion.
            let found = content(&at.join("file"));
            old_or_new(found == file(), found == changed())
        },
    ),
    (
        "rename of a shared directory",
        |at| fs::rename(at.join("sub"), at.join("moved")),
        |at| {
            let at_old = content(&at.join("sub/inner")) == b"inner";
            let at_new = content(&at.join("moved/inner")) == b"inner";
            old_or_new(
                at_old && !at.join("moved").exists(),
                at_new && !at.join("sub").exists(),
            )
        },
    ),
    (
        "stub",
        |at| fs::set_permissions(at.join("file"), PermissionsExt::from_mode(0o600)),
        |at| {
            let mode = fs::metadata(at.join("file")).map_or(0, |m| m.mode() & 0o777);
            let whole = content(&at.join("file")) == file();
            old_or_new(whole && mode == 0o644, whole && mode == 0o600)
        },
    ),
    (
        "link of a shared file",
        |at| fs::hard_link(at.join("file"), at.join("sub/link")),
        |at| {
            let links = fs::metadata(at.join("file")).map_or(0, |m| m.nlink());
            let whole = content(&at.join("file")) == file();
            let link = fs::metadata(at.join("sub/link"));
            let same = link.as_ref().is_ok_and(|link| {
                link.ino() == fs::metadata(at.join("file")).map_or(0, |m| m.ino())
            });
            old_or_new(
                whole && links == 1 && link.is_err(),
                whole && links == 2 && same,
            )
        },
    ),
    (
        "unlink",
        |at| fs::remove_file(at.join("file")),
        |at| {
            let whole = content(&at.join("file")) == file();
            old_or_new(whole, !at.join("file").exists())
        },
    ),
    (
        "unlink of one of two names",
        |at| fs::remove_file(at.join("one")),
        |at| {
            let links = fs::metadata(at.join("two")).map_or(0, |m| m.nlink());
            let whole = content(&at.join("two")) == b"two names";
            let gone = !at.join("one").exists();
            old_or_new(whole && links == 2 && !gone, whole && links == 1 && gone)
        },
    ),
    (
        "rename over a file",
        |at| fs::rename(at.join("file"), at.join("sub/inner")),
        |at| {
            let inner = content(&at.join("sub/inner"));
            let there = content(&at.join("file")) == file();
            old_or_new(
                there && inner == b"inner",
                inner == file() && !at.join("file").exists(),
            )
        },
    ),
    (
        "setxattr",
        |at| {
            Ok(lsetxattr(
                at.join("one"),
                "user.x",
                b"set",
                XattrFlags::empty(),
            )?)
        },
        |at| {
            let mut value = [0; 10];
            let found = getxattr(at.join("two"), "user.x", &mut value);
            let whole = content(&at.join("two")) == b"two names";
            old_or_new(whole && found.is_err(), whole && found == Ok(3))
        },
    ),
    (
        "replacing a file as editors do",
        |at| {
            let new = File::create(at.join("new"))?;
            new.write_all_at(&changed(), 0)?;
            new.sync_all()?;
            fs::rename(at.join("new"), at.join("file"))
        },
        |at| {
            let found = content(&at.join("file"));
            old_or_new(
                found == file(),
                found == changed() && !at.join("new").exists(),
            )
        },
    ),
];

fn make_tree(root: &Path) {
    for number in 0..ITEMS {
        let at = root.join(number.to_string());
        fs::create_dir_all(at.join("sub")).unwrap();
        fs::write(at.join("file"), file()).unwrap();
        fs::write(at.join("sub/inner"), "inner").unwrap();
        fs::write(at.join("one"), "two names").unwrap();
        fs::hard_link(at.join("one"), at.join("two")).unwrap();
    }
}

#[test]
fn small_operations_are_killed() {
    let test = "small_operations_are_killed";
    if !can_run(test, needs_fuse()) {
        return;
    }
    let store = TestStore::new();
    let tree = store.place.join("tree");
    make_tree(&tree);
    store.import("origin", &tree, "family");
    fs::remove_dir_all(&tree).unwrap();
    let mut cut_short = 0;
    let rounds = kills(8);
    for round in 0..rounds {
        let image = format!("image{round}");
        store.ok(&["clone", "origin", &image]);
        let mounted = store.mount(&image);
        let done = AtomicUsize::new(0);
        let processes = store.keepers_and_daemons();
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                for number in 0..ITEMS {
                    // Another one with each round.
                    let (_, operation, _) =
                        &OPERATIONS[(number + round as usize) % OPERATIONS.len()];
                    if operation(&mounted.join(number.to_string())).is_err() {
                        return;
                    }
                    done.store(number + 1, Ordering::SeqCst);
                }
            });
            let start = Instant::now();
            let until = ITEMS * (round as usize + 1) / (rounds as usize + 2);
            let extra = std::time::Duration::from_micros(round * 137 % 1000);
            while done.load(Ordering::SeqCst) < until && !worker.is_finished() {
                std::hint::spin_loop();
            }
            let reached = start.elapsed();
            while start.elapsed() < reached + extra {
                std::hint::spin_loop();
            }
            kill(&store, &processes);
            worker.join().unwrap();
        });
        let done = done.into_inner();
        cut_short += usize::from(done < ITEMS);
        let mounted = mount_again(&store, mounted, &image, &image);
        let mut last = false;
        for number in 0..ITEMS {
            let (name, _, has_happened) = &OPERATIONS[(number + round as usize) % OPERATIONS.len()];
            let happened = has_happened(&mounted.join(number.to_string()));
            let happened = happened
                .unwrap_or_else(|error| panic!("{image}: {name} {number} of {done}: {error}"));
            match number.cmp(&done) {
                std::cmp::Ordering::Less => assert!(happened, "{name} {number} of {done} is lost"),
                std::cmp::Ordering::Equal => last = happened,
                std::cmp::Ordering::Greater => assert!(!happened, "{name} {number} of {done}"),
            }
        }
        println!("{image}: {done} operations, then one that happened: {last}");
        mounted.unmount();
        store.wait_for_daemons();
        store.assert_sound();
        store.ok(&["remove", &image]);
    }
    assert!(cut_short > 0, "none was killed before its end");
}
