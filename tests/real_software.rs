//! Needs root, FUSE, mmdebstrap and a Debian archive. What a guest really runs, in a chroot of a
//! mounted Debian image and, to compare, in a chroot of a plain `cp -a` of the same tree. The image
//! is folded while it runs and after it; nothing of that may show, there or in the image's twin.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on should panic"
)]

mod common;

#[path = "real_software/compiler.rs"]
mod compiler;
#[path = "real_software/copies.rs"]
mod copies;
#[path = "real_software/git.rs"]
mod git;
#[path = "real_software/overlay.rs"]
mod overlay;
#[path = "real_software/packages.rs"]
mod packages;
#[path = "real_software/postgresql.rs"]
mod postgresql;
#[path = "real_software/sqlite.rs"]
mod sqlite;
#[path = "real_software/tmpfiles.rs"]
mod tmpfiles;
#[path = "real_software/upgrade.rs"]
mod upgrade;
#[path = "real_software/workshop.rs"]
mod workshop;
