//! What is locked.

use super::super::op::{Access, Also, Op, Renaming};
use super::{Body, Id, Model};

/// Whether something there is locked, as [`super::super::op::LOCKED`] has it.
fn is_locked(path: &[u8], is_directory: bool) -> bool {
    let names: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    let locked = |(index, name): (usize, &&[u8])| match *name {
        b"etc" => index == 0,
        b"conf" => true,
        b".hidden" => is_directory || index + 1 < names.len(),
        _ => false,
    };
    names.iter().enumerate().any(locked)
}

impl Model {
    /// Whether an operation would alter what is locked.
    pub fn denies(&self, op: &Op<Vec<u8>>) -> bool {
        if !self.is_locking {
            return false;
        }
        match op {
            Op::Create {
                at, access, also, ..
            } => match self.find(at) {
                Ok(id) => *also != Also::Exclusive && self.denies_opening(id, *access, *also),
                Err(_) => is_locked(at, false),
            },
            Op::Open { at, access, also } => {
                let found = self.find(at);
                found.is_ok_and(|id| self.denies_opening(id, *access, *also))
            }
            Op::Mkdir { at, .. } => is_locked(at, true),
            Op::Symlink { at, .. } | Op::Mknod { at, .. } => is_locked(at, false),
            Op::Link { from, to } => self.is_inode_locked(from) || is_locked(to, false),
            Op::Rename { from, to, how } => self.denies_renaming(from, to, *how),
            Op::Unlink { at }
            | Op::Rmdir { at }
            | Op::Truncate { at, .. }
            | Op::Chmod { at, .. }
            | Op::Chown { at, .. }
            | Op::Utimens { at, .. }
            | Op::SetXattr { at, .. }
            | Op::RemoveXattr { at, .. } => self.is_inode_locked(at),
            Op::Fchmod { handle, .. } => self.is_locked_by_a_name(self.handle(*handle).id),
            _ => false,
        }
    }

    /// Whether somebody can write to a file that would come to be locked.
    pub(super) fn keeps_from_locking(&self) -> bool {
        let handles = self.handles.iter().flatten();
        let written = handles.filter(|handle| handle.access != Access::Read);
        let mappings = self.mappings.iter().flatten();
        let mapped = mappings.filter(|mapping| mapping.writable);
        let mut files = written.map(|it| it.id).chain(mapped.map(|it| it.id));
        !self.is_locking && files.any(|id| self.is_locked_by_a_name(id))
    }

    fn is_locked_by_a_name(&self, id: Id) -> bool {
        let is_directory = self.nodes.contains_key(&id) && self.is_directory(id);
        let paths = self.paths();
        let mut names = paths.iter().filter(|(_, named)| *named == id);
        names.any(|(path, _)| is_locked(path, is_directory))
    }

    fn is_inode_locked(&self, path: &[u8]) -> bool {
        self.find(path).is_ok_and(|id| self.is_locked_by_a_name(id))
    }

    fn denies_opening(&self, id: Id, access: Access, also: Also) -> bool {
        let alters = access != Access::Read || also == Also::Truncate;
        let is_file = matches!(self.nodes[&id].body, Body::File(_));
        alters && is_file && self.is_locked_by_a_name(id)
    }

    fn denies_renaming(&self, from: &[u8], to: &[u8], how: Renaming) -> bool {
        let (source, target) = (self.find(from), self.find(to));
        let Ok(id) = source else {
            return false;
        };
        // The kernel leaves two names of one file as they are.
        if source == target {
            return false;
        }
        let is_directory = self.is_directory(id);
        let leaves = how == Renaming::Whiteout && is_locked(from, false);
        let source_denies = leaves
            || self.is_locked_by_a_name(id)
            || is_locked(to, is_directory)
            || self.has_locked_below(from, to);
        let Ok(target) = target else {
            return source_denies;
        };
        let is_directory = self.is_directory(target);
        let comes_back = how == Renaming::Exchange
            && (is_locked(from, is_directory) || self.has_locked_below(to, from));
        source_denies || comes_back || self.is_locked_by_a_name(target)
    }

    /// Whether something below a path is locked, or would be if it were below another one.
    fn has_locked_below(&self, path: &[u8], other: &[u8]) -> bool {
        self.paths().iter().any(|(found, id)| {
            let rest = found.strip_prefix(path);
            let rest = rest.filter(|rest| rest.starts_with(b"/"));
            let is_directory = self.is_directory(*id);
            rest.is_some_and(|rest| {
                is_locked(found, is_directory) || is_locked(&[other, rest].concat(), is_directory)
            })
        })
    }
}
