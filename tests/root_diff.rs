//! What `diff` says of random guests of a family, compared with what their views show. Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on should panic"
)]

mod family;

use std::collections::{BTreeMap, BTreeSet};

use family::guest::Guest;
use family::random::{Act, WEIGHT, acts, config, tree};
use family::{Fixture, Seen, Snapshot};
use foldfs::archive::{ComparedDirectory, ComparedView, ImageSource, export_directory};
use foldfs::fold::placement::{self, Work};
use foldfs::merge::compare::{Aspects, Difference, Scope, Side, Tree};
use foldfs::merge::view::View;
use foldfs::ops::diff::{Differences, differences};
use foldfs::ops::fold;
use foldfs::progress::Silent;
use foldfs::store::catalog::Share;
use foldfs::store::metadata::{Content, FileType};
use proptest::prelude::*;

const IMAGES: [&str; 4] = ["f", "one", "two", "other"];

#[derive(Debug, Clone)]
enum Op {
    /// Of the guest of an image.
    Act(usize, Act),
    Place,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        WEIGHT => (0..IMAGES.len(), acts()).prop_map(|(image, act)| Op::Act(image, act)),
        2 => Just(Op::Place),
    ];
    proptest::collection::vec(op, 1..30)
}

fn fixture() -> Fixture {
    let fixture = Fixture::new();
    for (name, family, newer, time) in [
        ("one", "f", false, 0),
        ("two", "f", true, 1),
        ("other", "g", true, 1),
    ] {
        let source = fixture.source(name);
        tree(&source, newer, 1_100_000_000 + time);
        fixture.import_as(name, &source, Some(family), Share::Majority);
    }
    fixture
}

fn view(fixture: &Fixture, name: &str) -> View {
    fixture.context.images.view(&fixture.image(name)).unwrap()
}

fn diff(fixture: &Fixture, old: &str, new: &str) -> Differences {
    let objects = fixture.context.store.objects();
    let (old, new) = (view(fixture, old), view(fixture, new));
    let mut old = ComparedView::new(&old, objects).unwrap();
    let mut new = ComparedView::new(&new, objects).unwrap();
    differences(&mut old, &mut new, &Scope::default(), true).unwrap()
}

/// All names of the file at each path that is no directory.
fn groups(snapshot: &Snapshot) -> BTreeMap<&String, BTreeSet<&String>> {
    let mut files: BTreeMap<u64, BTreeSet<&String>> = BTreeMap::new();
    let mut names = snapshot
        .iter()
        .filter(|(_, seen)| seen.file_type != "Directory");
    names.clone().for_each(|(path, seen)| {
        files.entry(seen.number).or_default().insert(path);
    });
    let group = |(path, seen): (_, &Seen)| (path, files[&seen.number].clone());
    names.by_ref().map(group).collect()
}

/// In what two snapshots differ at a path of both.
fn expected(old: &Seen, new: &Seen, links: bool) -> Aspects {
    let file_type = old.file_type != new.file_type;
    Aspects {
        file_type,
        content: !file_type && (&old.content, old.rdev) != (&new.content, new.rdev),
        mode: old.mode & 0o7777 != new.mode & 0o7777,
        owner: old.owner != new.owner,
        mtime: old.mtime != new.mtime,
        xattrs: old.xattrs != new.xattrs,
        links,
    }
}

/// That a side says what a snapshot has.
#[track_caller]
fn assert_is(side: &Side, seen: &Seen, path: &str) {
    let metadata = side.metadata();
    assert_eq!(side.number, seen.number, "{path}");
    assert_eq!(
        format!("{:?}", side.content().file_type()),
        seen.file_type,
        "{path}"
    );
    assert_eq!(metadata.mode, seen.mode & 0o7777, "{path}");
    assert_eq!((metadata.uid, metadata.gid), seen.owner, "{path}");
    assert_eq!(metadata.mtime, seen.mtime, "{path}");
    let xattrs = metadata.xattrs.iter();
    let xattrs = xattrs.map(|(name, value)| (name.to_vec(), value.to_vec()));
    assert_eq!(xattrs.collect::<BTreeMap<_, _>>(), seen.xattrs, "{path}");
    if side.content().file_type() == FileType::Regular {
        assert_eq!(side.content().size(), seen.size, "{path}");
    }
}

