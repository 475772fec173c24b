//! The commands, what they say, and what goes on although something is locked.

use std::fs;

use super::common::store::run;
use super::*;

#[test]
fn what_is_locked_is_listed_and_explained() {
    let Some(store) = world(
        "what_is_locked_is_listed_and_explained",
        &["first", "second"],
    ) else {
        return;
    };
    let listed = || store.ok(&words("lock family --json")).json();
    assert!(listed()["patterns"].as_array().unwrap().is_empty());
    let plan = store
        .ok(&words("lock family /top/dir --dry-run --json"))
        .json();
    assert_eq!(plan["patterns"][0], "/top/dir", "{plan}");
    // dir, sub, deep, empty, file, x, linked, symlink, fifo
    assert_eq!(plan["paths"], 9, "{plan}");
    assert!(listed()["patterns"].as_array().unwrap().is_empty());
    assert_eq!(
        store.ok(&words("lock family")).text(),
        "family: nothing is locked\n"
    );

    lock(&store, "/top/dir *.key");
    assert_eq!(
        store.ok(&words("lock family")).text(),
        "family: /top/dir\nfamily: *.key\nfamily: 9 paths of its base locked\n"
    );
    for (path, pattern) in [
        ("/top/dir/sub/x", Some("/top/dir")),
        ("/top/alias", Some("/top/dir")),
        ("/top/other/file", None),
        ("/top", None),
    ] {
        let why = store.ok(&["why", "first", path, "--json"]).json();
        assert_eq!(why["locked"].as_str(), pattern, "{path}");
    }
    let why = store.ok(&words("why first /top/dir")).text();
    assert!(why.contains("locked by    /top/dir"), "{why}");

    for (line, code, word) in [
        ("lock family /etc//ssl", 2, "matches nothing"),
        ("lock family [a", 2, "has no"),
        ("lock nothing /etc", 1, "no such family"),
        ("lock first /etc", 1, "no such family"),
        ("unlock family /etc", 1, "nothing is locked by it"),
    ] {
        store.run(&words(line)).exits(code).says(&[word]);
    }
    store.ok(&words("unlock family *.key"));
    assert_eq!(listed()["patterns"].to_string(), r#"["/top/dir"]"#);
    store.assert_sound();

    // With the family its locks go.
    for name in ["first", "second", "family"] {
        store.ok(&["remove", name]);
    }
    store.import("first", &store.place.join("source"), "family");
    assert!(listed()["patterns"].as_array().unwrap().is_empty());
    store.assert_sound();
}

#[test]
fn changes_of_the_family_go_on() {
    let Some(store) = world("changes_of_the_family_go_on", &["first", "second"]) else {
        return;
    };
    let images = [store.mount("first"), store.mount("second")];
    lock(&store, "/top/dir");
    let after = store.place.join("after");
    sample_copy(&store.place.join("source"), &after);
    fs::write(after.join("top/dir/file"), "patched").unwrap();
    fs::write(after.join("top/dir/added"), "added").unwrap();
    fs::hard_link(after.join("top/dir/added"), after.join("top/added too")).unwrap();
    fs::remove_file(after.join("top/dir/sub/x")).unwrap();
    let patch = store.place.join("patch");
    let (source, patch) = (store.place.join("source"), patch.to_str().unwrap());
    let (before, after) = (source.to_str().unwrap(), after.to_str().unwrap());
    store.ok(&["patch", "create", before, after, "-o", patch]);
    store.ok(&["patch", "apply", patch, "--family", "family"]);
    for image in &images {
        assert_eq!(fs::read(image.join("top/dir/file")).unwrap(), b"patched");
        assert_eq!(fs::read(image.join("top/dir/added")).unwrap(), b"added");
        assert!(!image.join("top/dir/sub/x").exists());
        // Its other name came with the change, too.
        let refused = fs::write(image.join("top/added too"), "").unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
        let refused = fs::write(image.join("top/dir/sub/x"), "").unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
    }
    store.ok(&["fold"]);
    store.ok(&["hold", "first", "/top/dir"]);
    store.ok(&["release", "first", "/top/dir"]);
    store.ok(&["fold"]);
    for image in &images {
        assert_eq!(fs::read(image.join("top/dir/file")).unwrap(), b"patched");
    }
    finish(&store, images);
}

fn sample_copy(from: &Path, to: &Path) {
    super::common::sample::copy(from, to);
}

#[test]
fn who_was_refused_is_told_and_counted() {
    let Some(store) = world("who_was_refused_is_told_and_counted", &["first"]) else {
        return;
    };
    let image = store.mount("first");
    lock(&store, "/top/dir");
    let mut touch = std::process::Command::new("touch");
    run(touch.arg(image.join("top/dir/file")), b"").exits(1);
    for _ in 0..100 {
        fs::write(image.join("top/dir/file"), "").unwrap_err();
        fs::write(image.join("top/other/file"), "x").unwrap();
    }
    let log = fs::read_to_string(store.path.join("run/daemon.log")).unwrap();
    let lines: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("was not altered"))
        .collect();
    assert!(
        lines[0].contains("/top/dir/file") && lines[0].contains("touch"),
        "{log}"
    );
    assert!((2..50).contains(&lines.len()), "{log}");
    let metrics = store.ok(&["metrics"]).text();
    let count = metrics
        .lines()
        .find_map(|line| line.strip_prefix("foldfs_locked_refusals_total "));
    let count: u64 = count.unwrap().parse().unwrap();
    assert!((101..=110).contains(&count), "{metrics}");
    finish(&store, [image]);
}
