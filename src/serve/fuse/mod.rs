//! FUSE: the only module that knows fuser.

pub mod adapter;
mod answer;
mod capabilities;
mod connection;
mod convert;
mod entries;
pub mod left;
pub mod mount;
mod opening;
pub mod pool;
mod registration;
pub mod requests;
mod resent;
mod told;
