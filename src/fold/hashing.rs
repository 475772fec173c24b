//! The digests of private files: from the hash cache, else by reading them, each under a read lease:
//! what may be written to is left alone.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;
use rustix::fs;
use rustix::io::Errno;

use super::candidates::Candidate;
use super::effort::Effort;
use super::examined::{Examined, FileId, Known, file, key};
use crate::error::{Context, Error, Result};
use crate::progress::Progress;
use crate::store::cache::FileKey;
use crate::store::catalog::Reads;
use crate::store::content::digest_while;
use crate::store::digest::Digest;
use crate::store::mark::{self, Mark, Role};
use crate::store::number::ImageId;
use crate::store::{ImageDirs, Store};
use crate::sys::lease::{ReadLease, WatchedLease};
use crate::sys::{regular, xattr};

/// The hash cache is asked for so many files at a time.
const TOGETHER: usize = 65_536;

/// What hashing a file gives.
enum Hashed {
    Digest(FileKey, Digest),
    Busy,
    /// It is gone, altered, or a stub.
    Other,
    /// It cannot be read.
    Damaged(Error),
}

/// What was found out.
#[derive(Debug, Default)]
pub(super) struct Digests {
    /// Files of known content, in no order.
    pub(super) known: Vec<Known>,
    /// Files that were in use.
    pub(super) busy: Vec<FileId>,
}

/// The digests of files. Those that had to be read are remembered in the hash cache, those that cannot
/// be read are noted.
///
/// # Errors
/// Those of the host that do not concern one file only.
pub(super) fn digests(
    store: &Store,
    images: &mut [Examined],
    mut ids: Vec<FileId>,
    effort: &Effort<'_>,
    progress: &dyn Progress,
) -> Result<Digests> {
    let mut digests = Digests::default();
    if ids.is_empty() {
        return Ok(digests);
    }
    let cache = store.hash_cache();
    // The cache is sorted likewise.
    ids.sort_unstable_by_key(|&id| {
        let key = key(images, id);
        (key.device, key.inode)
    });
    let mut unknown = Vec::new();
    for some in ids.chunks(TOGETHER) {
        let keys: Vec<FileKey> = some.iter().map(|&id| key(images, id)).collect();
        for (&id, digest) in some.iter().zip(cache.get(&keys)) {
            match digest {
                Some(digest) => {
                    images[id.0 as usize].unchanged += 1;
                    digests.known.push((digest, id));
                }
                None => unknown.push(id),
            }
        }
    }
    drop(ids);
    if unknown.is_empty() {
        return Ok(digests);
    }
    // One directory after the other, as they were found.
    unknown.sort_unstable();
    let sizes = unknown.iter().map(|&id| file(images, id).size);
    progress.message("hashing private files");
    progress.total(sizes.sum());
    let read = AtomicU64::new(0);
    for some in unknown.chunks(TOGETHER) {
        let advance = |bytes| {
            read.fetch_add(bytes, Ordering::Relaxed);
            progress.advance(bytes);
        };
        let mut remembered = Vec::new();
        for (id, hashed) in hash(store, images, some, effort, &advance) {
            match hashed {
                Hashed::Digest(key, digest) => {
                    remembered.push((key, digest));
                    digests.known.push((digest, id));
                }
                Hashed::Busy => {
                    images[id.0 as usize].busy += 1;
                    digests.busy.push(id);
                }
                Hashed::Other => {}
                Hashed::Damaged(error) => images[id.0 as usize].damage.note(1, error)?,
            }
        }
        cache.put(&remembered);
    }
    // What was altered meanwhile may be longer or shorter.
    progress.total(read.load(Ordering::Relaxed).max(1));
    Ok(digests)
}

/// Reads files, sorted as they were found.
fn hash(
    store: &Store,
    images: &[Examined],
    ids: &[FileId],
    effort: &Effort<'_>,
    advance: &(dyn Fn(u64) + Sync),
) -> Vec<(FileId, Hashed)> {
    let dirs = images.iter();
    let dirs: Vec<Result<Option<ImageDirs>>> = dirs
        .map(|image| directories_of(store, image.subject.image.id))
        .collect();
    let place = |id: FileId| (id.0, file(images, id).directory);
    let directories: Vec<&[FileId]> = ids
        .chunk_by(|&left, &right| place(left) == place(right))
        .collect();
    let in_directory = |some: &&[FileId]| -> Vec<(FileId, Hashed)> {
        if effort.is_over() {
            return some.iter().map(|&id| (id, Hashed::Busy)).collect();
        }
        let image = some[0].0 as usize;
        let dirs = match &dirs[image] {
            Ok(Some(dirs)) => dirs,
            Ok(None) => return some.iter().map(|&id| (id, Hashed::Other)).collect(),
            Err(error) => return all_damaged(some, error),
        };
        hash_in_directory(&images[image], dirs, some, effort, &|bytes| {
            advance(bytes);
            effort.pay(bytes);
            !effort.is_over()
        })
    };
    let hashed: Vec<Vec<(FileId, Hashed)>> = directories.par_iter().map(in_directory).collect();
    hashed.into_iter().flatten().collect()
}

