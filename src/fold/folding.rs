//! The content tier carried out: files become stubs, some of them objects.
//!
//! In rounds, so that there are few syncs: files that become objects, one of each content; a sync;
//! their names in `objects/`; then the files that are equal to them. Only a synced object is
//! referred to by another file.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use parking_lot::Mutex;
use rayon::prelude::*;

use super::candidates::{Candidate, Candidates, Choice};
use super::content::{Counts, Group, LeftOut, Plan};
use super::damage::Damage;
use super::effort::Effort;
use super::examined::FileId;
use super::holds;
use super::replaced::Replaced;
use crate::error::Result;
use crate::filesystem::Filesystem;
use crate::filesystem::failure::{Failure, Outcome};
use crate::filesystem::fold_file::{FoldFile, Folded, Held};
use crate::filesystem::images::Images;
use crate::progress::Progress;
use crate::store::becoming;
use crate::store::catalog::{Image, Reads};
use crate::store::digest::Digest;
use crate::store::metadata::Time;
use crate::store::number::{ImageId, Number};
use crate::store::open::Store;

/// How many files are on their way to become objects at a time: until they are, they cost a
/// look-up more.
const ROUND: usize = 4096;

/// An image at work.
struct Target<'a> {
    filesystem: Arc<Filesystem>,
    candidates: &'a Candidates,
    unmounted: bool,
    /// As they are now: an administrator may have pinned more since the plan was made.
    held: HashSet<Number>,
    counts: Mutex<Counts>,
    damage: Mutex<Damage>,
}

struct Folding<'a> {
    store: &'a Store,
    /// By their positions in the plan.
    images: BTreeMap<u32, Target<'a>>,
    synced: Time,
    effort: &'a Effort<'a>,
    progress: &'a dyn Progress,
    /// What has become of files is in `work/`, and becomes objects.
    becoming: Mutex<Vec<(u32, Digest)>>,
    /// Files that were in use.
    left: Mutex<Vec<FileId>>,
    /// Files that cannot be read.
    damaged: Mutex<Vec<FileId>>,
    replaced: Replaced,
}

/// What came of a plan.
#[derive(Debug, Default)]
pub struct Applied {
    /// What each image got out of it.
    pub counts: Vec<Counts>,
    /// Files that were in use.
    pub left: Vec<FileId>,
    /// Files that, or the object of which, cannot be read.
    pub damaged: Vec<FileId>,
    /// Of each image with such files, why the first one was left alone.
    pub reasons: LeftOut,
    /// Images that were left out, because they are damaged.
    pub left_out: LeftOut,
}

/// Carries a plan out. What has come into use since, was altered, or is damaged stays as it is.
///
/// # Errors
/// Those of the host that do not concern one file only, ENOSPC for one. What is folded by then stays so; every view is as it was.
pub fn apply(
    images: &Images,
    plan: &Plan,
    effort: &Effort<'_>,
    progress: &dyn Progress,
) -> Result<Applied> {
    let mut applied = Applied {
        counts: vec![Counts::default(); plan.images.len()],
        ..Applied::default()
    };
    if plan.groups.is_empty() {
        for image in &plan.images {
            let id = image.subject.image.id;
            if let Err(error) = finish_left(images.store(), id) {
                applied.left_out.insert(id, error);
            }
        }
    } else {
        progress.message("folding equal files");
        progress.total(plan.counts().iter().map(|counts| counts.bytes).sum());
        let synced = sync(images.store())?;
        applied = apply_some(images, plan, &plan.groups, synced, effort, progress)?;
    }
    for (counts, image) in applied.counts.iter_mut().zip(&plan.images) {
        counts.busy += image.busy;
        counts.damaged += image.damage.files;
    }
    Ok(applied)
}

/// Makes durable what there is, so that a file that was not altered since need not be synced by itself;
/// since when.
///
/// # Errors
/// Those of the host.
pub fn sync(store: &Store) -> Result<Time> {
    let synced = Time::now();
    store.sync()?;
    Ok(synced)
}

