//! Changes that are taken back: every image shows what it showed before, and what others have built since
//! stays. Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on should panic"
)]

mod family;
mod patch_model;

use std::collections::BTreeSet;

use family::Snapshot;
use foldfs::ops::patch::{self, ApplyOptions, OnConflict, Source};
use foldfs::ops::report::{ApplyReport, ChangeReport};
use foldfs::ops::{collect, fold, remove};
use foldfs::progress::Silent;
use patch_model::world::{IMAGES, Step, World, all, conflicts, op, run, steps};
use patch_model::{assert_equal, options, random, source};
use proptest::prelude::*;

fn revert(world: &World, change: i64) -> ApplyReport {
    world.change(Source::Change { change }, OnConflict::Keep)
}

fn before_and_after() -> impl Strategy<Value = (Vec<Step>, Vec<Step>)> {
    (steps(), steps())
}

fn collect(world: &World, keep: u64) -> Vec<i64> {
    let context = &world.fixture.context;
    let plan = collect::plan(context, keep, &Silent).unwrap();
    let report = collect::apply(context, &plan).unwrap();
    report.forgotten_changes
}

fn changes(world: &World) -> Vec<ChangeReport> {
    let report = patch::changes(&world.fixture.context, "f", (None, None), false);
    report.unwrap().changes
}

/// Why a change cannot be made.
fn refused(world: &World, source: Source, family: Option<&str>, images: &[&str]) -> String {
    let options = ApplyOptions {
        family: family.map(String::from),
        images: images.iter().map(|&image| image.into()).collect(),
        ..options(source)
    };
    let error = patch::plan(&world.fixture.context, &options, &Silent).err();
    error.unwrap().to_string()
}

#[test]
fn a_change_taken_back_leaves_nothing() {
    let change = proptest::collection::vec(op(), 1..12);
    let on_conflict = prop_oneof![
        2 => Just(OnConflict::Keep),
        1 => Just(OnConflict::Replace),
        1 => Just(OnConflict::Merge),
    ];
    let given = (before_and_after(), change, on_conflict, any::<bool>());
    proptest!(random(30), |(((before, after), change, on_conflict, folds) in given)| {
        let world = World::new();
        world.run(&before);
        world.clone("f", "old");
        world.clone("f", "new");
        for op in &change {
            run(&world.guest("new"), op);
        }
        let file = world.create("old", "new");
        world.run(&after);
        let before = all(&world.fixture);
        let made = world.apply(&file, on_conflict);
        let patched = all(&world.fixture);
        let Some(change) = made.change else {
            return Ok(());
        };
        if folds {
            let context = &world.fixture.context;
            let plan = fold::plan(context, &fold::Options { family: None }, &Silent);
            fold::apply(context, &plan.unwrap(), &Silent).unwrap();
        }
        // Contents that nobody has any more are needed still.
        prop_assert_eq!(collect(&world, 10), Vec::<i64>::new());
        world.assert_sound();

        let taken_back = revert(&world, change);
        for ((name, before), (_, patched)) in before.iter().zip(&patched) {
            prop_assert_eq!(conflicts_of(&taken_back, name), BTreeSet::new(), "{}", name);
            let now = world.fixture.snapshot(name);
            assert_equal(&but_for(before, patched), &but_for(&now, patched), &format!("{name}, taken back"));
        }
        world.assert_sound();
        collect(&world, 10);
        let again = revert(&world, taken_back.change.unwrap());
        for ((name, before), (_, patched)) in before.iter().zip(&patched) {
            let now = world.fixture.snapshot(name);
            assert_equal(&but_for(patched, before), &but_for(&now, before), &format!("{name}, made again"));
        }
        world.assert_sound();
        let again = again.change.unwrap();
        prop_assert_eq!(collect(&world, 1), [change, taken_back.change.unwrap()]);
        let fixture = world.fixture.reopen();
        let world = World { fixture };
        world.assert_sound();
        let error = refused(&world, Source::Change { change }, None, &[]);
        prop_assert!(error.contains("not kept any more"), "{}", error);
        revert(&world, again);
        for ((name, before), (_, patched)) in before.iter().zip(&patched) {
            let now = world.fixture.snapshot(name);
            assert_equal(&but_for(before, patched), &but_for(&now, patched), &format!("{name}, at last"));
        }
    });
}

/// A snapshot without the mtimes of directories that are gone in another one: they come back with the
/// mtimes that the change's own trees have.
fn but_for(snapshot: &Snapshot, other: &Snapshot) -> Snapshot {
    let mut snapshot = snapshot.clone();
    for (path, seen) in &mut snapshot {
        let stays = other
            .get(path)
            .is_some_and(|it| it.file_type == "Directory");
        if seen.file_type == "Directory" && !stays {
            seen.mtime = Default::default();
        }
    }
    snapshot
}

/// None, of an image that the change is not about.
fn conflicts_of(report: &ApplyReport, image: &str) -> BTreeSet<String> {
    match report.images.iter().any(|found| found.image == image) {
        true => conflicts(report, image),
        false => BTreeSet::new(),
    }
}

