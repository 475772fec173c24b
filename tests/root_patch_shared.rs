//! A change that images follow is made in the shared layer: they need nothing of their own for it, and who
//! does not follow shows what it showed. Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on should panic"
)]

mod family;
mod patch_model;

use family::{Fixture, Snapshot, live};
use foldfs::filesystem::open::OpenFlags;
use foldfs::filesystem::set_attributes::{Changes, NewTime};
use foldfs::ops::patch::{self, ApplyOptions, OnConflict, Source};
use foldfs::ops::request::{Call, Request};
use foldfs::ops::{self, fold, hold};
use foldfs::progress::Silent;
use foldfs::store::catalog::Share;
use patch_model::world::{World, tree};
use patch_model::{options, source};
use rustix::io::Errno;

/// What an image shows, but for the numbers and the times that are nobody's.
fn shown(snapshot: &Snapshot) -> Vec<(String, String)> {
    let paths = snapshot.iter().map(|(path, seen)| {
        let told = format!("{} {:o} {:?}", seen.file_type, seen.mode, seen.content);
        (path.clone(), told)
    });
    paths.collect()
}

/// A world with clones of the base, and a patch of files, directories and metadata.
fn world(clones: &[&str]) -> (World, std::path::PathBuf) {
    let world = World::new();
    for clone in clones.iter().chain(&["old", "new"]) {
        world.clone("f", clone);
    }
    let new = world.guest("new");
    new.write("etc/hosts", b"patched").unwrap();
    new.write("usr/sub/deep/d", b"patched").unwrap();
    new.create("etc/added").unwrap();
    new.unlink("usr/b").unwrap();
    new.mkdir("var").unwrap();
    new.mkdir("var/in").unwrap();
    new.create("var/in/file").unwrap();
    new.symlink("target", "var/in/link").unwrap();
    new.chmod("usr/sub", 0o711).unwrap();
    drop(new);
    let file = world.create("old", "new");
    (world, file)
}

#[test]
fn what_all_follow_touches_no_private_layer() {
    let clones = ["one1", "one2", "one3", "one4"];
    let (world, file) = world(&clones);
    let fixture = &world.fixture;
    let private: Vec<_> = clones.iter().map(|name| fixture.private(name)).collect();
    let before = fixture.snapshot("one1");
    let number = |path: &str| live::node(&fixture.filesystem("one1"), path).number;
    let (etc, hosts) = (number("etc"), number("etc/hosts"));

    let report = world.apply(&file, OnConflict::Keep);
    let shared = fixture.shared("f");
    for path in ["/etc/added", "/var/in/file", "/var/in/link"] {
        assert!(shared.contains(&path.into()), "{path}: {shared:?}");
    }
    assert!(!shared.contains(&"/usr/b".into()), "{shared:?}");
    let wanted = shown(&fixture.snapshot("new"));
    for (name, private) in clones.iter().zip(&private) {
        assert_eq!(&fixture.private(name), private, "{name}");
        assert_eq!(shown(&fixture.snapshot(name)), wanted, "{name}");
    }
    // A file that is replaced is another one; its directory is not.
    assert_eq!(number("etc"), etc);
    assert_ne!(number("etc/hosts"), hosts);
    world.assert_sound();

    let change = report.change.unwrap();
    world.change(Source::Change { change }, OnConflict::Keep);
    for (name, private) in clones.iter().zip(&private) {
        assert_eq!(&fixture.private(name), private, "{name}, taken back");
        let now = fixture.snapshot(name);
        assert_eq!(shown(&now), shown(&before), "{name}, taken back");
    }
    world.assert_sound();
    let world = World {
        fixture: world.fixture.reopen(),
    };
    assert_eq!(shown(&world.fixture.snapshot("one1")), shown(&before));
}

#[test]
fn who_does_not_follow_shows_what_it_showed() {
    let (world, file) = world(&[
        "held", "moved", "emptied", "follows", "follows2", "follows3",
    ]);
    let fixture = &world.fixture;
    let held = [
        b"/etc/hosts".as_slice().into(),
        b"/usr/sub".as_slice().into(),
    ];
    let plan = hold::plan(&fixture.context, "held", &held).unwrap();
    hold::apply(&fixture.context, &plan, &Silent).unwrap();
    let moved = world.guest("moved");
    moved.rename("usr", "elsewhere").unwrap();
    moved.rename("etc/hosts", "elsewhere/hosts").unwrap();
    let emptied = world.guest("emptied");
    emptied.mkdir("var").unwrap();
    emptied.put("etc/added", b"its own").unwrap();
    drop((moved, emptied));
    let before = |name: &str| fixture.snapshot(name);
    let (was_held, was_moved, was_emptied) = (before("held"), before("moved"), before("emptied"));

    world.apply(&file, OnConflict::Keep);
    let now = fixture.snapshot("held");
    for path in ["etc/hosts", "usr/sub", "usr/sub/deep/d"] {
        assert_eq!(now[path], was_held[path], "{path}");
    }
    assert!(now.contains_key("etc/added") && !now.contains_key("usr/b"));
    let now = fixture.snapshot("moved");
    for path in was_moved
        .keys()
        .filter(|path| path.starts_with("elsewhere"))
    {
        assert_eq!(now[path], was_moved[path], "{path}");
    }
    assert!(!now.contains_key("etc/hosts") && !now.contains_key("usr"));
    assert!(now.contains_key("var/in/file"));
    let now = fixture.snapshot("emptied");
    assert_eq!(now["etc/added"], was_emptied["etc/added"]);
    assert_eq!(now["var"].number, was_emptied["var"].number);
    assert!(now.contains_key("var/in/link"));
    assert_eq!(shown(&before("follows")), shown(&before("new")));
    world.assert_sound();
}

