//! Reading content through: digests and comparisons.

use std::os::fd::BorrowedFd;

use rustix::fs;
use rustix::io::Errno;

use super::digest::{Digest, Hasher};
use crate::sys::copy;

/// How much is read at a time.
pub(super) const PIECE: usize = 128 * 1024;

/// Asked after each piece of content, with its bytes, whether to go on.
pub type GoOn<'a> = &'a dyn Fn(u64) -> bool;

/// The digest of an open file's content.
///
/// # Errors
/// Errors of reading.
pub fn digest_of(file: BorrowedFd<'_>) -> rustix::io::Result<Digest> {
    let mut hasher = Hasher::default();
    read_through(file, &mut |piece| {
        hasher.update(piece);
        true
    })?;
    Ok(hasher.finish())
}

/// [`digest_of`] for as long as `go_on` says so; `None` if it did not to the end.
///
/// # Errors
/// Errors of reading.
pub fn digest_while(file: BorrowedFd<'_>, go_on: GoOn<'_>) -> rustix::io::Result<Option<Digest>> {
    let mut hasher = Hasher::default();
    let complete = read_through(file, &mut |piece| {
        hasher.update(piece);
        go_on(piece.len() as u64)
    })?;
    Ok(complete.then(|| hasher.finish()))
}

/// Hands a file's content to `take` in pieces until it answers `false`; whether it never did.
fn read_through(
    file: BorrowedFd<'_>,
    take: &mut dyn FnMut(&[u8]) -> bool,
) -> rustix::io::Result<bool> {
    let mut buffer = vec![0; PIECE];
    let mut offset = 0;
    loop {
        let length = copy::read_at(file, &mut buffer, offset)?;
        if !take(&buffer[..length]) {
            return Ok(false);
        }
        offset += length as u64;
        if length < buffer.len() {
            return Ok(true);
        }
    }
}

/// Whether two open files have the same content.
///
/// # Errors
/// Errors of reading.
pub fn same_content(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    match same_bytes(a, b, &|_| true) {
        Ok(same) => Ok(same == Some(true)),
        Err(Unreadable::First(errno) | Unreadable::Second(errno)) => Err(errno),
    }
}

/// Which of two files cannot be read, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unreadable {
    First(Errno),
    Second(Errno),
}

/// Whether two open files have the same content; `None` if `go_on` said no.
pub(super) fn same_bytes(
    a: BorrowedFd<'_>,
    b: BorrowedFd<'_>,
    go_on: GoOn<'_>,
) -> Result<Option<bool>, Unreadable> {
    let sizes = (
        fs::fstat(a).map_err(Unreadable::First)?.st_size,
        fs::fstat(b).map_err(Unreadable::Second)?.st_size,
    );
    if sizes.0 != sizes.1 {
        return Ok(Some(false));
    }
    let mut other = vec![0; PIECE];
    let mut offset = 0;
    let mut same = Ok(true);
    let mut cancelled = false;
    read_through(a, &mut |piece| {
        same = copy::read_at(b, &mut other[..piece.len()], offset)
            .map(|length| length == piece.len() && other[..length] == *piece);
        offset += piece.len() as u64;
        cancelled = !go_on(piece.len() as u64);
        same == Ok(true) && !cancelled
    })
    .map_err(Unreadable::First)?;
    match same.map_err(Unreadable::Second)? {
        true if cancelled => Ok(None),
        same => Ok(Some(same)),
    }
}
