//! The content tier's plan: which private files are equal to each other or to an object.
//!
//! Sizes first, then what the hash cache knows, then SHA-256 on all cores, each file under a read
//! lease: what may be written to is left alone. Nothing is altered.

use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;
use rustix::fs::{self, Mode, OFlags};
use rustix::io::Errno;

use super::candidates::{Candidate, Candidates, Choice};
use super::effort::Effort;
use super::holds;
use crate::error::{Context, Result};
use crate::filesystem::images::Images;
use crate::progress::Progress;
use crate::store::cache::FileKey;
use crate::store::catalog::Image;
use crate::store::content::digest_while;
use crate::store::digest::Digest;
use crate::store::mark::{self, Mark, Role};
use crate::store::metadata::Time;
use crate::store::objects::Found;
use crate::store::{ImageDirs, Store};
use crate::sys::lease::ReadLease;
use crate::sys::xattr;

/// An image whose files are to be folded.
#[derive(Debug, Clone)]
pub struct Subject {
    /// The image.
    pub image: Image,
    /// Others than this process may have its files open.
    pub mounted: bool,
}

/// What was found out about one image.
#[derive(Debug)]
pub struct Examined {
    /// Which it is.
    pub subject: Subject,
    /// Its private files.
    pub candidates: Candidates,
    /// Files whose digest was known from the last time.
    pub unchanged: u64,
    /// Files that were in use.
    pub busy: u64,
}

/// A file: a position in [`Plan::images`], and one in its candidates.
pub type FileId = (u32, u32);

/// Files of equal content.
#[derive(Debug)]
pub struct Group {
    /// Of the content.
    pub digest: Digest,
    /// There is an object of this content.
    pub is_object: bool,
    /// The files; at least two if there is no object.
    pub files: Vec<FileId>,
}

/// What can be folded.
#[derive(Debug, Default)]
pub struct Plan {
    /// The images.
    pub images: Vec<Examined>,
    /// Files of equal content, sorted by digest.
    pub groups: Vec<Group>,
}

/// What one image's files come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Files that are stubs now.
    pub files: u64,
    /// Sum of their sizes.
    pub bytes: u64,
    /// Allocated bytes that this set free.
    pub freed: u64,
    /// Files left alone because they were in use.
    pub busy: u64,
}

/// What hashing a file gives.
enum Hashed {
    Digest(FileKey, Digest),
    Busy,
    /// It is gone, altered, or a stub.
    Other,
}

/// Finds equal files, of those altered before a moment if one is given. Remembers digests in the
/// hash cache, alters nothing else. One that was told to end leaves files out.
///
/// # Errors
/// Those of the host and the catalog.
pub fn plan(
    images: &Images,
    subjects: Vec<Subject>,
    altered_before: Option<Time>,
    effort: &Effort<'_>,
    progress: &dyn Progress,
) -> Result<Plan> {
    progress.message("looking for private files");
    let store = images.store();
    effort.pool()?.install(|| {
        let subjects = subjects.into_par_iter();
        let mut images = subjects
            .map(|subject| examine(images, subject, altered_before))
            .collect::<Result<Vec<_>>>()?;
        let groups = groups(store, &mut images, effort, progress)?;
        Ok(Plan { images, groups })
    })
}

fn examine(images: &Images, subject: Subject, altered_before: Option<Time>) -> Result<Examined> {
    let store = images.store();
    let dirs = store.image_dirs(subject.image.id)?;
    let choice = Choice {
        held: &holds::of(images, subject.image.id)?,
        altered_before,
        with_holes: false,
    };
    let candidates = Candidates::of(subject.image.id, &dirs, &choice)?;
    Ok(Examined {
        subject,
        candidates,
        unchanged: 0,
        busy: 0,
    })
}

/// The objects there are, and which sizes they have.
struct Known {
    digests: HashSet<Digest>,
    sizes: HashSet<u64>,
}

fn known(store: &Store) -> Result<Known> {
    let mut known = Known {
        digests: HashSet::new(),
        sizes: HashSet::new(),
    };
    store.objects().for_each(|found| {
        if let Found::Object(digest, stat) = found {
            known.digests.insert(digest);
            known.sizes.insert(stat.st_size as u64);
        }
        Ok(())
    })?;
    Ok(known)
}

