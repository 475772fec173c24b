//! Every operation on names, stopped or failing at each of its durable steps: the image looks as
//! before it or as after it.

use std::collections::HashMap;
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::RenameFlags;
use rustix::io::Errno;

use super::super::failure::Outcome;
use super::fixture::{Base, Fixture, Looks, ROOT, permissions};
use super::rename_tests::rename;
use crate::store::metadata::{FileType, Time};
use crate::store::number::Number;
use crate::sys::durable;

type Operation = fn(&Fixture) -> Outcome<()>;

/// Those below are in the shared layer.
const FIRST_OWN: u64 = 80;

const ERRORS: [Errno; 3] = [Errno::NOSPC, Errno::DQUOT, Errno::IO];

const NONE: RenameFlags = RenameFlags::empty();

const OPERATIONS: &[(&str, Operation)] = &[
    ("create in a shared directory", |f| {
        create(f, "usr/deep/a/b", b"new")
    }),
    ("create over a whiteout", |f| create(f, "", b"gone")),
    ("create with an ACL", |f| create(f, "acl", b"new")),
    ("mkdir", |f| mkdir(f, "usr/deep", b"new")),
    ("mkdir over a whiteout", |f| mkdir(f, "", b"gone")),
    ("mknod", |f| {
        let made = f.fs.make_node(
            &f.node("usr"),
            b"new",
            FileType::CharDevice,
            0,
            &permissions(0),
        );
        made.map(drop)
    }),
    ("symlink", |f| {
        f.fs.make_symlink(&f.node("usr"), b"new", b"x", ROOT)
            .map(drop)
    }),
    ("link of a shared file", |f| {
        link(f, "etc/passwd", "usr", b"new")
    }),
    ("link of a private file", |f| {
        link(f, "own/file", "usr", b"new")
    }),
    ("link of a file of several names", |f| {
        link(f, "etc/shell", "usr", b"new")
    }),
    ("link over a whiteout", |f| link(f, "own/file", "", b"gone")),
    ("unlink a shared file", |f| unlink(f, "etc", b"passwd")),
    ("unlink a private file", |f| unlink(f, "own", b"file")),
    ("unlink a stub", |f| unlink(f, "", b"stub")),
    ("unlink one of several names", |f| {
        unlink(f, "etc", b"shell")
    }),
    ("unlink one of two private names", |f| {
        unlink(f, "own", b"one")
    }),
    ("unlink the last of them", |f| unlink(f, "own", b"last")),
    ("rmdir a shared directory", |f| {
        f.fs.rmdir(&f.node("usr"), b"hollow")
    }),
    ("rmdir a private directory", |f| {
        f.fs.rmdir(&f.node("own"), b"empty")
    }),
    ("rmdir an emptied directory", |f| {
        f.fs.rmdir(&f.node(""), b"emptied")
    }),
    ("rename a shared file", |f| {
        rename(f, "etc/passwd", "etc/new", NONE)
    }),
    ("rename over a whiteout", |f| {
        rename(f, "own/file", "gone", NONE)
    }),
    ("rename over a shared file", |f| {
        rename(f, "etc/passwd", "etc/hostname", NONE)
    }),
    ("rename over a private file", |f| {
        rename(f, "etc/passwd", "own/file", NONE)
    }),
    ("rename over one of several names", |f| {
        rename(f, "own/file", "etc/shell", NONE)
    }),
    ("rename over the last of them", |f| {
        rename(f, "etc/passwd", "own/last", NONE)
    }),
    ("rename one of several names", |f| {
        rename(f, "usr/bin/sh", "own/file", NONE)
    }),
    ("rename a shared directory", |f| {
        rename(f, "usr/deep", "own/deep", NONE)
    }),
    ("rename a directory over a whiteout", |f| {
        rename(f, "own/empty", "gone", NONE)
    }),
    ("rename a directory over an emptied one", |f| {
        rename(f, "usr/deep", "emptied", NONE)
    }),
    ("rename a directory over a private one", |f| {
        rename(f, "usr/deep", "own/empty", NONE)
    }),
    ("exchange", |f| {
        rename(f, "usr/deep", "etc/shell", RenameFlags::EXCHANGE)
    }),
];

fn create(f: &Fixture, parent: &str, name: &[u8]) -> Outcome<()> {
    f.fs.create(&f.node(parent), name, &permissions(0o644))
        .map(drop)
}

fn mkdir(f: &Fixture, parent: &str, name: &[u8]) -> Outcome<()> {
    f.fs.make_directory(&f.node(parent), name, &permissions(0o755))
        .map(drop)
}

fn link(f: &Fixture, file: &str, parent: &str, name: &[u8]) -> Outcome<()> {
    f.fs.link(&f.node(file), &f.node(parent), name).map(drop)
}

fn unlink(f: &Fixture, parent: &str, name: &[u8]) -> Outcome<()> {
    f.fs.unlink(&f.node(parent), name)
}