/// Carries some groups of a plan out, [`sync`] being done; files that were in use when the plan was
/// made are not counted. Only the images of these groups are brought to life.
///
/// # Errors
/// As [`apply`].
pub fn apply_some(
    images: &Images,
    plan: &Plan,
    groups: &[Group],
    synced: Time,
    effort: &Effort<'_>,
    progress: &dyn Progress,
) -> Result<Applied> {
    let mut applied = Applied {
        counts: vec![Counts::default(); plan.images.len()],
        ..Applied::default()
    };
    if groups.is_empty() {
        return Ok(applied);
    }
    let files = groups.iter().flat_map(|group| &group.files);
    let concerned: BTreeSet<u32> = files.map(|&(image, _)| image).collect();
    let mut targets = BTreeMap::new();
    let mut is_whole = true;
    for position in concerned {
        let image = &plan.images[position as usize];
        let (subject, candidates) = (&image.subject, &image.candidates);
        match Target::new(images, &subject.image, subject.mounted, candidates) {
            Ok(target) => {
                targets.insert(position, target);
            }
            // One that was removed meanwhile is not damaged.
            Err(_) if images.store().catalog().image(subject.image.id)?.is_none() => {
                is_whole = false;
            }
            Err(error) => {
                is_whole = false;
                applied.left_out.insert(subject.image.id, error);
            }
        }
    }
    let of_targets: Vec<Group>;
    let groups = match is_whole {
        true => groups.iter(),
        false => {
            of_targets = without_others(groups, &targets);
            of_targets.iter()
        }
    };
    let folding = Folding::begin(images.store(), targets, synced, effort, progress);
    let unshared: Vec<_> = groups.clone().filter(|group| !group.is_object).collect();
    let mut equal: Vec<(FileId, Digest)> = groups
        .filter(|group| group.is_object)
        .flat_map(|group| group.files.iter().map(|&id| (id, group.digest)))
        .collect();
    let outcome = effort.pool()?.install(|| {
        for round in unshared.chunks(ROUND) {
            if effort.is_over() {
                return Ok(());
            }
            equal.extend(folding.round(|| folding.found(round))?);
        }
        // An object that was collected meanwhile is made again.
        folding.round(|| {
            folding.in_directories(&mut equal, |id, digest, parent| match effort.is_over() {
                true => Ok(()),
                false => folding.fold(id, Some(digest), parent).map(|_| ()),
            })
        })
    });
    for (position, target) in folding.images {
        let image = target.image();
        let damage = target.damage.into_inner();
        let counts = &mut applied.counts[position as usize];
        *counts = target.counts.into_inner();
        counts.damaged = damage.files;
        if let Some(first) = damage.first {
            applied.reasons.entry(image).or_insert(first);
        }
    }
    applied.left = folding.left.into_inner();
    applied.damaged = folding.damaged.into_inner();
    outcome.map(|()| applied)
}

/// What is left of groups when only some images are there.
fn without_others(groups: &[Group], targets: &BTreeMap<u32, Target<'_>>) -> Vec<Group> {
    let groups = groups.iter().map(|group| Group {
        files: (group.files.iter().copied())
            .filter(|(image, _)| targets.contains_key(image))
            .collect(),
        ..*group
    });
    let least = |group: &Group| if group.is_object { 1 } else { 2 };
    groups
        .filter(|group| group.files.len() >= least(group))
        .collect()
}

/// Makes objects of all private files of an image that are not in use, equal to others or not; how
/// many are new, and how many bytes they have.
///
/// # Errors
/// As [`apply`].
pub fn make_objects(
    images: &Images,
    image: &Image,
    mounted: bool,
    effort: &Effort<'_>,
    progress: &dyn Progress,
) -> Result<(u64, u64)> {
    let dirs = images.store().image_dirs(image.id)?;
    let choice = Choice {
        held: &holds::of(images, image.id)?,
        altered_before: None,
        with_holes: true,
    };
    let candidates = Candidates::of(image.id, &dirs, &choice)?.complete()?;
    let target = Target::new(images, image, mounted, &candidates)?;
    let mut files: Vec<(FileId, ())> = (0..candidates.files.len() as u32)
        .map(|file| ((0, file), ()))
        .collect();
    if files.is_empty() {
        finish_left(images.store(), image.id)?;
        return Ok((0, 0));
    }
    progress.total(candidates.files.iter().map(|file| file.size).sum());
    let targets = BTreeMap::from([(0, target)]);
    let synced = sync(images.store())?;
    let folding = Folding::begin(images.store(), targets, synced, effort, progress);
    let new = Mutex::new((0, 0));
    effort.pool()?.install(|| {
        while !files.is_empty() {
            let later = Mutex::new(Vec::new());
            let rest = files.split_off(files.len().min(ROUND));
            let mut round = std::mem::replace(&mut files, rest);
            folding.round(|| {
                folding.in_directories(&mut round, |id, (), parent| {
                    match folding.fold(id, None, parent)? {
                        Folded::Becoming { bytes, .. } => {
                            let mut new = new.lock();
                            new.0 += 1;
                            new.1 += bytes;
                        }
                        // Equal to one of this round.
                        Folded::Later => later.lock().push((id, ())),
                        Folded::Stub { .. } | Folded::Busy | Folded::Other => {}
                    }
                    Ok(())
                })
            })?;
            let later = later.into_inner();
            if later.len() < round.len() {
                files.extend(later);
            }
        }
        Ok(())
    })?;
    for target in folding.images.into_values() {
        if let Some(error) = target.damage.into_inner().first {
            return Err(error);
        }
    }
    Ok(new.into_inner())
}

