//! statvfs(3): the host's file system, as that is what an image fills.

use rustix::fs;

use super::Filesystem;
use super::failure::Outcome;
use super::resolve::NAME_MAX;

/// Sizes and counts of the file system that holds the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes; what the block counts count.
    pub fragment_size: u64,
    /// Bytes; what is good to read and write at a time.
    pub block_size: u64,
    /// Blocks in all.
    pub blocks: u64,
    /// Free ones.
    pub blocks_free: u64,
    /// Those of them that are not reserved for root.
    pub blocks_available: u64,
    /// Inodes in all.
    pub inodes: u64,
    /// Free ones.
    pub inodes_free: u64,
    /// The longest name.
    pub name_max: u64,
}

impl Filesystem {
    /// statvfs(3) of the image.
    pub fn space(&self) -> Outcome<Space> {
        let host = fs::fstatvfs(self.view.layer.private())?;
        Ok(Space {
            fragment_size: host.f_frsize,
            block_size: host.f_bsize,
            blocks: host.f_blocks,
            blocks_free: host.f_bfree,
            blocks_available: host.f_bavail,
            inodes: host.f_files,
            inodes_free: host.f_ffree,
            name_max: NAME_MAX as u64,
        })
    }
}
