//! Open files, their content and mappings of it.

use rustix::io::Errno;

use super::super::op::{self, Access, Allocation, Also, Op};
use super::{Body, Id, Model, Outcome, Result};

/// An open file.
#[derive(Debug, Clone, Copy)]
pub struct Handle {
    /// The file.
    pub id: Id,
    /// What it was opened for.
    pub access: Access,
    /// O_APPEND.
    pub append: bool,
    /// Where write(2) writes.
    pub position: u64,
}

/// A shared mapping.
#[derive(Debug, Clone, Copy)]
pub struct Mapping {
    /// The file.
    pub id: Id,
    /// PROT_WRITE.
    pub writable: bool,
    /// Bytes from the file's start.
    pub length: usize,
}

impl Model {
    /// An open file by its slot, which `prepare` has checked.
    pub fn handle(&self, slot: u8) -> Handle {
        self.handles[usize::from(slot)].expect("prepare chose an open handle")
    }

    /// A mapping by its slot, likewise.
    pub fn mapping(&self, slot: u8) -> Mapping {
        self.mappings[usize::from(slot)].expect("prepare chose a mapping")
    }

    /// The content of a regular file.
    pub fn content(&self, id: Id) -> &Vec<u8> {
        match &self.nodes[&id].body {
            Body::File(content) => content,
            _ => panic!("{id} is no file"),
        }
    }

    fn content_mut(&mut self, id: Id) -> &mut Vec<u8> {
        match &mut self.node(id).body {
            Body::File(content) => content,
            _ => panic!("{id} is no file"),
        }
    }

    pub(super) fn perform_data(&mut self, op: &Op<Vec<u8>>) -> Option<Result<Outcome>> {
        Some(match *op {
            Op::Create {
                ref at,
                mode,
                access,
                also,
            } => self.create(at, mode, access, also),
            Op::Open {
                ref at,
                access,
                also,
            } => self.find(at).and_then(|id| self.open(id, access, also)),
            Op::Close { handle } => {
                self.handles[usize::from(handle)] = None;
                Ok(Outcome::Done)
            }
            Op::Read {
                handle,
                offset,
                length,
            } => self.read_handle(handle, offset, length),
            Op::Write {
                handle,
                length,
                seed,
            } => {
                let opened = self.handle(handle);
                self.write(handle, opened.position, &op::pattern(seed, length), true)
            }
            Op::Pwrite {
                handle,
                offset,
                length,
                seed,
            } => self.write(handle, offset.into(), &op::pattern(seed, length), false),
            Op::Ftruncate { handle, length } => self.ftruncate(handle, length),
            Op::Truncate { ref at, length } => {
                self.find(at).and_then(|id| self.truncate(id, length))
            }
            Op::Fallocate {
                handle,
                how,
                offset,
                length,
            } => self.fallocate(handle, how, offset as usize, length as usize),
            Op::Map { handle } => self.map(handle),
            Op::MapLoad { map } => {
                let mapping = self.mapping(map);
                let content = self.content(mapping.id);
                Ok(Outcome::Bytes(
                    content[..content.len().min(mapping.length)].to_vec(),
                ))
            }
            Op::MapStore {
                map,
                offset,
                length,
                seed,
            } => {
                let id = self.mapping(map).id;
                let bytes = op::pattern(seed, length);
                let offset = offset as usize;
                self.content_mut(id)[offset..offset + bytes.len()].copy_from_slice(&bytes);
                self.touch(id);
                Ok(Outcome::Done)
            }
            Op::Unmap { map } => {
                self.mappings[usize::from(map)] = None;
                Ok(Outcome::Done)
            }
            Op::Fsync { .. } => Ok(Outcome::Done),
            Op::CopyRange {
                from,
                to,
                source,
                target,
                length,
            } => self.copy_range(from, to, source as usize, target as usize, length as usize),
            Op::SeekData { handle, offset } => self.seek(handle, offset, true),
            Op::SeekHole { handle, offset } => self.seek(handle, offset, false),
            _ => return None,
        })
    }

    fn create(&mut self, at: &[u8], mode: u32, access: Access, also: Also) -> Result<Outcome> {
        let (directory, name) = self.locate(at)?;
        let Some(id) = self.child(directory, name)? else {
            let id = self.make_in(directory, name, Body::File(Vec::new()), mode);
            self.hold(id, access, also);
            return Ok(Outcome::Done);
        };
        if also == Also::Exclusive {
            return Err(Errno::EXIST);
        }
        if self.is_directory(id) {
            return Err(Errno::ISDIR);
        }
        // fs.protected_regular, whatever it is set to: `prepare` leaves out what it would refuse.
        self.open(id, access, also)
    }

    fn open(&mut self, id: Id, access: Access, also: Also) -> Result<Outcome> {
        match &self.nodes[&id].body {
            Body::Symlink(_) => return Err(Errno::LOOP),
            Body::Directory(_) if access != Access::Read || also == Also::Truncate => {
                return Err(Errno::ISDIR);
            }
            Body::Directory(_) => return Ok(Outcome::Done),
            Body::Special(..) => panic!("prepare opens no devices"),
            Body::File(_) => {}
        }
        if also == Also::Truncate {
            self.content_mut(id).clear();
            self.touch(id);
        }
        self.hold(id, access, also);
        Ok(Outcome::Done)
    }

