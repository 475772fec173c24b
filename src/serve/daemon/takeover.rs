//! Going on with the mounts of a daemon that has ended.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Daemon, LOOK, Serving};
use crate::error::{Context as _, Error, Result};
use crate::ops::patch;
use crate::ops::report::MountedImage;
use crate::path_bytes::PathBytes;
use crate::serve::dead_mounts;
use crate::serve::fuse::adapter::Adapter;
use crate::serve::fuse::left::Left;
use crate::serve::fuse::mount::Mounted;
use crate::serve::fuse::requests::Counted;
use crate::serve::service_manager::descriptors;
use crate::store::catalog::Reads;
use crate::store::number::ImageId;

/// After so many looks ([`LOOK`]) it is tried again to take one over.
const LOOKS: u32 = 10;

/// So often that is tried: about a minute.
const TRIES: u32 = 12;

/// A mount that could not be taken over so far. Who uses it waits meanwhile.
pub struct Waiting {
    left: Left,
    tries: u32,
    /// Until the next try.
    looks: u32,
}

impl Waiting {
    /// The image.
    pub fn image(&self) -> ImageId {
        self.left.image()
    }

    /// Where it is mounted.
    pub fn directory(&self) -> &Path {
        self.left.directory()
    }
}

impl Daemon {
    /// Serves what another daemon has left. Its images came to life with what the kernel knows of them when
    /// they were brought to life first. What cannot be served is tried again for a while, since the host may be short
    /// of something, and unmounted then.
    pub fn take_over(&self, left: Vec<Left>) {
        self.was_asked.fetch_or(!left.is_empty(), Ordering::Relaxed);
        let waits = left.into_iter().map(|left| Waiting {
            left,
            tries: 0,
            looks: 0,
        });
        self.waiting.lock().extend(waits);
        self.take_over_waiting();
    }

    /// Tries again in a thread of its own, while there is something to be tried.
    ///
    /// # Errors
    /// No thread can be started.
    pub(super) fn retry(self: &Arc<Self>) -> Result<()> {
        if self.waiting.lock().is_empty() {
            return Ok(());
        }
        let daemon = self.clone();
        let retry = move || {
            while !daemon.waiting.lock().is_empty() && !daemon.work.is_ending() {
                std::thread::sleep(LOOK);
                let is_due = daemon.waiting.lock().iter().any(|it| it.looks <= 1);
                if is_due {
                    // An image may be withheld for what is left to be done in it.
                    let _alone = daemon.context.alone();
                    patch::finish_left(&daemon.context);
                }
                daemon.take_over_waiting();
            }
        };
        std::thread::Builder::new()
            .name("taking over".into())
            .spawn(retry)
            .about("a thread")?;
        Ok(())
    }

    /// Tries those that have waited long enough.
    fn take_over_waiting(&self) {
        let mut mounts = self.mounts.lock();
        let mut waiting = self.waiting.lock();
        waiting.retain_mut(|waits| {
            if waits.looks > 0 {
                waits.looks -= 1;
                return true;
            }
            match self.take_over_one(waits.left.clone()) {
                Ok(serving) => {
                    serving.say("taken over");
                    drop(self.context.images.settle_inheritance(serving.image));
                    mounts.push(serving);
                    false
                }
                Err(error) => {
                    let directory = waits.directory().display();
                    log::error!(directory:%, error:%; "not taken over");
                    (waits.tries, waits.looks) = (waits.tries + 1, LOOKS);
                    let goes_on = waits.tries < TRIES && waits.left.is_there();
                    if !goes_on {
                        self.give_up(&waits.left);
                    }
                    goes_on
                }
            }
        });
        drop(waiting);
        self.publish(&mounts);
    }

    /// Gives those up that nobody is to wait for any longer; the answer is which.
    pub(super) fn give_up_waiting(
        &self,
        is_meant: impl Fn(&Path) -> bool,
        dry_run: bool,
    ) -> Vec<MountedImage> {
        let mut given_up = Vec::new();
        self.waiting.lock().retain(|waits| {
            if !is_meant(waits.directory()) {
                return true;
            }
            if !dry_run {
                self.give_up(&waits.left);
            }
            given_up.push(MountedImage {
                image: waits.left.image_name(),
                directory: PathBytes::from(waits.directory().to_owned()),
            });
            dry_run
        });
        given_up
    }

    fn give_up(&self, left: &Left) {
        descriptors::let_go(&left.name());
        if let Err(error) = dead_mounts::unmount_left(left) {
            log::error!("{error}");
        }
        // Whoever uses the image besides is not to go on with what this kernel knew.
        if let Some(heir) = self.context.images.settle_inheritance(left.image()) {
            heir.disconnect();
        }
    }

    fn take_over_one(&self, left: Left) -> Result<Serving> {
        let catalog = self.context.store.catalog();
        let image = catalog.image(left.image())?.ok_or_else(|| {
            Error::failed(format!("image {}", left.image()), "there is no such image")
        })?;
        let family = catalog.family(image.family)?;
        let filesystem = self.context.images.filesystem(image.id)?;
        let passthrough = self.options.passthrough.clone();
        let adapter = Adapter::new(filesystem, self.pool.clone(), passthrough);
        let is_live = left.is_live();
        // Nothing fails after this: it is served.
        let mounted = Mounted::take_over(Counted::new(adapter, self.requests.clone()), left)?;
        if is_live && let Some(family) = family {
            self.live.add(image.id, family.name);
        }
        Ok(Serving {
            image: image.id,
            name: image.name,
            mounted,
        })
    }
}