/// That the differences are those of two snapshots, no more and no less, and bring one to the other.
#[track_caller]
fn assert_tells(found: &Differences, old: &Snapshot, new: &Snapshot, what: &str) {
    let (old_groups, new_groups) = (groups(old), groups(new));
    let told: BTreeMap<String, &Difference> = found
        .all
        .iter()
        .map(|difference| {
            (
                String::from_utf8(difference.path.clone()).unwrap(),
                difference,
            )
        })
        .collect();
    assert_eq!(told.len(), found.all.len(), "{what}: a path is told twice");
    let paths: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let mut applied = old.clone();
    for path in paths {
        let about = format!("{what}: /{path}");
        let difference = told.get(path);
        match (old.get(path), new.get(path)) {
            (Some(before), Some(after)) => {
                let no_directory = [before, after]
                    .iter()
                    .all(|seen| seen.file_type != "Directory");
                let links = no_directory && old_groups.get(path) != new_groups.get(path);
                let expected = expected(before, after, links);
                let aspects = difference.map_or(Aspects::default(), |found| found.aspects);
                assert_eq!(aspects, expected, "{about}");
                assert_eq!(difference.is_some(), expected.any(), "{about}");
            }
            (before, after) => {
                let difference = difference.unwrap_or_else(|| panic!("{about}: not told"));
                assert_eq!(difference.old.is_some(), before.is_some(), "{about}");
                assert_eq!(difference.new.is_some(), after.is_some(), "{about}");
            }
        }
        let Some(difference) = difference else {
            continue;
        };
        if let (Some(side), Some(seen)) = (&difference.old, old.get(path)) {
            assert_is(side, seen, &about);
        }
        match (&difference.new, new.get(path)) {
            (Some(side), Some(seen)) => {
                assert_is(side, seen, &about);
                applied.insert(path.clone(), seen.clone());
            }
            _ => drop(applied.remove(path)),
        }
    }
    assert_eq!(
        applied.keys().collect::<Vec<_>>(),
        new.keys().collect::<Vec<_>>(),
        "{what}: applied"
    );
    for (index, difference) in found.all.iter().enumerate() {
        let Some(moved) = found.moves.at(index) else {
            continue;
        };
        let (from, to) = (&found.all[moved.from], &found.all[moved.to]);
        assert!(
            from.new.is_none() && to.old.is_none(),
            "{what}: {difference:?}"
        );
        let (gone, added) = (from.old.as_ref().unwrap(), to.new.as_ref().unwrap());
        let seen = |snapshot: &Snapshot, path: &[u8]| {
            snapshot[&String::from_utf8(path.to_vec()).unwrap()].clone()
        };
        let (before, after) = (seen(old, &from.path), seen(new, &to.path));
        assert!(
            gone.number == added.number
                || (gone.metadata() == added.metadata() && before.content == after.content),
            "{what}: {from:?} is not {to:?}"
        );
        assert_eq!(moved.aspects, expected(&before, &after, false), "{what}");
    }
}

struct World {
    fixture: Fixture,
    guests: Vec<Guest>,
}

impl World {
    fn new() -> Self {
        let fixture = fixture();
        let guests = IMAGES.map(|name| Guest(fixture.filesystem(name))).into();
        Self { fixture, guests }
    }

    fn run(&self, op: &Op) {
        match op {
            Op::Act(image, act) => drop(act.run(&self.guests[*image])),
            Op::Place => self.place(),
        }
    }

    fn place(&self) {
        let images = &self.fixture.context.images;
        let family = self.fixture.image("f").family;
        let work: Work = placement::plan(images, family).unwrap();
        work.cover(images).unwrap();
        work.commit(images).unwrap();
        work.uncover(images).unwrap();
    }

    #[track_caller]
    fn assert_told(&self) {
        let seen = IMAGES.map(|name| self.fixture.snapshot(name));
        for (old, before) in IMAGES.iter().zip(&seen) {
            for (new, after) in IMAGES.iter().zip(&seen) {
                let found = diff(&self.fixture, old, new);
                assert_tells(&found, before, after, &format!("{old} to {new}"));
            }
        }
    }

