//! A patch between two random trees, applied to a family whose images were changed at random: every image
//! shows what a three-way merge of plain trees says. Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on should panic"
)]

mod family;
mod patch_model;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use family::guest::Guest;
use family::{Fixture, Snapshot, settle_at, symlink, write};
use foldfs::filesystem::data::SetId;
use foldfs::filesystem::failure::Outcome;
use foldfs::filesystem::open::OpenFlags;
use foldfs::filesystem::set_attributes::Changes;
use foldfs::filesystem::transport::Register;
use foldfs::fold::placement;
use foldfs::ops::patch::{self, ApplyOptions, CreateOptions, OnConflict};
use foldfs::ops::report::ApplyReport;
use foldfs::ops::{check, clone, fold, hold};
use foldfs::progress::Silent;
use foldfs::store::catalog::Share;
use patch_model::merge;
use proptest::prelude::*;
use rustix::io::Errno;

/// Images that a change is applied to; the first is the base.
const IMAGES: [&str; 3] = ["f", "one", "two"];

const PATHS: [&str; 16] = [
    "etc/hosts",
    "etc",
    "etc/x",
    "usr/a",
    "usr/b",
    "usr",
    "usr/sub",
    "usr/sub/deep",
    "usr/sub/deep/d",
    "usr/sub/c",
    "opt",
    "opt/n",
    "opt/n/f",
    "link",
    "var",
    "",
];

#[derive(Debug, Clone)]
enum Op {
    Create(usize),
    Mkdir(usize),
    Unlink(usize),
    Rmdir(usize),
    Empty(usize),
    Rename(usize, usize),
    Exchange(usize, usize),
    Link(usize, usize),
    Symlink(usize),
    Chmod(usize, u32),
    Write(usize, bool),
}

fn op() -> impl Strategy<Value = Op> {
    let path = || 0..PATHS.len();
    prop_oneof![
        2 => path().prop_map(Op::Create),
        2 => path().prop_map(Op::Mkdir),
        3 => path().prop_map(Op::Unlink),
        2 => path().prop_map(Op::Rmdir),
        1 => path().prop_map(Op::Empty),
        4 => (path(), path()).prop_map(|(p, q)| Op::Rename(p, q)),
        1 => (path(), path()).prop_map(|(p, q)| Op::Exchange(p, q)),
        3 => (path(), path()).prop_map(|(p, q)| Op::Link(p, q)),
        1 => path().prop_map(Op::Symlink),
        4 => (path(), 0..2u32).prop_map(|(p, m)| Op::Chmod(p, 0o700 + m)),
        4 => (path(), any::<bool>()).prop_map(|(p, b)| Op::Write(p, b)),
    ]
}

/// What happens to some image, or to the whole family.
#[derive(Debug, Clone)]
enum Step {
    Guest(usize, Op),
    Place,
    Fold,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => (0..IMAGES.len(), op()).prop_map(|(i, op)| Step::Guest(i, op)),
        1 => Just(Step::Place),
        1 => Just(Step::Fold),
    ];
    proptest::collection::vec(step, 0..14)
}

fn tree(root: &Path, newer: bool, time: u64) {
    write(root, "etc/os-release", "ID=debian\nVERSION_ID=\"13\"\n");
    write(root, "etc/hosts", if newer { "new\n" } else { "old\n" });
    write(root, "usr/a", "a");
    write(root, "usr/b", "b");
    write(root, "usr/sub/deep/d", "d");
    write(root, "usr/sub/deep/e", "e");
    for (from, to) in [("usr/a", "usr/sub/c"), ("usr/sub/deep/e", "etc/e")] {
        std::fs::hard_link(root.join(from), root.join(to)).unwrap();
    }
    symlink(root, "usr/a", "link");
    if newer {
        write(root, "opt/n/f", "f");
        write(root, "opt/n/g", "");
        std::fs::remove_file(root.join("usr/b")).unwrap();
    }
    settle_at(root, time);
}

