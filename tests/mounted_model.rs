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
use common::image::Image;
use common::model::Model;
use common::op::Op;
use common::store::TestStore;
use common::{drive, op, sample};

/// One list of operations in a fresh store, and in a plain copy of the tree.
fn mounted(ops: &[Op]) -> Result<usize, String> {
    let store = Rc::new(TestStore::new());
    let mut image = Image::new(Rc::clone(&store));
    let copy = store.place.join("copy");
    sample::copy(&store.sample(0), &copy);
    let mut model = Model::read(&copy);
    let mut plain = Directory::new(&copy);
    let systems: &mut [&mut dyn System] = &mut [&mut plain, &mut image];
    let performed = drive::run(ops, &mut model, systems)?;
    image.finish()?;
    Ok(performed)
}

#[test]
fn image_behaves_like_a_plain_directory() {
    if common::can_run("image_behaves_like_a_plain_directory", common::needs_fuse()) {
        drive::explore(op::visible(), 100, drive::operations(2_000), mounted);
    }
}
