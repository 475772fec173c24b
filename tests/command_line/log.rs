//! log: what folds did.

use serde_json::Value;

use super::*;

fn entries(store: &TestStore, more: &[&str]) -> Vec<Value> {
    let report = store.ok(&[&["log", "--json"], more].concat()).json();
    report["entries"].as_array().unwrap().clone()
}

#[test]
fn folds_are_logged_and_dry_runs_are_not() {
    let Some(store) = with_image("folds_are_logged_and_dry_runs_are_not") else {
        return;
    };
    assert_eq!(store.ok(&["log"]).text(), "");
    store.import("second", &store.sample(1), "family");
    store.ok(&["fold", "--dry-run"]);
    assert!(entries(&store, &[]).is_empty());
    store.ok(&["fold"]);
    store.ok(&["fold", "family"]);
    store.run(&["fold", "nosuch"]).exits(1);
    let all = entries(&store, &[]);
    let of = |key: &str| -> Vec<Value> { all.iter().map(|entry| entry[key].clone()).collect() };
    assert_eq!(of("by"), ["fold", "fold", "fold"]);
    assert_eq!(
        of("family"),
        [Value::Null, "family".into(), "nosuch".into()]
    );
    assert_eq!(of("error")[..2], [Value::Null, Value::Null]);
    assert!(
        of("error")[2].as_str().unwrap().contains("nosuch"),
        "{all:?}"
    );
    assert_eq!(entries(&store, &["-n", "2"]), all[1..]);
    assert_eq!(entries(&store, &["-n", "0"]), all[3..]);
    assert_eq!(entries(&store, &["-n", "9"]), all);
    let text = store.ok(&["log", "-n1"]).text();
    assert!(text.contains("fold nosuch  failed after"), "{text}");
    store.run(&["log", "-n", "-1"]).exits(2);
    store.assert_sound();
}

#[test]
fn a_fold_does_not_need_its_log() {
    let Some(store) = with_image("a_fold_does_not_need_its_log") else {
        return;
    };
    let log = store.path.join("run/folds.log");
    fs::create_dir(&log).unwrap();
    store.ok(&["fold"]).says(&["run/folds.log"]);
    fs::remove_dir(&log).unwrap();
    store.ok(&["fold"]);
    assert_eq!(entries(&store, &[]).len(), 1);
    // Torn by a crash, or by somebody.
    let mut text = fs::read(&log).unwrap();
    text.extend_from_slice(b"{\"by\":\"pa");
    fs::write(&log, text).unwrap();
    assert_eq!(entries(&store, &[]).len(), 1);
    store.ok(&["fold"]);
    assert_eq!(entries(&store, &[]).len(), 2);
}
