//! Adapters between the outside and what is below: translation only.

pub mod control_client;
pub mod control_server;
pub mod dead_mounts;
pub mod mount_table;
pub mod protocol;
