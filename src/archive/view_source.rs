//! What an export reads: a tree, entry by entry. An image's view is one, a staged import another.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::staged::StagedImport;
use crate::error::{Context, Error, Result};
use crate::merge::lookup::Item;
use crate::merge::view::View;
use crate::merge::walk::{self, Visit};
use crate::path_bytes::PathBytes;
use crate::store::becoming;
use crate::store::digest::Digest;
use crate::store::entry;
use crate::store::mark::{DirectoryRole, Role};
use crate::store::metadata::{Content, FileType, Metadata, SharedInode};
use crate::store::number::Number;
use crate::store::objects::Objects;

/// An entry of a tree.
pub struct ViewEntry<'a> {
    /// From the root, separated by `/`, without a leading one; empty for the root.
    pub path: &'a [u8],
    /// Components of the path; 0 for the root.
    pub depth: usize,
    /// Its inode: entries with the same number are names of one file.
    pub number: Number,
    /// It may have other names.
    pub several_names: bool,
    /// Type and content. A regular file with a size but no digest is no object.
    pub content: &'a Content,
    /// Owner, mode, mtime, xattrs.
    pub metadata: &'a Metadata,
    /// Opens the content of a regular file for reading.
    pub open: &'a dyn Fn() -> Result<OwnedFd>,
}

impl ViewEntry<'_> {
    /// The last component of the path; empty for the root.
    pub fn name(&self) -> &[u8] {
        self.path.rsplit(|&byte| byte == b'/').next().unwrap_or(b"")
    }

    /// For messages.
    pub fn shown_path(&self) -> PathBytes {
        [b"/", self.path].concat().into()
    }
}

/// What an export visits entries with.
pub type ViewVisitor<'a> = dyn FnMut(&ViewEntry<'_>) -> Result<()> + 'a;

/// A tree that can be exported.
pub trait ViewSource {
    /// Visits the root, then every entry: a directory before what is in it, the entries of a
    /// directory in the order of their names' bytes.
    ///
    /// # Errors
    /// The visitor's, and those of reading the tree.
    fn visit(&self, visitor: &mut ViewVisitor<'_>) -> Result<()>;
}

/// A directory of a staged import on the way.
struct Level {
    entries: std::vec::IntoIter<(Box<[u8]>, SharedInode)>,
    path_length: usize,
}

impl StagedImport {
    fn visit_one(
        &self,
        path: &[u8],
        depth: usize,
        inode: &SharedInode,
        visitor: &mut ViewVisitor<'_>,
    ) -> Result<()> {
        visitor(&ViewEntry {
            path,
            depth,
            number: inode.number,
            several_names: inode.content != Content::Directory && inode.links > 1,
            content: &inode.content,
            metadata: &inode.metadata,
            open: &|| match &inode.content {
                Content::Regular {
                    digest: Some(digest),
                    ..
                } => self.open_content(digest),
                _ => Err(Error::failed(PathBytes::from(path), "it has no content")),
            },
        })
    }
}

impl ViewSource for StagedImport {
    fn visit(&self, visitor: &mut ViewVisitor<'_>) -> Result<()> {
        let root = self.inode(self.root())?;
        let root = root.ok_or_else(|| Error::failed(self.name(), "its root is missing"))?;
        self.visit_one(b"", 0, &root, visitor)?;
        let mut path = Vec::new();
        let mut levels = vec![Level {
            entries: self.directory(root.number)?.into_iter(),
            path_length: 0,
        }];
        while let Some(level) = levels.last_mut() {
            path.truncate(level.path_length);
            let Some((name, inode)) = level.entries.next() else {
                levels.pop();
                continue;
            };
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            self.visit_one(&path, levels.len(), &inode, visitor)?;
            if inode.content == Content::Directory {
                levels.push(Level {
                    entries: self.directory(inode.number)?.into_iter(),
                    path_length: path.len(),
                });
            }
        }
        Ok(())
    }
}

/// An image's view, for export.
pub struct ImageSource<'a> {
    /// The view.
    pub view: &'a View,
    /// The store's objects.
    pub objects: &'a Objects,
}