fn groups(
    store: &Store,
    images: &mut [Examined],
    effort: &Effort<'_>,
    progress: &dyn Progress,
) -> Result<Vec<Group>> {
    let mut of_size: HashMap<u64, u32> = HashMap::new();
    for file in images.iter().flat_map(|image| &image.candidates.files) {
        *of_size.entry(file.key.size).or_default() += 1;
    }
    if of_size.is_empty() {
        return Ok(Vec::new());
    }
    let known = known(store)?;
    let mut ids: Vec<FileId> = Vec::new();
    for (position, image) in images.iter().enumerate() {
        let files = image.candidates.files.iter().enumerate();
        let chosen = files.filter(|(_, file)| {
            of_size[&file.key.size] > 1 || known.sizes.contains(&file.key.size)
        });
        ids.extend(chosen.map(|(file, _)| (position as u32, file as u32)));
    }
    let cache = store.hash_cache();
    let keys: Vec<FileKey> = ids.iter().map(|&id| file(images, id).key).collect();
    let mut digests = cache.get(&keys);

    let unknown: Vec<usize> = (0..ids.len())
        .filter(|&index| digests[index].is_none())
        .collect();
    let hashed = hash(store, images, &ids, &unknown, effort, progress)?;
    let mut remembered = Vec::new();
    for (&(image, _), digest) in ids.iter().zip(&digests) {
        images[image as usize].unchanged += u64::from(digest.is_some());
    }
    for (index, hashed) in unknown.into_iter().zip(hashed) {
        match hashed {
            Hashed::Digest(key, digest) => {
                remembered.push((key, digest));
                digests[index] = Some(digest);
            }
            Hashed::Busy => images[ids[index].0 as usize].busy += 1,
            Hashed::Other => {}
        }
    }
    cache.put(&remembered);

    let mut equal: HashMap<Digest, Vec<FileId>> = HashMap::new();
    for (id, digest) in ids.into_iter().zip(digests) {
        if let Some(digest) = digest {
            equal.entry(digest).or_default().push(id);
        }
    }
    let groups = equal.into_iter().filter_map(|(digest, mut files)| {
        let is_object = known.digests.contains(&digest);
        if files.len() < 2 && !is_object {
            return None;
        }
        // The walk may have met a file twice.
        let mut seen = HashSet::new();
        files.retain(|&id| seen.insert(host_identity(images, id)));
        (files.len() > 1 || is_object).then_some(Group {
            digest,
            is_object,
            files,
        })
    });
    let mut groups: Vec<Group> = groups.collect();
    groups.sort_unstable_by_key(|group| group.digest);
    Ok(groups)
}

fn file(images: &[Examined], (image, file): FileId) -> &Candidate {
    &images[image as usize].candidates.files[file as usize]
}

fn host_identity(images: &[Examined], id: FileId) -> (u64, u64) {
    let key = file(images, id).key;
    (key.device, key.inode)
}

/// Hashes the files `ids[index]` for each `index` of `unknown`; the results are in its order.
fn hash(
    store: &Store,
    images: &[Examined],
    ids: &[FileId],
    unknown: &[usize],
    effort: &Effort<'_>,
    progress: &dyn Progress,
) -> Result<Vec<Hashed>> {
    if unknown.is_empty() {
        return Ok(Vec::new());
    }
    let sizes = unknown
        .iter()
        .map(|&index| file(images, ids[index]).key.size);
    let total: u64 = sizes.sum();
    progress.message("hashing private files");
    progress.total(total);
    let dirs = images
        .iter()
        .map(|image| store.image_dirs(image.subject.image.id))
        .collect::<Result<Vec<_>>>()?;
    let place = |index: usize| (ids[index].0, file(images, ids[index]).directory);
    let directories: Vec<&[usize]> = unknown
        .chunk_by(|&left, &right| place(left) == place(right))
        .collect();
    let read = AtomicU64::new(0);
    let in_directory = |some: &&[usize]| -> Result<Vec<Hashed>> {
        if effort.is_over() {
            return Ok(some.iter().map(|_| Hashed::Busy).collect());
        }
        let image = ids[some[0]].0 as usize;
        hash_in_directory(&images[image], &dirs[image], some, ids, &|bytes| {
            read.fetch_add(bytes, Ordering::Relaxed);
            progress.advance(bytes);
            !effort.is_over()
        })
    };
    let hashed: Vec<Vec<Hashed>> = directories
        .par_iter()
        .map(in_directory)
        .collect::<Result<_>>()?;
    // What was altered meanwhile may be longer or shorter.
    progress.total(read.load(Ordering::Relaxed).max(1));
    Ok(hashed.into_iter().flatten().collect())
}

