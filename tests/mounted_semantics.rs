//! Needs root and FUSE. What docs/semantics.md says, point by point: the same is done in a mounted
//! image and in a plain directory, for files in every place that they may lie in.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on should panic"
)]

mod common;

#[path = "mounted_semantics/places.rs"]
mod places;

#[path = "mounted_semantics/content.rs"]
mod content;
#[path = "mounted_semantics/directories.rs"]
mod directories;
#[path = "mounted_semantics/exceptions.rs"]
mod exceptions;
#[path = "mounted_semantics/handles.rs"]
mod handles;
#[path = "mounted_semantics/identity.rs"]
mod identity;
#[path = "mounted_semantics/limits.rs"]
mod limits;
#[path = "mounted_semantics/locks.rs"]
mod locks;
#[path = "mounted_semantics/mappings.rs"]
mod mappings;
#[path = "mounted_semantics/names.rs"]
mod names;
#[path = "mounted_semantics/permissions.rs"]
mod permissions;
#[path = "mounted_semantics/set_id.rs"]
mod set_id;
#[path = "mounted_semantics/watching.rs"]
mod watching;
#[path = "mounted_semantics/writes.rs"]
mod writes;
