//! `export --format store`: a family with some of its images as a store of its own. Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on should panic"
)]

mod family;
mod patch_model;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use family::{Fixture, Snapshot, assert_same, commands};
use foldfs::error::Error;
use foldfs::ops::export_store::{self, Options};
use foldfs::ops::report::ExportReport;
use foldfs::progress::Silent;
use foldfs::store::catalog::Reads;
use foldfs::sys::durable;
use patch_model::random;
use patch_model::world::{IMAGES, World, steps};
use proptest::prelude::*;
use rustix::io::Errno;

fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir_in("/dev/shm");
    directory
        .or_else(|_| tempfile::tempdir_in("/var/tmp"))
        .unwrap()
}

fn export(
    fixture: &Fixture,
    name: &str,
    images: &[&str],
    to: &Path,
) -> Result<ExportReport, Error> {
    let options = Options {
        name: name.to_owned(),
        images: images.iter().map(|&image| image.into()).collect(),
        destination: to.to_owned(),
    };
    let plan = export_store::plan(&fixture.context, &options)?;
    export_store::apply(&fixture.context, &plan, &Silent)
}

fn names(fixture: &Fixture) -> Vec<String> {
    let images = fixture.context.store.catalog().images().unwrap();
    images.into_iter().map(|image| image.name).collect()
}

/// That the store in a directory is whole, and shows these images as they were.
fn assert_holds(
    directory: tempfile::TempDir,
    expected: &[(String, Snapshot)],
    what: &str,
) -> Fixture {
    let there = Fixture::existing(directory);
    there.assert_sound(what);
    let mut images: Vec<&String> = expected.iter().map(|(name, _)| name).collect();
    images.sort();
    assert_eq!(names(&there).iter().collect::<Vec<_>>(), images, "{what}");
    for (name, before) in expected {
        assert_same(before, &there.snapshot(name), &format!("{what}: {name}"));
    }
    there
}

fn shown(fixture: &Fixture, images: &[&str]) -> Vec<(String, Snapshot)> {
    let images = images.iter();
    images
        .map(|&name| (name.to_owned(), fixture.snapshot(name)))
        .collect()
}

#[test]
fn an_exported_store_shows_what_its_images_showed() {
    proptest!(random(24), |(before in steps(), chosen in 0..3usize, after in steps())| {
        let world = World::new();
        world.run(&before);
        world.clone("one", "clone");
        world.run(&after);
        let (name, more, all): (_, &[&str], &[&str]) = match chosen {
            0 => ("f", &[], &["f"]),
            1 => ("two", &["f"], &["f", "two"]),
            _ => ("f", &["one", "clone", "one"], &["clone", "f", "one"]),
        };
        let expected = shown(&world.fixture, all);
        let place = directory();
        let report = export(&world.fixture, name, more, &place.path().join("store")).unwrap();
        prop_assert_eq!(report.images.len(), all.len());
        let there = assert_holds(place, &expected, "exported");
        for (name, now) in shown(&world.fixture, &IMAGES) {
            if let Some((_, before)) = expected.iter().find(|(image, _)| *image == name) {
                assert_same(before, &now, &format!("{name}, where it was exported from"));
            }
        }
        world.assert_sound();

        // It is a store like any other.
        commands::clone(&there.context, "f", "new").unwrap();
        commands::fold(&there.context).unwrap();
        let there = there.reopen();
        there.assert_sound("worked with");
        for (name, before) in &expected {
            assert_same(before, &there.snapshot(name), &format!("{name}, worked with"));
        }
        let numbers = |fixture: &Fixture| fixture.context.store.catalog().next_number().unwrap();
        prop_assert!(numbers(&there) >= numbers(&world.fixture));
    });
}

#[test]
fn only_what_the_images_need_is_in_it() {
    let world = World::new();
    for name in ["three", "four"] {
        world.clone("two", name);
    }
    world.run(&[patch_model::world::Step::Place]);
    let shared = world.fixture.shared("f");
    assert!(shared.contains(&String::from("/opt/n/f")), "{shared:?}");
    let place = directory();
    export(&world.fixture, "f", &["one"], &place.path().join("store")).unwrap();
    let there = Fixture::existing(place);
    let shared = there.shared("f");
    assert!(!shared.contains(&String::from("/opt/n/f")), "{shared:?}");
    assert!(shared.contains(&String::from("/usr/b")), "{shared:?}");
    let count = |fixture: &Fixture| {
        let mut count = 0;
        let counted = fixture.context.store.objects().for_each(|_| {
            count += 1;
            Ok(())
        });
        counted.map(|()| count).unwrap()
    };
    assert!(count(&there) < count(&world.fixture));
    assert_ne!(there.context.store.id(), world.fixture.context.store.id());
}

