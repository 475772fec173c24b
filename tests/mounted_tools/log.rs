//! What passes did is told after the daemon that made them is gone.

use std::fs;

use serde_json::Value;

use super::passes::twins_with;
use super::*;

fn entries(store: &TestStore) -> Vec<Value> {
    let report = store.ok(&["log", "--json"]).json();
    report["entries"].as_array().unwrap().clone()
}

#[test]
fn passes_are_logged_for_longer_than_their_daemon_lives() {
    let test = "passes_are_logged_for_longer_than_their_daemon_lives";
    let Some((store, images)) = twins_with(test, "interval = '1s'\nquiet = '1s'") else {
        return;
    };
    for image in &images {
        fs::write(image.join("etc/new"), "equal in both").unwrap();
    }
    let folded = |entry: &Value| entry["by"] == "pass" && entry["folded_files"] == 2;
    eventually("a pass folds and says so", || {
        entries(&store).iter().any(folded)
    });
    store.ok(&["fold"]);
    let so_far = entries(&store);
    assert_eq!(
        so_far.iter().filter(|entry| entry["by"] == "fold").count(),
        1
    );
    let pass = so_far.iter().find(|entry| folded(entry)).unwrap();
    assert_eq!(
        (&pass["error"], &pass["interrupted"]),
        (&Value::Null, &false.into())
    );
    assert_eq!(pass["folded_bytes"], 26, "{pass}");
    finish(&store, images);
    let lines = fs::read_to_string(store.path.join("run/daemon.log")).unwrap();
    for (level, words) in [
        ("INFO", "mounted image=first directory="),
        ("INFO", "pass family=all examined="),
        ("INFO", " folded_files=2 folded_bytes=26 "),
        ("INFO", "unmounted image=second directory="),
        ("INFO", "daemon ends: the last mount is gone"),
    ] {
        let found = lines
            .lines()
            .any(|line| line.contains(level) && line.contains(words));
        assert!(found, "{words}:\n{lines}");
    }
    let after = entries(&store);
    assert_eq!(after[..so_far.len()], so_far, "the daemon's end changed it");
    let first = store.mount("first");
    assert_eq!(
        entries(&store)[..after.len()],
        after,
        "another daemon does not know"
    );
    finish(&store, [first]);
}
