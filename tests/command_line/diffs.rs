//! diff: names, exit codes, what it prints, and diff(1) and rsync(1) as its oracles.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use serde_json::Value;

use super::common::sample;
use super::*;

/// A tree of plain files in two versions.
fn versions(store: &TestStore) -> (PathBuf, PathBuf) {
    let (old, new) = (store.place.join("old"), store.place.join("new"));
    fs::create_dir_all(old.join("etc/deep/er")).unwrap();
    for (path, text) in [
        ("etc/same", "same\n"),
        ("etc/altered", "one\ntwo\nthree\n"),
        ("etc/gone", "gone\n"),
        ("etc/mode", "mode\n"),
        ("etc/deep/er/moved", "content that moves\n"),
        ("type", "a file\n"),
    ] {
        fs::write(old.join(path), text).unwrap();
    }
    sample::copy(&old, &new);
    fs::write(new.join("etc/altered"), "one\n2\nthree\n").unwrap();
    fs::remove_file(new.join("etc/gone")).unwrap();
    fs::set_permissions(new.join("etc/mode"), Permissions::from_mode(0o600)).unwrap();
    fs::rename(new.join("etc/deep/er/moved"), new.join("here")).unwrap();
    fs::remove_file(new.join("type")).unwrap();
    symlink("etc", new.join("type")).unwrap();
    fs::create_dir(new.join("added")).unwrap();
    fs::write(new.join("added/binary"), b"\0\x1b[2J").unwrap();
    (old, new)
}

fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => panic!("{other} is no text"),
    }
}

/// Path to (kind, aspects without times), of a report.
fn told(report: &Value) -> BTreeMap<String, (String, Vec<String>)> {
    let entries = report["differences"].as_array().unwrap().iter();
    let told = entries.filter_map(|entry| {
        let aspects = entry["aspects"].as_array().unwrap().iter().map(text_of);
        let aspects: Vec<String> = aspects.filter(|aspect| aspect != "mtime").collect();
        let kind = text_of(&entry["kind"]);
        if kind == "altered" && aspects.is_empty() {
            return None;
        }
        Some((text_of(&entry["path"]), (kind, aspects)))
    });
    told.collect()
}

#[test]
fn diff_tells_what_differs() {
    let Some(store) = store("diff_tells_what_differs") else {
        return;
    };
    let (old, new) = versions(&store);
    store.import("old", &old, "family");
    store.import("new", &new, "family");
    let (old, new) = (old.to_str().unwrap(), new.to_str().unwrap());
    let expected: BTreeMap<String, (String, Vec<String>)> = [
        ("/added", "added", ""),
        ("/added/binary", "added", ""),
        ("/etc/altered", "altered", "content"),
        ("/etc/gone", "removed", ""),
        ("/etc/mode", "altered", "mode"),
        ("/here", "moved", ""),
        ("/type", "altered", "type mode"),
    ]
    .map(|(path, kind, aspects)| {
        let aspects = aspects.split_whitespace().map(str::to_owned).collect();
        (path.to_owned(), (kind.to_owned(), aspects))
    })
    .into();
    for (a, b) in [("old", "new"), (old, new), ("family", new), (old, "new")] {
        let report = store.run(&["diff", a, b, "--json"]).exits(3).json();
        assert_eq!(told(&report), expected, "{a} {b}");
        assert_eq!(report["equal"], false);
        assert_eq!(report["counts"]["moved"], 1);
        assert_eq!(report["counts"]["added_bytes"], 5);
        assert_eq!(report["counts"]["removed_bytes"], 5);
        assert_eq!(report["counts"]["content"], 1);
        let moved = report["differences"].as_array().unwrap().iter();
        let moved: Vec<&Value> = moved.filter(|entry| entry["kind"] == "moved").collect();
        assert_eq!(moved[0]["from"], "/etc/deep/er/moved", "{a} {b}");
    }
    for (a, b) in [("old", "family"), (old, "old"), ("new", new), (old, old)] {
        let found = store.run(&["diff", a, b]).exits(0);
        assert_eq!(found.text(), format!("{a} and {b} are equal\n"));
        store.run(&["diff", a, b, "--stat", "--json"]).exits(0);
    }

    let only = ["diff", "old", "new", "--json", "--", "/etc", "added/binary"];
    let report = store.run(&only).exits(3).json();
    let paths: Vec<String> = told(&report).into_keys().collect();
    let within = [
        "/added/binary",
        "/etc/altered",
        "/etc/deep/er/moved",
        "/etc/gone",
        "/etc/mode",
    ];
    assert_eq!(paths, within);
    store
        .run(&["diff", "old", "new", "--", "etc/same"])
        .exits(0);
    store
        .run(&["diff", "old", "new", "--", "../etc"])
        .exits(2)
        .says(&[".."]);

    let text = store.run(&["diff", "old", "new", "--text"]).exits(3).text();
    let lines = "--- /etc/altered\n+++ /etc/altered\n@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n";
    assert!(text.contains(lines), "{text}");
    assert!(
        text.contains("--- /etc/gone\n+++ /dev/null\n@@ -1 +0,0 @@\n-gone\n"),
        "{text}"
    );
    assert!(text.contains("/etc/deep/er/moved -> /here\n"), "{text}");
    assert!(
        !text.contains("+++ /added/binary") && !text.contains('\x1b'),
        "{text}"
    );

    let stat = store.run(&["diff", "old", "new", "--stat"]).exits(3).text();
    assert!(
        stat.starts_with("2 paths added (5 B), 1 removed (5 B), 1 moved, "),
        "{stat}"
    );
    assert_eq!(stat.lines().count(), 1);
}

