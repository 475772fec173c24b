//! Needs root. The crash sweep: every operation that changes a store ends at, or fails in, each of
//! its durable steps. See `crash_sweep/scenarios.rs` for the operations.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on should panic"
)]

mod common;
mod family;

#[path = "crash_sweep/base.rs"]
mod base;
#[path = "crash_sweep/changing.rs"]
mod changing;
#[path = "crash_sweep/disk.rs"]
mod disk;
#[path = "crash_sweep/failing.rs"]
mod failing;
#[path = "crash_sweep/guests.rs"]
mod guests;
#[path = "crash_sweep/holding.rs"]
mod holding;
#[path = "crash_sweep/losing.rs"]
mod losing;
#[path = "crash_sweep/mending.rs"]
mod mending;
#[path = "crash_sweep/parts.rs"]
mod parts;
#[path = "crash_sweep/report.rs"]
mod report;
#[path = "crash_sweep/scenarios.rs"]
mod scenarios;
#[path = "crash_sweep/sites.rs"]
mod sites;
#[path = "crash_sweep/states.rs"]
mod states;
#[path = "crash_sweep/world.rs"]
mod world;

use std::time::Instant;

use common::device::{Device, Kind};
use common::{can_run, needs_root};
use losing::Loss;
use parts::{Mode, Sweep};
use report::Report;

/// What keeps the sweep from running.
fn missing() -> Option<&'static str> {
    needs_root().or_else(|| Device::missing(Kind::Xfs))
}

fn sweep(test: &'static str, modes: &[Mode]) -> Option<Report> {
    if !can_run(test, missing()) || parts::is_child(test) {
        return None;
    }
    let start = Instant::now();
    let report = Sweep::run(test, modes);
    parts::say(&format!(
        "{test}: {} points, {} stores looked at, {} places in the source, {} s",
        report.points,
        report.looks,
        report.all_sites().len(),
        start.elapsed().as_secs()
    ));
    if parts::is_filtered() {
        for (file, line) in report.all_sites() {
            println!("{file}:{line}");
        }
    }
    Some(report)
}

/// Says how many of the places in the source where a step is done are reached, and expects that to be
/// all of them when every operation is tried.
#[test]
fn a_step_fails_or_the_process_ends() {
    let mut modes = vec![Mode::Fails, Mode::Lost(Kind::Ext4, Loss::Killed)];
    if parts::is_whole() {
        modes.push(Mode::FailsOtherwise);
    }
    if let Some(report) = sweep("a_step_fails_or_the_process_ends", &modes)
        && !parts::is_filtered()
    {
        sites::assert_reached(&report.all_sites());
    }
}

#[test]
fn the_power_goes_on_ext4() {
    let losses = [Loss::Unsynced, Loss::Content];
    let modes = losses.map(|loss| Mode::Lost(Kind::Ext4, loss));
    sweep("the_power_goes_on_ext4", &modes);
}

#[test]
fn the_power_goes_on_xfs() {
    let losses = [Loss::Unsynced, Loss::Content];
    let modes = losses.map(|loss| Mode::Lost(Kind::Xfs, loss));
    sweep("the_power_goes_on_xfs", &modes);
}
