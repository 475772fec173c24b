//! Needs root. Proves the harness: the model against a plain directory of the host.

#![allow(clippy::expect_used, reason = "a test that cannot go on should panic")]

mod common;

use std::path::PathBuf;
use std::process::Command;

use common::directory::{Directory, Scan, System};
use common::drive::Watch;
use common::model::{Model, Outcome};
use common::op::{Invisible, Op, Where};
use common::snapshot::{Depth, Fields, Snapshot};
use common::store::run;
use common::{drive, op, sample};

fn plain(ops: &[Op]) -> Result<usize, String> {
    let place = common::scratch();
    let tree = place.path().join("tree");
    sample::make(&tree, 0);
    let mut model = Model::read(&tree);
    let mut directory = Directory::new(&tree);
    let systems: &mut [&mut dyn System] = &mut [&mut directory];
    drive::run(ops, Watch::Closely, &mut model, systems)
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
    let place = common::scratch();
    let (tree, copy) = (place.path().join("tree"), place.path().join("copy"));
    sample::make(&tree, 0);
    sample::copy(&tree, &copy);
    let (a, b) = (Snapshot::of(&tree), Snapshot::of(&copy));
    a.assert_same(&b, Fields::COPY, "a copy differs");
}

/// A plain directory in which something else happens beside the operations.
struct Faulty {
    inner: Directory,
    tree: PathBuf,
    fault: &'static str,
}

impl System for Faulty {
    fn name(&self) -> String {
        self.fault.into()
    }

    fn perform(&mut self, op: &Op<Vec<u8>>) -> Outcome {
        let outcome = self.inner.perform(op);
        let mut shell = Command::new("sh");
        run(shell.args(["-ec", self.fault]).current_dir(&self.tree), b"").exits(0);
        outcome
    }

    fn invisible(&mut self, what: Invisible) {
        self.inner.invisible(what);
    }

    fn scan(&mut self, depth: Depth) -> Scan {
        self.inner.scan(depth)
    }

    fn never_reuses_numbers(&self) -> bool {
        true
    }

    fn check_others(&mut self) -> Result<(), String> {
        Ok(())
    }
}

/// A comparison that never fails proves nothing.
#[test]
fn harness_sees_faults() {
    if !common::can_run("harness_sees_faults", common::needs_root()) {
        return;
    }
    assert_eq!(with_fault("true"), Ok(1));
    for fault in [
        "touch more",
        "rm etc/null",
        "chmod 601 etc/hosts",
        "chown 1:1 etc/link -h",
        "touch -r usr usr/bin/tool",
        "touch usr/lib",
        "cp -a etc/fifo x; mv x etc/fifo",
        "cp -a etc/hosts x; mv x etc/hosts; touch -r etc .",
        "cp --preserve=all etc/tool x; mv x etc/tool",
        "ln etc/hosts x; rm x",
        "touch -r usr/bin/other x; printf X | dd of=usr/bin/other bs=1 conv=notrunc status=none; touch -r x usr/bin/other; rm x",
        "setfattr -n user.more -v 1 usr/bin/other",
        "setfattr -hx trusted.on_link etc/link",
        "setfacl -k usr/lib",
        "ln -sf other usr/dangling",
    ] {
        let found = with_fault(fault);
        assert!(found.is_err(), "{fault}: {found:?}");
    }
}

fn with_fault(fault: &'static str) -> Result<usize, String> {
    let place = common::scratch();
    let tree = place.path().join("tree");
    sample::make(&tree, 0);
    let mut model = Model::read(&tree);
    let inner = Directory::new(&tree);
    let mut faulty = Faulty { inner, tree, fault };
    let systems: &mut [&mut dyn System] = &mut [&mut faulty];
    drive::run(
        &[Op::Stat { at: Where::Root }],
        Watch::Closely,
        &mut model,
        systems,
    )
}