/// The fixture, worked in and folded: times to be shown stand in marks.
fn fixture(base: &Arc<Base>) -> Fixture {
    let mut fixture = base.image();
    let f = &fixture;
    mkdir(f, "", b"own").unwrap();
    mkdir(f, "own", b"empty").unwrap();
    create(f, "own", b"file").unwrap();
    create(f, "own", b"one").unwrap();
    link(f, "own/one", "own", b"two").unwrap();
    create(f, "own", b"last").unwrap();
    link(f, "own/last", "own", b"temporary").unwrap();
    unlink(f, "own", b"temporary").unwrap();
    rename(f, "etc/empty", "stub", NONE).unwrap();
    unlink(f, "", b"gone").unwrap();
    unlink(f, "emptied", b"file").unwrap();
    for directory in ["own", "usr"] {
        let node = f.node(directory);
        let names = f.fs.names.write();
        f.fs.own_directory(&node).unwrap();
        f.fs.keep_times(&node, || Ok(())).unwrap();
        drop(names);
    }
    fixture.remount();
    fixture
}

/// Times aside: ctime is new as soon as an operation has begun, and operations of different runs
/// have different ones. Of an image's own numbers only matters which are the same.
fn timeless(looks: &Looks) -> Looks {
    let mut looks = looks.clone();
    let mut own = HashMap::new();
    for look in looks.values_mut() {
        look.attributes.ctime = Time::default();
        look.attributes.mtime = Time::default();
        let number = &mut look.attributes.number;
        if number.get() >= FIRST_OWN {
            let next = FIRST_OWN + own.len() as u64;
            *number = *own.entry(*number).or_insert(Number::new(next).unwrap());
        }
    }
    looks
}

/// Whether the image looks as after the operation.
fn has_happened(now: &Looks, before: &Looks, after: &Looks, what: &str) -> bool {
    let found = timeless(now);
    if found == timeless(after) {
        return true;
    }
    super::assert_changed(&timeless(before), &found, &[]);
    for (path, look) in now {
        let (old, new) = (before[path].attributes.mtime, look.attributes.mtime);
        assert_eq!(old, new, "{what}: {path}");
    }
    false
}

fn assert_same_times(before: &Looks, now: &Looks, what: &str) {
    for (path, look) in now {
        let (old, new) = (&before[path].attributes, &look.attributes);
        assert_eq!(old.ctime, new.ctime, "{what}: {path}");
    }
}

#[test]
fn an_operation_stopped_at_any_step_has_happened_or_not() {
    let base = Base::new();
    for (what, operation) in OPERATIONS {
        let reference = fixture(&base);
        operation(&reference).unwrap();
        let after = reference.looks();
        let mut step = 0;
        loop {
            let mut stopped = fixture(&base);
            let before = stopped.looks();
            let count = Arc::new(AtomicUsize::new(0));
            let counted = count.clone();
            // Nothing more happens, as if the process was gone.
            let stop = move |_, _: &'static Location<'static>| match counted
                .fetch_add(1, Ordering::SeqCst)
                >= step
            {
                true => Err(Errno::IO),
                false => Ok(()),
            };
            let outcome = durable::with_hook(stop, || operation(&stopped));
            stopped.remount();
            stopped.clear_work();
            let now = stopped.looks();
            let what = format!("{what}, stopped at step {step}");
            stopped.assert_no_debris_in_index(&what);
            let happened = has_happened(&now, &before, &after, &what);
            assert!(happened || outcome.is_err(), "{what}");
            if count.load(Ordering::SeqCst) <= step {
                assert!(outcome.is_ok() && happened, "{what}");
                break;
            }
            step += 1;
            // What was cut short can be done, or was done.
            if !happened {
                operation(&stopped).unwrap_or_else(|error| panic!("{what}: {error:?}"));
                assert!(has_happened(&stopped.looks(), &before, &after, &what));
            }
        }
        assert!(step > 0, "{what}");
    }
}

#[test]
fn an_operation_that_fails_at_any_step_can_be_tried_again() {
    let base = Base::new();
    for (what, operation) in OPERATIONS {
        let reference = fixture(&base);
        operation(&reference).unwrap();
        let after = reference.looks();
        let mut failing = fixture(&base);
        let mut before = failing.looks();
        for step in 0.. {
            let count = Arc::new(AtomicUsize::new(0));
            let counted = count.clone();
            let error = ERRORS[step % ERRORS.len()];
            let fail = move |_, _: &'static Location<'static>| match counted
                .fetch_add(1, Ordering::SeqCst)
                == step
            {
                true => Err(error),
                false => Ok(()),
            };
            let outcome = durable::with_hook(fail, || operation(&failing));
            let what = format!("{what}, failing at step {step}");
            let failed = count.load(Ordering::SeqCst) > step;
            if outcome.is_ok() && failed {
                // Clearing up is what failed.
                failing.clear_work();
            }
            let happened = has_happened(&failing.looks(), &before, &after, &what);
            assert!(happened || outcome.is_err(), "{what}");
            if !failed {
                break;
            }
            if happened {
                failing = fixture(&base);
                before = failing.looks();
            } else {
                assert_eq!(outcome.unwrap_err().errno(), error, "{what}");
                assert_eq!(failing.orphans(), 0, "{what}");
                failing.assert_no_debris_in_index(&what);
                assert_same_times(&before, &failing.looks(), &what);
            }
        }
    }
}
