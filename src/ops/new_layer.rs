//! The private layer of a new image, built in `staging/` where nobody looks.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{OFlags, RenameFlags};

use crate::error::{Context, Result};
use crate::merge::join::{Join, Step};
use crate::store::StagedImage;
use crate::store::draft::{self, Draft};
use crate::store::layer::{self, Layer};
use crate::store::mark::{DirectoryRole, Mark, Role};
use crate::store::metadata::{Content, FileType, SharedInode};
use crate::store::number::{ImageId, Number};
use crate::store::open::Store;
use crate::sys::durable;

/// An image that takes everything from the shared layer whose root is `root`.
///
/// # Errors
/// Errors of the file system.
pub fn all_shared(store: &Store, root: Number) -> Result<StagedImage> {
    let staged = store.create_image_dirs()?;
    let role = Role::Directory(DirectoryRole::Transparent { shared: root });
    draft::write_mark(
        staged.dirs().private.as_fd(),
        b".",
        &Mark::new(Number::ROOT, role),
    )
    .about("staging")?;
    Ok(staged)
}

/// An image of a tree that joins a family.
///
/// # Errors
/// Errors of the file system: no space, for one.
pub fn joined(store: &Store, image: ImageId, join: &Join) -> Result<StagedImage> {
    let staged = store.create_image_dirs()?;
    let build = || -> rustix::io::Result<()> {
        let layer = Layer::open(&staged.dirs().root, image)?;
        let root = layer.private();
        let role = Role::Directory(join.role);
        draft::write_mark(root, b".", &Mark::new(Number::ROOT, role))?;
        for (number, inode) in &join.groups {
            index(&layer, *number, inode)?;
        }
        fill(&layer, &join.steps)?;
        draft::describe(root, b".", FileType::Directory, &join.root.metadata)
    };
    build().about("the new image's private layer")?;
    Ok(staged)
}

/// The role of an entry whose content, if any, is an object.
fn role_of(content: &Content) -> Role {
    match content {
        Content::Regular {
            digest: Some(digest),
            ..
        } => Role::Stub { digest: *digest },
        _ => Role::File,
    }
}

/// `index/NUMBER` and its token.
fn index(layer: &Layer, number: Number, inode: &SharedInode) -> rustix::io::Result<()> {
    let new = RenameFlags::NOREPLACE;
    let file = Draft::new(layer, &inode.content)?;
    file.mark(&Mark::new(number, role_of(&inode.content)))?;
    file.describe(&inode.metadata)?;
    file.place(layer.index(), &Layer::number_name(number), new)?;
    let (token, _) = Draft::file(layer)?;
    token.mark(&Mark::new(number, Role::Name))?;
    token.place(layer.index(), &Layer::token_name(number), new)
}

/// Makes everything below the root.
fn fill(layer: &Layer, steps: &[Step]) -> rustix::io::Result<()> {
    let new = RenameFlags::NOREPLACE;
    let open = |parent: &OwnedFd, name: &[u8]| layer::open_directory(parent, name, OFlags::RDONLY);
    let mut current = layer::open_directory(layer.private(), b".", OFlags::RDONLY)?;
    let mut above: Vec<(OwnedFd, &[u8], &SharedInode)> = Vec::new();
    for step in steps {
        match step {
            Step::Enter { name, inode, role } => {
                let draft = Draft::new(layer, &Content::Directory)?;
                draft.mark(&Mark::new(inode.number, Role::Directory(*role)))?;
                draft.place(&current, name, new)?;
                let below = open(&current, name)?;
                above.push((std::mem::replace(&mut current, below), name, inode));
            }
            Step::Leave => {
                let Some((parent, name, inode)) = above.pop() else {
                    continue;
                };
                // Last, so that its own entries don't alter its times.
                draft::describe(parent.as_fd(), name, FileType::Directory, &inode.metadata)?;
                current = parent;
            }
            Step::Whiteout { name } => Draft::whiteout(layer)?.place(&current, name, new)?,
            Step::Entry { name, inode } => {
                let draft = Draft::new(layer, &inode.content)?;
                draft.mark(&Mark::new(inode.number, role_of(&inode.content)))?;
                draft.describe(&inode.metadata)?;
                draft.place(&current, name, new)?;
            }
            Step::Name { name, number } => {
                durable::link(layer.index(), &Layer::token_name(*number), &current, name)?;
            }
        }
    }
    Ok(())
}
