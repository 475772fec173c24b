//! Bytes on disk: everything of docs/format.md, and nothing of what it means to a view.

pub mod catalog;
pub mod digest;
pub mod layout;
pub mod mark;
pub mod metadata;
pub mod number;
pub mod objects;
pub mod tree;