    /// An image and a plain copy of it are equal; two copies differ as their images do.
    #[track_caller]
    fn assert_equals_copies(&self) {
        let store = &self.fixture.context.store;
        let objects = store.objects();
        let copies = self.fixture.source("copies");
        for name in IMAGES {
            let view = view(&self.fixture, name);
            let source = ImageSource {
                view: &view,
                objects,
            };
            export_directory(&source, store, &copies.join(name), &Silent).unwrap();
            let mut image = ComparedView::new(&view, objects).unwrap();
            let mut copy = ComparedDirectory::open(&copies.join(name)).unwrap();
            let found = differences(&mut image, &mut copy, &Scope::default(), false).unwrap();
            assert_eq!(found.all, [], "{name} and its copy");
        }
        for old in IMAGES {
            for new in IMAGES {
                let mut before = ComparedDirectory::open(&copies.join(old)).unwrap();
                let mut after = ComparedDirectory::open(&copies.join(new)).unwrap();
                let copies = differences(&mut before, &mut after, &Scope::default(), false);
                let copies = copies.unwrap();
                let images = diff(&self.fixture, old, new);
                let told = |found: &Differences| -> Vec<(Vec<u8>, Aspects)> {
                    let all = found.all.iter();
                    all.map(|found| (found.path.clone(), found.aspects))
                        .collect()
                };
                assert_eq!(told(&images), told(&copies), "{old} to {new}");
            }
        }
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn exactly_what_differs_is_told(ops in ops()) {
        let world = World::new();
        for op in &ops {
            world.run(op);
        }
        world.assert_told();
        world.assert_equals_copies();
    }
}

/// A name that nobody touched is one of fewer names when a directory with another one has moved.
#[test]
fn a_renamed_directory_takes_names_along() {
    let world = World::new();
    let guest = &world.guests[1];
    guest.rename("usr/sub/deep", "opt").unwrap();
    world.assert_told();
    let found = diff(&world.fixture, "f", "one");
    let of = |path: &str| {
        let index = found
            .all
            .iter()
            .position(|found| found.path == path.as_bytes());
        index.unwrap_or_else(|| panic!("{path} is not told"))
    };
    assert!(found.all[of("etc/e")].aspects.links);
    let moved = found.moves.at(of("opt/e")).unwrap();
    assert_eq!(found.all[moved.from].path, b"usr/sub/deep/e");
    assert_eq!(moved.aspects, Aspects::default());
    assert!(found.moves.at(of("usr/sub/deep")).is_some());
}

/// Directories that are equal by construction are not read.
#[test]
fn equal_directories_are_left_out() {
    let world = World::new();
    world.guests[1].write("etc/hosts", b"altered").unwrap();
    let objects = world.fixture.context.store.objects();
    let (old, new) = (view(&world.fixture, "f"), view(&world.fixture, "one"));
    let mut listed = Vec::new();
    let mut old = Counting {
        tree: ComparedView::new(&old, objects).unwrap(),
        listed: &mut listed,
    };
    let mut new = ComparedView::new(&new, objects).unwrap();
    let found = differences(&mut old, &mut new, &Scope::default(), true).unwrap();
    assert_eq!(found.all.len(), 1, "{:?}", found.all);
    listed.sort();
    listed.dedup();
    let listed: Vec<String> = listed
        .iter()
        .map(|name| name.escape_ascii().to_string())
        .collect();
    assert_eq!(listed, ["etc", "hosts"]);
}

/// A private file becomes a stub, a hole of its length, between the look at it and the reading.
#[test]
fn content_that_is_folded_meanwhile_is_read() {
    let world = World::new();
    world.guests[1].write("usr/b", b"altered").unwrap();
    // Of another family: equal content, but nothing to place.
    world.guests[3].write("usr/a", b"altered").unwrap();
    let view = view(&world.fixture, "one");
    let objects = world.fixture.context.store.objects();
    let mut tree = ComparedView::new(&view, objects).unwrap();
    tree.enter(b"usr").unwrap();
    let listed = tree.list(None).unwrap();
    let listed = listed
        .into_iter()
        .find(|(name, _)| &**name == b"b")
        .unwrap();
    assert!(matches!(
        listed.1.content(),
        Content::Regular {
            size: 7,
            digest: None
        }
    ));
    let before = tree.open(b"b").unwrap();
    let context = &world.fixture.context;
    let options = fold::Options { family: None };
    let plan = fold::plan(context, &options, &Silent).unwrap();
    fold::apply(context, &plan, &Silent).unwrap();
    let private = world.fixture.private("one");
    assert!(private.contains(&"/usr/b stub".into()), "{private:?}");
    for file in [before, tree.open(b"b").unwrap()] {
        let mut bytes = [0; 16];
        let length = foldfs::sys::copy::read_at(&file, &mut bytes, 0).unwrap();
        assert_eq!(&bytes[..length], b"altered");
    }
}

/// A tree that says what was listed in it.
struct Counting<'a, 'b> {
    tree: ComparedView<'a>,
    listed: &'b mut Vec<Box<[u8]>>,
}

impl Tree for Counting<'_, '_> {
    fn root(&mut self) -> foldfs::error::Result<Side> {
        self.tree.root()
    }

    fn list(
        &mut self,
        only: Option<&foldfs::merge::compare::Names>,
    ) -> foldfs::error::Result<Vec<foldfs::merge::compare::NamedSide>> {
        let found = self.tree.list(only)?;
        self.listed
            .extend(found.iter().map(|(name, _)| name.clone()));
        Ok(found)
    }

    fn enter(&mut self, name: &[u8]) -> foldfs::error::Result<()> {
        self.tree.enter(name)
    }

    fn leave(&mut self) -> foldfs::error::Result<()> {
        self.tree.leave()
    }

    fn open(&mut self, name: &[u8]) -> foldfs::error::Result<std::os::fd::OwnedFd> {
        self.tree.open(name)
    }

    fn deviations(&mut self) -> foldfs::error::Result<Option<foldfs::merge::compare::Deviations>> {
        self.tree.deviations()
    }

    fn look_at(
        &mut self,
        inodes: &std::collections::HashSet<foldfs::store::number::Number>,
    ) -> foldfs::error::Result<bool> {
        self.tree.look_at(inodes)
    }
}
