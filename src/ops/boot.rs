//! What a guest boots with that has an image as its root file system: a kernel and an initramfs, which are looked for
//! in the image and copied out of it, and the command lines of virtiofsd and QEMU. They are put together here, and run
//! by whoever asked.

mod commands;
mod copies;
mod kernel;

pub use commands::{Cache, Machine};
pub use copies::Copies;
pub use kernel::{Found, Kernel, find};
