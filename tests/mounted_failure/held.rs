//! Holding what there is no room for.

use std::fs;

use super::assert_no_debris;
use super::common::snapshot::Fields;
use super::common::store::TestStore;
use super::common::{can_run, needs_fuse, op};
use super::scarce::{Scarce, What};

#[test]
fn what_finds_no_room_is_not_held() {
    let missing = needs_fuse().or(Scarce::missing(What::Blocks));
    if !can_run("what_finds_no_room_is_not_held", missing) {
        return;
    }
    let scarce = Scarce::new(What::Blocks);
    let store = TestStore::at(&scarce.path);
    let tree = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for number in 0..8 {
        let content = op::pattern(number, 500_000);
        fs::write(tree.path().join(number.to_string()), content).unwrap();
    }
    store.import("first", tree.path(), "family");
    store.import("second", tree.path(), "family");
    let first = store.mount("first");
    let before = first.snapshot();
    // For three of them.
    scarce.leave(400);
    let ran = store.run(&["hold", "first", "/", "/no/such"]).exits(1);
    ran.says(&["first:/", "No space left on device"]);
    assert_no_debris(&store, &["work", "orphans"], "hold");
    before.assert_same(&first.snapshot(), Fields::ALL, "half a hold shows");
    let held = |image: &str| store.ok(&["hold", image, "--json"]).json()["paths"].clone();
    assert_eq!(held("first"), serde_json::json!([]), "half of it is held");
    let log = fs::read_to_string(store.path.join("run/daemon.log")).unwrap();
    let failed = log
        .lines()
        .filter(|line| line.contains("a promotion failed image="));
    assert_eq!(failed.count(), 1, "{log}");
    let metrics = store.ok(&["metrics"]).text();
    assert!(
        metrics.contains("\nfoldfs_promotion_failures_total 1\n"),
        "{metrics}"
    );

    scarce.restore();
    store.ok(&["fold"]);
    store.ok(&["hold", "first", "/"]);
    assert_eq!(held("first")[0]["inodes"], 8);
    assert_eq!(held("first")[0]["shared_inodes"], 0);
    before.assert_same(&first.snapshot(), Fields::ALL, "a hold shows");
    first.unmount();
    store.wait_for_daemons();
    store.assert_sound();
}
