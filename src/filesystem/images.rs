//! The live images of this process: what a mount serves and what background work changes is the
//! same [`Filesystem`], whoever comes first.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::altered::Altered;
use super::change::Notes;
use super::inherit::Inheritance;
use super::locks::FamilyLocks;
use super::{ChangeLock, Filesystem};
use crate::error::{Error, Result};
use crate::merge::locks::Locks;
use crate::merge::view::View;
use crate::store::catalog::{Image, ImageRole, Reads};
use crate::store::number::{FamilyId, ImageId, Number};
use crate::store::open::{Access, Store};
use crate::store::shared::SharedLayer;

/// How much content was copied because it was about to be altered, or pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Promotions {
    /// Files.
    pub files: u64,
    /// Bytes.
    pub bytes: u64,
    /// How often it failed.
    pub failures: u64,
}

/// An image that another process has left.
struct Inherited {
    inheritance: Inheritance,
    /// Once it is alive, until it is served.
    heir: Option<Arc<Filesystem>>,
}

/// All images of a store, brought to life when they are asked for. One for each process that has
/// the store open.
pub struct Images {
    store: Arc<Store>,
    shared: Arc<SharedLayer>,
    changes: Mutex<HashMap<FamilyId, ChangeLock>>,
    /// Kept, once they were read: nobody else alters them.
    locks: Mutex<HashMap<FamilyId, Arc<FamilyLocks>>>,
    live: Mutex<HashMap<ImageId, Weak<Filesystem>>>,
    /// Images that nobody may use now, and why.
    withheld: Mutex<HashMap<ImageId, Error>>,
    /// What another process has left.
    inherited: Mutex<HashMap<ImageId, Inherited>>,
    /// Of each image; kept when it is not alive any more.
    notes: Mutex<HashMap<ImageId, Arc<Notes>>>,
}

impl Images {
    /// No image is alive yet.
    pub fn new(store: Arc<Store>) -> Self {
        let shared = Arc::new(SharedLayer::new(store.catalog().clone()));
        Self {
            store,
            shared,
            changes: Mutex::default(),
            locks: Mutex::default(),
            live: Mutex::default(),
            withheld: Mutex::default(),
            inherited: Mutex::default(),
            notes: Mutex::default(),
        }
    }

    /// Takes images over that the kernel goes on using. Before the first of them is brought to life.
    pub fn inherit(&self, inheritances: HashMap<ImageId, Inheritance>) {
        let inherited = inheritances.into_iter().map(|(image, inheritance)| {
            let heir = None;
            (image, Inherited { inheritance, heir })
        });
        self.inherited.lock().extend(inherited);
    }

    /// An image that was taken over is served, or given up: it is kept alive no longer. The answer is what came to life, if
    /// it did.
    pub fn settle_inheritance(&self, image: ImageId) -> Option<Arc<Filesystem>> {
        self.inherited.lock().remove(&image)?.heir
    }

    /// The store.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// The cache through which all images read the shared layers.
    pub fn shared(&self) -> &Arc<SharedLayer> {
        &self.shared
    }

    /// The lock that all changes of a family's images share.
    pub fn change_lock(&self, family: FamilyId) -> ChangeLock {
        self.changes.lock().entry(family).or_default().clone()
    }

    fn locks(&self, family: FamilyId) -> Result<Arc<FamilyLocks>> {
        match self.locks.lock().entry(family) {
            Entry::Occupied(there) => Ok(there.get().clone()),
            Entry::Vacant(free) => {
                let patterns = self.store.catalog().locks(family)?;
                let locks = Locks::new(&patterns)?;
                Ok(free.insert(Arc::new(FamilyLocks::new(locks))).clone())
            }
        }
    }

    /// From now on no guest alters what is locked in a family, and all that they have altered has happened.
    /// But for what is written to a file that somebody has open for writing ([`Filesystem::locked_writer`]) or
    /// mapped. The catalog is the caller's.
    ///
    /// # Errors
    /// Those of the catalog.
    pub fn set_locks(&self, family: FamilyId, locks: Arc<Locks>) -> Result<()> {
        let in_force = self.locks(family)?;
        let change = self.change_lock(family);
        let _unchanged = change.write();
        in_force.set(locks);
        Ok(())
    }

    /// What was refused in all images in this process because it is locked.
    pub fn refusals(&self) -> u64 {
        self.notes
            .lock()
            .values()
            .map(|notes| notes.refusals.count())
            .sum()
    }

    /// Nobody gets to use an image, or to look at it, for this reason, until [`Images::give_back`].
    pub fn withhold(&self, image: ImageId, reason: Error) {
        self.withheld.lock().insert(image, reason);
    }

