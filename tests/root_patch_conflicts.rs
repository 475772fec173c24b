//! What becomes of versions of their own that images have where a change comes: given up, merged, or kept; and
//! that each image gets its own one back. Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on should panic"
)]

mod family;
mod patch_model;

use std::collections::BTreeSet;
use std::path::PathBuf;

use family::Snapshot;
use family::guest::Guest;
use foldfs::ops::patch::{OnConflict, Source, Worked};
use foldfs::ops::report::{AppliedImage, ApplyReport};
use foldfs::ops::{collect, hold, working};
use foldfs::path_bytes::PathBytes;
use foldfs::progress::Silent;
use patch_model::assert_equal;
use patch_model::world::{World, conflicts};

const TEXT: &str = "one\ntwo\nthree\nfour\nfive\nsix\nseven\n";

/// A family of which some images have what they have, and a patch for it.
fn world() -> (World, PathBuf) {
    let world = World::new();
    let base = world.guest("f");
    base.put("etc/text", TEXT.as_bytes()).unwrap();
    base.put("etc/binary", b"\0old").unwrap();
    base.put("etc/goes", b"goes").unwrap();
    drop(base);
    for image in ["own", "text", "gone", "old", "new"] {
        world.clone("f", image);
    }
    let own = world.guest("own");
    own.write("etc/hosts", b"own").unwrap();
    own.write("etc/binary", b"\0own").unwrap();
    own.chmod("etc/text", 0o600).unwrap();
    own.write("etc/goes", b"stays").unwrap();
    own.create("etc/added").unwrap();
    own.chmod("usr/sub/deep/d", 0o600).unwrap();
    let text = world.guest("text");
    text.write("etc/text", b"own").unwrap();
    let gone = world.guest("gone");
    gone.unlink("etc/hosts").unwrap();
    let new = world.guest("new");
    new.write("etc/hosts", b"new").unwrap();
    new.write("etc/binary", b"\0new").unwrap();
    new.write_at("etc/text", TEXT.len() as u64, b"eight\n")
        .unwrap();
    new.unlink("etc/goes").unwrap();
    new.put("etc/added", b"added").unwrap();
    new.write("usr/sub/deep/d", b"D").unwrap();
    drop((own, text, gone, new));
    let file = world.create("old", "new");
    (world, file)
}

fn of<'a>(report: &'a ApplyReport, image: &str) -> &'a AppliedImage {
    let mut images = report.images.iter();
    images.find(|it| it.image == image).expect(image)
}

fn paths(paths: &[PathBytes]) -> BTreeSet<String> {
    paths.iter().map(PathBytes::to_string).collect()
}

fn set<const N: usize>(paths: [&str; N]) -> BTreeSet<String> {
    paths.map(String::from).into()
}

/// Without a directory that has the mtime of the image's own changes.
fn but_etc(snapshot: &Snapshot) -> Snapshot {
    let mut snapshot = snapshot.clone();
    snapshot.remove("etc");
    snapshot
}

fn take_back(world: &World, report: &ApplyReport) {
    let change = report.change.unwrap();
    let report = world.change(Source::Change { change }, OnConflict::Keep);
    for image in &report.images {
        assert_eq!(image.conflicts, [], "{}", image.image);
        let told = image.changed + image.unchanged;
        assert_eq!(told, report.paths, "{}", image.image);
    }
}

const IMAGES: [&str; 7] = ["f", "one", "two", "own", "text", "gone", "old"];

#[test]
fn what_is_given_up_comes_back_when_the_change_is_taken_back() {
    let (world, file) = world();
    let fixture = &world.fixture;
    let before = IMAGES.map(|image| fixture.snapshot(image));
    let new = fixture.snapshot("new");
    let report = world.apply(&file, OnConflict::Replace);
    let own = of(&report, "own");
    let replaced = set([
        "/etc/added",
        "/etc/binary",
        "/etc/goes",
        "/etc/hosts",
        "/etc/text",
        "/usr/sub/deep/d",
    ]);
    assert_eq!(paths(&own.replaced), replaced);
    // Its /etc has an mtime of its own.
    assert_eq!((own.changed, own.unchanged), (6, 1));
    assert_eq!(paths(&of(&report, "gone").replaced), set(["/etc/hosts"]));
    assert_eq!(paths(&of(&report, "text").replaced), set(["/etc/text"]));
    assert_eq!(of(&report, "old").replaced, []);
    for image in ["f", "own", "text", "gone", "old"] {
        assert_eq!(of(&report, image).conflicts, [], "{image}");
        assert_equal(&but_etc(&fixture.snapshot(image)), &but_etc(&new), image);
    }
    world.assert_sound();
    // Their own versions are nobody's any more, and are needed.
    let context = &fixture.context;
    let plan = collect::plan(context, 10, &Silent).unwrap();
    collect::apply(context, &plan).unwrap();
    take_back(&world, &report);
    for (image, before) in IMAGES.iter().zip(&before) {
        assert_equal(&fixture.snapshot(image), before, image);
    }
    world.assert_sound();
}

