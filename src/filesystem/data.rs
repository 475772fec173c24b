//! Reading and altering the content of open files.
//!
//! A change of content clears set-id bits and security.capability. The xattr the host clears, with
//! each change that the daemon makes. The bits it leaves alone, as the daemon has CAP_FSETID: we
//! clear them by what the caller has. (The kernel leaves it to us, FUSE_HANDLE_KILLPRIV_V2; without
//! that it would send a SETATTR before each write.)

use std::sync::Arc;

use rustix::fs::{self, FallocateFlags, SeekFrom};
use rustix::io::Errno;

use super::failure::Outcome;
use super::handles::FileHandle;
use super::node::{Backing, Node, OpenFile};
use super::open::ContentGuard;
use super::{Caller, Filesystem};
use crate::store::verification::damaged;
use crate::sys::copy;
use crate::sys::durable::{self, Step};

/// What becomes of the set-id bits of a file whose content is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SetId {
    /// They stay: the caller is known to have CAP_FSETID.
    #[default]
    Keep,
    /// They are cleared as for any other caller (setattr_should_drop_suidgid() of the kernel).
    ClearFor(Caller),
}

/// What lseek(2) looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seek {
    /// SEEK_DATA
    Data,
    /// SEEK_HOLE
    Hole,
}

/// How much one [`Filesystem::copy_range`] copies at most, as copy_file_range(2) itself.
const COPY_MAX: u64 = 0x7fff_f000;

impl Filesystem {
    /// pread(2): fills the buffer as far as the file goes; the length read.
    ///
    /// # Errors
    /// EIO where the content is damaged; the host's.
    pub fn read(&self, handle: u64, offset: u64, buffer: &mut [u8]) -> Outcome<usize> {
        let handle = self.handles.file(handle)?;
        let open = self.content_of(&handle)?;
        let length = copy::read_at(&open.file, buffer, offset)?;
        if let Backing::Object {
            size,
            digest: Some(digest),
            ..
        } = &open.backing
            && length as u64 != size.saturating_sub(offset).min(buffer.len() as u64)
        {
            return Err(damaged(digest, "its size has changed").into());
        }
        Ok(length)
    }

    /// pwrite(2): writes all, or as much as there is room for; the length written.
    ///
    /// # Errors
    /// EBADF for a handle that was not opened for writing; the host's. A file that could not be
    /// promoted is as it was.
    pub fn write(&self, handle: u64, offset: u64, bytes: &[u8], set_id: SetId) -> Outcome<usize> {
        let handle = self.writing(handle)?;
        if bytes.is_empty() {
            return Ok(0);
        }
        let open = self.open_to_change(&handle.node)?;
        self.apply_set_id(&handle.node, set_id)?;
        durable::perform(Step::Write, || Ok(write_some(&open, bytes, offset)?))
    }

    /// fallocate(2), with the modes of the host.
    ///
    /// # Errors
    /// EOPNOTSUPP for a mode that the host does not know; EBADF, EINVAL, EFBIG, ENOSPC.
    pub fn fallocate(
        &self,
        handle: u64,
        mode: u32,
        offset: u64,
        length: u64,
        set_id: SetId,
    ) -> Outcome<()> {
        let handle = self.writing(handle)?;
        let known = FallocateFlags::KEEP_SIZE
            | FallocateFlags::PUNCH_HOLE
            | FallocateFlags::ZERO_RANGE
            | FallocateFlags::COLLAPSE_RANGE
            | FallocateFlags::INSERT_RANGE
            | FallocateFlags::UNSHARE_RANGE;
        let mode = FallocateFlags::from_bits(mode).ok_or(Errno::OPNOTSUPP)?;
        if !known.contains(mode) {
            return Err(Errno::OPNOTSUPP.into());
        }
        let end = offset.checked_add(length).ok_or(Errno::FBIG)?;
        if length == 0 || i64::try_from(offset).is_err() {
            return Err(Errno::INVAL.into());
        }
        if i64::try_from(end).is_err() {
            return Err(Errno::FBIG.into());
        }
        let open = self.open_to_change(&handle.node)?;
        self.apply_set_id(&handle.node, set_id)?;
        durable::perform(Step::Write, || {
            Ok(fs::fallocate(&open.file, mode, offset, length)?)
        })
    }

    /// lseek(2) with SEEK_DATA or SEEK_HOLE.
    ///
    /// # Errors
    /// ENXIO behind the last of it.
    pub fn seek(&self, handle: u64, offset: u64, what: Seek) -> Outcome<u64> {
        let handle = self.handles.file(handle)?;
        let open = self.content_of(&handle)?;
        if i64::try_from(offset).is_err() {
            return Err(Errno::NXIO.into());
        }
        // The descriptor's own position serves nothing else.
        let position = match what {
            Seek::Data => SeekFrom::Data(offset),
            Seek::Hole => SeekFrom::Hole(offset),
        };
        Ok(fs::seek(&open.file, position)?)
    }

