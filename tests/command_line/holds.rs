//! hold and release: which paths there are, and what is said of them.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use super::*;

fn paths(ran: Ran) -> Vec<serde_json::Value> {
    let report = ran.json();
    let paths = report["paths"].as_array().unwrap().iter();
    paths.map(|held| held["path"].clone()).collect()
}

#[test]
fn a_path_is_held_in_one_form() {
    let Some(store) = with_image("a_path_is_held_in_one_form") else {
        return;
    };
    let hosts = ["/etc/hosts", "etc/hosts", "//etc/./hosts/", "/etc/hosts/."];
    let held = store.ok(&[&["hold", "first", "--json"][..], &hosts].concat());
    assert_eq!(paths(held), ["/etc/hosts"]);
    store.ok(&["hold", "first", "/etc/hosts"]);
    assert_eq!(
        paths(store.ok(&["hold", "first", "--json"])),
        ["/etc/hosts"]
    );
    let why = store.ok(&["why", "first", "/etc/hosts", "--json"]).json();
    assert_eq!(
        (&why["role"], &why["held"]),
        (&"file".into(), &"/etc/hosts".into())
    );
    let why = store.ok(&["why", "first", "/etc", "--json"]).json();
    assert_eq!(why["held"], serde_json::Value::Null);
    store.ok(&["release", "first", "etc/hosts/"]);
    let text = store.ok(&["hold", "first"]).text();
    assert_eq!(text, "first: nothing is held\n");
    store.assert_sound();
}

#[test]
fn what_is_no_path_is_refused() {
    let Some(store) = with_image("what_is_no_path_is_refused") else {
        return;
    };
    let long = "n".repeat(256);
    let before = listing(&store);
    for path in ["", "..", "/etc/../etc/hosts", "/etc/..", &long] {
        for command in ["hold", "release"] {
            // Not even the good one is taken.
            store.run(&[command, "first", "/etc/hosts", path]).exits(2);
        }
    }
    store.run(&["release", "first"]).exits(2);
    assert_eq!(paths(store.ok(&["hold", "first", "--json"])).len(), 0);
    let ran = store.run(&["release", "first", "/etc/hosts"]).exits(1);
    ran.says(&["first:/etc/hosts", "it is not held"]);
    before.assert_same(
        &listing(&store),
        Fields::ALL.without(Fields::CTIME),
        "what was refused changed",
    );
}

#[test]
fn names_are_bytes_and_need_not_exist() {
    let Some(store) = with_image("names_are_bytes_and_need_not_exist") else {
        return;
    };
    let odd = OsStr::from_bytes(b"/\xff\xfe\x01 bytes");
    let mut arguments: Vec<&OsStr> = vec!["hold".as_ref(), "first".as_ref(), odd];
    // Through a symlink, below a file, not there at all, and as long as a name may be.
    let longest = OsString::from("/".to_owned() + &"x".repeat(255));
    for path in ["/etc/link/x", "/etc/hosts/below", "/no/such"] {
        arguments.push(path.as_ref());
    }
    arguments.push(&longest);
    let text = store.ok(&arguments).text();
    assert!(
        text.contains(
            "first:/\\xff\\xfe\\u{1} bytes held: 1 file, 1 of them shared so far: 9 B copied\n"
        ),
        "{text}"
    );
    assert_eq!(text.matches("there is nothing yet").count(), 4, "{text}");
    let why = store.ok(&["why".as_ref(), "first".as_ref(), odd, "--json".as_ref()]);
    assert_eq!(why.json()["role"], "file");
    arguments[0] = "release".as_ref();
    store.ok(&arguments);
    assert_eq!(paths(store.ok(&["hold", "first", "--json"])).len(), 0);
    store.assert_sound();
}

#[test]
fn a_dry_run_holds_nothing() {
    let Some(store) = with_image("a_dry_run_holds_nothing") else {
        return;
    };
    let before = listing(&store);
    let plan = store
        .ok(&["hold", "first", "/", "--dry-run", "--json"])
        .json();
    let text = store.ok(&["hold", "first", "/", "--dry-run"]).text();
    assert!(
        text.contains("would be held") && text.contains("would be copied"),
        "{text}"
    );
    before.assert_same(
        &listing(&store),
        Fields::ALL.without(Fields::CTIME),
        "a dry run changed",
    );
    let mut done = store.ok(&["hold", "first", "/", "--json"]).json();
    done["dry_run"] = true.into();
    assert_eq!(done, plan, "what was planned is what was done");
    let ran = store.run(&["release", "first", "/etc/hosts"]).exits(1);
    ran.says(&["it is held with /", "release /"]);
    let before = listing(&store);
    store.ok(&["release", "first", "/", "--dry-run"]);
    store.ok(&["hold", "first", "--dry-run"]);
    assert_eq!(paths(store.ok(&["hold", "first", "--json"])), ["/"]);
    before.assert_same(
        &listing(&store),
        Fields::ALL.without(Fields::CTIME),
        "a dry run changed",
    );
    let tree = store.place.join("tree");
    store.ok(&["export", "first", tree.to_str().unwrap()]);
    Snapshot::of(&store.sample(0)).assert_same(&Snapshot::of(&tree), Fields::COPY, "held");
    store.ok(&["release", "first", "/"]);
    store.ok(&["fold"]);
    let why = store.ok(&["why", "first", "/etc/fifo", "--json"]).json();
    assert_eq!(why["layer"], "shared");
    store.assert_sound();
}