fn run(guest: &Guest, op: &Op) {
    let p = |path: &usize| PATHS[*path];
    // What a guest is refused changes nothing.
    let _refused = match op {
        Op::Create(path) => guest.create(p(path)).is_err(),
        Op::Mkdir(path) => guest.mkdir(p(path)).is_err(),
        Op::Unlink(path) => guest.unlink(p(path)).is_err(),
        Op::Rmdir(path) => guest.rmdir(p(path)).is_err(),
        Op::Empty(path) => {
            // A directory that is removed and made again takes nothing from the shared layer.
            for below in [
                "d",
                "e",
                "c",
                "deep",
                "f",
                "g",
                "n",
                "hosts",
                "os-release",
                "x",
            ] {
                let below = format!("{}/{below}", p(path));
                let _gone = guest.unlink(&below).is_ok() || guest.rmdir(&below).is_ok();
            }
            guest.rmdir(p(path)).is_err() || guest.mkdir(p(path)).is_err()
        }
        Op::Rename(old, new) => guest.rename(p(old), p(new)).is_err(),
        Op::Exchange(old, new) => guest.exchange(p(old), p(new)).is_err(),
        Op::Link(old, new) => guest.link(p(old), p(new)).is_err(),
        Op::Symlink(path) => guest.symlink("target", p(path)).is_err(),
        Op::Chmod(path, mode) => guest.chmod(p(path), *mode).is_err(),
        Op::Write(path, other) => {
            let text: &[u8] = if *other { b"WRITTEN" } else { b"written" };
            guest.write(p(path), text).is_err()
        }
    };
}

struct World {
    fixture: Fixture,
}

impl World {
    fn new() -> Self {
        let fixture = Fixture::new();
        for (name, newer, time) in [("one", false, 0), ("two", true, 1)] {
            let source = fixture.source(name);
            tree(&source, newer, 1_100_000_000 + time);
            fixture.import_as(name, &source, Some("f"), Share::Majority);
        }
        Self { fixture }
    }

    fn guest(&self, image: &str) -> Guest {
        Guest(self.fixture.filesystem(image))
    }

    fn clone(&self, from: &str, to: &str) {
        let options = clone::Options {
            from: from.into(),
            to: to.into(),
            frozen: false,
        };
        let context = &self.fixture.context;
        let plan = clone::plan(context, &options).unwrap();
        clone::apply(context, &plan, &Silent).unwrap();
    }

    fn run(&self, steps: &[Step]) {
        for step in steps {
            match step {
                Step::Guest(image, op) => run(&self.guest(IMAGES[*image]), op),
                Step::Place => {
                    let family = self.fixture.image("f").family;
                    placement::place(&self.fixture.context.images, family).unwrap();
                }
                Step::Fold => {
                    let context = &self.fixture.context;
                    let plan = fold::plan(context, &fold::Options { family: None }, &Silent);
                    fold::apply(context, &plan.unwrap(), &Silent).unwrap();
                }
            }
        }
    }

    fn create(&self, old: &str, new: &str) -> PathBuf {
        let file = self.fixture.source("patches").join("p");
        let options = CreateOptions {
            old: old.into(),
            new: new.into(),
            file: file.clone(),
            signer: None,
        };
        patch::create(Some(&self.fixture.context), &options, &Silent).unwrap();
        file
    }

    fn apply(&self, file: &Path, on_conflict: OnConflict) -> ApplyReport {
        let context = &self.fixture.context;
        let options = ApplyOptions {
            file: file.to_owned(),
            keys: Vec::new(),
            family: "f".into(),
            on_conflict,
            who: "somebody".into(),
            why: "a test".into(),
        };
        let plan = patch::plan(context, &options, &Silent).unwrap();
        patch::apply(context, plan, &Silent).unwrap()
    }

    #[track_caller]
    fn assert_sound(&self) {
        let options = check::Options { content: true };
        let report = check::run(&self.fixture.context, options, &Silent).unwrap();
        assert!(report.findings.is_empty(), "{:?}", report.findings);
    }
}

fn conflicts(report: &ApplyReport, image: &str) -> BTreeSet<String> {
    let found = report.images.iter().find(|found| found.image == image);
    let conflicts = found.expect(image).conflicts.iter();
    let path = |path: &[u8]| String::from_utf8(path[1..].to_vec()).unwrap();
    conflicts
        .map(|conflict| path(conflict.path.as_bytes()))
        .collect()
}

fn all(fixture: &Fixture) -> Vec<(String, Snapshot)> {
    let names = IMAGES.iter().chain(&["old", "new"]);
    names
        .map(|name| (String::from(*name), fixture.snapshot(name)))
        .collect()
}

