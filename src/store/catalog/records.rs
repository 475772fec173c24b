//! The rows of the catalog's small tables.

use serde::{Deserialize, Serialize};

use crate::store::metadata::Time;
use crate::store::number::{FamilyId, ImageId, Number};

/// Which versions lie in the shared layer (docs/format.md; DESIGN.md, placement).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Share {
    /// The one that most images hold.
    #[default]
    Majority,
    /// Only what all images hold alike.
    All,
}

impl Share {
    /// As the catalog has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Share::Majority => "majority",
            Share::All => "all",
        }
    }

    /// The inverse of [`Share::as_str`].
    pub fn from_name(name: &str) -> Option<Self> {
        [Share::Majority, Share::All]
            .into_iter()
            .find(|share| share.as_str() == name)
    }
}

/// What an image is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageRole {
    /// The golden image of its family; bears the family's name.
    Base,
    /// An image that a guest runs on.
    Guest,
    /// A tree that is being worked in; it has no vote in placement.
    Working,
}

impl ImageRole {
    /// As the catalog has it.
    pub fn as_str(self) -> &'static str {
        match self {
            ImageRole::Base => "base",
            ImageRole::Guest => "guest",
            ImageRole::Working => "working",
        }
    }

    /// The inverse of [`ImageRole::as_str`].
    pub fn from_name(name: &str) -> Option<Self> {
        [ImageRole::Base, ImageRole::Guest, ImageRole::Working]
            .into_iter()
            .find(|role| role.as_str() == name)
    }
}

/// A family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Family {
    /// Its row.
    pub id: FamilyId,
    /// Its name, and its base image's.
    pub name: String,
    /// The root directory of the shared layer.
    pub root: Number,
    /// The golden image.
    pub base: ImageId,
    /// ID of os-release; empty if unknown.
    pub os: String,
    /// VERSION_ID of os-release; empty if unknown.
    pub os_version: String,
    /// As `uname -m` says it; empty if unknown.
    pub architecture: String,
    /// The rule of placement.
    pub share: Share,
    /// Seconds since 1970.
    pub created: i64,
}

/// What a family begins with; its base image is created with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewFamily<'a> {
    /// The family's name, and its base image's.
    pub name: &'a str,
    /// The root of the shared layer; its inode is inserted in the same transaction.
    pub root: Number,
    /// The reserved id of the base image.
    pub base: ImageId,
    /// ID of os-release; empty if unknown.
    pub os: &'a str,
    /// VERSION_ID of os-release; empty if unknown.
    pub os_version: &'a str,
    /// As `uname -m` says it; empty if unknown.
    pub architecture: &'a str,
    /// The rule of placement.
    pub share: Share,
    /// Seconds since 1970.
    pub created: i64,
    /// Where the base image comes from.
    pub source: &'a str,
}

/// An image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its row, and its directory `images/ID`.
    pub id: ImageId,
    /// The family it belongs to.
    pub family: FamilyId,
    /// Its name.
    pub name: String,
    /// What it is for.
    pub role: ImageRole,
    /// Seconds since 1970.
    pub created: i64,
    /// Where it comes from: the import's source or the image it was cloned from.
    pub source: String,
}

/// What an image begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewImage<'a> {
    /// Its reserved id ([`super::Catalog::reserve_image_id`]).
    pub id: ImageId,
    /// The family it belongs to.
    pub family: FamilyId,
    /// Its name.
    pub name: &'a str,
    /// What it is for; a base is created with its family only.
    pub role: ImageRole,
    /// Seconds since 1970.
    pub created: i64,
    /// Where it comes from.
    pub source: &'a str,
}

/// An image shows a shared inode under another number or with other times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alias {
    /// The row of `inodes`.
    pub shared: Number,
    /// What the image shows as st_ino.
    pub number: Number,
    /// What the image shows as ctime.
    pub ctime: Time,
    /// What the image shows as mtime of a directory, where that is not the shared one's.
    pub mtime: Option<Time>,
}

/// What is to be done with a private entry that a commit made redundant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UncoverAction {
    /// Remove it: the shared one shows through.
    Remove = 1,
    /// A directory "own" becomes merged with the shared one of its name.
    Merge = 2,
    /// Remove the private directory if it is empty, transparent or like the shared one.
    Withdraw = 3,
}

impl UncoverAction {
    /// From the column `action`.
    pub fn from_code(code: i64) -> Option<Self> {
        [Self::Remove, Self::Merge, Self::Withdraw]
            .into_iter()
            .find(|&action| action as i64 == code)
    }
}

/// One step of an uncover, before it has an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewUncover {
    /// The number of the private directory.
    pub directory: Number,
    /// The entry's name in it.
    pub name: Box<[u8]>,
    /// The number that the entry must still have.
    pub number: Number,
    /// What to do.
    pub action: UncoverAction,
}

/// One step of an uncover that is still to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uncover {
    /// Its row; rows are worked off in the order of their ids.
    pub id: i64,
    /// What to do where.
    pub step: NewUncover,
}

/// How much a family's shared layer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FamilyCounts {
    /// Rows of `inodes`.
    pub inodes: u64,
    /// Names.
    pub entries: u64,
    /// Sum of the sizes of regular files, each inode once; bytes.
    pub logical_bytes: u64,
}