    fn hold(&mut self, id: Id, access: Access, also: Also) {
        let slot = self
            .free_handle()
            .expect("prepare made sure that there is one");
        let append = also == Also::Append;
        self.handles[slot] = Some(Handle {
            id,
            access,
            append,
            position: 0,
        });
    }

    /// The first free slot.
    pub fn free_handle(&self) -> Option<usize> {
        self.handles.iter().position(Option::is_none)
    }

    fn read_handle(&mut self, slot: u8, offset: u32, length: u32) -> Result<Outcome> {
        let handle = self.handle(slot);
        if handle.access == Access::Write {
            return Err(Errno::BADF);
        }
        let content = self.content(handle.id);
        let start = content.len().min(offset as usize);
        let end = content.len().min(start + length as usize);
        Ok(Outcome::Bytes(content[start..end].to_vec()))
    }

    fn write(&mut self, slot: u8, offset: u64, bytes: &[u8], moves: bool) -> Result<Outcome> {
        let handle = self.handle(slot);
        if handle.access == Access::Read {
            return Err(Errno::BADF);
        }
        if bytes.is_empty() {
            return Ok(Outcome::Count(0));
        }
        let content = self.content_mut(handle.id);
        // pwrite appends too: the bug that pwrite(2) describes.
        let start = if handle.append {
            content.len()
        } else {
            offset as usize
        };
        let end = start + bytes.len();
        if content.len() < end {
            content.resize(end, 0);
        }
        content[start..end].copy_from_slice(bytes);
        self.touch(handle.id);
        if moves && let Some(handle) = &mut self.handles[usize::from(slot)] {
            handle.position = end as u64;
        }
        Ok(Outcome::Count(bytes.len()))
    }

    fn ftruncate(&mut self, slot: u8, length: u32) -> Result<Outcome> {
        let handle = self.handle(slot);
        if handle.access == Access::Read {
            return Err(Errno::INVAL);
        }
        self.content_mut(handle.id).resize(length as usize, 0);
        self.touch(handle.id);
        Ok(Outcome::Done)
    }

    fn truncate(&mut self, id: Id, length: u32) -> Result<Outcome> {
        match &mut self.node(id).body {
            Body::Directory(_) => return Err(Errno::ISDIR),
            Body::File(content) => content.resize(length as usize, 0),
            _ => return Err(Errno::INVAL),
        }
        self.touch(id);
        Ok(Outcome::Done)
    }

    fn fallocate(
        &mut self,
        slot: u8,
        how: Allocation,
        offset: usize,
        length: usize,
    ) -> Result<Outcome> {
        let handle = self.handle(slot);
        if length == 0 {
            return Err(Errno::INVAL);
        }
        if handle.access == Access::Read {
            return Err(Errno::BADF);
        }
        let content = self.content_mut(handle.id);
        let end = offset + length;
        if matches!(how, Allocation::Extend | Allocation::Zero) && content.len() < end {
            content.resize(end, 0);
        }
        if matches!(
            how,
            Allocation::Punch | Allocation::Zero | Allocation::ZeroKeep
        ) {
            let size = content.len();
            content[offset.min(size)..end.min(size)].fill(0);
        }
        self.touch(handle.id);
        Ok(Outcome::Done)
    }

    fn map(&mut self, slot: u8) -> Result<Outcome> {
        let handle = self.handle(slot);
        if handle.access == Access::Write {
            return Err(Errno::ACCESS);
        }
        let mapping = Mapping {
            id: handle.id,
            writable: handle.access == Access::Both,
            length: self.content(handle.id).len(),
        };
        let free = self.mappings.iter_mut().find(|mapping| mapping.is_none());
        *free.expect("prepare made sure that there is one") = Some(mapping);
        Ok(Outcome::Done)
    }

    fn copy_range(
        &mut self,
        from: u8,
        to: u8,
        source: usize,
        target: usize,
        length: usize,
    ) -> Result<Outcome> {
        let (from, to) = (self.handle(from), self.handle(to));
        if from.access == Access::Write || to.access == Access::Read || to.append {
            return Err(Errno::BADF);
        }
        let content = self.content(from.id);
        let count = length.min(content.len().saturating_sub(source));
        if from.id == to.id && target + count > source && target < source + count {
            return Err(Errno::INVAL);
        }
        if count == 0 {
            return Ok(Outcome::Count(0));
        }
        let bytes = content[source..source + count].to_vec();
        let content = self.content_mut(to.id);
        if content.len() < target + count {
            content.resize(target + count, 0);
        }
        content[target..target + count].copy_from_slice(&bytes);
        self.touch(to.id);
        Ok(Outcome::Count(count))
    }

    fn seek(&mut self, slot: u8, offset: u32, data: bool) -> Result<Outcome> {
        let content = self.content(self.handle(slot).id).clone();
        Ok(Outcome::Seek {
            content,
            from: offset.into(),
            data,
        })
    }
}