fn hash_in_directory(
    image: &Examined,
    dirs: &ImageDirs,
    some: &[usize],
    ids: &[FileId],
    go_on: &(dyn Fn(u64) -> bool + Sync),
) -> Result<Vec<Hashed>> {
    let candidate = |index: usize| &image.candidates.files[ids[index].1 as usize];
    let about = |candidate: &Candidate| {
        let path = image.candidates.describe(candidate);
        format!("images/{}: {}", image.subject.image.id, path.escape_ascii())
    };
    let first = candidate(some[0]);
    let directory = image.candidates.open(dirs, first.directory);
    let Some(directory) = directory.about(about(first))? else {
        return Ok(some.iter().map(|_| Hashed::Other).collect());
    };
    // Several files of one directory, or one large file: both use all cores.
    some.par_iter()
        .map(|&index| {
            let candidate = candidate(index);
            hash_one(image, &directory, candidate, go_on).about(about(candidate))
        })
        .collect()
}

fn hash_one(
    image: &Examined,
    directory: impl AsFd,
    candidate: &Candidate,
    go_on: &(dyn Fn(u64) -> bool + Sync),
) -> rustix::io::Result<Hashed> {
    let open = || {
        let flags = OFlags::RDONLY
            | OFlags::NOFOLLOW
            | OFlags::NONBLOCK
            | OFlags::CLOEXEC
            | OFlags::NOATIME;
        fs::openat(&directory, &candidate.name[..], flags, Mode::empty())
    };
    let file = match open() {
        Ok(file) => file,
        Err(Errno::NOENT | Errno::LOOP) => return Ok(Hashed::Other),
        Err(error) => return Err(error),
    };
    let bytes = xattr::get_descriptor(file.as_fd(), mark::NAME.as_bytes())?;
    let mark = bytes.and_then(|bytes| Mark::decode(&bytes).ok());
    if mark.is_none_or(|mark| mark.role != Role::File) {
        return Ok(Hashed::Other);
    }
    let (lease, file) = match ReadLease::take(file) {
        Ok(Some(lease)) => (Some(lease), None),
        Ok(None) => return Ok(Hashed::Busy),
        Err(Errno::INVAL) if !image.subject.mounted => (None, Some(open()?)),
        Err(Errno::INVAL) => return Ok(Hashed::Busy),
        Err(error) => return Err(error),
    };
    let lease = lease.as_ref();
    let content = match (lease, &file) {
        (Some(lease), _) => lease.file(),
        (None, Some(file)) => file.as_fd(),
        (None, None) => return Ok(Hashed::Busy),
    };
    let key = FileKey::of(&fs::fstat(content)?);
    if key.size != candidate.key.size || key.inode != candidate.key.inode {
        return Ok(Hashed::Other);
    }
    let digest = digest_while(content, &|bytes| {
        go_on(bytes) && lease.is_none_or(|lease| !lease.is_breaking())
    })?;
    Ok(match digest {
        Some(digest) => Hashed::Digest(key, digest),
        None => Hashed::Busy,
    })
}

impl Plan {
    /// What each image would get out of it.
    pub fn counts(&self) -> Vec<Counts> {
        let mut counts: Vec<Counts> = self
            .images
            .iter()
            .map(|image| Counts {
                busy: image.busy,
                ..Counts::default()
            })
            .collect();
        for group in &self.groups {
            for (position, &id) in group.files.iter().enumerate() {
                let candidate = file(&self.images, id);
                let counts = &mut counts[id.0 as usize];
                counts.files += 1;
                counts.bytes += candidate.key.size;
                // The first one becomes the object.
                if group.is_object || position > 0 {
                    counts.freed += candidate.allocated;
                }
            }
        }
        counts
    }

    /// The file of an id.
    pub fn file(&self, id: FileId) -> &Candidate {
        file(&self.images, id)
    }
}
