//! Copying content: reflink where the host can, else copy_file_range(2), holes kept.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{self, SeekFrom};
use rustix::io::{Errno, Result};

/// How much one call copies, so that a cancel flag is looked at in between.
const PIECE: usize = 16 << 20;

/// Shares all of `source`'s content with the empty file `target` (ioctl_ficlone(2)); `false` where
/// the host cannot.
pub fn reflink(source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<bool> {
    match fs::ioctl_ficlone(target, source) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOTTY | Errno::NOSYS) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Copies `size` bytes of content into the empty file `target`, which has that size afterwards;
/// by reflink where the host can. Holes stay holes. Neither file's offset matters to the caller.
///
/// # Errors
/// EIO when the source ends before `size`; whatever reading or writing gives.
pub fn copy(source: BorrowedFd<'_>, target: BorrowedFd<'_>, size: u64) -> Result<()> {
    if reflink(source, target)? {
        let copied = fs::fstat(target)?.st_size as u64;
        return if copied == size {
            Ok(())
        } else {
            Err(Errno::IO)
        };
    }
    copy_data(source, target, size)
}

/// Like [`copy`], of the first `size` bytes of a longer file.
pub fn copy_start(source: BorrowedFd<'_>, target: BorrowedFd<'_>, size: u64) -> Result<()> {
    if size > 0 && reflink(source, target)? {
        return match fs::fstat(target)?.st_size as u64 {
            whole if whole < size => Err(Errno::IO),
            _ => fs::ftruncate(target, size),
        };
    }
    copy_data(source, target, size)
}

fn copy_data(source: BorrowedFd<'_>, target: BorrowedFd<'_>, size: u64) -> Result<()> {
    if (fs::fstat(source)?.st_size as u64) < size {
        return Err(Errno::IO);
    }
    fs::ftruncate(target, size)?;
    let mut position = 0;
    while position < size {
        let data = match fs::seek(source, SeekFrom::Data(position)) {
            Ok(data) => data,
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => position,
            Err(error) => return Err(error),
        };
        if data >= size {
            break;
        }
        let end = match fs::seek(source, SeekFrom::Hole(data)) {
            Ok(end) => end.min(size),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => size,
            Err(error) => return Err(error),
        };
        copy_range(source, target, data, end)?;
        position = end;
    }
    Ok(())
}

fn copy_range(source: BorrowedFd<'_>, target: BorrowedFd<'_>, start: u64, end: u64) -> Result<()> {
    let (mut from, mut to) = (start, start);
    while from < end {
        let length = usize::try_from(end - from).unwrap_or(usize::MAX).min(PIECE);
        match fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), length) {
            Ok(0) => return Err(Errno::IO),
            Ok(_) => {}
            Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
                return copy_through_memory(source, target, from, end);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn copy_through_memory(
    source: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    mut position: u64,
    end: u64,
) -> Result<()> {
    let mut buffer = vec![0; 256 << 10];
    while position < end {
        let want = buffer
            .len()
            .min(usize::try_from(end - position).unwrap_or(usize::MAX));
        let length = read_at(source, &mut buffer[..want], position)?;
        if length == 0 {
            return Err(Errno::IO);
        }
        write_all_at(target, &buffer[..length], position)?;
        position += length as u64;
    }
    Ok(())
}

/// pread(2) until the buffer is full or the file ends; the length read.
pub fn read_at(file: impl AsFd, buffer: &mut [u8], offset: u64) -> Result<usize> {
    let file = file.as_fd();
    let mut done = 0;
    while done < buffer.len() {
        match rustix::io::pread(file, &mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(length) => done += length,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// pwrite(2) until all is written.
pub fn write_all_at(file: impl AsFd, bytes: &[u8], offset: u64) -> Result<()> {
    let file = file.as_fd();
    let mut done = 0;
    while done < bytes.len() {
        match rustix::io::pwrite(file, &bytes[done..], offset + done as u64) {
            Ok(0) => return Err(Errno::IO),
            Ok(length) => done += length,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, Write};
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn copies_content_and_keeps_holes() {
        let mut source = tempfile::tempfile().unwrap();
        source.write_all(b"head").unwrap();
        source.seek(std::io::SeekFrom::Start(64 << 20)).unwrap();
        source.write_all(b"tail").unwrap();
        let target = tempfile::tempfile().unwrap();
        let size = (64 << 20) + 4;
        copy(source.as_fd(), target.as_fd(), size).unwrap();
        let mut tail = [0; 4];
        assert_eq!(read_at(&target, &mut tail, 64 << 20).unwrap(), 4);
        assert_eq!(&tail, b"tail");
        assert_eq!(target.metadata().unwrap().size(), size);
        assert!(target.metadata().unwrap().blocks() < 1000);
    }

    #[test]
    fn a_source_that_is_too_short_is_an_error() {
        let source = tempfile::tempfile().unwrap();
        let target = tempfile::tempfile().unwrap();
        assert_eq!(copy(source.as_fd(), target.as_fd(), 10), Err(Errno::IO));
    }
}
