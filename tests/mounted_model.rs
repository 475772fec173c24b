//! Needs root and FUSE. A mounted image against the model of a plain directory, with operations
//! in between that must not be seen.
//!
//! What a mounted image may do otherwise than a plain directory of ext4:
//!
//! | difference | reason | where it is allowed |
//! |---|---|---|
//! | fewer or more holes | a stub has none of its own, folding keeps content only | `Outcome::agrees` |
//! | ctime after setting an xattr to the value it has | ext4 leaves it, xfs does not | `ctime_maybe` |
#![allow(clippy::expect_used, reason = "a test that cannot go on should panic")]

mod common;
#[path = "mounted_model/regressions.rs"]
mod regressions;

use std::rc::Rc;

use common::directory::{Directory, System};
use common::drive::Watch;
use common::image::Image;
use common::model::Model;
use common::op::Op;
use common::store::TestStore;
use common::{drive, op, sample};

/// One list of operations in a fresh store, and in a plain copy of the tree.
fn watched(ops: &[Op], watch: Watch) -> Result<usize, String> {
    let store = Rc::new(TestStore::new());
    run(&store, ops, watch, [Image::watched(&store)])
}

/// The same in two images at once, so that placement moves what they share to and fro.
fn twins(ops: &[Op], watch: Watch) -> Result<usize, String> {
    let store = Rc::new(TestStore::new());
    run(&store, ops, watch, Image::twins(&store))
}

fn run<const N: usize>(
    store: &TestStore,
    ops: &[Op],
    watch: Watch,
    mut images: [Image; N],
) -> Result<usize, String> {
    let copy = store.place.join("copy");
    sample::copy(&store.sample(0), &copy);
    let mut model = Model::read(&copy);
    let mut plain = Directory::new(&copy);
    let mut systems: Vec<&mut dyn System> = vec![&mut plain];
    for image in &mut images {
        systems.push(image);
    }
    let performed = drive::run(ops, watch, &mut model, &mut systems)?;
    for image in images {
        image.finish()?;
    }
    store.wait_for_daemons();
    store.assert_sound();
    Ok(performed)
}

#[test]
fn image_behaves_like_a_plain_directory() {
    if common::can_run("image_behaves_like_a_plain_directory", common::needs_fuse()) {
        let case = |ops: &[Op]| watched(ops, Watch::Closely);
        drive::explore(op::visible(), 100, drive::operations(1_500), case);
    }
}

#[test]
fn folding_and_placement_are_invisible() {
    if common::can_run("folding_and_placement_are_invisible", common::needs_fuse()) {
        let case = |ops: &[Op]| watched(ops, Watch::Seldom);
        drive::explore(op::all(), 100, drive::operations(1_500), case);
    }
}

#[test]
fn what_two_images_share_is_invisible() {
    if common::can_run("what_two_images_share_is_invisible", common::needs_fuse()) {
        let case = |ops: &[Op]| twins(ops, Watch::Seldom);
        drive::explore(op::all(), 100, drive::operations(1_000), case);
    }
}