#[test]
fn each_image_shows_what_a_three_way_merge_says() {
    let cases = std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|n| n.parse().ok());
    let config = ProptestConfig {
        cases: cases.unwrap_or(40),
        max_shrink_iters: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let change = proptest::collection::vec(op(), 1..12);
    proptest!(config, |(before in steps(), change in change, after in steps())| {
        let world = World::new();
        world.run(&before);
        world.clone("f", "old");
        world.clone("f", "new");
        for op in &change {
            run(&world.guest("new"), op);
        }
        let file = world.create("old", "new");
        world.run(&after);
        let seen = all(&world.fixture);
        let (old, new) = (&seen[IMAGES.len()].1, &seen[IMAGES.len() + 1].1);

        let merged: Vec<_> = seen.iter().map(|(_, image)| merge(old, new, image)).collect();
        let refused = merged.iter().any(|merged| !merged.conflicts.is_empty());
        let report = world.apply(&file, OnConflict::Fail);
        prop_assert_eq!(report.applied, !refused);
        if refused {
            for ((name, before), (_, now)) in seen.iter().zip(all(&world.fixture)) {
                family::assert_same(before, &now, &format!("{name}, nothing was applied"));
            }
        }
        let report = if refused { world.apply(&file, OnConflict::Keep) } else { report };
        for ((name, before), merged) in seen.iter().zip(&merged) {
            let now = world.fixture.snapshot(name);
            merged.assert_shown(&now, name);
            merged.assert_untouched(before, &now, name);
            prop_assert_eq!(&conflicts(&report, name), &merged.conflicts, "{}", name);
        }
        // What the patch was made of has become what it was made for.
        merged[IMAGES.len()].assert_shown(&world.fixture.snapshot("new"), "old is new");
        world.assert_sound();

        // Names that were kept may be missed by a file that has new ones.
        if !refused {
            let again = world.apply(&file, OnConflict::Keep);
            prop_assert_eq!(again.change, None, "nothing is left to do: {:?}", again);
        }
        let fixture = world.fixture.reopen();
        for ((name, _), merged) in seen.iter().zip(&merged) {
            merged.assert_shown(&fixture.snapshot(name), &format!("{name}, reopened"));
        }
    });
}

#[test]
fn what_is_held_stays() {
    let world = World::new();
    world.clone("f", "old");
    world.clone("f", "new");
    world.guest("new").write("etc/hosts", b"patched").unwrap();
    world.guest("new").create("etc/added").unwrap();
    let file = world.create("old", "new");
    let context = &world.fixture.context;
    let held = [b"/etc/hosts".as_slice().into()];
    let plan = hold::plan(context, "one", &held).unwrap();
    hold::apply(context, &plan, &Silent).unwrap();
    let before = world.fixture.snapshot("one");
    let report = world.apply(&file, OnConflict::Keep);
    assert_eq!(
        conflicts(&report, "one"),
        BTreeSet::from(["etc/hosts".into()])
    );
    let after = world.fixture.snapshot("one");
    assert_eq!(after["etc/hosts"], before["etc/hosts"]);
    assert!(after.contains_key("etc/added"));
    let base = world.fixture.snapshot("f");
    assert_eq!(&base["etc/hosts"].content[..7], b"patched");
    world.assert_sound();
}