#[test]
fn diff_names_its_trees() {
    let Some(store) = with_image("diff_names_its_trees") else {
        return;
    };
    let sample = store.sample(0);
    for line in [["nosuch", "first"], ["first", "nosuch"]] {
        let line = [&["diff"], &line[..]].concat();
        store.run(&line).exits(1).says(&["nosuch", "foldfs list"]);
    }
    store
        .run(&["diff", "first", "./nosuch"])
        .exits(1)
        .says(&["./nosuch", "No such file"]);
    store.run(&["diff", "first"]).exits(2);
    store
        .run(&["diff", "first", "first", "--stat", "--text"])
        .exits(2);
    let file = sample.join("etc/hosts");
    store
        .run(&["diff", "first", file.to_str().unwrap()])
        .exits(1)
        .says(&["etc/hosts"]);

    // An image of that name comes first; a slash says that it is a directory.
    fs::create_dir(store.place.join("first")).unwrap();
    fs::create_dir(store.place.join("elsewhere")).unwrap();
    let here = |arguments: &[&str]| run(store.command(arguments).current_dir(&store.place), b"");
    here(&["diff", "first", "sample0"]).exits(0);
    here(&["diff", "./first", "sample0"]).exits(3);
    let report = here(&["diff", "elsewhere", "./first", "--json"]);
    assert!(report.json()["counts"]["added"] == 0);
    // Two directories need no store.
    let (a, b) = (sample.to_str().unwrap(), store.place.join("copy"));
    sample::copy(&sample, &b);
    let none = store.place.join("no store");
    on(&none, &["diff", a, b.to_str().unwrap()]).exits(0);
    on(&none, &["diff", "first", a]).exits(1);
}

/// Every type of file, names that would write to a terminal, and a fifo, which would block who opens it.
#[test]
fn diff_takes_everything_that_a_tree_can_hold() {
    let Some(store) = store("diff_takes_everything") else {
        return;
    };
    let source = store.sample(0);
    let names: [&[u8]; 4] = [b"\x1b[2J", b"two\nlines", b"\xff\xfe", b"-> arrow"];
    for name in names {
        fs::write(source.join(OsStr::from_bytes(name)), name).unwrap();
    }
    store.import("image", &source, "family");
    let copy = store.place.join("copy");
    sample::copy(&source, &copy);
    for tree in [&source, &copy] {
        store
            .run(&["diff", "image", tree.to_str().unwrap()])
            .exits(0);
    }
    let empty = store.place.join("empty");
    fs::create_dir(&empty).unwrap();
    let empty = empty.to_str().unwrap();
    let text = store
        .run(&["diff", empty, "image", "--text"])
        .exits(3)
        .stdout;
    let controls = text
        .iter()
        .filter(|&&byte| byte < 32 && byte != b'\n' && byte != b'\t');
    assert_eq!(controls.count(), 0);
    let report = store
        .run(&["diff", "image", empty, "--json"])
        .exits(3)
        .json();
    let removed = report["counts"]["removed"].as_u64().unwrap();
    assert_eq!(removed as usize, Snapshot::of(&source).entries.len() - 1);

    // Each type in place of each other.
    let kinds = [
        "etc/fifo",
        "etc/socket",
        "etc/null",
        "etc/block",
        "etc/link",
        "etc/hosts",
        "empty",
    ];
    let (left, right) = (store.place.join("left"), store.place.join("right"));
    for tree in [&left, &right] {
        fs::create_dir(tree).unwrap();
    }
    for (x, from) in kinds.iter().enumerate() {
        for (y, to) in kinds.iter().enumerate() {
            let name = format!("{x}{y}");
            for (tree, what) in [(&left, from), (&right, to)] {
                let arguments = [
                    OsStr::new("-a"),
                    source.join(what).as_os_str(),
                    tree.join(&name).as_os_str(),
                ]
                .map(OsStr::to_owned);
                tool("cp", &arguments);
            }
        }
    }
    let report = on(
        Path::new(empty),
        &[
            "diff",
            left.to_str().unwrap(),
            right.to_str().unwrap(),
            "--json",
        ],
    );
    for (path, (_, aspects)) in told(&report.exits(3).json()) {
        let [_, x, y] = path.as_bytes() else {
            assert_eq!(path, "/");
            continue;
        };
        assert_ne!(x, y, "{path}");
        // Both devices are devices, of two types.
        assert!(
            aspects.contains(&String::from("type")),
            "{path}: {aspects:?}"
        );
    }
}

