//! Host files that are registered with the kernel, which reads and writes them itself.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock, Weak};

use fuser::BackingId;

use crate::filesystem::ledger::Ledger;
use crate::filesystem::transport::Registered;
use crate::sys::fuse_device;

/// The connection, once it is served.
#[derive(Debug, Clone, Default)]
pub(super) struct Device(Arc<OnceLock<Connection>>);

/// The connection, and where it is noted what the kernel knows.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    pub(super) device: Weak<OwnedFd>,
    pub(super) ledger: Option<Arc<Ledger>>,
}

impl Device {
    /// To be called once.
    pub(super) fn set(&self, connection: Connection) {
        self.0.get_or_init(|| connection);
    }

    /// Registers an O_PATH descriptor.
    ///
    /// # Errors
    /// See [`crate::filesystem::transport::Register`].
    pub(super) fn register(&self, file: BorrowedFd<'_>) -> std::io::Result<Registered> {
        let connection = self.0.get().ok_or(std::io::ErrorKind::NotConnected)?;
        let device = connection.device.upgrade();
        let device = device.ok_or(std::io::ErrorKind::NotConnected)?;
        let id = BackingId::create_raw(&*device, file)?;
        Ok(registered(connection.clone(), id))
    }
}

/// Takes a file back when it is dropped.
struct Registration {
    connection: Connection,
    id: u32,
}

/// A file that the kernel knows by this id.
pub(super) fn registered(connection: Connection, id: u32) -> Registered {
    Registered::new(id, Arc::new(Registration { connection, id }))
}

impl Drop for Registration {
    fn drop(&mut self) {
        let is_left = |ledger: &Arc<Ledger>| ledger.is_left();
        if self.connection.ledger.as_ref().is_some_and(is_left) {
            return;
        }
        // With the connection all of them go.
        if let Some(device) = self.connection.device.upgrade()
            && let Err(error) = fuse_device::close_backing(device.as_fd(), self.id)
        {
            log::debug!(error:% = error; "registered file {}", self.id);
        }
    }
}
