//! Bytes on disk: everything of docs/format.md, and nothing of what it means to a view.

pub mod becoming;
pub mod cache;
pub mod catalog;
mod changes;
pub mod content;
#[cfg(test)]
mod crash_tests;
pub mod digest;
pub mod draft;
pub mod entry;
pub mod format_file;
mod generation;
pub mod guest_xattr;
pub mod history;
pub mod image_dirs;
mod init;
pub mod layer;
pub mod layout;
pub mod lock;
pub mod mark;
pub mod metadata;
pub mod number;
pub mod objects;
pub mod open;
#[cfg(test)]
mod open_tests;
pub mod pins;
pub mod quarantine;
mod recovery;
pub mod restore;
pub mod shared;
pub mod staging;
pub mod tree;
pub mod verification;

pub use image_dirs::{ImageDirs, StagedImage};
pub use open::{Access, Store};
pub use staging::StagingDirectory;