    /// [`Images::withhold`], unless that was done already; the error is why it was.
    ///
    /// # Errors
    /// It is withheld already.
    pub fn withhold_free(&self, image: ImageId, reason: Error) -> Result<(), String> {
        match self.withheld.lock().entry(image) {
            Entry::Occupied(there) => Err(there.get().cause.clone()),
            Entry::Vacant(free) => {
                free.insert(reason);
                Ok(())
            }
        }
    }

    /// An image may be used again.
    pub fn give_back(&self, image: ImageId) {
        self.withheld.lock().remove(&image);
    }

    fn refuse_withheld(&self, image: ImageId) -> Result<()> {
        if let Some(reason) = self.withheld.lock().get(&image) {
            return Err(reason.clone());
        }
        // Another process may have been cut short since this one has opened the store.
        if self.store.access() == Access::Read {
            let left = self.store.unfinished_changes()?;
            if let Some((change, _)) = left.iter().find(|(_, left)| *left == image) {
                let cause = format!("change {change} is not carried out in it yet");
                return Err(Error::busy(format!("images/{image}"), cause)
                    .remedy("run a command that alters the store, `foldfs fold` for one"));
            }
        }
        Ok(())
    }

    /// A look at an image, for those who change nothing.
    ///
    /// # Errors
    /// It is withheld; those of the catalog.
    pub fn view(&self, image: &Image) -> Result<View> {
        self.refuse_withheld(image.id)?;
        self.open_view(image)
    }

    fn open_view(&self, image: &Image) -> Result<View> {
        let root = self.shared_root(image)?;
        let directory = self.store.image_dirs(image.id)?.root;
        View::open(directory, image.id, root, self.shared.clone())
    }

    fn shared_root(&self, image: &Image) -> Result<Number> {
        let family = self.store.catalog().family(image.family)?.ok_or_else(|| {
            Error::failed(
                format!("image {:?}", image.name),
                "its family is missing in the catalog",
            )
            .remedy("run `foldfs check`")
        })?;
        Ok(family.root)
    }

    /// The image `id` before it has a row: what a copy of `origin`'s private layer in `directory` shows, as long as
    /// the family stays as it is. Only the caller knows of it, and alters it before anybody can see it.
    ///
    /// # Errors
    /// Those of the host and the catalog.
    pub fn staged(&self, directory: OwnedFd, id: ImageId, origin: &Image) -> Result<Filesystem> {
        let (root, shared) = (self.shared_root(origin)?, self.shared.clone());
        let view = View::open_copy(directory, id, root, shared, origin.id)?;
        Filesystem::new(self.store.clone(), view, ChangeLock::default())
    }

    fn notes(&self, image: ImageId) -> Arc<Notes> {
        self.notes.lock().entry(image).or_default().clone()
    }

    /// How often an image's names or metadata were changed in this process. No other process can:
    /// where this stays the same, there is nothing new to see, dead or alive.
    pub fn changes(&self, image: ImageId) -> u64 {
        self.notes(image).changes.load(Ordering::Acquire)
    }

    /// [`Images::changes`], and how often somebody has ended writing to a file.
    pub fn alterations(&self, image: ImageId) -> (u64, u64) {
        let notes = self.notes(image);
        let closed = notes.closed.load(Ordering::Acquire);
        (notes.changes.load(Ordering::Acquire), closed)
    }

    /// Has everybody who compares [`Images::changes`], or takes what was altered, look at all of an
    /// image again.
    pub fn note_change(&self, image: ImageId) {
        let notes = self.notes(image);
        notes.changes.fetch_add(1, Ordering::Release);
        notes.altered.add_all();
    }

    /// What was promoted in all images in this process.
    pub fn promotions(&self) -> Promotions {
        let mut sum = Promotions::default();
        for notes in self.notes.lock().values() {
            sum.files += notes.promoted_files.load(Ordering::Relaxed);
            sum.bytes += notes.promoted_bytes.load(Ordering::Relaxed);
            sum.failures += notes.promotion_failures.load(Ordering::Relaxed);
        }
        sum
    }

    /// The files of an image that somebody has ended writing to since the last call; everything at
    /// the first one in this process. No other process can write. What is being written to still is
    /// told when that has ended.
    pub fn take_altered(&self, image: ImageId) -> Altered {
        self.notes(image).altered.take()
    }

    /// Has the next [`Images::take_altered`] tell of these files (again).
    pub fn note_altered(&self, image: ImageId, altered: &Altered) {
        let notes = self.notes(image);
        match altered {
            Altered::All => notes.altered.add_all(),
            Altered::Numbers(numbers) => {
                numbers.iter().for_each(|&number| notes.altered.add(number))
            }
        }
    }

    /// The live image, if somebody uses it.
    pub fn live(&self, image: ImageId) -> Option<Arc<Filesystem>> {
        self.live.lock().get(&image).and_then(Weak::upgrade)
    }