#[test]
fn what_others_have_built_since_stays() {
    let world = World::new();
    world.clone("f", "old");
    world.clone("f", "new");
    // On its own it has what the change brings, and lacks what the change removes.
    world.guest("one").write("usr/a", b"patched").unwrap();
    world.guest("one").unlink("usr/b").unwrap();
    let new = world.guest("new");
    new.write("etc/os-release", b"patched").unwrap();
    new.unlink("usr/b").unwrap();
    new.create("etc/added").unwrap();
    drop(new);
    let file = world.create("old", "new");
    let before = all(&world.fixture);
    let change = world.apply(&file, OnConflict::Keep).change.unwrap();
    world.clone("two", "three");
    world
        .guest("two")
        .write("etc/os-release", b"built")
        .unwrap();
    world.guest("two").write("etc/added", b"built").unwrap();

    let report = revert(&world, change);
    let kept = ["etc/added", "etc/os-release"].map(String::from);
    assert_eq!(conflicts(&report, "two"), BTreeSet::from(kept));
    let two = world.fixture.snapshot("two");
    assert_eq!(&two["etc/os-release"].content[..5], b"built");
    assert_eq!(&two["etc/added"].content[..5], b"built");
    let one = world.fixture.snapshot("one");
    assert!(!one.contains_key("usr/b"), "it had removed that itself");
    for (name, before) in before.iter().filter(|(name, _)| *name != "two") {
        assert_equal(before, &world.fixture.snapshot(name), name);
    }
    // A clone that was made since is what its origin was before.
    assert_equal(
        &before[2].1,
        &world.fixture.snapshot("three"),
        "a clone since",
    );
    world.assert_sound();

    let log = changes(&world);
    let kinds: Vec<_> = log.iter().map(|it| (&*it.kind, it.taken_back)).collect();
    assert_eq!(kinds, [("apply", None), ("revert", Some(change))]);
    assert_eq!(log[0].source, file.to_str().unwrap());
    assert_eq!(log[1].source, format!("change {change}"));
    let images = &log[0].kept.as_ref().unwrap().images;
    assert!(images.contains(&"three".into()), "{images:?}");
}

#[test]
fn a_canary_gets_it_first() {
    let world = World::new();
    world.clone("f", "old");
    world.clone("f", "new");
    world
        .guest("new")
        .write("etc/os-release", b"patched")
        .unwrap();
    let file = world.create("old", "new");
    let before = all(&world.fixture);
    let context = &world.fixture.context;
    let options = ApplyOptions {
        family: None,
        images: vec!["two".into()],
        ..options(source(&file))
    };
    let plan = patch::plan(context, &options, &Silent).unwrap();
    let report = patch::apply(context, plan, &Silent).unwrap();
    assert_eq!(report.images.len(), 1);
    for ((name, before), (_, now)) in before.iter().zip(all(&world.fixture)) {
        let patched = &now["etc/os-release"].content[..7] == b"patched".as_slice();
        assert_eq!(patched, matches!(name.as_str(), "two" | "new"), "{name}");
        if name != "two" {
            family::assert_same(before, &now, name);
        }
    }
    world.assert_sound();
    let all_of_it = world.apply(&file, OnConflict::Keep);
    let two = all_of_it.images.iter().find(|image| image.image == "two");
    assert_eq!((two.unwrap().changed, two.unwrap().unchanged), (0, 1));
    // Each change is taken back where it was made.
    revert(&world, all_of_it.change.unwrap());
    for name in IMAGES {
        let now = world.fixture.snapshot(name);
        let patched = &now["etc/os-release"].content[..7] == b"patched".as_slice();
        assert_eq!(patched, name == "two", "{name}");
    }
    revert(&world, report.change.unwrap());
    for (name, before) in &before {
        assert_equal(before, &world.fixture.snapshot(name), name);
    }
    world.assert_sound();

    let error = refused(&world, source(&file), None, &["nobody"]);
    assert!(error.contains("no such image"), "{error}");
    let error = refused(&world, source(&file), Some("one"), &[]);
    assert!(error.contains("no such family"), "{error}");
    let error = refused(&world, Source::Change { change: 99 }, None, &[]);
    assert!(error.contains("there is no such change"), "{error}");
}

#[test]
fn a_directory_keeps_the_mode_that_an_image_gave_it() {
    let world = World::new();
    world.clone("f", "old");
    world.clone("f", "new");
    // On its own, before the change and without another mtime.
    world.guest("one").chmod("usr/sub", 0o700).unwrap();
    world.guest("new").chmod("usr/sub", 0o700).unwrap();
    world.guest("new").create("usr/sub/added").unwrap();
    let file = world.create("old", "new");
    let change = world.apply(&file, OnConflict::Keep).change.unwrap();
    revert(&world, change);
    assert_eq!(world.fixture.snapshot("one")["usr/sub"].mode, 0o700);
    assert_eq!(world.fixture.snapshot("f")["usr/sub"].mode, 0o755);
    assert!(!world.fixture.snapshot("one").contains_key("usr/sub/added"));
    world.assert_sound();
}

#[test]
fn what_a_change_could_not_bring_is_not_needed_to_take_it_back() {
    let world = World::new();
    world.clone("f", "old");
    world.clone("f", "new");
    world
        .guest("new")
        .write("etc/os-release", b"patched")
        .unwrap();
    world.guest("new").write("usr/a", b"patched").unwrap();
    let file = world.create("old", "new");
    // Of a conflict, nobody gets the new version.
    world
        .guest("two")
        .write("etc/os-release", b"its own")
        .unwrap();
    let options = ApplyOptions {
        family: None,
        images: vec!["two".into()],
        ..options(source(&file))
    };
    let context = &world.fixture.context;
    let plan = patch::plan(context, &options, &Silent).unwrap();
    let change = patch::apply(context, plan, &Silent)
        .unwrap()
        .change
        .unwrap();
    let error = refused(&world, Source::Change { change }, None, &["one"]);
    assert!(error.contains("was not made in it"), "{error}");
    revert(&world, change);
    for image in ["new", "old"] {
        let plan = remove::plan(context, image).unwrap();
        remove::apply(context, &plan, &Silent).unwrap();
    }
    std::fs::remove_file(&file).unwrap();
    collect(&world, 10);
    world.assert_sound();
}