    /// copy_file_range(2): the length copied, by reflink where the host can.
    ///
    /// # Errors
    /// EXDEV and EOPNOTSUPP where the host cannot: the kernel copies by reading and writing then.
    pub fn copy_range(
        &self,
        from: (u64, u64),
        to: (u64, u64),
        length: u64,
        set_id: SetId,
    ) -> Outcome<u64> {
        let source = self.handles.file(from.0)?;
        let target = self.writing(to.0)?;
        let in_file = self.content_of(&source)?;
        let size = fs::fstat(&in_file.file)?.st_size as u64;
        let length = length.min(COPY_MAX).min(size.saturating_sub(from.1));
        if length == 0 {
            return Ok(0);
        }
        let out_file = self.open_to_change(&target.node)?;
        self.apply_set_id(&target.node, set_id)?;
        // Where both are one file it may have been promoted.
        let in_file = self.content_of(&source)?;
        let (mut from, mut to) = (from.1, to.1);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let copied = durable::perform(Step::Write, || {
            let (source, target) = (&in_file.file, &out_file.file);
            fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), length)
        })?;
        Ok(copied as u64)
    }

    /// Gives a regular file another size; growing it makes a hole. One whose content is an object
    /// becomes a private file with as much of it as remains.
    pub(super) fn resize(
        &self,
        node: &Arc<Node>,
        content: &ContentGuard<'_>,
        size: u64,
    ) -> Outcome<()> {
        if i64::try_from(size).is_err() {
            return Err(Errno::FBIG.into());
        }
        let open = self.open_to_write(node, content)?;
        if let Backing::Object { .. } = open.backing {
            self.promote_content(node, content, Some(size))?;
            return Ok(());
        }
        let open = self.open_to_change_locked(node, content)?;
        Ok(durable::truncate(&open.file, size)?)
    }

    /// [`Filesystem::resize`] by a request, with or without a handle.
    pub(super) fn resize_requested(
        &self,
        node: &Arc<Node>,
        size: u64,
        set_id: SetId,
    ) -> Outcome<()> {
        let _writer = self.writer(node);
        self.refuse_locked_now(node)?;
        let content = node.content.lock();
        self.resize(node, &content, size)?;
        self.apply_set_id(node, set_id)
    }

    /// Clears set-id bits that a change of a private file's content clears.
    pub(super) fn apply_set_id(&self, node: &Arc<Node>, set_id: SetId) -> Outcome<()> {
        let SetId::ClearFor(caller) = set_id else {
            return Ok(());
        };
        // Asked with every write of an unprivileged process: no lock for the usual answer.
        let open = node.state.lock().open.clone();
        if let Some(open) = open.filter(|open| open.backing == Backing::Writable)
            && fs::fstat(&open.file)?.st_mode & (libc::S_ISUID | libc::S_ISGID) == 0
        {
            return Ok(());
        }
        let _change = self.change.read();
        let _names = self.names.write();
        let (stat, _) = self.host_inode(node)?;
        let mode = stat.st_mode & 0o7777;
        let kept = caller.mode_after_change(mode, stat.st_gid);
        if kept != mode {
            let host = self.host(node)?.ok_or(Errno::IO)?;
            durable::chmod(host.directory(self), host.name(), kept)?;
        }
        Ok(())
    }

    fn content_of(&self, handle: &FileHandle) -> Outcome<Arc<OpenFile>> {
        if handle.is_lost {
            return Err(Errno::IO.into());
        }
        match &handle.direct {
            Some(open) => {
                self.refuse_damaged(open)?;
                match self.is_outdated(open) {
                    true => Err(Errno::IO.into()),
                    false => Ok(open.clone()),
                }
            }
            None => self.open_to_read(&handle.node),
        }
    }

    fn writing(&self, handle: u64) -> Outcome<Arc<FileHandle>> {
        let handle = self.handles.file(handle)?;
        if handle.writer.is_none() {
            return Err(Errno::BADF.into());
        }
        Ok(handle)
    }
}

/// pwrite(2) until all is written or an error comes: what was written before it counts.
fn write_some(open: &OpenFile, bytes: &[u8], offset: u64) -> rustix::io::Result<usize> {
    let mut done = 0;
    while done < bytes.len() {
        match rustix::io::pwrite(&open.file, &bytes[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(length) => done += length,
            Err(Errno::INTR) => {}
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests;
