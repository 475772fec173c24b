//! System calls that rustix lacks or that need a rule of ours; the only `unsafe` of the crate.

pub mod copy;
pub mod detached;
pub mod durable;
#[cfg(feature = "fuse")]
pub mod fuse_device;
pub mod handle;
pub mod inherited;
pub mod lease;
pub mod memory;
pub mod namespaces;
pub mod priority;
pub mod process;
pub mod regular;
pub mod shared_memory;
pub mod xattr;
