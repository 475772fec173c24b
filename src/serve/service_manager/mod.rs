//! What a daemon and the service manager that started it tell each other, systemd or our own keeper: that it serves,
//! that it is alive, that it ends (sd_notify(3)), and the descriptors that outlive it.

pub mod descriptors;
pub mod handing;
pub mod program;
pub mod socket;
mod watchdog;

pub use watchdog::{ALIVE, INTERVAL, Watchdog, interval};

/// The mounts that were asked for can be made.
pub const READY: &str = "READY=1";
/// Another program takes its place in the same process, and says then that it serves.
pub const RELOADING: &str = "RELOADING=1";
/// It unmounts, and ends then.
pub const STOPPING: &str = "STOPPING=1";

/// Tells the service manager; nobody, where there is none. That it cannot be told is no reason to serve nobody, and
/// gives false.
pub fn notify(state: &str) -> bool {
    let Some(address) = socket::address() else {
        return true;
    };
    let told = socket::send(&address, state, &[]);
    if let Err(error) = &told {
        log::warn!(state; "the service manager cannot be told: {error}");
    }
    told.is_ok()
}
