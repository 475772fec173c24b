//! The content tier's plan: which private files are equal to each other or to an object.
//!
//! Sizes first, then digests. Where a [`Ledger`] knows what an earlier plan has seen, only what was
//! altered since is looked at, and what may equal it. Nothing is altered.

use std::collections::{BTreeMap, HashMap, HashSet};

use parking_lot::Mutex;
use rayon::prelude::*;

use super::candidates::{Candidate, Candidates, Choice};
use super::effort::Effort;
use super::examined::{Examined, FileId, Known, Subject, file, host_identity};
use super::hashing::{self, Digests};
use super::holds;
use super::known_objects::KnownObjects;
use super::residents::{Print, Residents};
use crate::error::{Error, Result};
use crate::filesystem::altered::Altered;
use crate::filesystem::images::Images;
use crate::progress::Progress;
use crate::store::Store;
use crate::store::catalog::Reads;
use crate::store::digest::Digest;
use crate::store::metadata::Time;
use crate::store::number::{ImageId, Number};

/// What is known from earlier plans.
#[derive(Debug, Default)]
pub struct Ledger {
    /// The objects.
    pub objects: KnownObjects,
    /// The private files that nothing was equal to.
    pub residents: Residents,
}

/// Images that are left out, because they are damaged, while the others are folded: the first reason
/// of each.
pub type LeftOut = BTreeMap<ImageId, Error>;

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

impl Group {
    /// The file that becomes the object, unless it is in use; `None` if there is an object. Another
    /// image's each time, so that several threads do not wait for one image.
    pub(super) fn founder(&self) -> Option<FileId> {
        let chosen = usize::from(self.digest.as_bytes()[31]) % self.files.len().max(1);
        self.files.get(chosen).copied().filter(|_| !self.is_object)
    }
}

/// What can be folded.
#[derive(Debug, Default)]
pub struct Plan {
    /// The images; one that is looked at for what may equal altered files of others stands there a
    /// second time.
    pub images: Vec<Examined>,
    /// Files of equal content, sorted by digest.
    pub groups: Vec<Group>,
    /// Images that cannot be looked at, and why.
    pub left_out: LeftOut,
    /// Files that are equal to nothing.
    pub(super) unlike: Vec<(Print, FileId)>,
    /// Files that were in use.
    pub(super) busy: Vec<FileId>,
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
    /// Files left alone because they, or the object that they equal, cannot be read.
    pub damaged: u64,
}

/// Finds equal files, of those altered before a moment if one is given. Remembers digests in the
/// hash cache, alters nothing else. One that was told to end leaves files out. An image that cannot be
/// looked at is left out.
///
/// # Errors
/// Those of the host and the catalog.
pub fn plan(
    images: &Images,
    subjects: Vec<Subject>,
    ledger: &mut Ledger,
    altered_before: Option<Time>,
    effort: &Effort<'_>,
    progress: &dyn Progress,
) -> Result<Plan> {
    progress.message("looking for private files");
    let planning = Planning {
        images,
        altered_before,
        effort,
        progress,
        left_out: Mutex::default(),
    };
    effort
        .reading_pool()?
        .install(|| planning.plan(subjects, ledger))
}

#[derive(Default)]
struct Grouped {
    groups: Vec<Group>,
    unlike: Vec<(Print, FileId)>,
    /// Files whose object is not as it should be.
    damaged: Vec<(FileId, Error)>,
}

struct Planning<'a> {
    images: &'a Images,
    altered_before: Option<Time>,
    effort: &'a Effort<'a>,
    progress: &'a dyn Progress,
    left_out: Mutex<LeftOut>,
}