#[test]
fn what_does_not_meet_is_merged() {
    let (world, file) = world();
    let fixture = &world.fixture;
    let before = IMAGES.map(|image| fixture.snapshot(image));
    let report = world.apply(&file, OnConflict::Merge);
    let own = of(&report, "own");
    assert_eq!(paths(&own.merged), set(["/etc/text", "/usr/sub/deep/d"]));
    let kept = set(["etc/added", "etc/binary", "etc/goes", "etc/hosts"]);
    assert_eq!(conflicts(&report, "own"), kept);
    let now = fixture.snapshot("own");
    let new = fixture.snapshot("new");
    assert_eq!(now["etc/text"].content, new["etc/text"].content);
    assert_eq!(now["etc/text"].mode, 0o600);
    assert_eq!(now["usr/sub/deep/d"].content, b"D");
    assert_eq!(now["usr/sub/deep/d"].mode, 0o600);
    assert_eq!(now["etc/binary"].content, b"\0own");
    assert_eq!(paths(&of(&report, "text").merged), set(["/etc/text"]));
    let merged = format!("own{}eight\n", &TEXT[3..]);
    let now = fixture.snapshot("text");
    assert_eq!(now["etc/text"].content, merged.as_bytes());
    assert_eq!(conflicts(&report, "gone"), set(["etc/hosts"]));
    world.assert_sound();
    take_back(&world, &report);
    for (image, before) in IMAGES.iter().zip(&before) {
        assert_equal(&fixture.snapshot(image), before, image);
    }
    world.assert_sound();
    let world = World {
        fixture: world.fixture.reopen(),
    };
    for (image, before) in IMAGES.iter().zip(&before) {
        assert_equal(&world.fixture.snapshot(image), before, image);
    }
}

#[test]
fn what_is_held_or_written_is_not_given_up() {
    let (world, file) = world();
    let context = &world.fixture.context;
    let held = [b"/etc/hosts".as_slice().into()];
    let plan = hold::plan(context, "own", &held).unwrap();
    hold::apply(context, &plan, &Silent).unwrap();
    let report = world
        .guest("own")
        .while_open("etc/binary", || world.apply(&file, OnConflict::Replace))
        .unwrap();
    assert_eq!(conflicts(&report, "own"), set(["etc/binary", "etc/hosts"]));
    let now = world.fixture.snapshot("own");
    assert_eq!(&now["etc/hosts"].content[..3], b"own");
    assert_eq!(now["etc/binary"].content, b"\0own");
    assert!(!now.contains_key("etc/goes"));
    world.assert_sound();
}

#[test]
fn versions_of_other_sizes_are_merged_and_what_is_there_already_is_no_change() {
    let world = World::new();
    world.guest("f").put("etc/text", TEXT.as_bytes()).unwrap();
    for image in ["longer", "has", "old", "new"] {
        world.clone("f", image);
    }
    let put = |image: &str, text: &str| {
        let guest = world.guest(image);
        guest.unlink("etc/text").unwrap();
        guest.put("etc/text", text.as_bytes()).unwrap();
    };
    let patched = TEXT.replace("one", "ONE");
    put("longer", &TEXT.replace("seven", "seven, which is mine"));
    put("has", &patched.replace("seven", "SEVEN"));
    put("new", &patched);
    // Else the times differ, which nobody merges.
    for image in ["longer", "has", "new"] {
        world.guest(image).set_mtime("etc/text").unwrap();
    }
    let file = world.create("old", "new");
    let report = world.apply(&file, OnConflict::Merge);
    assert_eq!(of(&report, "longer").conflicts, []);
    assert_eq!(of(&report, "has").conflicts, []);
    assert_eq!(of(&report, "has").merged, []);
    let text = |image: &str| world.fixture.snapshot(image)["etc/text"].content.clone();
    let expected = patched.replace("seven", "seven, which is mine");
    assert_eq!(text("longer"), expected.as_bytes());
    assert_eq!(text("has"), patched.replace("seven", "SEVEN").as_bytes());
    world.assert_sound();
    take_back(&world, &report);
    let expected = TEXT.replace("seven", "seven, which is mine");
    assert_eq!(text("longer"), expected.as_bytes());
    assert_eq!(text("has"), patched.replace("seven", "SEVEN").as_bytes());
}

#[test]
fn what_an_image_gave_up_for_a_working_tree_comes_back_to_that_image_only() {
    let world = World::new();
    world.clone("f", "own");
    world.guest("own").write("etc/hosts", b"own").unwrap();
    let context = &world.fixture.context;
    let plan = working::plan(context, "f", true).unwrap();
    working::apply(context, &plan, &Silent).unwrap();
    let tree = world.fixture.filesystem("f.work");
    Guest(tree.clone()).write("etc/hosts", b"tree").unwrap();
    let before = ["f", "own", "f.work"].map(|image| world.fixture.snapshot(image));
    let source = Source::Working {
        family: "f".into(),
        worked: Worked::ByHand,
    };
    let report = world.change(source, OnConflict::Replace);
    assert_eq!(paths(&of(&report, "own").replaced), set(["/etc/hosts"]));
    let change = report.change.unwrap();
    world.change(Source::Change { change }, OnConflict::Keep);
    assert_equal(&world.fixture.snapshot("own"), &before[1], "own");
    assert_equal(&world.fixture.snapshot("f"), &before[0], "f");
    let now = world.fixture.snapshot("f.work");
    assert_eq!(now["etc/hosts"].content, before[0]["etc/hosts"].content);
    world.assert_sound();
}
