//! What an administrator pins (`foldfs hold`): everything at a path or below it but directories gets
//! an inode, and content, of the image's own. Nothing of it shows; a guest may be at work there.

use std::os::fd::AsFd;
use std::sync::Arc;

use super::Filesystem;
use super::failure::Outcome;
use super::fold_file::Held;
use super::node::{Node, Source};
use crate::merge::list;
use crate::merge::lookup::{Item, Parts};
use crate::merge::private_directories::PrivatePath;
use crate::store::metadata::FileType;

/// Gets the directory, the name in it, and what stands there.
pub type Visit<'a> = dyn FnMut(&PrivatePath, &[u8], &Item) -> Outcome<()> + 'a;

impl Filesystem {
    /// Hands everything at a path or below it, but directories, to `visit`; whether there is anything
    /// at that path. Names are held still for one directory at a time: what a guest moves meanwhile
    /// may be missed, or come twice. Symlinks are not followed.
    ///
    /// # Errors
    /// Those of reading the layers, and of `visit`.
    pub fn below(&self, path: &PrivatePath, visit: &mut Visit<'_>) -> Outcome<bool> {
        if let Some((name, above)) = path.split_last() {
            let above = above.to_vec();
            let item = {
                let _names = self.names.read();
                match self.directory_below(&above)? {
                    Some(parent) => self.item(&parent, name)?,
                    None => None,
                }
            };
            match item {
                None => return Ok(false),
                Some(item) if item.directory().is_none() => {
                    visit(&above, name, &item)?;
                    return Ok(true);
                }
                Some(_) => {}
            }
        }
        let mut pending = vec![path.clone()];
        while let Some(directory) = pending.pop() {
            for (name, item) in self.entries_of(&directory)? {
                match item.directory() {
                    Some(_) => {
                        let mut below = directory.clone();
                        below.push(name);
                        pending.push(below);
                    }
                    None => visit(&directory, &name, &item)?,
                }
            }
        }
        Ok(true)
    }

    /// Gives a name's inode, unless it is a directory, content and metadata of the image's own, where
    /// it has them from the shared layer or an object: the bytes of content that this took, `None`
    /// if nothing had to be done.
    ///
    /// # Errors
    /// ENOSPC, EIO and the like; it is as it was.
    pub fn make_own(&self, directory: &PrivatePath, name: &[u8]) -> Outcome<Option<u64>> {
        let node = {
            let _names = self.names.read();
            let Some(parent) = self.directory_below(directory)? else {
                return Ok(None);
            };
            match self.child(&parent, name)? {
                Some(node) => self.held(node),
                None => return Ok(None),
            }
        };
        match node.file_type {
            FileType::Directory => Ok(None),
            FileType::Regular => self.make_content_own(&node),
            _ => {
                let _change = self.change.read();
                let _names = self.names.write();
                if node.source() == Source::Private {
                    return Ok(None);
                }
                self.stub(&node)?;
                Ok(Some(0))
            }
        }
    }

    fn make_content_own(&self, node: &Arc<Node>) -> Outcome<Option<u64>> {
        // A fold of it gives up.
        let _writer = self.writer(node);
        let content = node.content.lock();
        let Some(bytes) = self.needs_promotion(node)? else {
            return Ok(None);
        };
        self.promote_content(node, &content, None)?;
        Ok(Some(bytes))
    }

    fn entries_of(&self, path: &PrivatePath) -> Outcome<Vec<list::Named>> {
        let _names = self.names.read();
        let Some(node) = self.directory_below(path)? else {
            return Ok(Vec::new());
        };
        let private = self.private_directory(&node)?;
        let parts = Parts {
            private: private.as_ref().map(|directory| directory.as_fd()),
            shared: node.shared_directory(),
        };
        Ok(list::list(&self.view, parts)?)
    }

    /// The directory that these names lead to. With `names` held.
    fn directory_below(&self, path: &PrivatePath) -> Outcome<Option<Held<'_>>> {
        let node = self.descend(path)?.map(|node| self.held(node));
        Ok(node.filter(|node| node.file_type == FileType::Directory))
    }
}