impl Planning<'_> {
    fn plan(&self, subjects: Vec<Subject>, ledger: &mut Ledger) -> Result<Plan> {
        let store = self.images.store();
        let of_image: HashMap<ImageId, Subject> = subjects
            .iter()
            .map(|subject| (subject.image.id, subject.clone()))
            .collect();
        let whole = subjects
            .iter()
            .filter(|subject| subject.altered == Altered::All);
        let whole: HashSet<ImageId> = whole.map(|subject| subject.image.id).collect();
        ledger.residents.forget(&whole);

        // Files that nothing was equal to, and a new object may be now.
        let mut alike = HashSet::new();
        let residents = &ledger.residents;
        ledger.objects.refresh(store.objects(), |size, digest| {
            alike.extend(residents.alike(size, digest));
        })?;
        let mut images = self.examine(subjects)?;
        let ids = some_like(&images, ledger);
        let mut digests = hashing::digests(store, &mut images, ids, self.effort, self.progress)?;

        for (digest, id) in &digests.known {
            let size = file(&images, *id).size;
            alike.extend(ledger.residents.alike(size, digest));
        }
        self.add_alike(&mut images, alike, &of_image, &mut digests)?;
        let grouped = groups(store, &mut images, digests.known)?;
        Ok(Plan {
            images,
            groups: grouped.groups,
            left_out: std::mem::take(&mut *self.left_out.lock()),
            unlike: grouped.unlike,
            busy: digests.busy,
        })
    }

    fn examine(&self, subjects: Vec<Subject>) -> Result<Vec<Examined>> {
        let subjects = subjects.into_par_iter();
        subjects
            .filter(|subject| !subject.altered.is_empty())
            .filter_map(|subject| {
                let id = subject.image.id;
                match self.examine_one(subject) {
                    Ok(examined) => Some(Ok(examined)),
                    Err(error) => self.leave_out(id, error).err().map(Err),
                }
            })
            .collect()
    }

    fn leave_out(&self, image: ImageId, error: Error) -> Result<()> {
        // One that was removed meanwhile is not damaged.
        if self.images.store().catalog().image(image)?.is_some() {
            self.left_out.lock().entry(image).or_insert(error);
        }
        Ok(())
    }

    fn examine_one(&self, subject: Subject) -> Result<Examined> {
        let store = self.images.store();
        let id = subject.image.id;
        let dirs = store.image_dirs(id)?;
        let choice = Choice {
            held: &holds::of(self.images, id)?,
            altered_before: self.altered_before,
            with_holes: false,
        };
        let candidates = match &subject.altered {
            Altered::All => Candidates::of(id, &dirs, &choice)?,
            Altered::Numbers(numbers) => {
                let live = self.images.live(id);
                Candidates::numbered(id, live.as_deref(), &dirs, numbers, &choice)?
            }
        };
        Ok(Examined {
            busy: candidates.in_use,
            damage: candidates.damage.clone(),
            subject,
            candidates,
            unchanged: 0,
        })
    }

    /// Adds files that may equal those that were looked at.
    fn add_alike(
        &self,
        images: &mut Vec<Examined>,
        mut alike: HashSet<(ImageId, Number)>,
        of_image: &HashMap<ImageId, Subject>,
        digests: &mut Digests,
    ) -> Result<()> {
        for image in &*images {
            for number in image.candidates.files.iter().filter_map(Candidate::number) {
                alike.remove(&(image.subject.image.id, number));
            }
        }
        let mut numbers: HashMap<ImageId, Vec<Number>> = HashMap::new();
        for (image, number) in alike {
            numbers.entry(image).or_default().push(number);
        }
        let subjects = numbers.into_iter().filter_map(|(image, numbers)| {
            Some(Subject {
                altered: Altered::Numbers(numbers),
                ..of_image.get(&image)?.clone()
            })
        });
        let first = images.len() as u32;
        images.extend(self.examine(subjects.collect())?);
        let ids = all_files(images).filter(|&(image, _)| image >= first);
        let ids = ids.collect();
        let store = self.images.store();
        let more = hashing::digests(store, images, ids, self.effort, self.progress)?;
        digests.known.extend(more.known);
        digests.busy.extend(more.busy);
        Ok(())
    }
}

fn all_files(images: &[Examined]) -> impl Iterator<Item = FileId> {
    images.iter().enumerate().flat_map(|(position, image)| {
        (0..image.candidates.files.len()).map(move |file| (position as u32, file as u32))
    })
}

/// The files of which there is something else of the same size.
fn some_like(images: &[Examined], ledger: &Ledger) -> Vec<FileId> {
    let mut of_size: HashMap<u64, u32> = HashMap::new();
    for file in images.iter().flat_map(|image| &image.candidates.files) {
        *of_size.entry(file.size).or_default() += 1;
    }
    let has_like = |size: u64| {
        of_size[&size] > 1 || ledger.objects.has_size(size) || ledger.residents.has_size(size)
    };
    all_files(images)
        .filter(|&id| has_like(file(images, id).size))
        .collect()
}

/// Files of equal content, and those whose content nothing else has.
fn groups(store: &Store, images: &mut [Examined], known: Vec<Known>) -> Result<Grouped> {
    let mut grouped = grouped(store, images, known);
    for ((image, _), error) in std::mem::take(&mut grouped.damaged) {
        images[image as usize].damage.note(1, error)?;
    }
    Ok(grouped)
}

fn grouped(store: &Store, images: &[Examined], mut known: Vec<Known>) -> Grouped {
    known.par_sort_unstable();
    let equal = known.par_chunk_by(|(left, _), (right, _)| left == right);
    let grouped = equal.fold(Grouped::default, |mut all, equal| {
        let Some(&(digest, id)) = equal.first() else {
            return all;
        };
        // The walk may have met a file twice.
        let mut seen = HashSet::new();
        let files = equal.iter().map(|&(_, id)| id);
        let files: Vec<FileId> = files
            .filter(|&id| seen.insert(host_identity(images, id)))
            .collect();
        let is_object = match store.objects().exists(&digest) {
            Ok(is_object) => is_object,
            Err(error) => {
                let damaged = files.iter().map(|&id| (id, error.clone()));
                all.damaged.extend(damaged);
                return all;
            }
        };
        match files.len() > 1 || is_object {
            true => all.groups.push(Group {
                digest,
                is_object,
                files,
            }),
            false => all.unlike.push((Print::of(&digest), id)),
        }
        all
    });
    grouped.reduce(Grouped::default, |mut left, mut right| {
        left.groups.append(&mut right.groups);
        left.unlike.append(&mut right.unlike);
        left.damaged.append(&mut right.damaged);
        left
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
                damaged: image.damage.files,
                ..Counts::default()
            })
            .collect();
        for group in &self.groups {
            let founder = group.founder();
            for &id in &group.files {
                let candidate = file(&self.images, id);
                let counts = &mut counts[id.0 as usize];
                counts.files += 1;
                counts.bytes += candidate.size;
                if Some(id) != founder {
                    counts.freed += candidate.allocated();
                }
            }
        }
        counts
    }

    /// Of each image of which something is left alone because it cannot be read, the first reason.
    pub fn damaged(&self) -> LeftOut {
        let first = |image: &Examined| Some((image.subject.image.id, image.damage.first.clone()?));
        // One that stands there twice: what was found first.
        self.images.iter().rev().filter_map(first).collect()
    }

    /// The file of an id.
    pub fn file(&self, id: FileId) -> &Candidate {
        file(&self.images, id)
    }
}
