//! Going on with the mounts of a daemon that has ended.

use super::{Daemon, Serving};
use crate::error::{Error, Result};
use crate::serve::dead_mounts;
use crate::serve::fuse::adapter::Adapter;
use crate::serve::fuse::left::Left;
use crate::serve::fuse::mount::Mounted;
use crate::serve::fuse::requests::Counted;
use crate::serve::service_manager::descriptors;
use crate::store::catalog::Reads;

impl Daemon {
    /// Serves what another daemon has left. Its images came to life with what the kernel knows of them when
    /// they were brought to life first. What cannot be served is unmounted.
    pub fn take_over(&self, left: Vec<Left>) {
        let mut mounts = self.mounts.lock();
        for left in left {
            let (image, directory) = (left.image(), left.directory().to_owned());
            let name = left.name();
            match self.take_over_one(left) {
                Ok(serving) => {
                    serving.say("taken over");
                    mounts.push(serving);
                }
                Err(error) => {
                    log::error!(directory:% = directory.display(), error:% = error; "not taken over");
                    descriptors::let_go(&name);
                    let store = self.context.store.path();
                    if let Err(error) = dead_mounts::unmount(store, &directory, false) {
                        log::error!("{error}");
                    }
                }
            }
            self.context.images.settle_inheritance(image);
        }
        self.was_asked
            .fetch_or(!mounts.is_empty(), std::sync::atomic::Ordering::Relaxed);
        self.publish(&mounts);
    }

    fn take_over_one(&self, left: Left) -> Result<Serving> {
        let catalog = self.context.store.catalog();
        let image = catalog.image(left.image())?.ok_or_else(|| {
            Error::failed(format!("image {}", left.image()), "there is no such image")
        })?;
        let filesystem = self.context.images.filesystem(image.id)?;
        let passthrough = self.options.passthrough.clone();
        let adapter = Adapter::new(filesystem, self.pool.clone(), passthrough);
        let is_live = left.is_live();
        let mounted = Mounted::take_over(Counted::new(adapter, self.requests.clone()), left)?;
        if is_live && let Some(family) = catalog.family(image.family)? {
            self.live.add(image.id, family.name);
        }
        Ok(Serving {
            image: image.id,
            name: image.name,
            mounted,
        })
    }
}
