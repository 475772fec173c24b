//! Images: names, sources, archives, reports, mounts.

use super::*;

#[test]
fn unknown_names_are_named() {
    let Some(store) = with_image("unknown_names_are_named") else {
        return;
    };
    let place = store.place.to_str().unwrap();
    let tar = store.place.join("x.tar");
    let commands: [&[&str]; 10] = [
        &["hold", "nosuch", "/etc"],
        &["release", "nosuch", "/etc"],
        &["clone", "nosuch", "new"],
        &["rename", "nosuch", "new"],
        &["remove", "nosuch"],
        &["status", "nosuch"],
        &["fold", "nosuch"],
        &["why", "nosuch", "/etc"],
        &["mount", "nosuch", place],
        &["export", "nosuch", tar.to_str().unwrap(), "--format", "tar"],
    ];
    for command in commands {
        store.run(command).exits(1).says(&["nosuch", "foldfs list"]);
    }
    assert!(!tar.exists(), "a failed export left its file");
    store
        .run(&["why", "first", "/etc/nosuch"])
        .exits(1)
        .says(&["/etc/nosuch"]);
}

#[test]
fn bad_names_are_wrong_usage() {
    let Some(store) = with_image("bad_names_are_wrong_usage") else {
        return;
    };
    let long = "n".repeat(300);
    let before = listing(&store);
    let source = store.sample(1);
    for name in ["", ".", "..", "a/b", "../escape", "two\nlines", &long] {
        store
            .run(&["import", name, source.to_str().unwrap()])
            .exits(2);
        store.run(&["clone", "first", name]).exits(2);
        store.run(&["rename", "first", name]).exits(2);
    }
    before.assert_same(
        &listing(&store),
        Fields::ALL.without(Fields::CTIME),
        "a bad name changed",
    );
}

#[test]
fn a_name_is_given_once() {
    let Some(store) = with_image("a_name_is_given_once") else {
        return;
    };
    let source = store.sample(1);
    let source = source.to_str().unwrap();
    for name in ["first", "family"] {
        store
            .run(&["import", name, source])
            .exits(1)
            .says(&[name, "exists"]);
        store
            .run(&["clone", "first", name])
            .exits(1)
            .says(&[name, "exists"]);
    }
    store.ok(&["clone", "first", "second"]);
    store
        .run(&["rename", "first", "second"])
        .exits(1)
        .says(&["second", "exists"]);
    store.ok(&["rename", "first", "third"]);
    store.ok(&["rename", "family", "clan"]);
    let list = store.ok(&["list", "--json"]).json();
    let mut names: Vec<_> = list["images"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| i["name"].clone())
        .collect();
    names.sort_by_key(ToString::to_string);
    assert_eq!(names, ["clan", "second", "third"]);
    store.assert_sound();
}

#[test]
fn sources_that_cannot_be_imported() {
    let Some(store) = store("sources_that_cannot_be_imported") else {
        return;
    };
    let nowhere = store.place.join("nowhere");
    let file = store.place.join("file");
    fs::write(
        &file,
        "no archive, but long enough to look for a header in it",
    )
    .unwrap();
    let archive = store.place.join("cut.tar.gz");
    let sample = store.sample(0);
    tool(
        "tar",
        &[
            "-C",
            sample.to_str().unwrap(),
            "-czf",
            archive.to_str().unwrap(),
            ".",
        ],
    );
    let bytes = fs::read(&archive).unwrap();
    fs::write(&archive, &bytes[..bytes.len() / 2]).unwrap();
    let before = listing(&store);
    for source in [
        &nowhere,
        &file,
        &archive,
        &store.path,
        &store.path.join("objects"),
    ] {
        let source = source.to_str().unwrap();
        store
            .run(&["import", "image", source])
            .exits(1)
            .says(&[source]);
    }
    // The store lies in the source: what would the image be?
    let around = store.place.to_str().unwrap();
    store
        .run(&["import", "image", around])
        .exits(1)
        .says(&[store.path.to_str().unwrap()]);
    let after = listing(&store);
    let same = Fields::ALL
        .without(Fields::CTIME)
        .without(Fields::DIRECTORY_MTIME);
    let unlogged = |mut snapshot: Snapshot| {
        snapshot
            .entries
            .retain(|path, _| !path.starts_with(b"catalog.db") && path != b"run/lock");
        snapshot
    };
    unlogged(before).assert_same(&unlogged(after), same, "a refused import left something");
    let list = store.ok(&["list", "--json"]).json();
    assert_eq!(list["images"].as_array().unwrap().len(), 0);
    store.assert_sound();
}

