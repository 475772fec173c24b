//! What the kernel is told unasked: what it must not believe any longer.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use fuser::{INodeNo, Notifier};

use crate::filesystem::passthrough::Upcall;

/// What the kernel is told unasked.
pub(super) struct Told {
    pub(super) notifier: Notifier,
    /// The connection, for what the notifier cannot say.
    pub(super) device: Arc<OwnedFd>,
}

/// FUSE_NOTIFY_INVAL_ENTRY and its flag FUSE_EXPIRE_ONLY (include/uapi/linux/fuse.h): the name is asked for
/// when it is next looked up. Without the flag (before Linux 6.2) what is mounted below it would go.
const INVAL_ENTRY: i32 = 3;
const EXPIRE_ONLY: u32 = 1;

/// A fuse_out_header, a fuse_notify_inval_entry_out, and the name.
fn expiry(directory: u64, name: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(33 + name.len());
    bytes.extend((33 + name.len() as u32).to_ne_bytes());
    bytes.extend(INVAL_ENTRY.to_ne_bytes());
    bytes.extend(0_u64.to_ne_bytes());
    bytes.extend(directory.to_ne_bytes());
    bytes.extend((name.len() as u32).to_ne_bytes());
    bytes.extend(EXPIRE_ONLY.to_ne_bytes());
    bytes.extend(name);
    bytes.push(0);
    bytes
}

impl Upcall for Told {
    fn forget_attributes(&self, nodeid: u64) {
        // A negative offset: the attributes only.
        match self.notifier.inval_inode(INodeNo(nodeid), -1, 0) {
            Ok(()) => {}
            // It does not know the nodeid (any more), or the mount is gone.
            Err(error) => log::debug!(error:% = error; "attributes of {nodeid}"),
        }
    }

    fn forget_entry(&self, directory: u64, name: &[u8]) {
        if let Err(error) = rustix::io::write(&self.device, &expiry(directory, name)) {
            // Mostly it does not know the name.
            log::debug!(error:% = error; "a name in {directory}");
        }
    }

    fn forget_directory(&self, nodeid: u64) {
        // With all pages, which is where it keeps the names.
        if let Err(error) = self.notifier.inval_inode(INodeNo(nodeid), 0, 0) {
            log::debug!(error:% = error; "directory {nodeid}");
        }
    }
}
