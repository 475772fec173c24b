//! What is looked at for a fold: images, and files of theirs.

use super::candidates::{Candidate, Candidates};
use super::damage::Damage;
use crate::filesystem::altered::Altered;
use crate::store::cache::FileKey;
use crate::store::catalog::Image;
use crate::store::digest::Digest;

/// An image whose files are to be folded.
#[derive(Debug, Clone)]
pub struct Subject {
    /// The image.
    pub image: Image,
    /// Others than this process may have its files open.
    pub mounted: bool,
    /// What is to be looked at.
    pub altered: Altered,
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
    /// What is left alone because it cannot be read.
    pub damage: Damage,
}

/// A file: a position in the list of images, and one in its candidates.
pub type FileId = (u32, u32);

/// A file of known content.
pub(super) type Known = (Digest, FileId);

/// A file of an image.
pub(super) fn file(images: &[Examined], (image, file): FileId) -> &Candidate {
    &images[image as usize].candidates.files[file as usize]
}

/// What a file is on the host, and how old.
pub(super) fn key(images: &[Examined], (image, file): FileId) -> FileKey {
    let candidates = &images[image as usize].candidates;
    candidates.key(&candidates.files[file as usize])
}

/// Device and inode.
pub(super) fn host_identity(images: &[Examined], id: FileId) -> (u64, u64) {
    let key = key(images, id);
    (key.device, key.inode)
}
