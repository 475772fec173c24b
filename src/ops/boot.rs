//! What a guest boots with that has an image as its root file system: a kernel and an initramfs, which are looked for
//! in the image, and the command lines of virtiofsd and QEMU. They are put together here, and run by whoever asked.

mod commands;
mod kernel;

pub use commands::{Cache, Machine};
pub use kernel::{Kernel, find};
