//! Needs root. Proves the harness: the model against a plain directory of the host.

#![allow(clippy::expect_used, reason = "a test that cannot go on should panic")]

mod common;

use common::directory::{Directory, System};
use common::model::Model;
use common::op::Op;
use common::snapshot::{Fields, Snapshot};
use common::{drive, op, sample};
use tempfile::TempDir;

fn plain(ops: &[Op]) -> Result<usize, String> {
    let place = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary directory");
    let tree = place.path().join("tree");
    sample::make(&tree, 0);
    let mut model = Model::read(&tree);
    let mut directory = Directory::new(&tree);
    let systems: &mut [&mut dyn System] = &mut [&mut directory];
    drive::run(ops, &mut model, systems)
}

#[test]
fn model_is_a_plain_directory() {
    if common::can_run("model_is_a_plain_directory", common::needs_root()) {
        drive::explore(op::visible(), 150, drive::operations(3_000), plain);
    }
}

#[test]
fn a_copy_has_the_same_snapshot() {
    if !common::can_run("a_copy_has_the_same_snapshot", common::needs_root()) {
        return;
    }
    let place = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary directory");
    let (tree, copy) = (place.path().join("tree"), place.path().join("copy"));
    sample::make(&tree, 0);
    sample::copy(&tree, &copy);
    let (a, b) = (Snapshot::of(&tree), Snapshot::of(&copy));
    a.assert_same(&b, Fields::COPY, "a copy differs");
}
