//! What a collect may meet.

use std::path::PathBuf;
use std::sync::Arc;

use foldfs::archive::import_directory;
use foldfs::filesystem::open::OpenFlags;
use foldfs::ops::request::Request;
use foldfs::ops::{Context, export, fold};
use foldfs::progress::Silent;
use foldfs::store::{Access, Store};
use rustix::fs::FallocateFlags;

use crate::family::Fixture;
use crate::family::live::{WRITE, node, put, read};
use crate::{done, guest};

/// A store, and what is needed beside it.
pub struct Scene {
    pub fixture: Fixture,
    /// The same store as another process has it, open for reading.
    other: Context,
    /// A tree to import.
    tree: PathBuf,
    place: tempfile::TempDir,
}

impl Scene {
    /// With a copy of a store.
    pub fn new(original: &Fixture) -> Scene {
        let fixture = original.copy_in_memory();
        let other = Store::open(fixture.context.store.path(), Access::Read).unwrap();
        Scene {
            other: Context::new(Arc::new(other), 1),
            tree: original.source("new"),
            place: tempfile::tempdir_in("/dev/shm").unwrap(),
            fixture,
        }
    }

    /// The store.
    pub fn end(self) -> Fixture {
        self.fixture
    }
}

/// One thing that is done beside a collect.
pub struct Operation {
    pub name: &'static str,
    /// The image that shows something else afterwards, or is new.
    image: &'static str,
    run: fn(&Scene, &dyn Fn()),
}

impl Operation {
    pub fn run(&self, scene: &Scene, point: &dyn Fn()) {
        (self.run)(scene, point);
    }

    pub fn alters(&self, image: &str) -> bool {
        image == self.image || image == "founded"
    }
}

/// As `foldfs import` does it beside a daemon.
fn import(scene: &Scene, family: &str, point: &dyn Fn()) {
    let staged = import_directory(&scene.other.store, &scene.tree, &Silent).unwrap();
    point();
    done(
        &scene.fixture,
        Request::CommitImport {
            staged: staged.name().as_bytes().into(),
            name: "fresh".into(),
            family: Some(family.into()),
            share: Default::default(),
            source: "a tree".into(),
        },
    );
    point();
}

pub const IMPORTS: [Operation; 2] = [
    Operation {
        name: "an import that joins",
        image: "fresh",
        run: |scene, point| import(scene, "family", point),
    },
    Operation {
        name: "an import that founds",
        image: "fresh",
        run: |scene, point| import(scene, "founded", point),
    },
];

pub const OPERATIONS: [Operation; 5] = [
    Operation {
        name: "a clone",
        image: "copy",
        run: |scene, _| {
            let (from, to) = ("two".into(), "copy".into());
            let frozen = false;
            let reset = None;
            let request = Request::Clone {
                from,
                to,
                frozen,
                reset,
            };
            done(&scene.fixture, request);
        },
    },
    Operation {
        name: "a removal",
        image: "three",
        run: |scene, _| {
            let name = "three".into();
            done(&scene.fixture, Request::Remove { name });
        },
    },
    Operation {
        name: "a fold",
        image: "",
        run: |scene, _| {
            done(&scene.fixture, Request::Fold { family: None });
        },
    },
    Operation {
        // As a pass does it: others may come between its plan and what it does.
        name: "a pass",
        image: "",
        run: |scene, point| {
            let context = &scene.fixture.context;
            let plan = fold::plan(context, &fold::Options { family: None }, &Silent).unwrap();
            point();
            {
                let _alone = context.alone();
                fold::apply(context, &plan, &Silent).unwrap();
            }
            point();
        },
    },
    Operation {
        name: "an export",
        image: "",
        run: |scene, point| {
            let options = export::Options {
                image: "one".into(),
                destination: scene.place.path().join("out"),
                format: export::Format::Dir,
            };
            export::export(&scene.other, &options, &Silent).unwrap();
            let content = |path: &str| std::fs::read(options.destination.join(path)).unwrap();
            assert_eq!(content("etc/found"), b"garbage 0");
            assert_eq!(content("var/twice"), b"twice in one");
            assert_eq!(content("usr/bin/bash"), b"a shell");
            point();
        },
    },
];

