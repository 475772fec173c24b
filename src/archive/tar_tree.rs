//! The tree that an archive's members make, one after the other, as `tar -x` would make it in an empty
//! directory; but in `tree.db`, and without ever following a symlink.

use std::collections::HashMap;

use super::numbers::ImportNumbers;
use super::tree_writer::{TreeRow, TreeWriter, initial_links};
use crate::error::{Error, Result};
use crate::path_bytes::PathBytes;
use crate::store::metadata::{Content, Metadata, SharedInode, Time, Xattrs};
use crate::store::number::Number;

/// Directories whose numbers are remembered.
const REMEMBERED_MAX: usize = 4096;
const NAME_MAX: usize = 255;

/// The tree so far.
pub(super) struct TarTree<'a> {
    pub writer: TreeWriter,
    numbers: &'a ImportNumbers,
    root: Number,
    /// Path to number, of directories only.
    directories: HashMap<Vec<u8>, Number>,
    /// A name was given to something else: there may be inodes without a name.
    pub replaced: bool,
    /// Of everything, and mtime of what the archive does not hold itself.
    now: Time,
}

/// Where a member goes.
#[derive(Debug)]
pub(super) enum Place {
    Root,
    In { parent: Number, name: Vec<u8> },
}

/// The components of a member's path: what `tar` would make of it, below the directory.
///
/// # Errors
/// For `..` and names that are too long.
pub(super) fn components(path: &[u8]) -> Result<Vec<&[u8]>> {
    let refuse = |cause: &str| {
        Err(
            Error::failed(format!("entry {}", PathBytes::from(path)), cause)
                .remedy("nothing was imported"),
        )
    };
    let mut components = Vec::new();
    for name in path.split(|&byte| byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => return refuse("`..` in its path"),
            _ if name.len() > NAME_MAX => return refuse("a name of more than 255 bytes"),
            _ => components.push(name),
        }
    }
    Ok(components)
}

impl<'a> TarTree<'a> {
    /// An empty root directory.
    pub(super) fn new(writer: TreeWriter, numbers: &'a ImportNumbers, now: Time) -> Result<Self> {
        let root = numbers.next()?;
        let tree = Self {
            writer,
            numbers,
            root,
            directories: HashMap::new(),
            replaced: false,
            now,
        };
        tree.put_inode(root, Content::Directory, tree.implied())?;
        Ok(tree)
    }

    pub(super) fn root(&self) -> Number {
        self.root
    }

    /// Metadata of a directory that the archive does not hold.
    fn implied(&self) -> Metadata {
        Metadata {
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: self.now,
            xattrs: Xattrs::new(),
        }
    }

    /// Inserts an inode, or gives a directory new metadata.
    pub(super) fn put_inode(
        &self,
        number: Number,
        content: Content,
        metadata: Metadata,
    ) -> Result<()> {
        self.writer.insert(&TreeRow::Inode(SharedInode {
            number,
            links: initial_links(&content),
            content,
            metadata,
            ctime: self.now,
        }))
    }

    /// Finds the place of a path and makes missing directories above it.
    ///
    /// # Errors
    /// When something above it is no directory.
    pub(super) fn place(&mut self, path: &[u8]) -> Result<Place> {
        let components = components(path)?;
        let Some((name, above)) = components.split_last() else {
            return Ok(Place::Root);
        };
        let key = above.join(&b'/');
        if let Some(&parent) = self.directories.get(&key) {
            let name = name.to_vec();
            return Ok(Place::In { parent, name });
        }
        let mut parent = self.root;
        for (depth, component) in above.iter().enumerate() {
            parent = match self.writer.lookup(parent, component)? {
                Some((number, Some(true))) => number,
                None => {
                    let number = self.numbers.next()?;
                    self.put_inode(number, Content::Directory, self.implied())?;
                    self.put_entry(parent, component, number)?;
                    number
                }
                Some(_) => {
                    let above = PathBytes::from(above[..=depth].join(&b'/'));
                    return Err(Error::failed(
                        format!("entry {}", PathBytes::from(path)),
                        format!("{above} in its path is not a directory"),
                    )
                    .remedy("nothing was imported"));
                }
            };
        }
        if self.directories.len() >= REMEMBERED_MAX {
            self.directories.clear();
        }
        self.directories.insert(key, parent);
        Ok(Place::In {
            parent,
            name: name.to_vec(),
        })
    }

    fn put_entry(&self, parent: Number, name: &[u8], number: Number) -> Result<()> {
        self.writer.insert(&TreeRow::Entry {
            parent,
            name: name.into(),
            number,
        })
    }

    /// A directory: new, or one that is there and gets this metadata.
    pub(super) fn directory(&mut self, path: &[u8], metadata: Metadata) -> Result<()> {
        let number = match self.place(path)? {
            Place::Root => self.root,
            Place::In { parent, name } => match self.writer.lookup(parent, &name)? {
                Some((number, Some(true))) => number,
                found => {
                    let number = self.numbers.next()?;
                    if found.is_some() {
                        self.remove(parent, &name)?;
                    }
                    self.put_entry(parent, &name, number)?;
                    number
                }
            },
        };
        self.put_inode(number, Content::Directory, metadata)
    }

    /// A name for something that is no directory; its inode is inserted by the caller. It takes
    /// the place of what has the name.
    ///
    /// # Errors
    /// When that is a directory with something in it, or the root.
    pub(super) fn name(&mut self, path: &[u8], number: Number) -> Result<()> {
        let refuse = || {
            Err(Error::failed(
                format!("entry {}", PathBytes::from(path)),
                "there is a directory of this name with something in it",
            )
            .remedy("nothing was imported"))
        };
        let Place::In { parent, name } = self.place(path)? else {
            return refuse();
        };
        match self.writer.lookup(parent, &name)? {
            None => {}
            Some((found, _)) if found == number => return Ok(()),
            Some((found, Some(true))) => {
                if !self.writer.is_empty(found)? {
                    return refuse();
                }
                self.directories.clear();
                self.remove(parent, &name)?;
            }
            Some(_) => self.remove(parent, &name)?,
        }
        self.put_entry(parent, &name, number)
    }

    fn remove(&mut self, parent: Number, name: &[u8]) -> Result<()> {
        self.replaced = true;
        self.writer.remove_entry(parent, name)
    }

    /// Gives an earlier member another name.
    ///
    /// # Errors
    /// When the target is missing or a directory.
    pub(super) fn link(&mut self, path: &[u8], target: &[u8]) -> Result<()> {
        let refuse = |cause: &str| {
            let (path, target) = (PathBytes::from(path), PathBytes::from(target));
            let object = format!("entry {path}, a hard link to {target}");
            Err(Error::failed(object, cause).remedy("nothing was imported"))
        };
        let mut number = self.root;
        let mut is_directory = Some(true);
        let Ok(components) = components(target) else {
            return refuse("`..` in the target's path");
        };
        for component in components {
            if is_directory != Some(true) {
                return refuse("the target's path leads through something that is no directory");
            }
            match self.writer.lookup(number, component)? {
                Some(found) => (number, is_directory) = found,
                None => return refuse("the target is not in the archive before it"),
            }
        }
        if is_directory == Some(true) {
            return refuse("the target is a directory");
        }
        self.name(path, number)
    }
}
