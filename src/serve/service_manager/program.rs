//! Which program serves: a keeper starts the very same one again, not what lies under its name by then.

use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags};

use super::socket;

/// The variable by which a keeper says that it is one.
pub const KEPT: &str = "FOLDFS_KEPT";

/// The name under which it keeps the program.
pub const NAME: &str = "program";

/// Tells the keeper, where there is one. To be called when this program has shown that it can serve.
pub fn tell() {
    let (Some(_), Some(keeper)) = (std::env::var_os(KEPT), socket::address()) else {
        return;
    };
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let told = rustix::fs::open("/proc/self/exe", flags, Mode::empty());
    let told = told.map_err(std::io::Error::from).and_then(|program| {
        let message = format!("FDSTORE=1\nFDNAME={NAME}");
        socket::send(&keeper, &message, &[program.as_fd()])
    });
    if let Err(error) = told {
        log::warn!("the keeper cannot be told which program serves: {error}");
    }
}