#[test]
fn archives_import_like_the_directory() {
    let Some(store) = with_image("archives_import_like_the_directory") else {
        return;
    };
    let tree = store.sample(0);
    let tree = tree.to_str().unwrap();
    let tar = |name: &str, how: &str| {
        let archive = store.place.join(name);
        let options = [
            "--numeric-owner",
            "--acls",
            "--xattrs",
            "--xattrs-include=*",
            "--sort=name",
        ];
        let place = [
            "--format=pax",
            "-C",
            tree,
            how,
            "-cf",
            archive.to_str().unwrap(),
            ".",
        ];
        run(Command::new("tar").args(options).args(place), b"").exits(0);
        archive
    };
    for (name, how) in [
        ("a.tar", "--sparse"),
        ("a.tar.gz", "-z"),
        ("a.tar.zst", "--zstd"),
        ("a.tar.xz", "-J"),
    ] {
        let archive = tar(name, how);
        store.import(&name.replace('.', "-"), &archive, "family");
    }
    let bytes = fs::read(store.place.join("a.tar.zst")).unwrap();
    run(
        &mut store.command(&["import", "piped", "-", "--family", "family"]),
        &bytes,
    )
    .exits(0);
    store.assert_sound();
    let list = store.ok(&["list", "--json"]).json();
    assert_eq!(list["images"].as_array().unwrap().len(), 7);
    let expected = Snapshot::of(Path::new(tree));
    for name in [
        "first",
        "family",
        "a-tar",
        "a-tar-gz",
        "a-tar-zst",
        "a-tar-xz",
        "piped",
    ] {
        let out = store.place.join(format!("out-{name}"));
        store.ok(&["export", name, out.to_str().unwrap()]);
        let mut found = Snapshot::of(&out);
        let mut expected = expected.clone();
        // tar(1) leaves sockets out.
        if !["first", "family"].contains(&name) {
            expected.entries.remove(&b"etc/socket"[..]);
            found.entries.remove(&b"etc/socket"[..]);
        }
        expected.assert_same(&found, Fields::COPY, name);
    }
}

#[test]
fn dry_runs_change_nothing() {
    let Some(store) = with_image("dry_runs_change_nothing") else {
        return;
    };
    store.ok(&["clone", "first", "second"]);
    let source = store.sample(1);
    let source = source.to_str().unwrap();
    let before = listing(&store);
    let commands: [&[&str]; 7] = [
        &["import", "new", source],
        &["import", "new", source, "--family", "other"],
        &["clone", "first", "new"],
        &["rename", "first", "new"],
        &["remove", "second"],
        &["fold"],
        &["collect"],
    ];
    for command in commands {
        let text = store.ok(&[command, &["--dry-run"]].concat()).text();
        assert!(!text.is_empty(), "{command:?} says nothing");
        let json = store
            .ok(&[command, &["--dry-run", "--json"]].concat())
            .json();
        assert_eq!(json["dry_run"], true, "{command:?}");
        let what = format!("{command:?} --dry-run changed the store");
        before.assert_same(&listing(&store), Fields::ALL, &what);
    }
}

#[test]
fn json_is_json() {
    let Some(store) = with_image("json_is_json") else {
        return;
    };
    let commands: [(&[&str], &str); 6] = [
        (&["list"], "list"),
        (&["status"], "status"),
        (&["status", "first"], "status"),
        (&["check"], "check"),
        (&["why", "first", "/etc/hosts"], "why"),
        (&["fold"], "fold"),
    ];
    for (command, report) in commands {
        let ran = store.ok(&[command, &["--json"]].concat());
        assert_eq!(ran.json()["report"], report, "{command:?}");
        assert_eq!(ran.stderr, "", "{command:?}");
        assert!(!store.ok(command).text().contains('{'), "{command:?}");
    }
    let ran = store.run(&["remove", "nosuch", "--json"]).exits(1);
    let error: serde_json::Value = serde_json::from_str(&ran.stderr).unwrap();
    assert_eq!(error["exit_code"], 1);
    for key in ["object", "cause", "remedy"] {
        assert!(
            error["error"][key]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "{key}: {error}"
        );
    }
}

#[test]
fn why_tells_the_layer() {
    let Some(store) = with_image("why_tells_the_layer") else {
        return;
    };
    let why = |path: &str| store.ok(&["why", "first", path, "--json"]).json();
    let hosts = why("/etc/hosts");
    assert_eq!(hosts["layer"], "shared");
    assert_eq!(hosts["file_type"], "f");
    assert_eq!(hosts["shared_with"][0], "family");
    assert!(!hosts["reason"].as_str().unwrap().is_empty());
    assert_eq!(why("/")["file_type"], "d");
    assert_eq!(why("/etc/link")["file_type"], "l");
    store.import("other", &store.sample(1), "family");
    let mine = store.ok(&["why", "other", "/etc/hosts", "--json"]).json();
    assert_eq!(mine["layer"], "private", "{mine}");
    let differs = mine["differs_in"].as_array().unwrap();
    assert!(differs.iter().any(|name| name == "first"), "{mine}");
}

