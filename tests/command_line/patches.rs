//! patch create and patch show: what `diff` says, in a file that is proven whole.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::common::sample;
use super::*;

/// As OpenSSL writes it, and as the configuration names it.
const SECRET: &str = "-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIPKDdd4i9X36Jlwwx7n0CN/Ld2RunqadDYmbS+9PXYLf
-----END PRIVATE KEY-----
";
const PUBLIC: &str = "MCowBQYDK2VwAyEAGPMALt1j6dRusM+Sn0U8QtYZsosgmEOOH/6THgLQrUI=";
const STRANGER: &str = "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=";

/// A tree with one of everything, and another that differs in all ways.
fn trees(store: &TestStore) -> (PathBuf, PathBuf) {
    let (old, new) = (store.sample(0), store.place.join("new"));
    let text = "a line of text that is long enough\n".repeat(100);
    fs::write(old.join("etc/altered"), format!("{text}old\n{text}")).unwrap();
    fs::write(old.join("etc/moved"), "content that moves\n").unwrap();
    fs::write(old.join("etc/type"), "a file\n").unwrap();
    sample::copy(&old, &new);
    fs::write(new.join("etc/altered"), format!("{text}new\n{text}")).unwrap();
    fs::rename(new.join("etc/moved"), new.join("etc/here")).unwrap();
    fs::remove_file(new.join("etc/type")).unwrap();
    symlink("hosts", new.join("etc/type")).unwrap();
    fs::create_dir(new.join("added")).unwrap();
    fs::write(new.join("added/one"), "one of two names\n").unwrap();
    fs::hard_link(new.join("added/one"), new.join("added/two")).unwrap();
    fs::set_permissions(new.join("etc/hosts"), Permissions::from_mode(0o600)).unwrap();
    (old, new)
}

/// The differences of a report of `diff` as a patch has them: a move is a removal and an addition.
fn without_moves(report: &Value) -> Vec<Value> {
    let mut found = Vec::new();
    for entry in report["differences"].as_array().unwrap() {
        if entry["kind"] != "moved" {
            found.push(entry.clone());
            continue;
        }
        let part = |kind: &str, path: &Value, side: &str| {
            let mut part = json!({
                "path": path, "kind": kind, "from": null, "aspects": [], "old": null, "new": null, "text": null,
            });
            part[side] = entry[side].clone();
            part
        };
        found.push(part("removed", &entry["from"], "old"));
        found.push(part("added", &entry["path"], "new"));
    }
    found.sort_by_key(|entry| entry["path"].to_string());
    found
}

