//! foldfs presents virtual machine images as plain directory trees that share what they have in
//! common. docs/architecture.md draws the layers; each module may use only those below it.

pub mod archive;
pub mod cli;
pub mod config;
pub mod error;
pub mod filesystem;
pub mod fold;
pub mod merge;
pub mod ops;
pub mod path_bytes;
pub mod progress;
pub mod serve;
pub mod store;
pub mod sys;