#[test]
fn an_image_in_use_gets_it_through_what_uses_it() {
    let world = World::new();
    world.clone("f", "old");
    world.clone("f", "new");
    world.guest("new").write("etc/hosts", b"patched").unwrap();
    world.guest("new").write("usr/a", b"patched").unwrap();
    world.guest("new").create("etc/added").unwrap();
    let file = world.create("old", "new");
    let used = world.guest("one");
    let seen = used.0.clone();
    let number = |path: &str| family::find(&seen, path).unwrap().0.number;
    let (hosts, etc) = (number("etc/hosts"), number("etc"));
    assert!(family::find(&seen, "etc/added").is_none());
    // Open for writing, although nothing is written yet.
    let replaced = seen.node(hosts).unwrap();
    let node = seen.node(number("usr/a")).unwrap();
    let flags = OpenFlags {
        write: true,
        ..OpenFlags::default()
    };
    let handle = seen.open(&node, flags).unwrap();
    let reader = seen.open(&seen.node(hosts).unwrap(), OpenFlags::default());
    let reader = reader.unwrap();

    let report = world.apply(&file, OnConflict::Keep);
    let names = ["usr/a", "usr/sub/c"].map(String::from);
    assert_eq!(conflicts(&report, "one"), BTreeSet::from(names));
    assert_eq!(conflicts(&report, "f"), BTreeSet::new());
    assert_ne!(number("etc/hosts"), hosts);
    assert_eq!(number("etc"), etc);
    assert!(family::find(&seen, "etc/added").is_some());
    let mut old = [0; 4];
    assert_eq!(seen.read(reader, 0, &mut old).unwrap(), 4);
    assert_eq!(&old, b"old\n");
    seen.release(reader);
    // Who had looked the name up before, and comes to open it now.
    let register: Register<'_> = &|_| Err(std::io::ErrorKind::Unsupported.into());
    let stale = seen.open_at(&replaced, 0, flags, register).unwrap_err();
    assert_eq!(stale.errno(), Errno::STALE);
    let read = seen.open_at(&replaced, 0, OpenFlags::default(), register);
    seen.release(read.unwrap().0);
    drop(replaced);
    seen.write(handle, 0, b"mine", SetId::Keep).unwrap();
    seen.release(handle);
    drop((node, used, seen));
    let one = world.fixture.snapshot("one");
    assert_eq!(&one["usr/a"].content[..4], b"mine");
    assert_eq!(&one["etc/hosts"].content[..7], b"patched");
    world.assert_sound();

    let context = &world.fixture.context;
    let other = ApplyOptions {
        file,
        keys: Vec::new(),
        family: "one".into(),
        on_conflict: OnConflict::Keep,
        who: String::new(),
        why: String::new(),
    };
    let error = patch::plan(context, &other, &Silent).err().unwrap();
    let error = error.to_string();
    assert!(error.contains("there is no such family"), "{error}");
}

#[test]
fn a_patch_that_is_altered_while_it_is_applied_changes_nothing() {
    let world = World::new();
    world.clone("f", "old");
    world.clone("f", "new");
    world.guest("new").write("etc/hosts", b"patched").unwrap();
    let file = world.create("old", "new");
    let context = &world.fixture.context;
    let options = ApplyOptions {
        file: file.clone(),
        keys: Vec::new(),
        family: "f".into(),
        on_conflict: OnConflict::Keep,
        who: String::new(),
        why: String::new(),
    };
    let before = all(&world.fixture);
    let plan = patch::plan(context, &options, &Silent).unwrap();
    let good = std::fs::read(&file).unwrap();
    let mut bad = good.clone();
    let length = bad.len();
    bad[length - 60] ^= 1;
    // In place, as an editor or a copy that goes on would.
    std::fs::write(&file, &bad).unwrap();
    let error = patch::apply(context, plan, &Silent).unwrap_err();
    assert!(error.to_string().contains("altered"), "{error}");
    for ((name, before), (_, now)) in before.iter().zip(all(&world.fixture)) {
        family::assert_same(before, &now, name);
    }
    world.assert_sound();
    let changes = context.store.path().join("changes");
    assert_eq!(std::fs::read_dir(changes).unwrap().count(), 0);
    std::fs::write(&file, &good).unwrap();
    world.apply(&file, OnConflict::Keep);
    let base = world.fixture.snapshot("f");
    assert_eq!(&base["etc/hosts"].content[..7], b"patched");
    world.assert_sound();
}

