//! Where directories of the shared layer stand, by their numbers.

use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::store::catalog::{Catalog, Reads};
use crate::store::number::Number;

/// Paths in a family's shared layer, remembered.
pub(super) struct SharedPaths<'a> {
    catalog: &'a Catalog,
    known: HashMap<Number, Vec<u8>>,
}

impl<'a> SharedPaths<'a> {
    /// `root`: the family's shared root directory.
    pub(super) fn new(catalog: &'a Catalog, root: Number) -> Self {
        Self {
            catalog,
            known: [(root, Vec::new())].into(),
        }
    }

    /// From the layer's root, without a leading `/`.
    ///
    /// # Errors
    /// When the directory is not in the shared layer.
    pub(super) fn path(&mut self, directory: Number) -> Result<Vec<u8>> {
        let mut names = Vec::new();
        let mut current = directory;
        let mut path = loop {
            if let Some(path) = self.known.get(&current) {
                break path.clone();
            }
            let Some((parent, name)) = self.catalog.names_of(current)?.pop() else {
                return Err(Error::failed(
                    format!("shared directory {directory}"),
                    "it has no place",
                )
                .remedy("run `foldfs check`"));
            };
            names.push(name);
            current = parent;
        };
        for name in names.iter().rev() {
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
        }
        self.known.insert(directory, path.clone());
        Ok(path)
    }
}
