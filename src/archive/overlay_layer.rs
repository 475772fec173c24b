//! One layer of a kernel overlayfs while it is written: directories, stubs that redirect into the
//! data-only layer, files of their own, whiteouts.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::XattrFlags;

use super::directory_stack::DirectoryStack;
use super::export_directory::set_metadata;
use super::export_overlay::Contents;
use crate::error::{Context, Error, Result};
use crate::path_bytes::PathBytes;
use crate::store::digest::Digest;
use crate::store::layout;
use crate::store::metadata::{Content, Metadata};
use crate::store::number::Number;
use crate::sys::copy;
use crate::sys::durable::{self, Step};

/// What opens a private file; `None` where the entry is none.
pub(super) type OpenPrivate<'a> = dyn Fn() -> Result<Option<OwnedFd>> + 'a;

/// Writes a layer, a directory after the other.
pub(super) struct LayerWriter<'a, 'b> {
    stack: DirectoryStack,
    /// Of the directories of the stack: set when all in them is written.
    unfinished: Vec<(Vec<u8>, Metadata)>,
    /// NUMBER: a name of each file that has several.
    links: OwnedFd,
    linked: HashSet<Number>,
    contents: &'a mut Contents<'b>,
}

impl<'a, 'b> LayerWriter<'a, 'b> {
    pub(super) fn new(root: OwnedFd, links: OwnedFd, contents: &'a mut Contents<'b>) -> Self {
        Self {
            stack: DirectoryStack::new(root),
            unfinished: Vec::new(),
            links,
            linked: HashSet::new(),
            contents,
        }
    }

    /// Metadata of the layer's root; first of all.
    pub(super) fn root(&mut self, metadata: Metadata) {
        self.unfinished.push((b".".to_vec(), escaped(&metadata)));
    }

    /// Makes a directory with these marks and goes into it.
    pub(super) fn enter(
        &mut self,
        name: &[u8],
        metadata: Metadata,
        marks: &[(&[u8], Vec<u8>)],
    ) -> rustix::io::Result<()> {
        let directory = self.stack.top()?;
        durable::mkdir(directory, name, 0o700)?;
        for (mark, value) in marks {
            durable::set_xattr(directory, name, mark, value, XattrFlags::empty())?;
        }
        self.stack.enter(name)?;
        self.unfinished.push((name.to_vec(), escaped(&metadata)));
        Ok(())
    }

    /// Everything in the directory is written.
    pub(super) fn leave(&mut self) -> Result<()> {
        let mut leave = || -> rustix::io::Result<()> {
            self.stack.leave()?;
            match self.unfinished.pop() {
                Some((name, metadata)) => set_metadata(self.stack.top()?, &name, &metadata, false),
                None => Ok(()),
            }
        };
        leave().about("the exported layer")
    }

    /// Sets what is left to set.
    pub(super) fn finish(mut self) -> Result<()> {
        while self.stack.depth() > 1 {
            self.leave()?;
        }
        let root = self.stack.top().about("the exported layer")?;
        for (name, metadata) in self.unfinished {
            set_metadata(root, &name, &metadata, false).about("the exported layer")?;
        }
        Ok(())
    }

    /// Hides a name of the layer below.
    pub(super) fn whiteout(&mut self, name: &[u8]) -> rustix::io::Result<()> {
        durable::mknod(self.stack.top()?, name, libc::S_IFCHR, 0)
    }

    /// Makes what is no directory. `several`: its number, if it has more names.
    pub(super) fn entry(
        &mut self,
        name: &[u8],
        content: &Content,
        metadata: &Metadata,
        several: Option<Number>,
        shown: &PathBytes,
        open: Option<&OpenPrivate<'_>>,
    ) -> Result<()> {
        let directory = self.stack.top().about(shown)?;
        let link = several.map(|number| number.to_string().into_bytes());
        if let Some(link) = &link
            && several.is_some_and(|number| self.linked.contains(&number))
        {
            return durable::link(&self.links, link, directory, name).about(shown);
        }
        match content {
            Content::Regular {
                size,
                digest: Some(digest),
            } => {
                self.contents.need(digest, *size)?;
                make_stub(directory, name, digest, *size).about(shown)?;
            }
            Content::Regular { size: 0, .. } => {
                durable::create(directory, name, 0o600).about(shown)?;
            }
            Content::Regular { size, .. } => {
                let file = open.map(|open| open()).transpose()?.flatten();
                let missing = || Error::failed(shown, "it has no content");
                let file = file.ok_or_else(missing)?;
                let target = durable::create(directory, name, 0o600).about(shown)?;
                let write = || copy::copy(file.as_fd(), target.as_fd(), *size);
                durable::perform(Step::Write, write).about(shown)?;
            }
            Content::Directory => {}
            Content::Symlink { target } => {
                durable::symlink(target, directory, name).about(shown)?
            }
            other => {
                let mode = other.file_type().bits() | (metadata.mode & 0o777);
                durable::mknod(directory, name, mode, other.rdev()).about(shown)?;
            }
        }
        let is_symlink = matches!(content, Content::Symlink { .. });
        set_metadata(directory, name, &escaped(metadata), is_symlink).about(shown)?;
        if let (Some(link), Some(number)) = (link, several) {
            durable::link(directory, name, &self.links, &link).about(shown)?;
            self.linked.insert(number);
        }
        Ok(())
    }
}

/// A metacopy file: all holes, of the object's size.
fn make_stub(
    directory: BorrowedFd<'_>,
    name: &[u8],
    digest: &Digest,
    size: u64,
) -> rustix::io::Result<()> {
    let file = durable::create(directory, name, 0o600)?;
    durable::truncate(&file, size)?;
    let redirect = format!("/{}", layout::object_name(digest));
    for (mark, value) in [
        (&b"trusted.overlay.redirect"[..], redirect.as_bytes()),
        (b"trusted.overlay.metacopy", b""),
    ] {
        durable::set_xattr(directory, name, mark, value, XattrFlags::empty())?;
    }
    Ok(())
}

/// A guest's own `trusted.overlay.*` as the kernel escapes it.
fn escaped(metadata: &Metadata) -> Metadata {
    const MARKS: &[u8] = b"trusted.overlay.";
    let mut metadata = metadata.clone();
    let xattrs = std::mem::take(&mut metadata.xattrs);
    for (name, value) in xattrs {
        let name = match name.strip_prefix(MARKS) {
            Some(rest) => [MARKS, b"overlay.", rest].concat().into(),
            None => name,
        };
        metadata.xattrs.insert(name, value);
    }
    metadata
}
