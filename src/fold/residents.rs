//! Private files that no pass could fold, because nothing equals them yet: what a later pass compares
//! new content with, so that it need not look at all private files.
//!
//! What is remembered of a file may be out of date: whoever takes it up looks at the file again.

use std::collections::{BTreeMap, HashSet};

use crate::store::digest::Digest;
use crate::store::number::{ImageId, Number};

/// So many files more than half of all may have been remembered a second time, with another size.
const AGAIN: usize = 10_000;

/// The private files that are left, by size.
#[derive(Debug, Default)]
pub struct Residents {
    files: BTreeMap<(u64, ImageId, Number), Print>,
    /// How many may be remembered more than once, or be gone.
    doubtful: usize,
}

/// The beginning of a digest: enough to know what need not be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Print(u32);

impl Print {
    /// Of a file that was not hashed: it may have any content.
    pub const UNKNOWN: Print = Print(0);

    /// Of a digest.
    pub fn of(digest: &Digest) -> Self {
        let mut first = [0; 4];
        first.copy_from_slice(&digest.as_bytes()[..4]);
        Self(u32::from_le_bytes(first))
    }

    fn may_be(self, other: Print) -> bool {
        self == Self::UNKNOWN || self == other
    }
}

impl Residents {
    /// Remembers a file of an image that was forgotten before.
    pub fn insert(&mut self, size: u64, image: ImageId, number: Number, print: Print) {
        self.files.insert((size, image, number), print);
    }

    /// Remembers a file that may be remembered already, with another size.
    pub fn renew(&mut self, size: u64, image: ImageId, number: Number, print: Print) {
        if self.files.insert((size, image, number), print).is_none() {
            self.doubtful += 1;
        }
    }

    /// Forgets the files of images.
    pub fn forget(&mut self, images: &HashSet<ImageId>) {
        if !images.is_empty() {
            self.files
                .retain(|(_, image, _), _| !images.contains(image));
        }
        if self.files.is_empty() {
            self.doubtful = 0;
        }
    }

    /// Forgets the files of all images but these.
    pub fn keep(&mut self, images: &HashSet<ImageId>) {
        self.files.retain(|(_, image, _), _| images.contains(image));
    }

    /// Whether a file has this size.
    pub fn has_size(&self, size: u64) -> bool {
        self.of_size(size).next().is_some()
    }

    /// The files that may have this content.
    pub fn alike(&self, size: u64, digest: &Digest) -> impl Iterator<Item = (ImageId, Number)> {
        let print = Print::of(digest);
        self.of_size(size)
            .filter(move |(_, known)| known.may_be(print))
            .map(|(file, _)| file)
    }

    fn of_size(&self, size: u64) -> impl Iterator<Item = ((ImageId, Number), Print)> {
        let first = (size, ImageId(i64::MIN), Number::ROOT);
        let files = self.files.range(first..);
        files
            .take_while(move |((other, _, _), _)| *other == size)
            .map(|(&(_, image, number), &print)| ((image, number), print))
    }

    /// Whether so much of what is remembered may be out of date that all images should be looked at
    /// again. Else a guest that alters a file for ever would have us remember it for ever.
    pub fn is_overgrown(&self) -> bool {
        self.doubtful > self.files.len() / 2 + AGAIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_that_may_be_equal_are_told() {
        let number = |value| Number::new(value).unwrap();
        let [one, two] = [ImageId(1), ImageId(2)];
        let [a, b] = [Digest::of(b"a"), Digest::of(b"b")];
        let mut residents = Residents::default();
        residents.insert(5, one, number(20), Print::of(&a));
        residents.insert(5, one, number(21), Print::of(&b));
        residents.insert(5, two, number(22), Print::UNKNOWN);
        residents.insert(6, two, number(23), Print::of(&a));
        let alike = |residents: &Residents, size, digest| -> Vec<u64> {
            let found = residents.alike(size, digest);
            found.map(|(_, number)| number.get()).collect()
        };
        assert_eq!(alike(&residents, 5, &a), [20, 22]);
        assert_eq!(alike(&residents, 5, &b), [21, 22]);
        assert_eq!(alike(&residents, 6, &a), [23]);
        assert_eq!(alike(&residents, 7, &a), [0; 0]);
        assert!(residents.has_size(6) && !residents.has_size(7) && !residents.has_size(4));

        residents.forget(&HashSet::from([two]));
        assert_eq!(alike(&residents, 5, &a), [20]);
        residents.keep(&HashSet::from([two]));
        assert!(!residents.has_size(5));
    }

    #[test]
    fn a_file_that_is_altered_for_ever_is_not_remembered_for_ever() {
        let mut residents = Residents::default();
        let (image, number) = (ImageId(1), Number::FIRST);
        for round in 0..2 * AGAIN as u64 {
            residents.renew(round, image, number, Print::UNKNOWN);
            residents.renew(round, image, number, Print::UNKNOWN);
        }
        assert!(!residents.is_overgrown());
        residents.renew(u64::MAX, image, number, Print::UNKNOWN);
        assert!(residents.is_overgrown());
        residents.forget(&HashSet::from([image]));
        assert!(!residents.is_overgrown());
    }
}