/// What an earlier attempt left in an image's `work/`.
fn finish_left(store: &Store, image: ImageId) -> Result<()> {
    let dirs = store.image_dirs(image)?;
    becoming::finish_left(store, dirs.work.as_fd(), &format!("images/{image}/work"))
}

impl<'a> Target<'a> {
    fn new(
        images: &Images,
        image: &Image,
        mounted: bool,
        candidates: &'a Candidates,
    ) -> Result<Self> {
        let filesystem = images.filesystem(image.id)?;
        finish_left(images.store(), image.id)?;
        Ok(Self {
            filesystem,
            candidates,
            unmounted: !mounted,
            held: holds::of(images, image.id)?,
            counts: Mutex::default(),
            damage: Mutex::default(),
        })
    }

    fn image(&self) -> ImageId {
        self.filesystem.view.layer.image()
    }

    fn work(&self) -> BorrowedFd<'_> {
        self.filesystem.view.layer.work()
    }

    fn about(&self, candidate: &Candidate) -> String {
        let path = self.candidates.describe(candidate);
        format!("images/{}: {}", self.image(), path.escape_ascii())
    }
}

impl<'a> Folding<'a> {
    fn begin(
        store: &'a Store,
        images: BTreeMap<u32, Target<'a>>,
        synced: Time,
        effort: &'a Effort<'a>,
        progress: &'a dyn Progress,
    ) -> Self {
        Self {
            store,
            images,
            synced,
            effort,
            progress,
            becoming: Mutex::default(),
            left: Mutex::default(),
            damaged: Mutex::default(),
            replaced: Replaced::default(),
        }
    }

    /// Runs `fold`, after which the files that became objects get their names, even if it failed.
    fn round<T>(&self, fold: impl FnOnce() -> Result<T>) -> Result<T> {
        let folded = fold();
        let becoming = std::mem::take(&mut *self.becoming.lock());
        if !becoming.is_empty() {
            self.store.sync()?;
            becoming.par_iter().try_for_each(|(image, digest)| {
                let work = self.images[image].work();
                becoming::finish(self.store.objects(), work, digest)
            })?;
        }
        folded
    }

    /// Makes one file of each group the object, one that is not in use; the files that are left.
    fn found(&self, groups: &[&Group]) -> Result<Vec<(FileId, Digest)>> {
        let founder = |group: &'_ &Group| group.founder();
        let with_founder = groups.iter().map(|group| Some((founder(group)?, *group)));
        let mut founders: Vec<(FileId, &Group)> = with_founder.flatten().collect();
        let equal = Mutex::new(Vec::with_capacity(founders.len()));
        self.in_directories(&mut founders, |founder, group, parent| {
            let others = group.files.iter().filter(|&&id| id != founder);
            let mut left: Vec<FileId> = others.copied().collect();
            let mut folded = self.fold(founder, Some(group.digest), parent)?;
            let mut current = founder;
            while matches!(folded, Folded::Busy | Folded::Other) && !left.is_empty() {
                current = left.remove(0);
                folded = self.fold(current, Some(group.digest), None)?;
            }
            if folded == Folded::Later {
                left.push(current);
            }
            let left = left.into_iter().map(|id| (id, group.digest));
            equal.lock().extend(left);
            Ok(())
        })?;
        Ok(equal.into_inner())
    }

