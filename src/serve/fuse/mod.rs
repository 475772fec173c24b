//! FUSE: the only module that knows fuser.

pub mod adapter;
mod answer;
mod capabilities;
mod convert;
pub mod mount;
pub mod pool;
pub mod requests;
