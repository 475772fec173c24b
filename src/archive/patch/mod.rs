//! A patch: in what two trees differ, as one file that another host can apply (docs/patch-format.md).
//!
//! ```text
//! offset  size
//! 0       8     "foldfsP\n"
//! 8       4     format: 1                                 all numbers little-endian
//! 12      4     flags: 1 signed, 2 the record of a change, which has no contents
//! 16      32    public key of who signed it, else zeros
//! 48      ..    blocks of contents, one after the other     (content)
//! T       ..    the table, a zstd frame                     (table)
//! ..      24    T, its length here, its length unpacked     (envelope)
//! ..      32    SHA-256 of all before
//! ..      64    Ed25519 signature of that, if signed        (signature)
//! ```
//!
//! Nothing in a patch is trusted: every length is compared with what there is, or with a limit, before
//! memory is taken for it; a table that says anything twice, in another order, or of a path that leaves
//! the tree is refused as a whole; unpacking stops at the size that was told.

mod content;
mod envelope;
mod parser;
mod reader;
mod signature;
mod table;
#[cfg(test)]
mod tests;
mod version;
mod writer;

pub use reader::PatchFile;
pub use signature::{PublicKey, SecretKey};
pub use table::{PatchContent, PatchEntry, PatchTable};
pub use version::PathVersion;
pub use writer::{PatchWriter, encode_record};

use crate::store::digest::Digest;

/// A content by what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentId {
    /// Its SHA-256.
    pub digest: Digest,
    /// Bytes, more than none.
    pub size: u64,
}
