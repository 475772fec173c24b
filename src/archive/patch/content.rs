//! Contents in a patch: in blocks, each a zstd frame, which may refer to a part of an old content.
//!
//! Block i is bytes i * BLOCK and following of the new content. A delta's frame has as its prefix
//! (zstd's `--patch-from`) the bytes of the old content from one BLOCK before that to one BLOCK after
//! its end, as far as there are such. So what is in memory does not grow with the files.

use std::os::fd::BorrowedFd;

use zstd::zstd_safe::{self, CCtx, CParameter, DCtx};

use super::ContentId;
use crate::error::{Context, Error, Result};
use crate::store::digest::Hasher;
use crate::sys::copy;

/// Bytes of a block, but of the last one.
pub(super) const BLOCK: u64 = 16 << 20;
/// At which level zstd is asked to work.
const LEVEL: i32 = 12;
/// The prefix and the block fit into so many bits.
const WINDOW_MIN: u32 = 17;

/// How many blocks a content of this size has.
pub(super) fn blocks(size: u64) -> u64 {
    size.div_ceil(BLOCK)
}

/// Bytes of a block.
pub(super) fn block_size(size: u64, block: u64) -> u64 {
    BLOCK.min(size - block * BLOCK)
}

/// The most that a block takes in a patch.
pub(super) fn stored_max(size: u64) -> u64 {
    zstd_safe::compress_bound(size as usize) as u64
}

/// The part of an old content that a block's frame refers to.
fn prefix_range(old_size: u64, block: u64) -> std::ops::Range<u64> {
    let start = (block * BLOCK).saturating_sub(BLOCK).min(old_size);
    start..((block + 2) * BLOCK).min(old_size)
}

fn read_range(file: BorrowedFd<'_>, range: std::ops::Range<u64>) -> rustix::io::Result<Vec<u8>> {
    let mut bytes = vec![0; (range.end - range.start) as usize];
    let length = copy::read_at(file, &mut bytes, range.start)?;
    bytes.truncate(length);
    Ok(bytes)
}

fn zstd(code: usize) -> Error {
    Error::failed("zstd", zstd_safe::get_error_name(code))
}

fn pack(bytes: &[u8], prefix: Option<&[u8]>) -> Result<Vec<u8>> {
    let mut context = CCtx::create();
    let whole = bytes.len() + prefix.map_or(0, <[u8]>::len);
    let window = WINDOW_MIN.max(usize::BITS - whole.leading_zeros());
    let mut set = |parameter| context.set_parameter(parameter).map_err(zstd);
    set(CParameter::CompressionLevel(LEVEL))?;
    if let Some(prefix) = prefix {
        set(CParameter::WindowLog(window))?;
        set(CParameter::EnableLongDistanceMatching(true))?;
        context.ref_prefix(prefix).map_err(zstd)?;
    }
    let mut out = Vec::with_capacity(zstd_safe::compress_bound(bytes.len()));
    context.compress2(&mut out, bytes).map_err(zstd)?;
    Ok(out)
}

/// Hands the frames of a content to `take`, and says whether they refer to the old one: only where that
/// makes them smaller.
///
/// # Errors
/// The content is not what it was said to be: something writes to it; those of reading, and of `take`.
pub(super) fn pack_all(
    new: (&ContentId, BorrowedFd<'_>),
    old: Option<(&ContentId, BorrowedFd<'_>)>,
    take: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<bool> {
    let (id, file) = new;
    let mut hasher = Hasher::default();
    let mut is_delta = old.is_some();
    for block in 0..blocks(id.size) {
        let start = block * BLOCK;
        let range = start..start + block_size(id.size, block);
        let bytes = read_range(file, range).about("reading it")?;
        hasher.update(&bytes);
        let old = old.filter(|_| is_delta);
        let frame = match old {
            None => pack(&bytes, None)?,
            Some((old, file)) => {
                let range = prefix_range(old.size, block);
                let prefix = read_range(file, range).about("reading the old content")?;
                let delta = pack(&bytes, Some(&prefix))?;
                // The first block tells for all.
                let doubtful = block == 0 && delta.len() > bytes.len() / 8;
                match doubtful.then(|| pack(&bytes, None)).transpose()? {
                    Some(plain) if plain.len() <= delta.len() => {
                        is_delta = false;
                        plain
                    }
                    _ => delta,
                }
            }
        };
        take(&frame)?;
    }
    if hasher.finish() != id.digest {
        return Err(Error::failed("it", "it changed while it was read")
            .remedy("stop what writes to it, or take a clone or a snapshot"));
    }
    Ok(is_delta)
}

/// Unpacks the frame of a block. `old`: what it refers to. `None`: it is no frame of a block of this size
/// and of that content.
///
/// # Errors
/// Those of reading the old content.
pub(super) fn unpack(
    frame: &[u8],
    size: u64,
    block: u64,
    old: Option<(&ContentId, BorrowedFd<'_>)>,
) -> Result<Option<Vec<u8>>> {
    let length = block_size(size, block) as usize;
    let prefix = match old {
        Some((old, file)) => {
            let range = prefix_range(old.size, block);
            Some(read_range(file, range).about("reading the old content")?)
        }
        None => None,
    };
    let mut context = DCtx::create();
    if let Some(prefix) = &prefix {
        context.ref_prefix(prefix).map_err(zstd)?;
    }
    // It writes into the room that there is, and fails where that is not enough.
    let mut out = Vec::with_capacity(length);
    let unpacked = context.decompress(&mut out, frame);
    Ok((unpacked == Ok(length)).then_some(out))
}
