//! Adapters between the outside and what is below: translation only.

pub mod control_client;
pub mod control_server;
pub mod daemon;
pub mod dead_mounts;
mod folding;
#[cfg(feature = "fuse")]
pub mod fuse;
pub mod inheritance;
pub mod keeper;
mod live;
mod metrics;
mod metrics_server;
pub mod mount_table;
pub mod protocol;
pub mod replacement;
pub mod service_manager;
mod stop;
mod work;
