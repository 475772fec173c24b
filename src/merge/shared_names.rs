//! The names of chosen shared inodes, and of the directories above them: where somebody who goes
//! down a shared layer has to look although nothing private need be there.

use std::collections::{BTreeSet, HashMap};

use crate::error::Result;
use crate::store::catalog::Reads;
use crate::store::number::Number;
use crate::store::shared::SharedLayer;

/// Names by shared directory.
#[derive(Debug, Clone, Default)]
pub struct SharedNames(HashMap<Number, BTreeSet<Box<[u8]>>>);

impl SharedNames {
    /// Adds all names of shared inodes; numbers that are none have no names. Whether there was one that
    /// was not known.
    ///
    /// # Errors
    /// Those of reading the catalog.
    pub fn add(
        &mut self,
        shared: &SharedLayer,
        inodes: impl IntoIterator<Item = Number>,
    ) -> Result<bool> {
        let mut is_new = false;
        let mut pending: Vec<Number> = inodes.into_iter().collect();
        while let Some(number) = pending.pop() {
            for (directory, name) in shared.catalog().names_of(number)? {
                // The directories above are known if this name is.
                if self.0.entry(directory).or_default().insert(name) {
                    pending.push(directory);
                    is_new = true;
                }
            }
        }
        Ok(is_new)
    }

    /// The names in a shared directory, if there are any.
    pub fn in_directory(&self, directory: Number) -> Option<&BTreeSet<Box<[u8]>>> {
        self.0.get(&directory)
    }
}
