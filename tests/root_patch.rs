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

use family::guest::Guest;
use foldfs::archive::patch::{PatchEntry, PatchFile, PatchWriter};
use foldfs::filesystem::data::SetId;
use foldfs::filesystem::failure::Outcome;
use foldfs::filesystem::open::OpenFlags;
use foldfs::filesystem::set_attributes::Changes;
use foldfs::filesystem::transport::Register;
use foldfs::ops::patch::{self, ApplyOptions, OnConflict};
use foldfs::ops::{check, collect, hold, repair};
use foldfs::progress::Silent;
use foldfs::store::layout;
use patch_model::world::{IMAGES, World, all, conflicts, op, run, steps};
use patch_model::{merge, options, random, source};
use proptest::prelude::*;
use rustix::io::Errno;

#[test]
fn each_image_shows_what_a_three_way_merge_says() {
    let change = proptest::collection::vec(op(), 1..12);
    proptest!(random(40), |(before in steps(), change in change, after in steps())| {
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
        family: Some("one".into()),
        ..options(source(&file))
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
    let options = options(source(&file));
    let before = all(&world.fixture);
    let plan = patch::plan(context, &options, &Silent).unwrap();
    let good = std::fs::read(&file).unwrap();
    let mut bad = good.clone();
    // Behind the header there is the first content.
    bad[52] ^= 1;
    // In place, as an editor or a copy that goes on would.
    std::fs::write(&file, &bad).unwrap();
    let error = patch::apply(context, plan, &Silent).unwrap_err();
    assert!(error.to_string().contains("another content"), "{error}");
    for ((name, before), (_, now)) in before.iter().zip(all(&world.fixture)) {
        family::assert_same(before, &now, name);
    }
    world.assert_sound();
    let changes = context.store.path().join("changes");
    assert!(!changes.exists());
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
    let found = findings(false);
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

    // What only a change needs any more is needed.
    let context = &world.fixture.context;
    let record = PatchFile::open_record(&patch).unwrap();
    let content = record.entries[0]
        .old
        .as_ref()
        .unwrap()
        .content_id()
        .unwrap();
    let object = layout::object_name(&content.digest);
    let object = context.store.path().join("objects").join(object);
    std::fs::remove_file(&object).unwrap();
    let found = findings(false);
    assert!(
        found.iter().any(|found| found.contains("to be taken back")),
        "{found:?}"
    );

    // A record that is lost is given up; the store is sound then.
    std::fs::write(&patch, "no record").unwrap();
    let error = collect::plan(context, 10, &Silent).unwrap_err().to_string();
    assert!(error.contains("it is no patch"), "{error}");
    let options = repair::Options {
        content: false,
        ..repair::Options::default()
    };
    repair::apply(context, &options, &Silent).unwrap();
    world.assert_sound();
    assert!(!patch.exists());
    collect::plan(context, 10, &Silent).unwrap();
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
    let options = options(source(&file));
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

#[test]
fn a_patch_that_lies_about_a_size_is_refused() {
    let world = World::new();
    world.clone("f", "old");
    world.clone("f", "new");
    world.guest("new").write("etc/hosts", b"deep").unwrap();
    let file = world.create("old", "new");
    let mut table = PatchFile::open(&file).unwrap().table().clone();
    // Of a content that the store has, another size.
    let known = world.fixture.snapshot("f")["usr/sub/deep/d"]
        .content
        .clone();
    let digest = foldfs::store::digest::Digest::of(&known);
    let size = 1 << 40;
    for entry in &mut table.entries {
        if let Some(new) = &mut entry.new {
            new.content = foldfs::store::metadata::Content::Regular {
                size,
                digest: Some(digest),
            };
        }
    }
    let lies = table.entries.clone();
    let good = PatchFile::open(&file).unwrap().table().clone();
    let entries = good.entries.iter().zip(lies).map(|(good, lie)| PatchEntry {
        old: good.old.clone(),
        ..lie
    });
    // A new content that is nowhere in the patch must be an old one of it: so it says.
    let mut entries: Vec<_> = entries.collect();
    entries.push(PatchEntry {
        path: b"zzz".to_vec(),
        old: entries[0].new.clone(),
        new: None,
    });
    let out = std::fs::File::create(&file).unwrap();
    let writer = PatchWriter::new(out, None, "lies".into()).unwrap();
    writer
        .finish((b"one".to_vec(), b"two".to_vec()), entries)
        .unwrap();
    let before = all(&world.fixture);
    let options = options(source(&file));
    let context = &world.fixture.context;
    let plan = patch::plan(context, &options, &Silent).unwrap();
    let error = patch::apply(context, plan, &Silent)
        .unwrap_err()
        .to_string();
    assert!(error.contains("the change says"), "{error}");
    for ((name, before), (_, now)) in before.iter().zip(all(&world.fixture)) {
        family::assert_same(before, &now, name);
    }
    world.assert_sound();
}
