//! An image's view as a tree to compare.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::view_source::ImageSource;
use crate::error::{Context, Error, Result};
use crate::merge::compare::{Deviations, NamedSide, Names, Side, Tree, What};
use crate::merge::list;
use crate::merge::lookup::{self, Item, OpenDirectory};
use crate::merge::shared_names::SharedNames;
use crate::merge::view::View;
use crate::merge::walk::Visit;
use crate::path_bytes::PathBytes;
use crate::store::layer;
use crate::store::mark::{self, Mark, Role};
use crate::store::metadata::Content;
use crate::store::number::Number;
use crate::store::objects::Objects;
use crate::sys::xattr;

/// How often a file is opened that is replaced while it is opened.
const ATTEMPTS: usize = 8;

/// A view, standing in one of its directories. Holds one descriptor for each private level of the
/// depth.
pub struct ComparedView<'a> {
    view: &'a View,
    objects: &'a Objects,
    directories: Vec<OpenDirectory>,
    /// Length of the path of each directory but the root.
    lengths: Vec<usize>,
    /// Of the directory it stands in.
    path: Vec<u8>,
    /// Shared names that are not what the shared layer has there.
    shown_otherwise: SharedNames,
}

impl<'a> ComparedView<'a> {
    /// Stands in the root of a view.
    ///
    /// # Errors
    /// Those of reading it.
    pub fn new(view: &'a View, objects: &'a Objects) -> Result<Self> {
        let mut shown_otherwise = SharedNames::default();
        let indexed = view.layer.index_numbers()?;
        let indexed = indexed.into_iter().map(|number| view.shared_of(number));
        shown_otherwise.add(&view.shared, indexed)?;
        shown_otherwise.add(&view.shared, view.with_own_mtime())?;
        Ok(Self {
            view,
            objects,
            directories: vec![OpenDirectory::root(view)?],
            lengths: Vec::new(),
            path: Vec::new(),
            shown_otherwise,
        })
    }

    fn here(&self) -> Result<&OpenDirectory> {
        let here = self.directories.last();
        here.ok_or_else(|| Error::failed("comparison", "it left the root"))
    }

    fn path_of(&self, name: &[u8]) -> Vec<u8> {
        match &self.path[..] {
            b"" => name.to_vec(),
            path => [path, b"/", name].concat(),
        }
    }

    fn shown_path(&self, name: &[u8]) -> PathBytes {
        [b"/", &self.path_of(name)[..]].concat().into()
    }

    fn find(&self, name: &[u8]) -> Result<Item> {
        let found = lookup::lookup(self.view, self.here()?.parts(), name)?;
        found.ok_or_else(|| {
            Error::failed(self.shown_path(name), "it was removed while it was read")
                .remedy("stop what writes to the image, or compare a clone")
        })
    }

    fn source(&self) -> ImageSource<'a> {
        ImageSource {
            view: self.view,
            objects: self.objects,
        }
    }

    fn side(&self, name: &[u8], item: &Item) -> Result<Side> {
        if let Item::Shared { inode, shown } = item {
            return Ok(Side {
                number: shown.number.get(),
                several_names: inode.content != Content::Directory && inode.links > 1,
                what: What::Shared(inode.clone()),
            });
        }
        let (content, metadata, several_names) = self.source().describe(&Visit {
            path: &self.path_of(name),
            parent: self.here()?,
            name,
            item,
        })?;
        Ok(Side {
            number: item.number().get(),
            several_names,
            what: What::Own(Arc::new((content, metadata))),
        })
    }
}

/// Whether an open private file is a stub by now, whose bytes are not its content. One without a
/// mark has become an object meanwhile.
fn is_stub(file: &OwnedFd) -> rustix::io::Result<bool> {
    let bytes = xattr::get_descriptor(file.as_fd(), mark::NAME.as_bytes())?;
    let mark = bytes.and_then(|bytes| Mark::decode(&bytes).ok());
    Ok(mark.is_some_and(|mark| matches!(mark.role, Role::Stub { .. })))
}

impl Tree for ComparedView<'_> {
    fn root(&mut self) -> Result<Side> {
        self.side(b".", &lookup::root(self.view)?)
    }

    fn list(&mut self, only: Option<&Names>) -> Result<Vec<NamedSide>> {
        let parts = self.here()?.parts();
        let items = match only {
            None => list::list(self.view, parts)?,
            Some(names) => {
                let mut items = Vec::new();
                for name in names {
                    if let Some(item) = lookup::lookup(self.view, parts, name)? {
                        items.push((name.clone(), item));
                    }
                }
                items
            }
        };
        let sides = items.into_iter().map(|(name, item)| {
            let side = self.side(&name, &item)?;
            Ok((name, side))
        });
        sides.collect()
    }

    fn enter(&mut self, name: &[u8]) -> Result<()> {
        let item = self.find(name)?;
        let below = self.here()?.descend(self.view, name, &item)?;
        let below = below.ok_or_else(|| {
            Error::failed(self.shown_path(name), "it was replaced while it was read")
                .remedy("stop what writes to the image, or compare a clone")
        })?;
        self.directories.push(below);
        self.lengths.push(self.path.len());
        self.path = self.path_of(name);
        Ok(())
    }

    fn leave(&mut self) -> Result<()> {
        self.directories.pop();
        self.path.truncate(self.lengths.pop().unwrap_or(0));
        Ok(())
    }

    fn open(&mut self, name: &[u8]) -> Result<OwnedFd> {
        let source = self.source();
        for _ in 0..ATTEMPTS {
            let item = self.find(name)?;
            let side = self.side(name, &item)?;
            if let Content::Regular {
                digest: Some(digest),
                size,
            } = side.content()
            {
                return source.open_object(digest, *size);
            }
            let path = self.path_of(name);
            let visit = Visit {
                path: &path,
                parent: self.here()?,
                name,
                item: &item,
            };
            // A pass may fold it meanwhile.
            if let Some(file) = visit.open_private(self.view)?
                && !is_stub(&file).about(self.shown_path(name))?
            {
                return Ok(file);
            }
        }
        Err(
            Error::failed(self.shown_path(name), "it changes while it is read")
                .remedy("stop what writes to the image, or compare a clone"),
        )
    }

    fn deviations(&mut self) -> Result<Option<Deviations>> {
        let here = self.here()?;
        let Some(shared) = here.shared else {
            return Ok(None);
        };
        let known = self.shown_otherwise.in_directory(shared);
        let mut names: Names = known.cloned().unwrap_or_default();
        if let Some(private) = &here.private {
            let own = layer::names_in(private.as_fd()).about(self.shown_path(b""))?;
            names.extend(own.into_iter().map(Vec::into_boxed_slice));
        }
        Ok(Some(Deviations { shared, names }))
    }

    fn look_at(&mut self, inodes: &HashSet<Number>) -> Result<bool> {
        let inodes = inodes.iter().copied();
        self.shown_otherwise.add(&self.view.shared, inodes)
    }
}
