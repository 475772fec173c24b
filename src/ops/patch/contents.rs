//! The contents that a change needs become objects.

use std::collections::{BTreeSet, HashMap};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, Mode, OFlags, memfd_create, openat};

use super::observe;
use super::source::{Contents, Origin};
use super::target::{Look, Target};
use crate::archive::patch::{ContentId, PatchEntry};
use crate::error::{Context as _, Error, Result};
use crate::progress::Progress;
use crate::store::Store;
use crate::store::content::digest_of;
use crate::store::digest::Digest;
use crate::sys::copy;
use crate::sys::durable::{self, Step};

/// A run of so many zeros becomes a hole.
const HOLE: usize = 64 << 10;

/// The contents that somebody who follows the change gets or loses, and the store lacks: what is lost now may
/// be wanted back.
pub(super) fn needed<'a>(
    store: &Store,
    origin: &Origin,
    looks: impl Iterator<Item = &'a Look>,
) -> Result<BTreeSet<(usize, ContentId)>> {
    let entries = &origin.table.entries;
    let followed: BTreeSet<usize> = looks.flat_map(|look| look.steps.follow()).collect();
    let mut needed = BTreeSet::new();
    for index in followed {
        let PatchEntry { old, new, .. } = &entries[index];
        for version in [old, new].into_iter().flatten() {
            let Some(id) = version.content_id() else {
                continue;
            };
            match store.objects().size(&id.digest)? {
                None => drop(needed.insert(id)),
                Some(size) if size == id.size => {}
                Some(size) => return Err(other_size(&id, size)),
            }
        }
    }
    // In the order in which they lie in the patch.
    let place = |id: &ContentId| match &origin.contents {
        Contents::Patch(patch) => patch.place(id),
        Contents::Staged(_) | Contents::Kept => None,
    };
    let places = needed.into_iter();
    let places = places.map(|id| (place(&id).unwrap_or(usize::MAX), id));
    Ok(places.collect())
}

/// A table that lies: what it says of a content would be shown, and never compared with it.
fn other_size(id: &ContentId, size: u64) -> Error {
    let cause = format!("it has {size} bytes, and the change says {}", id.size);
    Error::failed(format!("content {}", id.digest), cause).remedy(
        "do not use that patch; if it is a change of this store, run `foldfs check --content`",
    )
}

/// Where contents are that the store lacks.
#[derive(Clone, Copy)]
pub(super) struct Sources<'a> {
    pub origin: &'a Origin,
    pub targets: &'a [Target],
    pub looks: &'a [Look],
    /// What came of merging.
    pub merged: &'a HashMap<ContentId, Vec<u8>>,
}

