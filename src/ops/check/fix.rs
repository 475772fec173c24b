//! What can be done about a finding.

use crate::store::digest::Digest;
use crate::store::number::{ImageId, Number};

/// One repair. Each leaves the store no worse wherever it is stopped, and may be made again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fix {
    /// Moves something that is not foldfs's into the quarantine.
    Aside {
        /// Below the store.
        path: Vec<u8>,
        /// Why it cannot stay.
        cause: String,
        /// It is in a private layer, and the shared layer has its name: a whiteout takes its
        /// place, as nobody knows whether the shared version is what the guest had.
        hides: bool,
    },
    /// Makes a directory of an image that is missing.
    Directory {
        /// Below the store.
        path: Vec<u8>,
    },
    /// Finds the content of an object that is missing or damaged in a private file.
    Object {
        /// Which.
        digest: Digest,
        /// Bytes.
        size: u64,
    },
    /// Makes an object root's and read-only.
    Owner(Digest),
    /// Gives an object an inode without other names.
    OwnInode(Digest),
    /// Gives a private file with data a new mark, and with it a new number.
    Mark {
        /// Below the store.
        path: Vec<u8>,
    },
    /// Makes `redirects/NUMBER`.
    Redirect {
        /// In this image.
        image: ImageId,
        /// The shared directory.
        shared: Number,
    },
    /// Makes `index/NUMBER.names` again, from one of its links.
    Token {
        /// In this image.
        image: ImageId,
        /// The file.
        number: Number,
        /// One of its private names, below the store.
        name: Vec<u8>,
    },
    /// Gives up that a change can be taken back.
    Forget(i64),
    /// Sees to it that numbers up to this one are never handed out.
    Counter(Number),
}