#[test]
fn what_cannot_be_exported_is_refused() {
    let world = World::new();
    let source = world.fixture.source("one");
    let share = foldfs::store::catalog::Share::Majority;
    world.fixture.import_as("other", &source, Some("g"), share);
    let place = directory();
    let to = place.path().join("store");
    let refused = |name: &str, images: &[&str], to: &Path| {
        export(&world.fixture, name, images, to)
            .unwrap_err()
            .to_string()
    };
    assert!(refused("nobody", &[], &to).contains("there is no such image or family"));
    assert!(refused("f", &["other"], &to).contains("it is not of family f"));
    let inside = world.fixture.context.store.path().join("here");
    assert!(refused("f", &[], &inside).contains("it is inside the store"));
    std::fs::create_dir(&to).unwrap();
    std::fs::write(to.join("file"), "").unwrap();
    assert!(refused("f", &[], &to).contains("it is not empty"));
    std::fs::remove_file(to.join("file")).unwrap();

    // A damaged content goes nowhere.
    let mut objects = Vec::new();
    let store = &world.fixture.context.store;
    let listed = store.objects().for_each(|found| {
        if let foldfs::store::objects::Found::Object(digest, _) = found {
            objects.push(digest);
        }
        Ok(())
    });
    listed.unwrap();
    let name = objects[0].to_string();
    let path = store
        .path()
        .join("objects")
        .join(&name[..2])
        .join(&name[2..]);
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, vec![b'#'; whole.len()]).unwrap();
    let error = refused("f", &["one", "two"], &to);
    assert!(error.contains(&name), "{error}");
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 1);
    assert_eq!(std::fs::read_dir(&to).unwrap().count(), 0);
    std::fs::write(&path, whole).unwrap();
    let world = World {
        fixture: world.fixture.reopen(),
    };
    export(&world.fixture, "f", &["one", "two"], &to).unwrap();
}

/// An export that fails at one of its steps, and at all after it if it `dies`; whether there was such a step.
fn fails_at(world: &World, expected: &[(String, Snapshot)], at: usize, dies: bool) -> bool {
    let place = directory();
    let step = Arc::new(AtomicUsize::new(0));
    let count = step.clone();
    durable::set_hook(Some(Arc::new(move |_, _| {
        let now = count.fetch_add(1, Ordering::Relaxed);
        match now == at || dies && now > at {
            true => Err(Errno::IO),
            false => Ok(()),
        }
    })));
    let outcome = export(&world.fixture, "f", &["one"], &place.path().join("store"));
    durable::set_hook(None);
    let found: Vec<_> = std::fs::read_dir(place.path()).unwrap().collect();
    match outcome.is_ok() || place.path().join("store").exists() {
        // What failed was not needed, or came after it had its name.
        true => {
            // At most the empty directory that it was built in.
            for beside in found.into_iter().map(Result::unwrap) {
                let is_store = beside.file_name() == "store";
                assert!(
                    is_store || std::fs::remove_dir(beside.path()).is_ok(),
                    "step {at}: {beside:?}"
                );
            }
            assert_holds(place, expected, &format!("step {at}"));
        }
        false if dies => {}
        false => assert!(found.is_empty(), "step {at}: {found:?}"),
    }
    step.load(Ordering::Relaxed) > at
}

#[test]
fn one_that_fails_leaves_nothing() {
    let world = World::new();
    let guest = world.guest("one");
    guest.write("usr/a", b"of its own").unwrap();
    guest.rename("usr/sub", "opt").unwrap();
    guest.unlink("etc/hosts").unwrap();
    drop(guest);
    let expected = shown(&world.fixture, &["f", "one"]);
    let mut at = 0;
    while fails_at(&world, &expected, at, false) {
        fails_at(&world, &expected, at, true);
        at += 1;
    }
    assert!(at > 100, "{at} steps");
    assert_eq!(shown(&world.fixture, &["f", "one"]), expected);
    world.assert_sound();
}
