//! FUSE: the only module that knows fuser.

pub mod adapter;
mod answer;
mod capabilities;
mod convert;
mod entries;
pub mod mount;
mod opening;
pub mod pool;
pub mod requests;
