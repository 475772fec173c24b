//! A family and an image as layers of the kernel's overlayfs: everybody's way out.
//!
//! ```text
//! DEST/objects/ab/cdef...   contents: the data-only lower layer
//! DEST/shared/              the family's shared layer: directories, links, metadata; each file with
//!                           content is a metacopy file that redirects into objects
//! DEST/private/             the image's own, likewise; whiteouts, opaque marks, directory redirects
//! DEST/mount.sh             mounts them: mount.sh DIR [UPPER WORK]
//! DEST/differences.txt      what the kernel shows otherwise
//! ```
//! The marks are those of Documentation/filesystems/overlayfs.rst: a character device 0:0 is a whiteout,
//! `trusted.overlay.opaque` is `y`, `trusted.overlay.redirect` names a path from a layer's root (of the
//! data-only layer, where `trusted.overlay.metacopy` is set). An xattr of a guest's own that would be
//! taken for such a mark is escaped as the kernel has it (`trusted.overlay.overlay.*`).

use std::collections::HashSet;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{self, Mode};
use rustix::io::Errno;

use super::directory_stack::DIRECTORY;
use super::export_directory::{Target, Work};
use super::overlay_layer::LayerWriter;
use super::overlay_shared::SharedPaths;
use super::view_source::ImageSource;
use crate::error::{Context, Error, Result};
use crate::merge::list;
use crate::merge::lookup::{Item, OpenDirectory};
use crate::merge::walk;
use crate::path_bytes::PathBytes;
use crate::progress::Progress;
use crate::store::catalog::Reads;
use crate::store::digest::Digest;
use crate::store::mark::DirectoryRole;
use crate::store::metadata::{Content, SharedInode};
use crate::store::number::Number;
use crate::store::{Store, layout};
use crate::sys::copy;
use crate::sys::durable::{self, Step};

