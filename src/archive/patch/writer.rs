//! Writing a patch.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::fd::BorrowedFd;

use super::ContentId;
use super::content::pack_all;
use super::envelope::{Footer, Hashed, Header};
use super::signature::SecretKey;
use super::table::{ENTRIES_MAX, PatchContent, PatchEntry, PatchTable, TABLE_MAX};
use super::version::Refused;
use crate::error::{Context, Error, Result};
use crate::store::content::digest_of;

/// At which level zstd packs the table.
const LEVEL: i32 = 12;

/// A patch that is being written: contents first, then the table.
pub struct PatchWriter<'a> {
    out: Hashed<BufWriter<File>>,
    signer: Option<&'a SecretKey>,
    contents: Vec<PatchContent>,
    about: String,
}

impl<'a> PatchWriter<'a> {
    /// Begins one in an empty file. `about` names it in errors.
    ///
    /// # Errors
    /// Those of writing; so with the others.
    pub fn new(file: File, signer: Option<&'a SecretKey>, about: String) -> Result<Self> {
        let mut out = Hashed::new(BufWriter::with_capacity(1 << 20, file));
        let header = Header {
            signer: signer.map(SecretKey::public),
            is_record: false,
        };
        out.write(&header.encode()).about(&about)?;
        Ok(Self {
            out,
            signer,
            contents: Vec::new(),
            about,
        })
    }

    /// Adds a content, each once. `old`: one that it may be told by, because that is like it.
    ///
    /// # Errors
    /// A file is not what it was said to be.
    pub fn add(
        &mut self,
        new: (ContentId, BorrowedFd<'_>),
        old: Option<(ContentId, BorrowedFd<'_>)>,
    ) -> Result<()> {
        if let Some((id, file)) = old {
            let found = digest_of(file).about("reading the old content")?;
            if found != id.digest {
                let cause = format!("it is not content {} any more", id.digest);
                return Err(Error::failed("the old content", cause)
                    .remedy("stop what writes to it, or run `foldfs check --content`"));
            }
        }
        let mut blocks = Vec::new();
        let (out, about) = (&mut self.out, &self.about);
        let is_delta = pack_all(
            (&new.0, new.1),
            old.as_ref().map(|(id, file)| (id, *file)),
            &mut |frame| {
                blocks.push(frame.len() as u32);
                out.write(frame).about(about)
            },
        )?;
        self.contents.push(PatchContent {
            id: new.0,
            base: old.filter(|_| is_delta).map(|(id, _)| id),
            blocks,
        });
        Ok(())
    }

    /// Writes what is left, and has it reach the disk. The table that was written, and bytes of the
    /// file.
    ///
    /// # Errors
    /// More paths than a patch can have.
    pub fn finish(
        self,
        names: (Vec<u8>, Vec<u8>),
        entries: Vec<PatchEntry>,
    ) -> Result<(PatchTable, u64)> {
        let Self {
            mut out,
            signer,
            contents,
            about,
        } = self;
        let table = PatchTable {
            old: names.0,
            new: names.1,
            entries,
            variants: 0,
            contents,
        };
        let (bytes, table) = checked(&table, &about, PatchTable::decode)?;
        write_table(&mut out, &bytes).about(&about)?;
        let size = out.position;
        let (mut out, hasher) = out.into_parts();
        let digest = hasher.finish();
        let mut end = digest.as_bytes().to_vec();
        if let Some(signer) = signer {
            end.extend(signer.sign(&digest));
        }
        out.write_all(&end).about(&about)?;
        let file = out.into_inner().map_err(|error| error.into_error());
        file.and_then(|file| file.sync_all()).about(&about)?;
        Ok((table, size + end.len() as u64))
    }
}

/// The record of a change: what a patch says, without the contents, which whoever keeps the record has. With
/// the table as it reads it.
///
/// # Errors
/// More paths than a patch can have, or one that no patch can have.
pub fn encode_record(table: &PatchTable) -> Result<(Vec<u8>, PatchTable)> {
    let about = "the change";
    let table = PatchTable {
        contents: Vec::new(),
        ..table.clone()
    };
    let (bytes, table) = checked(&table, about, PatchTable::decode_record)?;
    let mut out = Hashed::new(Vec::new());
    let header = Header {
        signer: None,
        is_record: true,
    };
    out.write(&header.encode()).about(about)?;
    write_table(&mut out, &bytes).about(about)?;
    let (mut out, hasher) = out.into_parts();
    out.extend(hasher.finish().as_bytes());
    Ok((out, table))
}

/// The bytes of a table, and what a reader makes of them: what a reader would refuse must never be written.
fn checked(
    table: &PatchTable,
    about: &str,
    decode: fn(&[u8]) -> Result<PatchTable, Refused>,
) -> Result<(Vec<u8>, PatchTable)> {
    let bytes = table.encode();
    if table.entries.len() > ENTRIES_MAX || bytes.len() as u64 > TABLE_MAX {
        let cause = format!("the trees differ at {} paths", table.entries.len());
        return Err(Error::failed(about, cause)
            .remedy(format!("a patch holds {ENTRIES_MAX} of them at most")));
    }
    let table = decode(&bytes).map_err(|cause| {
        Error::failed(about, format!("it would have a table that {cause}"))
            .remedy("stop what writes to the trees, or take clones or snapshots")
    })?;
    Ok((bytes, table))
}

/// All that is between the contents and the digest.
fn write_table(out: &mut Hashed<impl Write>, bytes: &[u8]) -> std::io::Result<()> {
    let packed = zstd::bulk::compress(bytes, LEVEL)?;
    let footer = Footer {
        table: out.position,
        stored: packed.len() as u64,
        length: bytes.len() as u64,
    };
    out.write(&packed)?;
    out.write(&footer.encode())
}
