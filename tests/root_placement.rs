//! Placement: what lies in the shared layer, and that no view ever shows it. Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on should panic"
)]

mod family;

use std::path::Path;

use family::guest::Guest;
use family::{Fixture, assert_same, assert_shows, settle, symlink, write};
use foldfs::fold::placement;
use foldfs::progress::Silent;
use foldfs::store::catalog::{Reads, Share};

fn common(root: &Path) {
    write(root, "etc/os-release", "ID=debian\nVERSION_ID=\"13\"\n");
    write(root, "etc/hosts", "localhost\n");
    write(root, "usr/bin/tool", "#!/bin/sh\n");
    write(root, "usr/share/doc/a", "a");
    write(root, "usr/share/doc/b", "b");
    write(root, "var/lib/data", "data");
    settle(root);
}

/// Another version of some paths, and a tree of its own.
fn upgraded(root: &Path) {
    common(root);
    write(root, "etc/hosts", "upgraded\n");
    write(root, "opt/new/deep/file", "new");
    write(root, "opt/new/empty", "");
    symlink(root, "new", "opt/link");
    std::fs::remove_file(root.join("usr/share/doc/b")).unwrap();
    settle(root);
}

fn import(fixture: &Fixture, name: &str, make: fn(&Path)) {
    let source = fixture.source(name);
    make(&source);
    fixture.import_as(name, &source, Some("f"), Share::Majority);
}

/// Nothing more is to be done, and every private entry is needed.
fn assert_settled(fixture: &Fixture) {
    let family = fixture.image("f").family;
    let work = placement::plan(&fixture.context.images, family).unwrap();
    assert_eq!(work.placement.to_string(), "");
}

#[test]
fn imports_that_tip_the_majority() {
    let fixture = Fixture::new();
    import(&fixture, "one", common);
    import(&fixture, "two", upgraded);
    assert!(fixture.shared("f").contains(&"/usr/share/doc/b".into()));
    let before = ["f", "one", "two"].map(|name| (name, fixture.snapshot(name)));
    import(&fixture, "three", upgraded);
    // Two against two: the base's stays.
    assert!(fixture.private("three").contains(&"/etc/hosts stub".into()));
    assert_settled(&fixture);
    import(&fixture, "four", upgraded);
    assert_settled(&fixture);
    for (name, before) in &before {
        assert_same(before, &fixture.snapshot(name), name);
    }
    assert_eq!(fixture.private("two"), [""; 0]);
    assert_eq!(fixture.private("four"), [""; 0]);
    let needed = [
        "/etc transparent",
        "/etc/hosts stub",
        "/opt whiteout",
        "/usr transparent",
        "/usr/share transparent",
        "/usr/share/doc transparent",
        "/usr/share/doc/b stub",
    ];
    assert_eq!(fixture.private("one"), needed);
    assert_eq!(fixture.private("f"), needed);
    assert_shows(&fixture.snapshot("four"), &fixture.source("four"));
    let snapshot = fixture.snapshot("four");
    let fixture = fixture.reopen();
    for (name, before) in &before {
        assert_same(before, &fixture.snapshot(name), name);
    }
    assert_same(&snapshot, &fixture.snapshot("four"), "four");
}

fn guest(fixture: &Fixture, name: &str) -> Guest {
    Guest(fixture.filesystem(name))
}

fn remove(fixture: &Fixture, name: &str) -> u64 {
    let context = &fixture.context;
    let plan = foldfs::ops::remove::plan(context, name).unwrap();
    let report = foldfs::ops::remove::apply(context, &plan, &Silent).unwrap();
    report.withdrawn
}

#[test]
fn what_only_one_image_still_uses_goes_back_into_it() {
    let fixture = Fixture::new();
    for name in ["one", "two", "three", "four"] {
        import(
            &fixture,
            name,
            if name == "one" { common } else { upgraded },
        );
    }
    assert!(fixture.shared("f").contains(&"/opt/new/deep/file".into()));
    assert!(remove(&fixture, "four") > 0);
    assert_settled(&fixture);
    assert!(!fixture.shared("f").contains(&"/opt".into()));
    let before = ["f", "one", "two"].map(|name| (name, fixture.snapshot(name)));
    remove(&fixture, "three");
    assert_settled(&fixture);
    for (name, before) in &before {
        assert_same(before, &fixture.snapshot(name), name);
    }
    assert!(
        fixture
            .private("two")
            .contains(&"/opt/new/deep/file stub".into())
    );
    remove(&fixture, "one");
    remove(&fixture, "two");
    assert_settled(&fixture);
    assert_eq!(fixture.private("f"), [""; 0]);
    assert_same(&before[0].1, &fixture.snapshot("f"), "the base alone");
    let context = &fixture.context;
    let plan = foldfs::ops::remove::plan(context, "f").unwrap();
    assert!(
        foldfs::ops::remove::apply(context, &plan, &Silent)
            .unwrap()
            .family_removed
    );
    assert!(context.store.catalog().families().unwrap().is_empty());
    assert!(
        std::fs::read_dir(context.store.path().join("images"))
            .unwrap()
            .next()
            .is_none()
    );
}

#[test]
fn a_base_goes_last_and_an_image_in_use_not_at_all() {
    let fixture = Fixture::new();
    import(&fixture, "one", common);
    let error = foldfs::ops::remove::plan(&fixture.context, "f").unwrap_err();
    assert!(error.to_string().contains("1 more"), "{error}");
    let live = fixture.filesystem("one");
    let error = foldfs::ops::remove::plan(&fixture.context, "one").unwrap_err();
    assert_eq!(error.kind.exit_code(), 4);
    drop(live);
    remove(&fixture, "one");
}