/// Which files differ, are added and removed, as diff(1) has it; and nothing where rsync(1) sees nothing.
#[test]
fn diff_agrees_with_other_programs() {
    let test = "diff_agrees_with_other_programs";
    let missing = ["diff", "rsync"]
        .iter()
        .find(|program| !common::installed(program));
    if !common::can_run(test, missing.map(|_| "diff or rsync is not installed")) {
        return;
    }
    let Some(store) = store(test) else {
        return;
    };
    let (first, second) = (store.sample(0), store.sample(1));
    for tree in [&first, &second] {
        // diff(1) takes two fifos, or two devices, for different.
        for special in ["fifo", "socket", "null", "zero", "block"] {
            fs::remove_file(tree.join("etc").join(special)).unwrap();
        }
    }
    fs::remove_dir_all(second.join("etc/conf.d")).unwrap();
    fs::write(second.join("usr/bin/other"), "other").unwrap();
    store.import("first", &first, "family");
    store.import("second", &second, "family");
    let report = store
        .run(&["diff", "first", "second", "--json"])
        .exits(3)
        .json();
    let mut ours: Vec<String> = Vec::new();
    for entry in report["differences"].as_array().unwrap() {
        let path = text_of(&entry["path"]);
        let aspects: Vec<String> = entry["aspects"]
            .as_array()
            .unwrap()
            .iter()
            .map(text_of)
            .collect();
        let differs = aspects
            .iter()
            .any(|aspect| aspect == "content" || aspect == "type");
        match &text_of(&entry["kind"])[..] {
            "moved" => ours.extend([text_of(&entry["from"]), path]),
            "altered" if !differs => {}
            _ => ours.push(path),
        }
    }
    let arguments = [
        "-rq",
        "--no-dereference",
        first.to_str().unwrap(),
        second.to_str().unwrap(),
    ];
    let theirs = run(Command::new("diff").args(arguments), b"")
        .exits(1)
        .text();
    let mut expected: Vec<String> = Vec::new();
    for line in theirs.lines() {
        let below = |path: &str| {
            let tree = [&first, &second]
                .into_iter()
                .find_map(|tree| path.strip_prefix(tree.to_str().unwrap()));
            tree.unwrap_or_else(|| panic!("{line}")).to_owned()
        };
        if let Some(only) = line.strip_prefix("Only in ") {
            let (directory, name) = only.split_once(": ").unwrap();
            let path = format!("{}/{name}", below(directory));
            // diff(1) does not go down there.
            let inside = format!("{path}/");
            ours.retain(|found| !found.starts_with(&inside));
            expected.push(path);
        } else {
            let words = line
                .strip_prefix("Files ")
                .or(line.strip_prefix("Symbolic links "));
            let path = words
                .unwrap_or_else(|| panic!("{line}"))
                .split(" and ")
                .next()
                .unwrap();
            expected.push(below(path));
        }
    }
    ours.sort();
    expected.sort();
    assert_eq!(ours, expected, "{theirs}");

    let copy = store.place.join("copy");
    sample::copy(&second, &copy);
    let trees = [second.join(""), copy.join("")].map(|tree| tree.to_str().unwrap().to_owned());
    let rsync = ["-naiHAXc", "--delete", &trees[0], &trees[1]];
    assert_eq!(
        run(Command::new("rsync").args(rsync), b"").exits(0).text(),
        ""
    );
    store
        .run(&["diff", "second", copy.to_str().unwrap()])
        .exits(0);
    fs::set_permissions(copy.join("empty"), Permissions::from_mode(0o700)).unwrap();
    assert_ne!(
        run(Command::new("rsync").args(rsync), b"").exits(0).text(),
        ""
    );
    let report = store.run(&["diff", "second", copy.to_str().unwrap(), "--json"]);
    let report = told(&report.exits(3).json());
    let only = ("altered".to_owned(), vec!["mode".to_owned()]);
    assert_eq!(report, BTreeMap::from([("/empty".to_owned(), only)]));
}