#[test]
fn what_is_open_when_it_leaves_the_shared_layer_is_kept_until_it_is_closed() {
    let (world, file) = world(&["follows"]);
    let fixture = &world.fixture;
    let live = fixture.filesystem("follows");
    let node = live::node(&live, "usr/b");
    let handle = live.open(&node, OpenFlags::default()).unwrap();
    world.apply(&file, OnConflict::Keep);
    assert_eq!(live::read(&live, handle), b"b");
    let attributes = live.attributes(&node).unwrap();
    assert_eq!((attributes.links, attributes.size), (0, 1));
    let image = fixture.image("follows").id;
    let orphans = fixture.context.store.path();
    let orphans = orphans.join(format!("images/{image}/orphans"));
    let kept = || std::fs::read_dir(&orphans).unwrap().count();
    assert_eq!(kept(), 1);
    // It is a file like any other without a name.
    live.release(handle);
    drop((node, live));
    world.assert_sound();
    let fixture = world.fixture.reopen();
    drop(fixture.filesystem("follows"));
    assert_eq!(kept(), 0);
}

#[test]
fn a_directory_that_is_open_and_gone_keeps_its_metadata() {
    let fixture = Fixture::new();
    for name in ["one", "two"] {
        let source = fixture.source(name);
        tree(&source, false, 1_100_000_000);
        std::fs::create_dir(source.join("var")).unwrap();
        fixture.import_as(name, &source, Some("f"), Share::Majority);
    }
    let world = World { fixture };
    for clone in ["gone", "other", "old", "new"] {
        world.clone("f", clone);
    }
    assert!(world.fixture.shared("f").contains(&"/var".into()));
    world.guest("new").chmod("var", 0o700).unwrap();
    let file = world.create("old", "new");
    let gone = world.guest("gone");
    let live = gone.0.clone();
    let open = live::node(&live, "var");
    gone.rmdir("var").unwrap();
    let shown = || {
        let attributes = live.attributes(&open).unwrap();
        (attributes.number, attributes.mode, attributes.mtime)
    };
    let before = shown();
    world.apply(&file, OnConflict::Keep);
    assert_eq!(shown(), before);
    assert_eq!(world.fixture.snapshot("other")["var"].mode, 0o700);
    drop((open, live, gone));
    world.assert_sound();
}

#[test]
fn what_is_open_under_an_older_number_is_kept_too() {
    let (world, file) = world(&["remade", "other"]);
    let fixture = &world.fixture;
    let guest = world.guest("remade");
    let live = guest.0.clone();
    let node = live::node(&live, "usr/b");
    let handle = live.open(&node, OpenFlags::default()).unwrap();
    let seen = fixture.snapshot("remade");
    guest.unlink("usr/b").unwrap();
    guest.put("usr/b", b"b").unwrap();
    let remade = live::node(&live, "usr/b");
    let changes = Changes {
        mode: Some(seen["usr/b"].mode),
        mtime: Some(NewTime::At(seen["usr/b"].mtime)),
        ..Changes::default()
    };
    live.set_attributes(&remade, &changes).unwrap();
    drop(remade);
    // The image shows the shared file under the new number from now on.
    let plan = fold::plan(&fixture.context, &fold::Options { family: None }, &Silent);
    fold::apply(&fixture.context, &plan.unwrap(), &Silent).unwrap();
    assert!(
        !fixture
            .private("remade")
            .iter()
            .any(|it| it.starts_with("/usr/b"))
    );
    world.apply(&file, OnConflict::Keep);
    assert_eq!(live.attributes(&node).unwrap().links, 0);
    assert_eq!(live::read(&live, handle), b"b");
    live.release(handle);
    drop((node, live, guest));
    world.assert_sound();
}

#[test]
fn an_image_shows_nothing_while_only_the_shared_layer_has_the_change() {
    let (world, file) = world(&["follows"]);
    let fixture = &world.fixture;
    // Of several names, which are made privately.
    let own = world.guest("follows");
    own.write("etc/hosts", b"own").unwrap();
    let live = own.0.clone();
    let backup = fixture.context.store.path().join("catalog.bak.new");
    std::fs::create_dir_all(backup.join("in/the/way")).unwrap();
    let (new, work) = (world.guest("new"), options(source(&file)));
    new.write("usr/a", b"patched").unwrap();
    drop(new);
    let file = world.create("old", "new");
    let plan = patch::plan(
        &fixture.context,
        &ApplyOptions {
            source: source(&file),
            ..work
        },
        &Silent,
    );
    let error = patch::apply(&fixture.context, plan.unwrap(), &Silent).unwrap_err();
    assert!(error.to_string().contains("is made, but"), "{error}");
    assert_eq!(
        live.lookup(live.root(), b"etc").unwrap_err().errno(),
        Errno::IO
    );
    std::fs::remove_dir_all(&backup).unwrap();
    let request = Request::Fold { family: None };
    let call = Call {
        request,
        dry_run: false,
    };
    ops::perform(&fixture.context, &call, &Silent).unwrap();
    live.lookup(live.root(), b"etc").unwrap();
    drop((live, own));
    let now = fixture.snapshot("follows");
    assert_eq!(now["usr/a"].content, b"patched");
    assert!(now.contains_key("var/in/file"));
    world.assert_sound();
}