#[test]
fn a_majority_tips_under_live_images_with_renamed_and_opaque_directories() {
    let fixture = Fixture::new();
    for name in ["one", "two", "three"] {
        import(
            &fixture,
            name,
            if name == "three" { upgraded } else { common },
        );
    }
    let one = guest(&fixture, "one");
    one.rename("usr/share", "usr/moved").unwrap();
    one.write("usr/moved/doc/a", b"mine").unwrap();
    let two = guest(&fixture, "two");
    for path in ["etc/hosts", "etc/os-release"] {
        two.unlink(path).unwrap();
    }
    two.rmdir("etc").unwrap();
    two.mkdir("etc").unwrap();
    two.create("etc/own").unwrap();
    let names = ["f", "one", "two", "three"];
    let before = names.map(|name| (name, fixture.snapshot(name)));
    import(&fixture, "four", upgraded);
    for (name, before) in &before {
        assert_same(before, &fixture.snapshot(name), name);
    }
    assert_settled(&fixture);
    import(&fixture, "five", upgraded);
    import(&fixture, "six", upgraded);
    for (name, before) in &before {
        assert_same(before, &fixture.snapshot(name), name);
    }
    assert_settled(&fixture);
    let shared = fixture.shared("f");
    assert!(shared.contains(&"/opt/link".into()), "{shared:?}");
    assert!(!shared.contains(&"/usr/share/doc/b".into()), "{shared:?}");
    for name in ["six", "five", "four", "three"] {
        remove(&fixture, name);
        for (name, before) in &before[..3] {
            assert_same(before, &fixture.snapshot(name), name);
        }
        assert_settled(&fixture);
    }
    drop((one, two));
    let fixture = fixture.reopen();
    for (name, before) in &before[..3] {
        assert_same(before, &fixture.snapshot(name), name);
    }
}

/// What lies at a path of the shared layer and of the private layers of images.
fn places(fixture: &Fixture, path: &str) -> (bool, Vec<&'static str>) {
    let shared = fixture.shared("f").contains(&format!("/{path}"));
    let entry = format!("/{path} stub");
    let private = ["f", "xp1", "xp2"].into_iter();
    let private = private.filter(|name| fixture.private(name).contains(&entry));
    (shared, private.collect())
}

/// The core patent's third image is the shared layer; the base is one more image of the family.
#[test]
fn the_strict_rule_as_figures_1_3_and_5() {
    let fixture = Fixture::new();
    let place = || {
        let before = ["f", "xp1", "xp2"].map(|name| (name, fixture.snapshot(name)));
        placement::place(&fixture.context.images, fixture.image("f").family).unwrap();
        for (name, before) in &before {
            assert_same(before, &fixture.snapshot(name), name);
        }
        assert_settled(&fixture);
    };
    // Figure 1. 102: a first image is made.
    let first = fixture.source("xp1");
    common(&first);
    fixture.import_as("xp1", &first, None, Share::All);
    let transaction = fixture.context.store.catalog().transaction().unwrap();
    transaction
        .rename_family(fixture.image("xp1").family, "f")
        .unwrap();
    transaction.commit().unwrap();
    // 104, 106: the second one is similar. 108, 110: what is common is in the third image; 116,
    // 118: the second versions hold the rest.
    let second = fixture.source("xp2");
    common(&second);
    write(&second, "etc/hosts", "one bit is enough\n");
    settle(&second);
    fixture.import("xp2", &second);
    assert_eq!(fixture.image("xp2").family, fixture.image("f").family);
    assert_eq!(places(&fixture, "usr/bin/tool"), (true, vec![]));
    assert_eq!(
        places(&fixture, "etc/hosts"),
        (false, vec!["f", "xp1", "xp2"])
    );
    assert_settled(&fixture);
    // Figure 3. 302, 304: a shared file is modified in one image. 314: there only.
    let live = ["f", "xp1", "xp2"].map(|name| guest(&fixture, name));
    live[1].chmod("usr/bin/tool", 0o755).unwrap();
    assert_eq!(places(&fixture, "usr/bin/tool"), (true, vec!["xp1"]));
    // 306: each private collection gets a copy; 312: the shared one is removed.
    place();
    assert_eq!(
        places(&fixture, "usr/bin/tool"),
        (false, vec!["f", "xp1", "xp2"])
    );
    // 308: a private file is just modified.
    live[2].chmod("usr/bin/tool", 0o755).unwrap();
    place();
    assert_eq!(
        places(&fixture, "usr/bin/tool"),
        (false, vec!["f", "xp1", "xp2"])
    );
    // Figure 5, after the same patch has been applied to all. 502, 504, 506.
    live[0].chmod("usr/bin/tool", 0o755).unwrap();
    place();
    assert_eq!(places(&fixture, "usr/bin/tool"), (true, vec![]));
}

/// A guest makes and removes names, those of linked files among them, while plans are made: each is
/// one of what was there at some moment, and none fails.
#[test]
fn regression_plans_are_made_while_names_come_and_go() {
    let fixture = Fixture::new();
    import(&fixture, "one", common);
    import(&fixture, "two", upgraded);
    let family = fixture.image("f").family;
    let guest = Guest(fixture.filesystem("one"));
    let work = |round: usize| {
        let names = ["first", "second"].map(|name| format!("var/lib/{name}-{}", round % 20));
        if round >= 20 {
            names.iter().for_each(|name| guest.unlink(name).unwrap());
        }
        guest.create(&names[0]).unwrap();
        guest.link(&names[0], &names[1]).unwrap();
    };
    (0..20).for_each(work);
    std::thread::scope(|scope| {
        let working = scope.spawn(|| (20..600).for_each(work));
        let mut plans = 0;
        while !working.is_finished() {
            placement::plan(&fixture.context.images, family).unwrap();
            plans += 1;
        }
        working.join().unwrap();
        assert!(plans > 0);
    });
}