/// Goes deeper than any path is long; gives the tree's deepest directory.
fn deepen(root: &Path, levels: usize) -> OwnedFd {
    let mut directory: OwnedFd = fs::File::open(root).unwrap().into();
    for _ in 0..levels {
        let name = "a deep directory";
        rustix::fs::mkdirat(&directory, name, rustix::fs::Mode::RWXU).unwrap();
        let flags = rustix::fs::OFlags::DIRECTORY;
        directory = rustix::fs::openat(&directory, name, flags, rustix::fs::Mode::empty()).unwrap();
    }
    directory
}

#[test]
fn diff_of_deep_trees_and_long_directories() {
    let Some(store) = store("diff_of_deep_trees_and_long_directories") else {
        return;
    };
    let trees = ["old", "new"].map(|name| store.place.join(name));
    for tree in &trees {
        fs::create_dir_all(tree.join("long")).unwrap();
        for number in 0..2000 {
            fs::write(tree.join(format!("long/{number}")), "").unwrap();
        }
    }
    let deepest = trees.each_ref().map(|tree| deepen(tree, 300));
    let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
    rustix::fs::openat(&deepest[1], "file", flags, rustix::fs::Mode::RWXU).unwrap();
    fs::remove_file(trees[1].join("long/1234")).unwrap();
    store.import("old", &trees[0], "family");
    store.import("new", &trees[1], "family");
    let [old, new] = trees.each_ref().map(|tree| tree.to_str().unwrap());
    for (a, b) in [("old", "new"), (old, new), ("old", new)] {
        let report = store.run(&["diff", a, b, "--json"]).exits(3).json();
        assert_eq!(report["counts"]["added"], 1, "{a} {b}");
        assert_eq!(report["counts"]["removed"], 1, "{a} {b}");
        let added = report["differences"].as_array().unwrap().iter();
        let added = added.filter(|entry| entry["kind"] == "added");
        let paths: Vec<String> = added.map(|entry| text_of(&entry["path"])).collect();
        assert_eq!(paths[0].matches('/').count(), 301);
    }
    store.run(&["diff", "new", new]).exits(0);
    for tree in &trees {
        let parent = fs::File::open(&store.place).unwrap();
        let name = tree.file_name().unwrap().as_bytes();
        foldfs::store::tree::remove(parent.as_fd(), name, "tree").unwrap();
    }
}

/// Beside a daemon: what the guest has written is compared, from its private layer and through the
/// mount.
#[test]
fn diff_of_a_mounted_image() {
    let test = "diff_of_a_mounted_image";
    if !common::can_run(test, common::needs_root().or_else(common::needs_fuse)) {
        return;
    }
    let store = TestStore::new();
    store.import("first", &store.sample(0), "family");
    let mounted = store.mount("first");
    let number = fs::metadata(mounted.join("etc/hosts")).unwrap().ino();
    fs::write(mounted.join("etc/hosts"), "127.0.0.2 elsewhere\n").unwrap();
    fs::rename(mounted.join("usr/lib"), mounted.join("lib")).unwrap();
    let path = mounted.path.to_str().unwrap();
    for new in ["first", path] {
        let report = store
            .run(&["diff", "family", new, "--json"])
            .exits(3)
            .json();
        let told = told(&report);
        assert_eq!(
            told["/etc/hosts"],
            ("altered".into(), vec!["content".into()]),
            "{new}"
        );
        assert!(told.contains_key("/lib/deep/deeper/data"), "{new}");
    }
    let report = store.run(&["diff", "family", "first", "--json"]).json();
    assert_eq!(
        told(&report)["/lib"].0,
        "moved",
        "the same directory elsewhere"
    );
    assert_eq!(
        fs::metadata(mounted.join("etc/hosts")).unwrap().ino(),
        number
    );
    store.run(&["diff", "first", path]).exits(0);
    store.ok(&["fold"]);
    store.run(&["diff", "first", path]).exits(0);
    mounted.unmount();
    store.wait_for_daemons();
    store.assert_sound();
}
