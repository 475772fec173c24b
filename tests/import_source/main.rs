//! Needs root, no FUSE. Importing a directory or an archive, and exporting it again.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    reason = "a test that cannot go on should panic"
)]

mod archive;
mod describe;
mod directory;
mod export;
#[path = "../family/mod.rs"]
mod family;
mod fixture;
mod hostile;
mod image;
mod limits;