impl ImageSource<'_> {
    /// Opens an object, or what another process is making it of; what an export writes is to be true.
    ///
    /// # Errors
    /// There is none, or it is damaged.
    pub fn open_object(&self, digest: &Digest, size: u64) -> Result<OwnedFd> {
        let file = becoming::open(self.objects, self.view.layer.work(), digest)?;
        let verification = self.objects.verification();
        verification.examine_all(file.as_fd(), digest, size)?;
        Ok(file)
    }

    /// A shared directory that the visited private one shows: most stand where the shared layer has them,
    /// and need no query.
    fn shared_directory(
        &self,
        visit: &Visit<'_>,
        number: Number,
    ) -> Result<Option<Arc<SharedInode>>> {
        if let Some(parent) = visit.parent.shared
            && let Some(inode) = self.view.shared.directory(parent)?.find(visit.name)
            && inode.number == number
        {
            return Ok(Some(inode.clone()));
        }
        Ok(self.view.shared.inode(number)?.map(Arc::new))
    }

    /// Content and metadata of what is visited, and whether it may have several names.
    ///
    /// # Errors
    /// Those of reading the private layer and the catalog.
    pub fn describe(&self, visit: &Visit<'_>) -> Result<(Content, Metadata, bool)> {
        let (stat, mark) = match visit.item {
            Item::Shared { inode, .. } => {
                let several = inode.content != Content::Directory && inode.links > 1;
                return Ok((inode.content.clone(), inode.metadata.clone(), several));
            }
            Item::Private { stat, mark, .. } => (stat, mark),
        };
        let object = || PathBytes::from([b"/", visit.path].concat());
        if let Role::Directory(DirectoryRole::Transparent { shared }) = mark.role {
            let missing = || Error::failed(object(), "the shared directory it shows is missing");
            let inode = self.shared_directory(visit, shared)?;
            let inode = inode.ok_or_else(|| missing().remedy("run `foldfs check`"))?;
            let inode = self.view.as_shown(&inode);
            return Ok((inode.content.clone(), inode.metadata.clone(), false));
        }
        let Some((directory, name)) = visit.host(self.view) else {
            return Err(Error::failed(object(), "it is neither shared nor private"));
        };
        let metadata = entry::read_metadata(directory, &name, stat, mark).about(object())?;
        let content = entry::read_content(directory, &name, stat, mark).about(object())?;
        let content = content.unwrap_or(Content::Regular {
            size: stat.st_size as u64,
            digest: None,
        });
        let several = content.file_type() != FileType::Directory
            && visit.item.directory().is_none()
            && matches!(
                visit.item,
                Item::Private {
                    site: crate::merge::lookup::Site::Index,
                    ..
                }
            );
        Ok((content, metadata, several))
    }
}

impl ViewSource for ImageSource<'_> {
    fn visit(&self, visitor: &mut ViewVisitor<'_>) -> Result<()> {
        walk::walk(self.view, &mut |visit| {
            let (content, metadata, several_names) = self.describe(visit)?;
            let depth = match visit.path {
                b"" => 0,
                path => 1 + path.iter().filter(|&&byte| byte == b'/').count(),
            };
            let open = || match &content {
                Content::Regular {
                    digest: Some(digest),
                    size,
                } => self.open_object(digest, *size),
                _ => visit
                    .open_private(self.view)?
                    .ok_or_else(|| Error::failed(PathBytes::from(visit.path), "it has no content")),
            };
            visitor(&ViewEntry {
                path: visit.path,
                depth,
                number: visit.item.number(),
                several_names,
                content: &content,
                metadata: &metadata,
                open: &open,
            })?;
            Ok(true)
        })
    }
}
