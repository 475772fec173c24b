//! Inode numbers, and the ids of images and families.

use std::fmt;

/// The identity of an inode for the store's whole life: st_ino of every view that shows it.
/// 1 is the root of every view; below 2^56 (the top byte of a FUSE nodeid is a flip count).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Number(u64);

impl Number {
    /// The root of every view.
    pub const ROOT: Number = Number(1);
    /// The first number that the counter hands out; those below are reserved.
    pub const FIRST: Number = Number(16);
    /// One past the largest number.
    pub const END: u64 = 1 << 56;

    /// `None` unless 1 <= value < 2^56.
    pub fn new(value: u64) -> Option<Self> {
        (1..Self::END).contains(&value).then_some(Self(value))
    }

    /// The number as stored and as shown in st_ino.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The id of an image: `images/ID`. Never used again after the image is removed.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct ImageId(pub i64);

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The id of a family.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct FamilyId(pub i64);

impl fmt::Display for FamilyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