const SCRIPT: &str = r#"#!/bin/sh
# Mounts this image: mount.sh DIR (read-only), or mount.sh DIR UPPER WORK (writable: UPPER and WORK are
# empty directories of one file system). Linux 6.8 or newer.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
options="lowerdir=$here/private:$here/shared::$here/objects,redirect_dir=on,metacopy=on"
if [ $# -eq 3 ]; then
    options="$options,upperdir=$2,workdir=$3"
elif [ $# -ne 1 ]; then
    echo "usage: $0 DIR [UPPER WORK]" >&2
    exit 2
fi
exec mount -t overlay -o "$options" overlay "$1"
"#;

/// Writes a family's shared layer and an image's private one to `destination`, a directory that does
/// not exist or is empty, on a file system with trusted xattrs. It is there wholly or not at all. The
/// answer is what the kernel will show otherwise than the image does (also in differences.txt).
///
/// # Errors
/// As [`super::export_directory`].
pub fn export_overlay(
    source: &ImageSource<'_>,
    store: &Store,
    destination: &Path,
    progress: &dyn Progress,
) -> Result<Vec<String>> {
    let target = Target::prepare(store, destination)?;
    let work = target.make_work()?;
    let tree = work.directory("tree")?;
    for part in ["objects", "shared", "private"] {
        durable::mkdir(&tree, part.as_bytes(), 0o755).about(&target.shown)?;
    }
    let mut contents = Contents {
        source,
        directory: open(&tree, "objects", &target)?,
        written: HashSet::new(),
        progress,
    };
    let mut differences = vec![String::from(
        "everywhere: st_ino, st_nlink of directories and ctimes are the kernel's own",
    )];
    write_shared(
        source,
        &work,
        &tree,
        &target,
        &mut contents,
        &mut differences,
    )?;
    write_private(
        source,
        &work,
        &tree,
        &target,
        &mut contents,
        &mut differences,
    )?;
    write_text(&tree, "mount.sh", 0o755, SCRIPT).about(&target.shown)?;
    let text = differences.join("\n") + "\n";
    write_text(&tree, "differences.txt", 0o644, &text).about(&target.shown)?;
    durable::sync_filesystem(&tree).about(&target.shown)?;
    work.place()?;
    Ok(differences)
}

fn open(tree: &OwnedFd, part: &str, target: &Target) -> Result<OwnedFd> {
    fs::openat(tree, part, DIRECTORY, Mode::empty()).about(&target.shown)
}

fn write_text(tree: &OwnedFd, name: &str, mode: u32, text: &str) -> rustix::io::Result<()> {
    let file = durable::create(tree, name.as_bytes(), 0o600)?;
    let mut file = std::fs::File::from(file);
    let write = || file.write_all(text.as_bytes());
    durable::perform(Step::Write, write)
        .map_err(|error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    durable::chmod(tree, name.as_bytes(), mode)
}

/// The data-only layer.
pub(super) struct Contents<'a> {
    source: &'a ImageSource<'a>,
    directory: OwnedFd,
    written: HashSet<Digest>,
    progress: &'a dyn Progress,
}

impl Contents<'_> {
    /// Sees to it that the layer has an object.
    pub(super) fn need(&mut self, digest: &Digest, size: u64) -> Result<()> {
        if !self.written.insert(*digest) {
            return Ok(());
        }
        let object = self.source.open_object(digest, size)?;
        let about = || format!("object {digest}");
        let write = || -> rustix::io::Result<()> {
            let name = layout::object_directory(digest);
            match durable::mkdir(&self.directory, name.as_bytes(), 0o755) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
            let name = layout::object_name(digest);
            let file = durable::create(&self.directory, name.as_bytes(), 0o400)?;
            durable::perform(Step::Write, || {
                copy::copy(object.as_fd(), file.as_fd(), size)
            })
        };
        write().about(about())?;
        self.progress.advance(size);
        Ok(())
    }
}

fn write_shared(
    source: &ImageSource<'_>,
    work: &Work<'_>,
    tree: &OwnedFd,
    target: &Target,
    contents: &mut Contents<'_>,
    differences: &mut Vec<String>,
) -> Result<()> {
    let layer = open(tree, "shared", target)?;
    let mut writer = LayerWriter::new(layer, work.directory("links")?, contents);
    let catalog = source.view.shared.catalog();
    let root = catalog.inode(source.view.root)?;
    let root = root.ok_or_else(|| {
        Error::failed("the shared layer", "its root is missing").remedy("run `foldfs check`")
    })?;
    writer.root(root.metadata.clone());
    let mut levels = vec![(Vec::new(), catalog.directory(root.number)?.into_iter())];
    while let Some((path, entries)) = levels.last_mut() {
        let Some((name, inode)) = entries.next() else {
            levels.pop();
            if !levels.is_empty() {
                writer.leave()?;
            }
            continue;
        };
        let path = join(path, &name);
        note_device(&path, &inode.content, differences);
        shared_entry(&mut writer, &path, &name, &inode)?;
        if inode.content == Content::Directory {
            let entries = catalog.directory(inode.number)?.into_iter();
            levels.push((path, entries));
        }
    }
    writer.finish()
}

fn shared_entry(
    writer: &mut LayerWriter<'_, '_>,
    path: &[u8],
    name: &[u8],
    inode: &SharedInode,
) -> Result<()> {
    let shown = PathBytes::from(path);
    match inode.content {
        Content::Directory => writer.enter(name, inode.metadata.clone(), &[]).about(shown),
        _ => {
            let several = (inode.links > 1).then_some(inode.number);
            writer.entry(name, &inode.content, &inode.metadata, several, &shown, None)
        }
    }
}

fn note_device(path: &[u8], content: &Content, differences: &mut Vec<String>) {
    if matches!(content, Content::CharDevice { rdev: 0 }) {
        let path = PathBytes::from(path);
        differences.push(format!(
            "/{path}: not there: the kernel takes a device 0:0 for a whiteout"
        ));
    }
}

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() {
        return name.to_vec();
    }
    [path, name].join(&b'/')
}

/// What is written of a directory of the view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It is the shared one; only made if something below it is private.
    Shared,
    /// Nothing shows through.
    Own,
    /// The shared directory of this number shows through.
    Merged(Number),
}

/// A directory of the view on the way to an entry.
struct Level {
    path: Vec<u8>,
    name: Vec<u8>,
    metadata: crate::store::metadata::Metadata,
    kind: Kind,
    made: bool,
}

