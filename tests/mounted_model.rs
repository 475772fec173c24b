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
use common::model::{Model, Outcome};
use common::op::{Also, Op};
use common::store::TestStore;
use common::{drive, op, sample};

/// One list of operations in a fresh store, and in a plain copy of the tree.
fn watched(ops: &[Op], watch: Watch) -> Result<usize, String> {
    let store = Rc::new(TestStore::coherent());
    run(&store, ops, watch, [Image::watched(&store)])
}

/// The same in two images at once, so that placement moves what they share to and fro.
fn twins(ops: &[Op], watch: Watch) -> Result<usize, String> {
    let store = Rc::new(TestStore::coherent());
    run(&store, ops, watch, Image::twins(&store))
}

/// One list of operations in an image in which something is locked now and then. No plain directory can do
/// that: only the model is compared.
fn locked(ops: &[Op], watch: Watch) -> Result<usize, String> {
    let store = Rc::new(TestStore::coherent());
    let mut image = Image::watched(&store);
    let mut model = Model::read(&store.sample(0));
    let performed = drive::run(ops, watch, &mut model, &mut [&mut image])?;
    image.finish()?;
    store.wait_for_daemons();
    store.assert_sound();
    Ok(performed)
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

/// Each of them is one test of the suite's time, so that they run beside each other.
macro_rules! random_operations {
    ($($name:ident: $case:expr, $strategy:expr, $default:expr, $seed:expr;)*) => {$(
        #[test]
        fn $name() {
            if common::can_run(stringify!($name), common::needs_fuse()) {
                drive::explore_from($seed, $strategy, 100, drive::operations($default), $case);
            }
        }
    )*};
}

// 20,000 operations in all.
random_operations! {
    image_behaves_like_a_plain_directory: |ops| watched(ops, Watch::Closely), op::visible(), 4_000, 0;
    folding_and_placement_are_invisible: |ops| watched(ops, Watch::Seldom), op::all(), 5_000, 0;
    folding_and_placement_are_still_invisible: |ops| watched(ops, Watch::Seldom), op::all(), 5_000, 1_000;
    what_two_images_share_is_invisible: |ops| twins(ops, Watch::Seldom), op::all(), 3_000, 0;
    what_is_locked_is_not_altered: |ops| locked(ops, Watch::Seldom), op::with_locks(), 300, 0;
    what_two_images_share_is_still_invisible: |ops| twins(ops, Watch::Seldom), op::all(), 3_000, 1_000;
}

/// Were nothing folded or moved, nothing would be proved by its staying invisible.
#[test]
fn what_happens_in_two_images_is_folded_and_moves() {
    let test = "what_happens_in_two_images_is_folded_and_moves";
    if !common::can_run(test, common::needs_fuse()) {
        return;
    }
    let store = Rc::new(TestStore::coherent());
    let [mut leader, mut follower] = Image::twins(&store);
    let (mode, access, also) = (0o644, op::Access::Both, Also::Nothing);
    let at = |path: &str| path.as_bytes().to_vec();
    for image in [&mut leader, &mut follower] {
        for op in [
            Op::Create {
                at: at("etc/new"),
                mode,
                access,
                also,
            },
            Op::Write {
                handle: 0,
                length: 5_000,
                seed: 3,
            },
            Op::Close { handle: 0 },
            Op::Truncate {
                at: at("usr/bin/other"),
                length: 100,
            },
            // A version has its mtime; only what is set is the same in both.
            Op::Utimens {
                at: at("etc/new"),
                mtime: op::When::At(1_000_000_000, 5),
            },
            Op::Utimens {
                at: at("usr/bin/other"),
                mtime: op::When::At(1_000_000_000, 6),
            },
            Op::Chmod {
                at: at("usr/lib/deep/deeper/data"),
                mode: 0o600,
            },
            Op::Unlink {
                at: at("etc/hosts"),
            },
        ] {
            let outcome = image.perform(&op);
            assert!(!matches!(outcome, Outcome::Error(_)), "{op:?}: {outcome:?}");
        }
    }
    let report = store.ok(&["fold", "--json"]).json();
    let count = |key: &str| report["families"][0][key].as_u64().expect(key);
    assert!(count("folded_files") >= 2, "{report}");
    assert!(count("shared_paths") >= 1, "{report}");
    assert!(count("unshared_paths") >= 3, "{report}");
    for image in [leader, follower] {
        image.finish().expect("the images are as they were");
    }
    store.wait_for_daemons();
    store.assert_sound();
}
