//! Needs root and FUSE; some of it mmdebstrap and a Debian archive, and fsx. The daemon is killed again and again, its
//! keeper starts the next one, and whoever works in the mounted images must not notice, but for the time that passes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on should panic"
)]

mod common;

#[path = "survival/at_work.rs"]
mod at_work;
#[path = "survival/holding.rs"]
mod holding;
#[path = "survival/patches.rs"]
mod patches;
#[path = "survival/software.rs"]
mod software;
#[path = "survival/stress.rs"]
mod stress;
#[allow(dead_code, reason = "not all of it is needed here")]
#[path = "real_software/workshop.rs"]
mod workshop;
#[path = "survival/writes.rs"]
mod writes;
