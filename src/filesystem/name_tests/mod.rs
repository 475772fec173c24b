//! Needs root. Names of a live image, without a kernel in the loop: each test compares what the
//! image looks like before and after, and after a remount.

mod crash_tests;
mod create_tests;
mod fixture;
mod promote_tests;
mod random_tests;
mod remove_tests;
mod rename_tests;

use fixture::Looks;

/// Asserts that exactly `changed` look different (or came or went).
fn assert_changed(before: &Looks, after: &Looks, changed: &[&str]) {
    let mut found: Vec<&str> = Vec::new();
    for path in before.keys().chain(after.keys()) {
        if before.get(path) != after.get(path) && !found.contains(&path.as_str()) {
            found.push(path);
        }
    }
    found.sort_unstable();
    let mut expected = changed.to_vec();
    expected.sort_unstable();
    if found != expected {
        for path in &found {
            eprintln!(
                "{path:?}:\n  {:?}\n  {:?}",
                before.get(*path),
                after.get(*path)
            );
        }
    }
    assert_eq!(found, expected);
}
