//! From an operation on indices to one on paths and slots, or none if nothing fits.

use rustix::fs::FileType;

use super::super::op::{self, Access, Also, Invisible, Op, Renaming, Where};
use super::super::{at, on_xfs};
use super::{Body, Id, Model};

/// Files stay below this.
const SIZE_MAX: usize = 1 << 20;

impl Model {
    /// The operation as it can be carried out now. What is left out would block (a fifo), leave the
    /// tree (a symlink), or depend on the machine's settings; on xfs also
    /// what keeps a size, and with it sometimes the times.
    pub fn prepare(&self, op: &Op) -> Option<Op<Vec<u8>>> {
        let paths = self.paths();
        let mut missing = false;
        let op = op.clone().map(|place| {
            let path = self.resolve(&paths, place);
            missing |= path.is_none();
            path.unwrap_or_default()
        });
        let op = match op {
            Op::Invisible(Invisible::Lock) if self.keeps_from_locking() => {
                Op::Invisible(Invisible::LockInVain)
            }
            op => op,
        };
        (!missing)
            .then(|| self.choose_slots(op))
            .flatten()
            .filter(|op| self.is_safe(op))
    }

    fn resolve(&self, paths: &[(Vec<u8>, Id)], place: Where) -> Option<Vec<u8>> {
        let nth = |n: u16, fits: &dyn Fn(&Vec<u8>, Id) -> bool| {
            let fitting: Vec<_> = paths.iter().filter(|(path, id)| fits(path, *id)).collect();
            let index = usize::from(n).checked_rem(fitting.len())?;
            Some(fitting[index].0.clone())
        };
        match place {
            Where::Root => Some(Vec::new()),
            Where::Path(path) => Some(path.into()),
            Where::Entry(n) => nth(n, &|path, _| !path.is_empty()),
            Where::File(n) => nth(n, &|_, id| matches!(self.nodes[&id].body, Body::File(_))),
            Where::Name(n, name) => Some(at::join(
                &nth(n, &|_, id| self.is_directory(id))?,
                &op::name(name),
            )),
            Where::Below(n) => Some(at::join(&nth(n, &|_, id| !self.is_directory(id))?, b"x")),
        }
    }

    fn choose_slots(&self, op: Op<Vec<u8>>) -> Option<Op<Vec<u8>>> {
        use Op::*;
        let nth = |n: u8, open: Vec<usize>| {
            let index = usize::from(n).checked_rem(open.len())?;
            Some(open[index] as u8)
        };
        let open = |n: u8| {
            let slots = 0..self.handles.len();
            nth(
                n,
                slots.filter(|slot| self.handles[*slot].is_some()).collect(),
            )
        };
        let mapped = |n: u8, writable: bool| {
            let slots = 0..self.mappings.len();
            let fits = |slot: &usize| self.mappings[*slot].is_some_and(|m| m.writable >= writable);
            nth(n, slots.filter(fits).collect())
        };
        Some(match op {
            Close { handle } => Close {
                handle: open(handle)?,
            },
            Read {
                handle,
                offset,
                length,
            } => Read {
                handle: open(handle)?,
                offset,
                length,
            },
            Write {
                handle,
                length,
                seed,
            } => Write {
                handle: open(handle)?,
                length,
                seed,
            },
            Pwrite {
                handle,
                offset,
                length,
                seed,
            } => Pwrite {
                handle: open(handle)?,
                offset,
                length,
                seed,
            },
            Ftruncate { handle, length } => Ftruncate {
                handle: open(handle)?,
                length,
            },
            Fallocate {
                handle,
                how,
                offset,
                length,
            } => Fallocate {
                handle: open(handle)?,
                how,
                offset,
                length,
            },
            Map { handle } => Map {
                handle: open(handle)?,
            },
            MapLoad { map } => MapLoad {
                map: mapped(map, false)?,
            },
            MapStore {
                map,
                offset,
                length,
                seed,
            } => {
                let map = mapped(map, true)?;
                let mapping = self.mapping(map);
                let limit = mapping.length.min(self.content(mapping.id).len()) as u32;
                let length = length.min(limit.checked_sub(offset)?);
                (length > 0).then_some(MapStore {
                    map,
                    offset,
                    length,
                    seed,
                })?
            }
            Unmap { map } => Unmap {
                map: mapped(map, false)?,
            },
            Fchmod { handle, mode } => Fchmod {
                handle: open(handle)?,
                mode,
            },
            Fsync { handle } => Fsync {
                handle: open(handle)?,
            },
            CopyRange {
                from,
                to,
                source,
                target,
                length,
            } => CopyRange {
                from: open(from)?,
                to: open(to)?,
                source,
                target,
                length,
            },
            SeekData { handle, offset } => SeekData {
                handle: open(handle)?,
                offset,
            },
            SeekHole { handle, offset } => SeekHole {
                handle: open(handle)?,
                offset,
            },
            other => other,
        })
    }

    fn is_safe(&self, op: &Op<Vec<u8>>) -> bool {
        match op {
            Op::Create { at, also, .. } => {
                let is_free = self.free_handle().is_some();
                let existing = self.find(at).ok().map(|id| &self.nodes[&id]);
                is_free
                    && existing.is_none_or(|node| {
                        let special = matches!(node.body, Body::Special(..));
                        !special && (*also == Also::Exclusive || !self.is_protected(at, node.uid))
                    })
            }
            Op::Open { at, .. } => {
                let id = self.find(at).ok();
                let special = |id: Id| matches!(self.nodes[&id].body, Body::Special(..));
                self.free_handle().is_some() && !id.is_some_and(special)
            }
            // chmod and access follow symlinks.
            Op::Chmod { at, .. } | Op::Access { at, .. } => {
                !self.find(at).is_ok_and(|id| self.is_symlink(id))
            }
            Op::Readdir { at } => !self.find(at).is_ok_and(|id| self.is_symlink(id)),
            // ext4 sets the times of the old directory even where this fails.
            Op::Rename {
                to,
                how: Renaming::Whiteout,
                ..
            } => !self.find(to).is_ok_and(|id| self.is_directory(id)),
            Op::Map { handle } => {
                let handle = self.handle(*handle);
                let free = self.mappings.iter().any(Option::is_none);
                free && !self.content(handle.id).is_empty()
            }
            Op::Write { handle, .. } | Op::Pwrite { handle, .. } => {
                let handle = self.handle(*handle);
                handle.access == Access::Read || self.content(handle.id).len() < SIZE_MAX
            }
            Op::Truncate { at, length } if on_xfs() => !self.find(at).is_ok_and(|id| {
                matches!(&self.nodes[&id].body, Body::File(content) if content.len() == *length as usize)
            }),
            Op::Ftruncate { handle, length } if on_xfs() => {
                self.content(self.handle(*handle).id).len() != *length as usize
            }
            _ => true,
        }
    }

    /// fs.protected_regular may forbid O_CREAT of what exists in a sticky directory.
    fn is_protected(&self, at: &[u8], uid: u32) -> bool {
        let Ok((directory, _)) = self.locate(at) else {
            return false;
        };
        let directory = &self.nodes[&directory];
        directory.mode & 0o1000 != 0 && directory.mode & 0o022 != 0 && uid != 0
    }

    /// The type of what a path names.
    pub fn file_type(&self, path: &[u8]) -> Option<FileType> {
        let id = self.find(path).ok()?;
        Some(self.entry(id, super::Depth::Attributes).file_type())
    }
}