impl Sources<'_> {
    /// Makes objects of these contents, on the disk after the next sync.
    ///
    /// # Errors
    /// One is neither in the patch nor anywhere in the family, or is told by an old one that is not;
    /// ENOSPC.
    pub(super) fn provide(
        &self,
        store: &Store,
        needed: &BTreeSet<(usize, ContentId)>,
        progress: &dyn Progress,
    ) -> Result<()> {
        if needed.is_empty() {
            return Ok(());
        }
        let staging = store.stage("patch")?;
        let directory = staging.directory();
        let mut filled = Vec::new();
        for (_, id) in needed {
            if let Contents::Staged(import) = &self.origin.contents
                && publish(store, import.objects(), id)?
            {
                continue;
            }
            progress.message(&format!("unpacking {}", id.digest));
            let name = id.digest.to_string();
            let file = durable::create(directory, name.as_bytes(), 0o400).about("staging")?;
            self.fill(store, id, &file)?;
            filled.push(id);
        }
        // An object gets its name only when its content is on the disk.
        store.sync()?;
        for id in filled {
            publish(store, directory, id)?;
        }
        Ok(())
    }

    /// The bytes of a content that the change or an image has.
    ///
    /// # Errors
    /// As [`Sources::provide`].
    pub(super) fn bytes(&self, store: &Store, id: &ContentId) -> Result<Vec<u8>> {
        if let Some(bytes) = self.merged.get(id) {
            return Ok(bytes.clone());
        }
        let about = || format!("content {}", id.digest);
        let staged = match &self.origin.contents {
            Contents::Staged(import) => {
                let name = id.digest.to_string();
                openat(
                    import.objects(),
                    name,
                    OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                    Mode::empty(),
                )
                .ok()
            }
            Contents::Patch(_) | Contents::Kept => None,
        };
        let file = match staged {
            Some(staged) => staged,
            None if store.objects().exists(&id.digest)? => store.objects().open(&id.digest)?,
            None => {
                let file = memfd_create("foldfs", MemfdFlags::CLOEXEC);
                let file = file.about(about())?;
                self.fill(store, id, &file)?;
                file
            }
        };
        let mut bytes = vec![0; id.size as usize];
        let length = copy::read_at(&file, &mut bytes, 0).about(about())?;
        match length as u64 == id.size && Digest::of(&bytes) == id.digest {
            true => Ok(bytes),
            false => Err(changed_meanwhile(id)),
        }
    }

    fn fill(&self, store: &Store, id: &ContentId, file: &OwnedFd) -> Result<()> {
        if let Some(bytes) = self.merged.get(id) {
            let write = || copy::write_all_at(file, bytes, 0);
            return durable::perform(Step::Write, write).about("staging");
        }
        let packed = match &self.origin.contents {
            Contents::Patch(patch) => patch.content(id).map(|content| (patch, content)),
            Contents::Staged(_) | Contents::Kept => None,
        };
        let Some((patch, content)) = packed else {
            let old = self.old_content(store, id)?;
            durable::perform(Step::Write, || {
                copy::copy(old.as_fd(), file.as_fd(), id.size)
            })
            .about("staging")?;
            let found = digest_of(file.as_fd()).about("staging")?;
            return match found == id.digest {
                true => Ok(()),
                false => Err(changed_meanwhile(id)),
            };
        };
        let old = content
            .base
            .map(|base| self.old_content(store, &base))
            .transpose()?;
        let mut position = 0;
        patch.unpack(id, old.as_ref().map(OwnedFd::as_fd), &mut |bytes| {
            let write = || -> rustix::io::Result<()> {
                for (piece, at) in bytes.chunks(HOLE).zip((position..).step_by(HOLE)) {
                    if piece.iter().any(|&byte| byte != 0) {
                        copy::write_all_at(file, piece, at)?;
                    }
                }
                Ok(())
            };
            durable::perform(Step::Write, write).about("staging")?;
            position += bytes.len() as u64;
            Ok(())
        })?;
        durable::truncate(file, id.size).about("staging")
    }

    /// A content that the patch expects here: an object, or a private file of an image of the family.
    fn old_content(&self, store: &Store, id: &ContentId) -> Result<OwnedFd> {
        if store.objects().exists(&id.digest)? {
            return store.objects().open(&id.digest);
        }
        for (target, look) in self.targets.iter().zip(self.looks) {
            if let Some(path) = look.contents.get(id) {
                let _names = target.filesystem.names_lock().read();
                return observe::open(&target.filesystem, store.objects(), path);
            }
        }
        let cause = "no image of the family has it, and the patch tells others by it";
        Err(Error::failed(format!("content {}", id.digest), cause)
            .remedy("make a patch from a tree that the family has"))
    }
}

fn changed_meanwhile(id: &ContentId) -> Error {
    Error::failed(format!("content {}", id.digest), "it changed meanwhile").remedy("try again")
}

/// Makes an object of a file that has the digest as its name; false if there is none.
fn publish(store: &Store, from: BorrowedFd<'_>, id: &ContentId) -> Result<bool> {
    let name = id.digest.to_string();
    let published = store.objects().publish(from, name.as_bytes(), &id.digest);
    match published {
        Err(error) if error.errno == Some(libc::ENOENT) => Ok(false),
        published => published.map(|_| true),
    }
}