    /// Closes the objects that live images keep open although nobody reads them.
    pub fn close_kept(&self) {
        let live: Vec<_> = self
            .live
            .lock()
            .values()
            .filter_map(Weak::upgrade)
            .collect();
        for filesystem in live {
            filesystem.close_kept();
        }
    }

    /// Has `removal` take an image out of the catalog, unless somebody uses the image. Nobody can
    /// bring it to life meanwhile, and nobody finds it afterwards.
    ///
    /// # Errors
    /// The image is alive (kind Busy), or those of `removal`: it is still there then.
    pub fn end<T>(&self, image: &Image, removal: impl FnOnce() -> Result<T>) -> Result<T> {
        let live = self.live.lock();
        if live
            .get(&image.id)
            .is_some_and(|weak| weak.strong_count() > 0)
        {
            return Err(
                Error::busy(format!("image {:?}", image.name), "it is in use")
                    .remedy("unmount it first"),
            );
        }
        removal()
    }

    /// The live image; brought to life if nobody uses it yet, what a commit left to be uncovered in
    /// it being done first. It stays alive as long as the answer does.
    ///
    /// # Errors
    /// It is withheld; it is damaged; those of the catalog.
    pub fn filesystem(&self, image: ImageId) -> Result<Arc<Filesystem>> {
        self.refuse_withheld(image)?;
        self.withheld_filesystem(image)
    }

    /// Likewise, for who withholds it.
    ///
    /// # Errors
    /// As [`Images::filesystem`].
    pub fn withheld_filesystem(&self, image: ImageId) -> Result<Arc<Filesystem>> {
        let mut live = self.live.lock();
        if let Some(filesystem) = live.get(&image).and_then(Weak::upgrade) {
            return Ok(filesystem);
        }
        let row = self
            .store
            .catalog()
            .image(image)?
            .ok_or_else(|| Error::failed(format!("image {image}"), "there is no such image"))?;
        let view = self.open_view(&row)?;
        let change = self.change_lock(row.family);
        let mut filesystem = Filesystem::new(self.store.clone(), view, change)?;
        filesystem.change.note_in(self.notes(image));
        // A working tree is where a family is changed.
        if row.role != ImageRole::Working {
            filesystem.locks.enforce(self.locks(row.family)?);
        }
        let filesystem = Arc::new(filesystem);
        let mut inherited = self.inherited.lock();
        let inherited = inherited.get_mut(&image);
        if self.store.access() == Access::Write {
            let known = inherited.as_ref();
            let known = known.map(|it| it.inheritance.ledger.numbers().collect());
            filesystem.recover(&known.unwrap_or_default())?;
        }
        if let Some(Inherited { inheritance, heir }) = inherited {
            let inherited = filesystem.inherit(inheritance);
            let inherited = inherited.map_err(|it| it.about(format!("images/{image}")))?;
            log::info!(
                image = row.name.as_str(), nodes = inherited.nodes, handles = inherited.handles,
                lost = inherited.lost; "taken over"
            );
            *heir = Some(filesystem.clone());
        }
        // Even if what follows fails: what was taken over was so once and for all.
        live.retain(|_, weak| weak.strong_count() > 0);
        live.insert(image, Arc::downgrade(&filesystem));
        let has_left = || -> Result<bool> { Ok(!self.store.catalog().uncovers(image)?.is_empty()) };
        if self.store.access() == Access::Write && has_left()? {
            // What goes is to be found in the catalog only.
            match self.store.ensure_backup() {
                Ok(()) => {
                    filesystem.uncover()?;
                }
                // What stays is not wrong.
                Err(error) => log::warn!("nothing is uncovered: {error}"),
            }
        }
        Ok(filesystem)
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_image::TestImage;
    use super::*;

    #[test]
    fn an_image_in_use_is_not_ended_and_one_that_ends_is_not_used() {
        let image = TestImage::new();
        let images = Images::new(image.store.clone());
        let catalog = image.store.catalog();
        let row = catalog.image_by_name("image").unwrap().unwrap();

        let used = images.filesystem(row.id).unwrap();
        let refused: Result<()> = images.end(&row, || unreachable!("it is in use"));
        assert_eq!(refused.unwrap_err().kind, crate::error::ErrorKind::Busy);
        drop(used);

        std::thread::scope(|scope| {
            let user = images.end(&row, || {
                let user = scope.spawn(|| images.filesystem(row.id).map(drop));
                std::thread::sleep(std::time::Duration::from_millis(50));
                assert!(!user.is_finished(), "it has to wait for the removal");
                let transaction = catalog.transaction()?;
                transaction.delete_image(row.id)?;
                transaction.commit()?;
                Ok(user)
            });
            let error = user.unwrap().join().unwrap().unwrap_err();
            assert!(error.to_string().contains("there is no such image"));
        });
        assert!(images.live(row.id).is_none());
    }
}
