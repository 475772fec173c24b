//! What an applied change does to an image: a name gets a version that somebody else has made.

use std::sync::Arc;

use super::Filesystem;
use super::failure::Outcome;
use super::node::Node;
use super::resolve::check_name;
use crate::store::draft::{self, Draft};
use crate::store::mark::{DirectoryRole, Mark, Role};
use crate::store::metadata::{Content, Metadata};
use crate::store::number::Number;

impl Filesystem {
    /// Makes a name: a new inode of this content, whose bytes are an object, and with this metadata. A
    /// directory is empty.
    ///
    /// # Errors
    /// As [`Filesystem::create`].
    pub fn put(
        &self,
        parent: &Arc<Node>,
        name: &[u8],
        content: &Content,
        metadata: &Metadata,
    ) -> Outcome<Number> {
        check_name(name)?;
        let number = self.store.numbers().next()?;
        let _change = self.change.read();
        let _names = self.names.write();
        let (directory, room) = self.room(parent, name)?;
        let draft = Draft::new(&self.view.layer, content)?;
        let role = match content {
            Content::Directory => Role::Directory(DirectoryRole::Own),
            Content::Regular {
                digest: Some(digest),
                ..
            } => Role::Stub { digest: *digest },
            _ => Role::File,
        };
        draft.mark(&Mark::new(number, role))?;
        draft.describe(metadata)?;
        self.change_names(&[parent], || {
            self.fill(room, draft, &directory, name, content.file_type())
        })?;
        Ok(number)
    }

    /// Gives an inode this metadata, and no other xattrs.
    ///
    /// # Errors
    /// Those of the host.
    pub fn describe(&self, node: &Arc<Node>, metadata: &Metadata) -> Outcome<()> {
        let _change = self.change.read();
        let _names = self.names.write();
        self.change_metadata(node, |host| {
            let (directory, name) = (host.directory(self), host.name());
            Ok(draft::describe(directory, name, node.file_type, metadata)?)
        })
    }

    /// How many names an image shows of a file that it has in `index/`.
    ///
    /// # Errors
    /// Those of the host and the catalog.
    pub fn names_of_indexed(&self, number: Number) -> Outcome<u32> {
        let _names = self.names.read();
        self.indexed_links(number)
    }
}
