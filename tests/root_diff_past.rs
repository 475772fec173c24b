//! `FAMILY@CHANGE`: what a family's base was after each of its changes, compared with copies that were taken
//! then. Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on should panic"
)]

mod family;
mod patch_model;

use std::path::{Path, PathBuf};

use foldfs::archive::{ImageSource, export_directory};
use foldfs::ops::patch::{self, CreateOptions, OnConflict, Source};
use foldfs::ops::report::DiffReport;
use foldfs::ops::{collect, diff};
use foldfs::progress::Silent;
use patch_model::random;
use patch_model::world::{Op, Step, World, op, run};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Round {
    /// A guest does something, and the family adopts it.
    Adopt(usize, Vec<Op>),
    /// One of the changes so far is taken back.
    Revert(usize),
}

fn rounds() -> impl Strategy<Value = Vec<Round>> {
    let ops = || proptest::collection::vec(op(), 1..8);
    let round = prop_oneof![
        4 => (0..2usize, ops()).prop_map(|(image, ops)| Round::Adopt(image, ops)),
        1 => (0..8usize).prop_map(Round::Revert),
    ];
    proptest::collection::vec(round, 1..7)
}

fn told(world: &World, old: &Path, new: &Path, text: bool) -> Result<DiffReport, String> {
    let options = diff::Options {
        old: old.to_owned(),
        new: new.to_owned(),
        paths: Vec::new(),
        stat: false,
        text,
    };
    let report = diff::diff(Some(&world.fixture.context), &options, &Silent);
    report.map_err(|error| error.to_string())
}

fn copy(world: &World, to: &str) -> PathBuf {
    let context = &world.fixture.context;
    let view = context.images.view(&world.fixture.image("f")).unwrap();
    let source = ImageSource {
        view: &view,
        objects: context.store.objects(),
    };
    let place = world.fixture.source("states").join(to);
    export_directory(&source, &context.store, &place, &Silent).unwrap();
    place
}

fn paths(report: &DiffReport) -> Vec<String> {
    paths_but(false, report)
}

/// `for_times`: the mtimes of directories left out. A revert removes directories of which its record has the
/// mtime that they had after the change that it takes back.
fn paths_but(for_times: bool, report: &DiffReport) -> Vec<String> {
    let mut told = Vec::new();
    for entry in &report.differences {
        let mut aspects = entry.aspects.clone();
        let is_directory = entry.new.as_ref().is_some_and(|side| side.file_type == "d");
        if for_times && is_directory && entry.kind == "altered" {
            aspects.retain(|aspect| aspect != "mtime");
            if aspects.is_empty() {
                continue;
            }
        }
        told.push(format!("{} {} {aspects:?}", entry.kind, entry.path));
    }
    told
}

fn change(world: &World, source: Source) -> Option<i64> {
    world.change(source, OnConflict::Keep).change
}

fn adopt(world: &World, image: &str) -> Option<i64> {
    let image = image.to_owned();
    let paths = Vec::new();
    change(world, Source::Image { image, paths })
}

#[test]
fn every_state_is_what_it_was() {
    proptest!(random(24), |(rounds in rounds())| {
        let world = World::new();
        let mut states = vec![(0, copy(&world, "0"))];
        for round in &rounds {
            let made = match round {
                Round::Adopt(image, ops) => {
                    let image = ["one", "two"][*image];
                    for op in ops {
                        run(&world.guest(image), op);
                    }
                    adopt(&world, image)
                }
                Round::Revert(which) if states.len() > 1 => {
                    let change = states[1 + which % (states.len() - 1)].0;
                    self::change(&world, Source::Change { change })
                }
                Round::Revert(_) => None,
            };
            if let Some(change) = made {
                states.push((change, copy(&world, &change.to_string())));
            }
        }
        world.run(&[Step::Fold, Step::Place]);
        let reverted = rounds.iter().any(|round| matches!(round, Round::Revert(_)));
        let paths = |report: &DiffReport| paths_but(reverted, report);
        for (change, copied) in &states {
            let state = PathBuf::from(format!("f@{change}"));
            let against = told(&world, &state, copied, false).unwrap();
            prop_assert_eq!(paths(&against), Vec::<String>::new(), "{} and its copy", state.display());
            let back = told(&world, copied, &state, false).unwrap();
            prop_assert_eq!(paths(&back), Vec::<String>::new(), "the copy and {}", state.display());
            for (other, copied_then) in &states {
                let other = PathBuf::from(format!("f@{other}"));
                let found = told(&world, &state, &other, true).unwrap();
                let copies = told(&world, copied, copied_then, true).unwrap();
                prop_assert_eq!(paths(&found), paths(&copies), "{} to {}", state.display(), other.display());
                let texts = |report: &DiffReport| -> Vec<String> {
                    report.differences.iter().filter_map(|entry| entry.text.clone()).collect()
                };
                prop_assert_eq!(texts(&found), texts(&copies));
            }
            let now = told(&world, &state, Path::new("f"), false).unwrap();
            let copies = told(&world, copied, &states[states.len() - 1].1, false).unwrap();
            prop_assert_eq!(paths(&now), paths(&copies), "{} to the base", state.display());
        }
    });
}

