//! Reading symbolic links.

use std::sync::Arc;

use rustix::fs;
use rustix::io::Errno;

use super::Filesystem;
use super::failure::Outcome;
use super::node::{Node, Source};
use crate::store::metadata::Content;

impl Filesystem {
    /// readlink(2).
    ///
    /// # Errors
    /// EINVAL for anything but a symlink.
    pub fn read_link(&self, node: &Arc<Node>) -> Outcome<Vec<u8>> {
        let _names = self.names.read();
        match node.source() {
            Source::Shared(shared) => match &self.shared_inode(node, shared)?.content {
                Content::Symlink { target } => Ok(target.to_vec()),
                _ => Err(Errno::INVAL.into()),
            },
            Source::Private => {
                let host = self.host(node)?.ok_or(Errno::IO)?;
                let target = fs::readlinkat(host.directory(self), host.name(), Vec::new())?;
                Ok(target.into_bytes())
            }
            Source::SharedDirectory(_) | Source::PrivateDirectory(_) => Err(Errno::INVAL.into()),
        }
    }
}
