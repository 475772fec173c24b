//! What operations work on.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Mutex, MutexGuard, RwLock};

use super::passes::Passes;
use super::tally::Tally;
use crate::filesystem::images::Images;
use crate::filesystem::inherit::Inheritance;
use crate::fold::placement::Placements;
use crate::path_bytes::PathBytes;
use crate::store::number::ImageId;
use crate::store::open::{Access, Store};

/// An open store with what a process keeps about it. One for each store in a process.
///
/// Lock order: [`Context::alone`] is taken before everything else.
pub struct Context {
    /// The store.
    pub store: Arc<Store>,
    /// Its images: those that are mounted, and those that operations bring to life.
    pub images: Images,
    /// Which families' placements had nothing to do.
    pub placements: Placements,
    /// What was folded without being asked for.
    pub passes: Passes,
    /// Sums over what was folded, asked for or not.
    pub tally: Tally,
    /// Threads that hash files; 0: one for each core.
    pub threads: usize,
    mounted: RwLock<Vec<(ImageId, PathBuf)>>,
    /// How often each image was mounted.
    mountings: RwLock<HashMap<ImageId, u64>>,
    alone: Mutex<()>,
    /// How many wait for `alone`.
    waiting: AtomicUsize,
}

impl Context {
    /// A context for a store with nothing mounted. Changes that were cut short are carried out first.
    pub fn new(store: Arc<Store>, threads: usize) -> Self {
        Self::inheriting(store, threads, HashMap::new())
    }

    /// The same, for a daemon that goes on with images that the kernel uses.
    pub fn inheriting(
        store: Arc<Store>,
        threads: usize,
        inheritances: HashMap<ImageId, Inheritance>,
    ) -> Self {
        let context = Self {
            images: Images::new(store.clone()),
            placements: Placements::default(),
            passes: Passes::default(),
            tally: Tally::default(),
            store,
            threads,
            mounted: RwLock::default(),
            mountings: RwLock::default(),
            alone: Mutex::new(()),
            waiting: AtomicUsize::new(0),
        };
        context.images.inherit(inheritances);
        if context.store.access() == Access::Write
            && let Err(error) = context
                .store
                .drop_uncommitted()
                .and_then(|()| context.store.finish_changes())
        {
            log::error!("{error}");
        }
        super::patch::finish_left(&context);
        context
    }

    /// Waits until no other operation that alters the store runs, and keeps others waiting. A
    /// reference to an existing object may come into being only while this is held (or inside a
    /// locked directory of `staging/`): [`super::collect`] relies on it.
    pub fn alone(&self) -> MutexGuard<'_, ()> {
        self.alone.try_lock().unwrap_or_else(|| {
            self.waiting.fetch_add(1, Ordering::Relaxed);
            let alone = self.alone.lock();
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            alone
        })
    }

    /// How many operations wait for the one that runs.
    pub(super) fn waiting(&self) -> &AtomicUsize {
        &self.waiting
    }

    /// What is mounted where, from now on.
    pub fn set_mounted(&self, mounted: Vec<(ImageId, PathBuf)>) {
        let mut before = self.mounted.write();
        let mut mountings = self.mountings.write();
        for it in mounted.iter().filter(|it| !before.contains(it)) {
            *mountings.entry(it.0).or_default() += 1;
        }
        *before = mounted;
    }

    /// How often an image was mounted: who finds it unmounted knows by that whether it was mounted since.
    pub fn mountings(&self, image: ImageId) -> u64 {
        self.mountings.read().get(&image).copied().unwrap_or(0)
    }

    /// What is mounted.
    pub fn mounted_images(&self) -> Vec<ImageId> {
        let mounted = self.mounted.read();
        mounted.iter().map(|(image, _)| *image).collect()
    }

    /// Where an image is mounted.
    pub fn mounted_on(&self, image: ImageId) -> Vec<PathBytes> {
        let mounted = self.mounted.read();
        let places = mounted.iter().filter(|(id, _)| *id == image);
        places.map(|(_, place)| place.clone().into()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_that_was_mounted_in_between_is_told_from_one_that_was_not() {
        let place = tempfile::tempdir().unwrap();
        let store = Store::init(&place.path().join("store")).unwrap();
        let context = Context::new(Arc::new(store), 1);
        let image = ImageId(7);
        let on = |places: &[&str]| {
            let mounted = places.iter().map(|place| (image, PathBuf::from(place)));
            context.set_mounted(mounted.collect());
            context.mountings(image)
        };
        assert_eq!(on(&[]), 0);
        assert_eq!(on(&["/a"]), 1);
        // Published again, it is the same mount.
        assert_eq!(on(&["/a"]), 1);
        assert_eq!(on(&[]), 1);
        assert_eq!(on(&["/a"]), 2);
    }
}
