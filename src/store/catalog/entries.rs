//! Names of shared directories, with all that hangs on them: the inode, its link count, its aliases.

use rusqlite::params;

use super::read::Reads;
use super::transaction::Transaction;
use crate::error::Result;
use crate::store::metadata::{Content, SharedInode, Time};
use crate::store::number::{FamilyId, Number};

impl Transaction<'_> {
    /// Adds an inode, a directory without entries for one, under a name of a shared directory.
    ///
    /// # Errors
    /// As [`Transaction::insert_inode`] and [`Transaction::insert_entry`].
    pub fn make_name(
        &self,
        family: FamilyId,
        parent: Number,
        name: &[u8],
        inode: &SharedInode,
    ) -> Result<()> {
        self.insert_inode(family, inode)?;
        self.insert_entry(parent, name, inode.number)?;
        if inode.content == Content::Directory {
            self.adjust_links(parent, 1)?;
        }
        Ok(())
    }

    /// Takes a name, and the inode `old` with its last one, out of the shared layer. A directory is empty.
    ///
    /// # Errors
    /// The directory does not hold the name, or it is not of that inode.
    pub fn take_name(&self, parent: Number, name: &[u8], old: &SharedInode) -> Result<()> {
        self.delete_entry(parent, name)?;
        if old.content == Content::Directory {
            self.adjust_links(parent, -1)?;
        } else {
            self.adjust_links(old.number, -1)?;
            let left = self.inode(old.number)?;
            if left.is_some_and(|left| left.links > 0) {
                return Ok(());
            }
        }
        self.delete_aliases_to(old.number)?;
        self.delete_inode(old.number)
    }

    /// Notes that a shared inode has changed, for all images that show it, under whatever number.
    ///
    /// # Errors
    /// When it does not exist.
    pub fn touch(&self, number: Number, ctime: Time) -> Result<()> {
        let values = params![number.get(), ctime.seconds, ctime.nanoseconds];
        let aliases = "UPDATE aliases SET ctime_s = ?2, ctime_ns = ?3 WHERE shared = ?1";
        self.run(aliases, values)?;
        let inode = "UPDATE inodes SET ctime_s = ?2, ctime_ns = ?3 WHERE number = ?1";
        self.run_one("inodes", number, inode, values)
    }
}
