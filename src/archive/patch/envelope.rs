//! What is around the contents and the table of a patch.

use std::io::Write;

use super::parser::Parser;
use super::signature::PublicKey;
use crate::error::{Error, Result};
use crate::store::digest::Hasher;

pub(super) const MAGIC: &[u8; 8] = b"foldfsP\n";
pub(super) const FORMAT: u32 = 1;
const SIGNED: u32 = 1;
const RECORD: u32 = 2;
pub(super) const HEADER: u64 = 48;
const PLACE: u64 = 24;
const DIGEST: u64 = 32;
const SIGNATURE: u64 = 64;

/// The beginning of a patch.
pub(super) struct Header {
    /// Whose signature is at its end.
    pub signer: Option<PublicKey>,
    /// It is the record of a change: no contents are in it, and nobody signs it.
    pub is_record: bool,
}

impl Header {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend(FORMAT.to_le_bytes());
        let flags = match (&self.signer, self.is_record) {
            (None, false) => 0,
            (Some(_), _) => SIGNED,
            (None, true) => RECORD,
        };
        out.extend(flags.to_le_bytes());
        out.extend(self.signer.as_ref().map_or([0; 32], PublicKey::bytes));
        out
    }

    /// Of the first bytes of a file, [`HEADER`] at most.
    pub(super) fn decode(bytes: &[u8], about: &str) -> Result<Self> {
        let mut parser = Parser::new(bytes);
        if parser.bytes(MAGIC.len()) != Some(MAGIC) {
            return Err(Error::failed(about, "it is no patch")
                .remedy("name a file that `foldfs patch create` has made"));
        }
        match parser.u32() {
            Some(FORMAT) => {}
            Some(format) => {
                let cause = format!("it is a patch of format {format}, not {FORMAT}");
                return Err(Error::failed(about, cause).remedy("use a newer foldfs"));
            }
            None => return Err(damaged(about)),
        }
        let (flags, key) = (parser.u32(), parser.digest());
        let (Some(flags), Some(key)) = (flags, key) else {
            return Err(damaged(about));
        };
        let signer = match flags {
            0 | RECORD if key == [0; 32] => None,
            SIGNED => Some(PublicKey::from_bytes(&key).ok_or_else(|| damaged(about))?),
            _ => return Err(damaged(about)),
        };
        let is_record = flags == RECORD;
        Ok(Self { signer, is_record })
    }
}

/// A patch that is not as it was made.
pub(super) fn damaged(about: &str) -> Error {
    Error::failed(about, "it is damaged, or not all of it is here").remedy("get it once more")
}

/// Where the parts at the end of a patch are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Footer {
    /// Where the table begins: the end of the contents.
    pub table: u64,
    /// Bytes of the table in the file.
    pub stored: u64,
    /// Bytes of the table unpacked.
    pub length: u64,
}

impl Footer {
    pub(super) fn encode(&self) -> Vec<u8> {
        [self.table, self.stored, self.length]
            .map(u64::to_le_bytes)
            .concat()
    }

    /// Where the digest is in a file of this size; `None`: it is too short.
    pub(super) fn digest_at(size: u64, signed: bool) -> Option<u64> {
        let after = DIGEST + if signed { SIGNATURE } else { 0 };
        let at = size.checked_sub(after)?;
        (at >= HEADER + PLACE).then_some(at)
    }

    /// Of the bytes before the digest, which is at `digest_at`.
    pub(super) fn decode(bytes: &[u8], digest_at: u64) -> Option<Self> {
        let mut parser = Parser::new(bytes);
        let (table, stored, length) = (parser.u64()?, parser.u64()?, parser.u64()?);
        let whole = table.checked_add(stored)?.checked_add(PLACE)? == digest_at;
        (whole && table >= HEADER).then_some(Self {
            table,
            stored,
            length,
        })
    }

    /// Bytes that [`Footer::decode`] takes.
    pub(super) const SIZE: usize = PLACE as usize;
}

/// Hashes and counts what is written.
pub(super) struct Hashed<W> {
    inner: W,
    pub hasher: Hasher,
    pub position: u64,
}

impl<W: Write> Hashed<W> {
    pub(super) fn new(inner: W) -> Self {
        Self {
            inner,
            hasher: Hasher::default(),
            position: 0,
        }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.inner.write_all(bytes)?;
        self.hasher.update(bytes);
        self.position += bytes.len() as u64;
        Ok(())
    }

    pub(super) fn into_parts(self) -> (W, Hasher) {
        (self.inner, self.hasher)
    }
}
