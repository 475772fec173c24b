//! FUSE: the only module that knows fuser.

pub mod adapter;
mod convert;
pub mod mount;
