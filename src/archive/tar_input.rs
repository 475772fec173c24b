//! The bytes of an archive: from a file or standard input, decompressed in a thread of their own.

use std::fs::File;
use std::io::{self, BufReader, Chain, Cursor, Read};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::error::{Context, Error, Result};
use crate::progress::Progress;

/// What the thread hands over at a time.
const PIECE: usize = 256 << 10;
/// How many pieces may wait.
const QUEUE: usize = 16;
/// What an xz dictionary may need; `xz -9` needs 65 MiB.
const XZ_MEMORY_MAX: u64 = 1 << 30;
/// LZMA_CONCATENATED (lzma/base.h).
const XZ_CONCATENATED: u32 = 8;

/// How an archive is compressed, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Xz,
    Zstandard,
}

impl Compression {
    /// # Errors
    /// Names a compression that is known but not supported.
    fn of(head: &[u8]) -> std::result::Result<Self, &'static str> {
        match head {
            [0x1f, 0x8b, ..] => Ok(Self::Gzip),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Ok(Self::Xz),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Self::Zstandard),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Err("bzip2"),
            [0x1f, 0x9d, ..] => Err("compress"),
            [b'L', b'Z', b'I', b'P', ..] => Err("lzip"),
            [0x04, 0x22, 0x4d, 0x18, ..] => Err("lz4"),
            [b'P', b'K', 3, 4, ..] => Err("zip"),
            [b'7', b'z', 0xbc, 0xaf, ..] => Err("7z"),
            _ => Ok(Self::None),
        }
    }
}

/// Where a tar archive that is not compressed says that it is one (tar(5)).
const MAGIC_AT: u64 = 257;
const MAGIC: &[u8] = b"ustar";

/// Whether a file is a tar archive, or compressed as one may be. Archives of before 1988 are not recognized.
///
/// # Errors
/// It cannot be read.
pub fn is_archive(path: &Path) -> Result<bool> {
    let mut head = Vec::new();
    let file = File::open(path).about(path.display())?;
    if !file.metadata().about(path.display())?.is_file() {
        return Ok(false);
    }
    let length = MAGIC_AT + MAGIC.len() as u64;
    file.take(length)
        .read_to_end(&mut head)
        .about(path.display())?;
    let is_plain = head.get(MAGIC_AT as usize..) == Some(MAGIC);
    Ok(is_plain || Compression::of(&head) != Ok(Compression::None))
}

/// Tells how much of the archive has been read.
struct Counted<'a, R> {
    inner: R,
    progress: &'a dyn Progress,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.progress.advance(length as u64);
        Ok(length)
    }
}

/// An open archive.
pub(super) struct Input {
    /// For messages.
    pub name: String,
    file: Box<dyn Read + Send>,
    compression: Compression,
}

impl Input {
    /// Opens a file, or standard input for `-`.
    ///
    /// # Errors
    /// When it cannot be read, is empty, or compressed in a way that is not supported.
    pub(super) fn open(path: &Path, progress: &dyn Progress) -> Result<Self> {
        let (name, file): (_, Box<dyn Read + Send>) = if path.as_os_str() == "-" {
            (String::from("standard input"), Box::new(io::stdin()))
        } else {
            let name = path.display().to_string();
            let file = File::open(path).about(&name)?;
            let metadata = file.metadata().about(&name)?;
            if metadata.is_file() {
                progress.total(metadata.len());
            }
            (name, Box::new(file))
        };
        Self::read(name, file)
    }

    /// Reads the beginning of an archive.
    ///
    /// # Errors
    /// As [`Input::open`].
    pub(super) fn read(name: String, mut file: Box<dyn Read + Send>) -> Result<Self> {
        let mut head = [0; 8];
        let mut length = 0;
        while length < head.len() {
            match file.read(&mut head[length..]).about(&name)? {
                0 => break,
                more => length += more,
            }
        }
        if length == 0 {
            return Err(Error::failed(name, "it is empty, no tar archive"));
        }
        let compression = Compression::of(&head[..length]).map_err(|format| {
            Error::failed(
                &name,
                format!("it is a {format} file, which is not supported"),
            )
            .remedy("give a tar archive, plain or compressed with gzip, xz or zstd")
        })?;
        let head: Chain<_, _> = Cursor::new(head[..length].to_vec()).chain(file);
        Ok(Self {
            name,
            file: Box::new(head),
            compression,
        })
    }

    /// Reads and decompresses it to the end, or until nobody wants more.
    pub(super) fn pump(self, progress: &dyn Progress, sink: &Sink) -> io::Result<()> {
        let inner = self.file;
        let counted = BufReader::with_capacity(PIECE, Counted { inner, progress });
        match self.compression {
            Compression::None => sink.fill_from(counted),
            Compression::Gzip => sink.fill_from(flate2::bufread::MultiGzDecoder::new(counted)),
            Compression::Zstandard => sink.fill_from(zstd::Decoder::with_buffer(counted)?),
            Compression::Xz => {
                let stream =
                    liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY_MAX, XZ_CONCATENATED)?;
                sink.fill_from(liblzma::bufread::XzDecoder::new_stream(counted, stream))
            }
        }
    }
}

/// Where the decompressed bytes go.
pub(super) struct Sink(SyncSender<io::Result<Vec<u8>>>);

impl Sink {
    fn fill_from(&self, mut reader: impl Read) -> io::Result<()> {
        loop {
            let mut piece = Vec::with_capacity(PIECE);
            reader.by_ref().take(PIECE as u64).read_to_end(&mut piece)?;
            // A failed send: the reader has stopped, with an error of its own.
            if piece.is_empty() || self.0.send(Ok(piece)).is_err() {
                return Ok(());
            }
        }
    }

    /// Ends the bytes with an error.
    pub(super) fn fail(&self, error: io::Error) {
        if self.0.send(Err(error)).is_err() {
            log::debug!("nobody reads the archive any more");
        }
    }
}

/// The decompressed bytes.
pub(super) struct Bytes {
    pieces: Receiver<io::Result<Vec<u8>>>,
    piece: Vec<u8>,
    used: usize,
}

/// A queue of decompressed bytes between two threads.
pub(super) fn queue() -> (Sink, Bytes) {
    let (sender, pieces) = sync_channel(QUEUE);
    let bytes = Bytes {
        pieces,
        piece: Vec::new(),
        used: 0,
    };
    (Sink(sender), bytes)
}

impl Read for Bytes {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.used == self.piece.len() {
            match self.pieces.recv() {
                Ok(piece) => (self.piece, self.used) = (piece?, 0),
                Err(_) => return Ok(0),
            }
        }
        let rest = &self.piece[self.used..];
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        self.used += length;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compressions_by_their_first_bytes() {
        assert_eq!(Compression::of(b"\x1f\x8b\x08"), Ok(Compression::Gzip));
        assert_eq!(
            Compression::of(b"\x28\xb5\x2f\xfd"),
            Ok(Compression::Zstandard)
        );
        assert_eq!(Compression::of(b"\xfd7zXZ\0"), Ok(Compression::Xz));
        assert_eq!(Compression::of(b"BZh9"), Err("bzip2"));
        assert_eq!(Compression::of(b"etc/"), Ok(Compression::None));
        assert_eq!(Compression::of(b"x"), Ok(Compression::None));
    }
}