#[test]
fn a_patch_says_what_diff_says() {
    let Some(store) = store("a_patch_says_what_diff_says") else {
        return;
    };
    let (old, new) = trees(&store);
    store.import("old", &old, "family");
    store.import("new", &new, "family");
    let (old, new) = (old.to_str().unwrap(), new.to_str().unwrap());
    let file = store.place.join("p");
    let file = file.to_str().unwrap();
    // Digests are known of images only.
    let expected = store.run(&["diff", "old", "new", "--json"]).exits(3).json();
    assert_eq!(expected["counts"]["moved"], 1);
    for (a, b) in [("old", "new"), (old, new), ("family", new), (old, "new")] {
        let made = store.run(&["patch", "create", a, b, "-o", file, "--json"]);
        let made = made.exits(0).json();
        assert_eq!(made["report"], "patch");
        assert_eq!(made["bytes"], fs::metadata(file).unwrap().len());
        assert_eq!(made["changes"]["counts_only"], true);
        let shown = store
            .run(&["patch", "show", file, "--json"])
            .exits(0)
            .json();
        let changes = &shown["changes"];
        assert_eq!(without_moves(changes), without_moves(&expected), "{a} {b}");
        assert_eq!(changes["counts"], made["changes"]["counts"]);
        assert_eq!((&changes["old"], &changes["new"]), (&json!(a), &json!(b)));
        // What moved is not in it, what has two names once, and what differs in a line as a line.
        assert_eq!(shown["contents"]["count"], 2, "{shown}");
        assert_eq!(shown["contents"]["deltas"], 1);
        let stored = shown["contents"]["stored_bytes"].as_u64().unwrap();
        assert!(stored < 100, "{stored}");
        let mode = fs::metadata(file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let text = store.run(&["patch", "show", file]).exits(0).text();
    assert!(
        text.contains("not signed") && text.contains("/added/two"),
        "{text}"
    );
    let stat = store
        .run(&["patch", "show", file, "--stat"])
        .exits(0)
        .text();
    assert!(!stat.contains("/added"), "{stat}");

    // Equal trees make a patch that changes nothing; it needs no store.
    let none = store.place.join("no store");
    on(&none, &["patch", "create", old, old, "-o", file]).exits(0);
    let shown = on(&none, &["patch", "show", file, "--json"])
        .exits(0)
        .json();
    assert_eq!(shown["changes"]["equal"], true);
}

#[test]
fn a_patch_is_written_as_a_whole() {
    let Some(store) = with_image("a_patch_is_written_as_a_whole") else {
        return;
    };
    let (old, _) = trees(&store);
    let directory = store.place.join("patches");
    fs::create_dir(&directory).unwrap();
    let file = directory.join("p");
    fs::write(&file, "before").unwrap();
    let (old, path) = (old.to_str().unwrap(), file.to_str().unwrap());
    let create = |a: &str, b: &str, to: &str| store.run(&["patch", "create", a, b, "-o", to]);
    create("nosuch", old, path)
        .exits(1)
        .says(&["nosuch", "foldfs list"]);
    create(old, "./nosuch", path)
        .exits(1)
        .says(&["./nosuch", "No such file"]);
    assert_eq!(fs::read(&file).unwrap(), b"before");
    let missing = directory.join("missing/p");
    let missing = missing.to_str().unwrap();
    create(old, old, missing)
        .exits(1)
        .says(&["missing/p", "No such file"]);
    create(old, old, "/").exits(2).says(&["it names no file"]);
    store.run(&["patch", "create", old, old]).exits(2);
    let full = store.run(&["patch", "create", old, old, "-o", "/dev/full/p"]);
    full.exits(1).says(&["/dev/full/p"]);
    create("first", old, path).exits(0);
    assert_ne!(fs::read(&file).unwrap(), b"before");
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
}

#[test]
fn what_is_no_patch_any_more_is_refused() {
    let place = place();
    let path = |name: &str| place.path().join(name);
    let (old, new, file) = (path("old"), path("new"), path("p"));
    for (tree, text) in [(&old, "old"), (&new, "new")] {
        fs::create_dir(tree).unwrap();
        fs::write(tree.join("file"), text).unwrap();
    }
    let file_name = file.to_str().unwrap();
    let (old, new) = (old.to_str().unwrap(), new.to_str().unwrap());
    foldfs(&["patch", "create", old, new, "-o", file_name]).exits(0);
    let whole = fs::read(&file).unwrap();
    let show = |bytes: &[u8]| {
        fs::write(&file, bytes).unwrap();
        foldfs(&["patch", "show", file_name])
    };
    show(&whole).exits(0);
    let damaged = ["damaged", "get it once more"];
    show(&whole[..whole.len() - 1]).exits(1).says(&damaged);
    show(&whole[..20]).exits(1).says(&damaged);
    let mut flipped = whole.clone();
    flipped[60] ^= 1;
    show(&flipped).exits(1).says(&damaged);
    show(b"").exits(1).says(&["it is no patch", "patch create"]);
    show(b"tar")
        .exits(1)
        .says(&["it is no patch", "patch create"]);
    let mut newer = whole;
    newer[8] = 9;
    show(&newer).exits(1).says(&["of format 9", "newer foldfs"]);
    foldfs(&["patch", "show", old])
        .exits(1)
        .says(&["no regular file"]);
    foldfs(&["patch", "show", "/nonexistent"])
        .exits(1)
        .says(&["/nonexistent", "No such file"]);
}

#[test]
fn a_patch_is_signed_as_the_configuration_demands() {
    let place = place();
    let path = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
    let (tree, file, key, config) = (path("tree"), path("p"), path("key"), path("c.toml"));
    fs::create_dir(&tree).unwrap();
    fs::write(&key, SECRET).unwrap();
    let create = ["patch", "create", &tree, &tree, "-o", &file];
    let sign = [&create[..], &["--sign", &key]].concat();
    foldfs(&sign)
        .exits(1)
        .says(&["others than its owner", "0600"]);
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    let show = |keys: &[&str]| {
        fs::write(&config, format!("patch_keys = {keys:?}\n")).unwrap();
        foldfs(&["--config", &config, "patch", "show", &file, "--json"])
    };
    foldfs(&sign).exits(0);
    for (keys, code) in [
        (&[][..], 0),
        (&[PUBLIC], 0),
        (&[STRANGER, PUBLIC], 0),
        (&[STRANGER], 3),
    ] {
        let shown = show(keys).exits(code).json();
        assert_eq!(shown["signed_by"], PUBLIC);
        assert_eq!(shown["accepted"], code == 0);
    }
    foldfs(&create).exits(0);
    assert_eq!(show(&[PUBLIC]).exits(3).json()["signed_by"], Value::Null);
    assert_eq!(show(&[]).exits(0).json()["accepted"], true);
    show(&["no key"])
        .exits(2)
        .says(&["patch_keys", "openssl pkey"]);
}
