//! Needs root, FUSE, mmdebstrap, a Debian archive, and virtiofsd and QEMU, which `scripts/install-deps.sh test` brings.
//! Virtual machines whose root file systems are mounted images, over virtiofs; and, to compare, one whose is a plain
//! directory. They are emulated: KVM is not asked for.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on should panic"
)]

mod common;

#[path = "booted_guest/command.rs"]
mod command;
#[path = "booted_guest/initramfs.rs"]
mod initramfs;
#[path = "booted_guest/machine.rs"]
mod machine;
#[path = "booted_guest/patched.rs"]
mod patched;
#[path = "booted_guest/survived.rs"]
mod survived;
#[path = "booted_guest/work.rs"]
mod work;
#[path = "booted_guest/world.rs"]
mod world;