/// An image's directories; `None` if it was removed meanwhile.
fn directories_of(store: &Store, image: ImageId) -> Result<Option<ImageDirs>> {
    match store.image_dirs(image) {
        Err(_) if store.catalog().image(image)?.is_none() => Ok(None),
        dirs => dirs.map(Some),
    }
}

fn all_damaged(some: &[FileId], error: &Error) -> Vec<(FileId, Hashed)> {
    let damaged = |&id: &FileId| (id, Hashed::Damaged(error.clone()));
    some.iter().map(damaged).collect()
}

fn hash_in_directory(
    image: &Examined,
    dirs: &ImageDirs,
    some: &[FileId],
    effort: &Effort<'_>,
    go_on: &(dyn Fn(u64) -> bool + Sync),
) -> Vec<(FileId, Hashed)> {
    let candidate = |id: FileId| &image.candidates.files[id.1 as usize];
    let about = |candidate: &Candidate| {
        let path = image.candidates.describe(candidate);
        format!("images/{}: {}", image.subject.image.id, path.escape_ascii())
    };
    let first = candidate(some[0]);
    let directory = image.candidates.open(dirs, first.directory);
    let directory = match directory.about(about(first)) {
        Ok(Some(directory)) => directory,
        Ok(None) => return some.iter().map(|&id| (id, Hashed::Other)).collect(),
        Err(error) => return all_damaged(some, &error),
    };
    // Several files of one directory, or one large file: both use all cores.
    some.par_iter()
        .map(|&id| {
            let candidate = candidate(id);
            let _idle = effort.idle();
            let hashed = hash_one(image, &directory, candidate, go_on);
            let hashed = hashed.about(about(candidate));
            (id, hashed.unwrap_or_else(Hashed::Damaged))
        })
        .collect()
}

fn hash_one(
    image: &Examined,
    directory: impl AsFd,
    candidate: &Candidate,
    go_on: &(dyn Fn(u64) -> bool + Sync),
) -> rustix::io::Result<Hashed> {
    // Guests are at work: by now there may be a device in its place, a whiteout for one.
    let open = || match regular::open(&directory, image.candidates.name(candidate)) {
        Err(Errno::NOENT) => Ok(None),
        opened => opened,
    };
    let Some(file) = open()? else {
        return Ok(Hashed::Other);
    };
    let bytes = xattr::get_descriptor(file.as_fd(), mark::NAME.as_bytes())?;
    let mark = bytes.and_then(|bytes| Mark::decode(&bytes).ok());
    if mark.is_none_or(|mark| mark.role != Role::File) {
        return Ok(Hashed::Other);
    }
    let content = match ReadLease::take(file) {
        Ok(Some(lease)) => Content::Leased(WatchedLease::new(lease).map_err(io)?),
        Ok(None) => return Ok(Hashed::Busy),
        Err(Errno::INVAL) if !image.subject.mounted => match open()? {
            Some(file) => Content::Trusted(file),
            None => return Ok(Hashed::Other),
        },
        Err(Errno::INVAL) => return Ok(Hashed::Busy),
        Err(error) => return Err(error),
    };
    let key = FileKey::of(&fs::fstat(content.file())?);
    if key.size != candidate.size || key.inode != image.candidates.key(candidate).inode {
        return Ok(Hashed::Other);
    }
    let digest = digest_while(content.file(), &|bytes| go_on(bytes) && !content.is_over())?;
    Ok(match digest {
        Some(digest) => Hashed::Digest(key, digest),
        None => Hashed::Busy,
    })
}

/// A private file that is being read.
enum Content {
    Leased(WatchedLease),
    /// There are no leases, and nobody else could have it open.
    Trusted(OwnedFd),
}

impl Content {
    fn file(&self) -> BorrowedFd<'_> {
        match self {
            Content::Leased(lease) => lease.file(),
            Content::Trusted(file) => file.as_fd(),
        }
    }

    fn is_over(&self) -> bool {
        match self {
            Content::Leased(lease) => lease.is_over(),
            Content::Trusted(_) => false,
        }
    }
}

fn io(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}