/// Writes the difference between the view and the shared layer: whatever of the view does not show
/// through from there.
fn write_private(
    source: &ImageSource<'_>,
    work: &Work<'_>,
    tree: &OwnedFd,
    target: &Target,
    contents: &mut Contents<'_>,
    differences: &mut Vec<String>,
) -> Result<()> {
    let layer = open(tree, "private", target)?;
    let links = work.directory("private-links")?;
    let mut writer = LayerWriter::new(layer, links, contents);
    let mut paths = SharedPaths::new(source.view.shared.catalog(), source.view.root);
    let mut levels: Vec<Level> = Vec::new();
    let view = source.view;
    walk::walk(view, &mut |visit| {
        let depth = match visit.path {
            b"" => 0,
            path => 1 + path.iter().filter(|&&byte| byte == b'/').count(),
        };
        while levels.len() > depth {
            if levels.pop().is_some_and(|level| level.made) {
                writer.leave()?;
            }
        }
        let (content, metadata, several) = source.describe(visit)?;
        let shown = PathBytes::from(visit.path);
        let in_own = levels.last().is_some_and(|level| level.kind == Kind::Own);
        if visit.item.directory().is_some() {
            let kind = match (visit.item.directory_role(), visit.item) {
                (Some(DirectoryRole::Own), _) => Kind::Own,
                (Some(role), _) => role.shared().map_or(Kind::Own, Kind::Merged),
                (None, Item::Shared { .. }) => Kind::Shared,
                (None, Item::Private { .. }) => Kind::Own,
            };
            levels.push(Level {
                path: visit.path.to_vec(),
                name: visit.name.to_vec(),
                metadata,
                kind,
                made: depth == 0,
            });
            if depth == 0 {
                if let Some(root) = levels.last() {
                    writer.root(root.metadata.clone());
                }
            } else if kind != Kind::Shared || in_own || !shows_through(visit.item) {
                make_levels(&mut writer, &mut levels, &mut paths)?;
            }
            let directory = match depth {
                0 => None,
                _ => visit.parent.descend(view, visit.name, visit.item)?,
            };
            let parts = directory.as_ref().unwrap_or(visit.parent);
            return whiteouts(source, &mut writer, &mut levels, &mut paths, parts);
        }
        if !in_own && shows_through(visit.item) {
            return Ok(true);
        }
        make_levels(&mut writer, &mut levels, &mut paths)?;
        note_device(visit.path, &content, differences);
        let number = several.then(|| visit.item.number());
        let open = || visit.open_private(view);
        writer.entry(visit.name, &content, &metadata, number, &shown, Some(&open))?;
        Ok(true)
    })?;
    while let Some(level) = levels.pop() {
        if level.made && !levels.is_empty() {
            writer.leave()?;
        }
    }
    writer.finish()
}

/// Whether the shared layer has the entry just as the view shows it: an alias may have an mtime of
/// its own.
fn shows_through(item: &Item) -> bool {
    match item {
        Item::Shared { shown, .. } => shown.mtime.is_none(),
        Item::Private { .. } => false,
    }
}

/// Names of the shared directory that the view does not show.
fn whiteouts(
    source: &ImageSource<'_>,
    writer: &mut LayerWriter<'_, '_>,
    levels: &mut [Level],
    paths: &mut SharedPaths<'_>,
    directory: &OpenDirectory,
) -> Result<bool> {
    let parts = directory.parts();
    let (Some(_), Some(shared)) = (parts.private, parts.shared) else {
        return Ok(true);
    };
    let shown: HashSet<Box<[u8]>> = list::list(source.view, parts)?
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    for (name, _) in source.view.shared.directory(shared)?.iter() {
        if !shown.contains(name) {
            make_levels(writer, levels, paths)?;
            writer.whiteout(name).about(PathBytes::from(name))?;
        }
    }
    Ok(true)
}

/// Makes the directories on the way that are not there yet.
fn make_levels(
    writer: &mut LayerWriter<'_, '_>,
    levels: &mut [Level],
    paths: &mut SharedPaths<'_>,
) -> Result<()> {
    // Where the kernel would look for what shows through: the path in the shared layer.
    let mut below: Option<Vec<u8>> = Some(Vec::new());
    for (index, level) in levels.iter_mut().enumerate() {
        let natural = below.as_ref().map(|path| match index {
            0 => Vec::new(),
            _ => join(path, &level.name),
        });
        let mut marks: Vec<(&[u8], Vec<u8>)> = Vec::new();
        below = match level.kind {
            Kind::Own => {
                marks.push((b"trusted.overlay.opaque", b"y".to_vec()));
                None
            }
            Kind::Shared => natural,
            Kind::Merged(shared) => {
                let path = paths.path(shared)?;
                if natural.as_ref() != Some(&path) {
                    let redirect = [b"/", &path[..]].concat();
                    marks.push((b"trusted.overlay.redirect", redirect));
                }
                Some(path)
            }
        };
        if !level.made {
            let metadata = level.metadata.clone();
            let entered = writer.enter(&level.name, metadata, &marks);
            entered.about(PathBytes::from(&level.path[..]))?;
            level.made = true;
        }
    }
    Ok(())
}