#[test]
fn what_is_no_state_is_refused() {
    let world = World::new();
    let refused = |name: &str| told(&world, Path::new(name), Path::new("f"), false).unwrap_err();
    assert!(refused("f@1").contains("there is no such change"));
    assert!(refused("f@x").contains("no number of a change"));
    assert!(refused("g@1").contains("there is no such image or family"));
    assert!(refused("one@0").contains("there is no such image or family"));
    let source = world.fixture.source("one");
    let share = foldfs::store::catalog::Share::Majority;
    world.fixture.import_as("other", &source, Some("g"), share);
    run(&world.guest("one"), &Op::Create(2));
    let first = adopt(&world, "one").unwrap();
    assert!(refused(&format!("g@{first}")).contains("another family"));
    for _ in 0..2 {
        run(&world.guest("one"), &Op::Write(2, true));
        adopt(&world, "one").unwrap();
        run(&world.guest("one"), &Op::Write(2, false));
        adopt(&world, "one").unwrap();
    }
    let context = &world.fixture.context;
    let plan = collect::plan(context, 2, &Silent).unwrap();
    let forgotten = collect::apply(context, &plan).unwrap().forgotten_changes;
    assert_eq!(forgotten, [first, first + 1, first + 2]);
    for gone in [0, first, first + 1] {
        let error = refused(&format!("f@{gone}"));
        let oldest = format!("the oldest state that is kept is f@{}", first + 2);
        assert!(
            error.contains("is not kept any more") && error.contains(&oldest),
            "{error}"
        );
    }
    assert!(
        told(
            &world,
            Path::new(&format!("f@{}", first + 2)),
            Path::new("f"),
            false
        )
        .is_ok()
    );
}

#[test]
fn a_patch_can_be_made_of_what_was() {
    let world = World::new();
    run(&world.guest("one"), &Op::Write(0, true));
    adopt(&world, "one").unwrap();
    run(&world.guest("one"), &Op::Unlink(8));
    run(&world.guest("one"), &Op::Write(0, false));
    let second = adopt(&world, "one").unwrap();
    let now = copy(&world, "now");
    let file = world.fixture.source("back").with_extension("patch");
    let options = CreateOptions {
        old: "f".into(),
        new: "f@0".into(),
        file: file.clone(),
        signer: None,
    };
    patch::create(Some(&world.fixture.context), &options, &Silent).unwrap();
    world.apply(&file, OnConflict::Keep);
    let back = told(&world, Path::new("f@0"), Path::new("f"), false).unwrap();
    assert_eq!(paths(&back), Vec::<String>::new());
    let state = PathBuf::from(format!("f@{second}"));
    assert!(told(&world, &state, &now, false).unwrap().equal);
}

#[test]
fn what_the_base_gave_up_is_what_it_had() {
    let world = World::new();
    world.clone("two", "old");
    world.clone("two", "new");
    run(&world.guest("new"), &Op::Write(0, true));
    let file = world.create("old", "new");
    let before = copy(&world, "before");
    let made = world.apply(&file, OnConflict::Replace);
    let state = Path::new("f@0");
    let gave_up = told(&world, state, Path::new("f"), true).unwrap();
    // The base had another version than the patch says.
    let text = gave_up
        .differences
        .iter()
        .find_map(|entry| entry.text.clone());
    assert!(
        made.change.is_some() && text.unwrap().contains("-old"),
        "{:?}",
        paths(&gave_up)
    );
    assert_eq!(
        paths(&told(&world, state, &before, false).unwrap()),
        Vec::<String>::new()
    );
}
