//! What a daemon that has ended left of its mounts: the connections, and what the kernel knows.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::connection::{self, Protocol};
use super::registration::{Connection, registered};
use crate::filesystem::inherit::Inheritance;
use crate::filesystem::ledger::Ledger;
use crate::path_bytes::PathBytes;
use crate::serve::service_manager::descriptors;
use crate::store::number::ImageId;

/// What is known of a mount, in its ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountRecord {
    /// The image.
    pub image: ImageId,
    /// Where it is mounted.
    pub directory: PathBytes,
    /// What the mount says it shows.
    pub source: PathBytes,
    /// It is a working tree in which everything is committed at once.
    pub live: bool,
    /// What the kernel can do.
    pub protocol: Protocol,
}

const PREFIX: &str = "image-";

impl MountRecord {
    /// Under which its descriptors are kept.
    pub fn name(&self) -> String {
        format!("{PREFIX}{}", self.image)
    }
}

/// A mount that nobody serves.
#[derive(Debug, Clone)]
pub struct Left {
    pub(super) record: MountRecord,
    pub(super) ledger: Arc<Ledger>,
    pub(super) device: Arc<OwnedFd>,
    /// The other descriptors of the connection.
    pub(super) devices: Vec<Arc<OwnedFd>>,
}

impl Left {
    /// The image.
    pub fn image(&self) -> ImageId {
        self.record.image
    }

    /// What the mount says it shows.
    pub fn source(&self) -> &[u8] {
        self.record.source.as_bytes()
    }

    /// The image's name when it was mounted.
    pub fn image_name(&self) -> String {
        let source = String::from_utf8_lossy(self.record.source.as_bytes());
        let name = source.rsplit_once('#').map(|(_, name)| name.to_owned());
        name.unwrap_or_else(|| source.into_owned())
    }

    /// Under which its descriptors are kept.
    pub fn name(&self) -> String {
        self.record.name()
    }

    /// Where it is mounted.
    pub fn directory(&self) -> &Path {
        self.record.directory.as_path()
    }

    /// Whether the kernel has it still.
    pub fn is_there(&self) -> bool {
        !connection::has_ended(self.device.as_fd(), &connection::AT_ONCE)
    }

    /// Whether everything is committed at once in it.
    pub fn is_live(&self) -> bool {
        self.record.live
    }

    /// What is needed to bring the image to life.
    pub fn inheritance(&self) -> Inheritance {
        let connection = Connection {
            device: Arc::downgrade(&self.device),
            ledger: Some(self.ledger.clone()),
        };
        Inheritance {
            ledger: self.ledger.clone(),
            adopt: Box::new(move |id| registered(connection.clone(), id)),
        }
    }

    /// Those whose descriptors these are, of all that are kept; the others are closed, what is wrong with them
    /// is logged.
    pub fn of(kept: Vec<(String, OwnedFd)>) -> Vec<Self> {
        let mut by_name: BTreeMap<String, Vec<OwnedFd>> = BTreeMap::new();
        for (name, descriptor) in kept {
            if name.starts_with(PREFIX) {
                by_name.entry(name).or_default().push(descriptor);
            }
        }
        let left = by_name.into_iter();
        left.filter_map(|(name, descriptors)| {
            Self::one(descriptors)
                .inspect_err(|cause| {
                    log::error!("{name} cannot be taken over: {cause}");
                    descriptors::let_go(&name);
                })
                .ok()
        })
        .collect()
    }

    fn one(descriptors: Vec<OwnedFd>) -> Result<Self, String> {
        let mut ledger = None;
        let mut devices = Vec::new();
        for descriptor in descriptors {
            match is_device(&descriptor) {
                true => devices.push(Arc::new(descriptor)),
                false => ledger = Some(Ledger::open(descriptor).map_err(|it| it.to_string())?),
            }
        }
        let ledger = ledger.ok_or("nobody knows what the kernel knows")?;
        let record = serde_json::from_slice(&ledger.description()).map_err(|it| it.to_string())?;
        let device = devices.pop().ok_or("it has no connection")?;
        Ok(Self {
            record,
            ledger,
            device,
            devices,
        })
    }
}

/// Whether it is /dev/fuse (Documentation/admin-guide/devices.txt).
fn is_device(descriptor: &OwnedFd) -> bool {
    let stat = rustix::fs::fstat(descriptor.as_fd());
    stat.is_ok_and(|stat| {
        let is_device = rustix::fs::FileType::from_raw_mode(stat.st_mode)
            == rustix::fs::FileType::CharacterDevice;
        is_device && stat.st_rdev == rustix::fs::makedev(10, 229)
    })
}