    /// Hands each file with the node of its directory to `take`.
    fn in_directories<T: Copy + Send + Sync>(
        &self,
        files: &mut [(FileId, T)],
        take: impl Fn(FileId, T, Option<&Held<'_>>) -> Result<()> + Sync,
    ) -> Result<()> {
        let place = |(image, file): FileId| {
            let candidates = self.images[&image].candidates;
            (image, candidates.files[file as usize].directory)
        };
        files.sort_unstable_by_key(|(id, _)| (place(*id), *id));
        let directories: Vec<_> = files
            .chunk_by(|(left, _), (right, _)| place(*left) == place(*right))
            .collect();
        directories.into_par_iter().try_for_each(|files| {
            let Some(&((image, file), _)) = files.first() else {
                return Ok(());
            };
            let target = &self.images[&image];
            let candidate = &target.candidates.files[file as usize];
            let parent = match self.directory(target, candidate) {
                Ok(parent) => parent,
                Err(failure) => {
                    let files: Vec<FileId> = files.iter().map(|&(id, _)| id).collect();
                    return self.leave_out(&files, failure);
                }
            };
            files
                .par_iter()
                .try_for_each(|&(id, what)| take(id, what, parent.as_ref()))
        })
    }

    fn directory<'b>(
        &self,
        target: &'b Target<'_>,
        candidate: &Candidate,
    ) -> Outcome<Option<Held<'b>>> {
        let Some(path) = target.candidates.path(candidate.directory) else {
            return Ok(None);
        };
        target.filesystem.directory_at(&path)
    }

    /// Goes on without a file, or files of one directory; the error, if it concerns more than these.
    fn leave_out(&self, files: &[FileId], failure: Failure) -> Result<()> {
        let Some((image, file)) = files.first() else {
            return Ok(());
        };
        let target = &self.images[image];
        let candidate = &target.candidates.files[*file as usize];
        let about = target.about(candidate);
        let mut error = failure.about(&about);
        // It may be about the object.
        if !error.object.starts_with("images/") {
            error.object = format!("{about}: {}", error.object);
        }
        target.damage.lock().note(files.len() as u64, error)?;
        self.damaged.lock().extend(files);
        Ok(())
    }

    fn fold(
        &self,
        (image, file): FileId,
        digest: Option<Digest>,
        parent: Option<&Held<'_>>,
    ) -> Result<Folded> {
        let target = &self.images[&image];
        let candidate = &target.candidates.files[file as usize];
        let folded = match self.fold_candidate(target, candidate, digest, parent) {
            Ok(folded) => folded,
            Err(failure) => {
                self.leave_out(&[(image, file)], failure)?;
                Folded::Other
            }
        };
        let mut counts = target.counts.lock();
        match folded {
            Folded::Stub { bytes, freed } => {
                counts.files += 1;
                counts.bytes += bytes;
                counts.freed += freed;
            }
            Folded::Becoming { digest, bytes } => {
                counts.files += 1;
                counts.bytes += bytes;
                self.becoming.lock().push((image, digest));
            }
            Folded::Busy => {
                counts.busy += 1;
                self.left.lock().push((image, file));
            }
            Folded::Later => self.left.lock().push((image, file)),
            Folded::Other => {}
        }
        Ok(folded)
    }

    fn fold_candidate(
        &self,
        target: &Target<'_>,
        candidate: &Candidate,
        digest: Option<Digest>,
        parent: Option<&Held<'_>>,
    ) -> Outcome<Folded> {
        let filesystem = &target.filesystem;
        let own;
        let parent = match parent {
            Some(parent) => Some(parent),
            None => {
                own = self.directory(target, candidate)?;
                own.as_ref()
            }
        };
        let node = match (parent, target.candidates.indexed(candidate)) {
            (_, Some(number)) => filesystem.indexed_file(number),
            (Some(parent), None) => {
                let name = target.candidates.name(candidate);
                filesystem.private_file(parent, name)
            }
            (None, None) => Ok(None),
        };
        let Some(node) = node? else {
            return Ok(Folded::Other);
        };
        if target.held.contains(&node.number) {
            return Ok(Folded::Other);
        }
        let fold = FoldFile {
            digest,
            unmounted: target.unmounted,
            synced: Some(self.synced),
            is_awaited: &|| self.effort.is_awaited(),
            progress: &|bytes| self.progress.advance(bytes),
            replaced: &|file, bytes| self.replaced.keep(file, bytes),
        };
        filesystem.fold_file(&node, &fold)
    }
}