#[test]
fn removing_images() {
    let Some(store) = with_image("removing_images") else {
        return;
    };
    store
        .run(&["remove", "family"])
        .exits(1)
        .says(&["family", "first"]);
    store.import("other", &store.sample(1), "family");
    store.assert_sound();
    store.ok(&["remove", "first"]);
    store.assert_sound();
    let out = store.place.join("out");
    store.ok(&["export", "other", out.to_str().unwrap()]);
    Snapshot::of(&store.sample(1)).assert_same(&Snapshot::of(&out), Fields::COPY, "other");
    store.ok(&["remove", "other"]);
    store.ok(&["remove", "family"]);
    store.ok(&["collect"]);
    store.assert_sound();
    let status = store.ok(&["status", "--json"]).json();
    assert_eq!(status["objects"], 0, "{status}");
}

#[test]
fn stored_is_what_du_says() {
    let Some(store) = with_image("stored_is_what_du_says") else {
        return;
    };
    store.import("other", &store.sample(1), "family");
    let stored = store.ok(&["status", "--json"]).json()["stored_bytes"]
        .as_f64()
        .unwrap();
    let du = tool(
        "du",
        &["-s", "--block-size=1", store.path.to_str().unwrap()],
    )
    .text();
    let du: f64 = du.split('\t').next().unwrap().parse().unwrap();
    assert!(
        (stored - du).abs() <= du / 100.0,
        "status says {stored}, du {du}"
    );
}

#[test]
fn unmounting_what_is_not_ours() {
    let test = "unmounting_what_is_not_ours";
    if !common::can_run(test, common::needs_fuse()) {
        return;
    }
    let Some(store) = with_image(test) else {
        return;
    };
    let other = store.place.join("tmpfs");
    fs::create_dir(&other).unwrap();
    tool("mount", &["-t", "tmpfs", "none", other.to_str().unwrap()]);
    for path in [&other, &store.place, &store.place.join("nowhere")] {
        store
            .run(&["unmount", path.to_str().unwrap()])
            .exits(1)
            .says(&[path.to_str().unwrap()]);
    }
    let mounted = store.mount("first");
    for path in [&other, &store.place.join("nowhere")] {
        store
            .run(&["unmount", path.to_str().unwrap()])
            .exits(1)
            .says(&[path.to_str().unwrap()]);
    }
    assert!(
        common::store::is_mounted(&other),
        "a foreign mount was unmounted"
    );
    mounted.unmount();
    store.wait_for_daemons();
}

#[test]
fn mounted_images_are_kept() {
    let test = "mounted_images_are_kept";
    if !common::can_run(test, common::needs_fuse()) {
        return;
    }
    let Some(store) = with_image(test) else {
        return;
    };
    let mounted = store.mount("first");
    let path = mounted.path.to_str().unwrap();
    store
        .run(&["remove", "first"])
        .exits(4)
        .says(&["first", path]);
    let list = store.ok(&["list", "--json"]).json();
    let images = list["images"].as_array().unwrap();
    let first = images
        .iter()
        .find(|image| image["name"] == "first")
        .unwrap();
    assert_eq!(first["mounted"][0], path);
    let again = store.place.join("again");
    fs::create_dir(&again).unwrap();
    store
        .run(&["mount", "first", again.to_str().unwrap()])
        .exits(4)
        .says(&["first", path]);
    store
        .run(&["mount", "family", "/nowhere/at/all"])
        .exits(1)
        .says(&["/nowhere"]);
    store
        .run(&["mount", "family", "/etc/passwd"])
        .exits(1)
        .says(&["/etc/passwd"]);
    store
        .run(&["mount", "family", store.path.to_str().unwrap()])
        .exits(1);
    store.ok(&[
        "mount",
        "family",
        again.to_str().unwrap(),
        "-o",
        "ro",
        "--dry-run",
    ]);
    assert!(!common::store::is_mounted(&again), "a dry run mounted");
    store.ok(&["unmount", path, "--dry-run"]);
    mounted.assert_shows(&store.sample(0));
    mounted.unmount();
    store.wait_for_daemons();
    store.ok(&["remove", "first"]);
}