pub const GUESTS: [Operation; 10] = [
    Operation {
        name: "a guest writes to a shared file",
        image: "one",
        run: |scene, _| {
            put(&scene.fixture.filesystem("one"), "etc/passwd", b"mine");
        },
    },
    Operation {
        name: "a guest writes to a stub",
        image: "one",
        run: |scene, _| {
            put(&scene.fixture.filesystem("one"), "var/twice", b"mine");
        },
    },
    Operation {
        name: "a guest changes modes",
        image: "one",
        run: |scene, point| {
            let guest = guest(&scene.fixture, "one");
            guest.chmod("usr/lib/a", 0o600).unwrap();
            point();
            guest.chmod("usr/bin/sh", 0o700).unwrap();
            guest.chmod("var/again", 0o700).unwrap();
        },
    },
    Operation {
        name: "a guest makes links",
        image: "one",
        run: |scene, point| {
            let guest = guest(&scene.fixture, "one");
            guest.link("usr/lib/a", "usr/linked").unwrap();
            guest.link("var/twice", "usr/twice").unwrap();
            point();
            guest.unlink("usr/lib/a").unwrap();
            guest.rename("usr/linked", "etc/linked").unwrap();
            guest.unlink("var/twice").unwrap();
        },
    },
    Operation {
        name: "a guest moves stubs to and fro",
        image: "one",
        run: |scene, point| {
            let guest = guest(&scene.fixture, "one");
            guest.rename("var/twice", "etc/twice").unwrap();
            point();
            guest.rename("etc", "usr/etc").unwrap();
            guest.rename("usr/etc/twice", "twice").unwrap();
            guest.exchange("twice", "var/again").unwrap();
            guest.rename("usr/etc", "etc").unwrap();
        },
    },
    Operation {
        name: "a guest reads what it has unlinked",
        image: "one",
        run: |scene, point| {
            let (fs, guest) = (
                scene.fixture.filesystem("one"),
                guest(&scene.fixture, "one"),
            );
            let open = |path: &str| {
                let node = node(&fs, path);
                (fs.open(&node, OpenFlags::default()).unwrap(), node)
            };
            let (twice, late) = (open("var/twice"), node(&fs, "var/again"));
            guest.unlink("var/twice").unwrap();
            point();
            // Not open, but known to the kernel: by its orphan.
            guest.unlink("var/again").unwrap();
            point();
            assert_eq!(read(&fs, twice.0), b"twice in one");
            let again = fs.open(&late, OpenFlags::default()).unwrap();
            assert_eq!(read(&fs, again), b"twice in one");
            fs.release(again);
            fs.release(twice.0);
        },
    },
    Operation {
        name: "a guest writes to what it has unlinked",
        image: "one",
        run: |scene, point| {
            let (fs, guest) = (
                scene.fixture.filesystem("one"),
                guest(&scene.fixture, "one"),
            );
            let handle = fs.open(&node(&fs, "var/twice"), WRITE).unwrap();
            guest.unlink("var/twice").unwrap();
            point();
            let keep = foldfs::filesystem::data::SetId::Keep;
            fs.write(handle, 0, b"T", keep).unwrap();
            assert_eq!(read(&fs, handle), b"Twice in one");
            fs.release(handle);
        },
    },
    Operation {
        name: "a guest empties a stub",
        image: "one",
        run: |scene, _| {
            let guest = guest(&scene.fixture, "one");
            guest.open_truncated("var/twice").unwrap();
        },
    },
    Operation {
        name: "a guest replaces a stub",
        image: "one",
        run: |scene, _| {
            let guest = guest(&scene.fixture, "one");
            guest.create("var/fresh").unwrap();
            guest.write("var/fresh", b"fresh").unwrap();
            guest.rename("var/fresh", "var/twice").unwrap();
            guest.unlink("var/again").unwrap();
        },
    },
    Operation {
        name: "a guest makes a hole in a shared file",
        image: "one",
        run: |scene, _| {
            let guest = guest(&scene.fixture, "one");
            let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            guest.fallocate("usr/lib/b", mode.bits(), 2, 4).unwrap();
        },
    },
];