#[test]
fn check_knows_what_belongs_to_a_change() {
    let world = World::new();
    world.clone("f", "old");
    world.clone("f", "new");
    world.guest("new").write("etc/hosts", b"patched").unwrap();
    let file = world.create("old", "new");
    let change = world.apply(&file, OnConflict::Keep).change.unwrap();
    world.assert_sound();
    let changes = world.fixture.context.store.path().join("changes");
    let findings = |content: bool| -> Vec<String> {
        let options = check::Options { content };
        let report = check::run(&world.fixture.context, options, &Silent).unwrap();
        let findings = report.findings.iter();
        findings
            .map(|finding| format!("{}: {}", finding.object, finding.cause))
            .collect()
    };
    std::fs::write(changes.join("notes"), "").unwrap();
    let image = world.fixture.image("one").id;
    let steps = changes.join(format!("{change}-{image}"));
    std::fs::write(&steps, "no steps").unwrap();
    let found = findings(false);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("changes/notes"), "{found:?}");
    assert!(
        found[1].contains(&format!("changes/{change}-{image}")),
        "{found:?}"
    );
    std::fs::remove_file(changes.join("notes")).unwrap();
    std::fs::remove_file(steps).unwrap();

    let patch = changes.join(change.to_string());
    let good = std::fs::read(&patch).unwrap();
    std::fs::write(&patch, &good[..good.len() - 1]).unwrap();
    assert!(findings(false).is_empty());
    let found = findings(true);
    assert!(
        found.len() == 1 && found[0].contains("damaged"),
        "{found:?}"
    );
    std::fs::remove_file(&patch).unwrap();
    let found = findings(false);
    assert!(
        found.len() == 1 && found[0].contains("is missing"),
        "{found:?}"
    );
    std::fs::write(&patch, &good).unwrap();
    world.assert_sound();
}

#[test]
fn what_a_guest_does_between_the_look_and_the_change_counts() {
    let world = World::new();
    let base = world.guest("f");
    base.create("etc/empty").unwrap();
    base.create("etc/own").unwrap();
    base.write("etc/own", b"own").unwrap();
    drop(base);
    world.clone("f", "old");
    world.clone("f", "new");
    world.clone("f", "three");
    let new = world.guest("new");
    for path in [
        "etc/hosts",
        "etc/empty",
        "etc/own",
        "usr/a",
        "usr/sub/deep/d",
    ] {
        new.write(path, b"patched").unwrap();
    }
    new.chmod("etc", 0o700).unwrap();
    new.create("opt").unwrap();
    new.unlink("usr/b").unwrap();
    drop(new);
    let file = world.create("old", "new");
    let options = ApplyOptions {
        file,
        keys: Vec::new(),
        family: "f".into(),
        on_conflict: OnConflict::Keep,
        who: String::new(),
        why: String::new(),
    };
    type Act = fn(&Guest) -> Outcome<()>;
    let acts: [(&str, Act); 12] = [
        ("nothing", |_| Ok(())),
        ("a write", |guest| guest.write("etc/hosts", b"mine")),
        ("a write to an own file", |guest| {
            guest.write("etc/own", b"OWN")
        }),
        ("a write to an empty file", |guest| {
            guest.write("etc/empty", b"mine")
        }),
        ("chmod", |guest| guest.chmod("etc/hosts", 0o600)),
        ("chmod of a directory", |guest| guest.chmod("etc", 0o711)),
        ("unlink", |guest| guest.unlink("etc/hosts")),
        ("what is new is there", |guest| guest.mkdir("opt")),
        ("a directory is renamed", |guest| {
            guest.rename("usr/sub", "moved")
        }),
        ("another one has its name", |guest| {
            guest.exchange("usr/sub", "etc")
        }),
        ("another name", |guest| guest.link("usr/b", "another")),
        ("what went", |guest| guest.unlink("usr/b")),
    ];
    for (what, act) in acts {
        let fixture = world.fixture.copy_in_memory();
        let context = &fixture.context;
        let guest = Guest(fixture.filesystem("three"));
        // Its own, although they are what the patch says was there.
        for path in ["etc/empty", "etc/own"] {
            let (node, attributes) = family::find(&guest.0, path).unwrap();
            guest.chmod(path, 0o600).unwrap();
            let changes = Changes {
                mode: Some(attributes.mode),
                ..Changes::default()
            };
            guest.0.set_attributes(&node, &changes).unwrap();
        }
        let (old, new) = (fixture.snapshot("old"), fixture.snapshot("new"));
        let plan = patch::plan(context, &options, &Silent).unwrap();
        act(&guest).expect(what);
        let now = fixture.snapshot("three");
        let merged = merge(&old, &new, &now);
        let report = patch::apply(context, plan, &Silent).unwrap();
        merged.assert_shown(&fixture.snapshot("three"), what);
        assert_eq!(conflicts(&report, "three"), merged.conflicts, "{what}");
        fixture.assert_sound(what);
    }
}
