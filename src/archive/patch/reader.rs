//! Reading a patch: it is proven whole before anything of it is believed.

use std::collections::HashMap;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{self, FileType, Mode, OFlags};

use super::ContentId;
use super::content::unpack;
use super::envelope::{Footer, HEADER, Header, damaged};
use super::signature::PublicKey;
use super::table::{PatchContent, PatchTable, TABLE_MAX};
use crate::error::{Context, Error, Result};
use crate::path_bytes::PathBytes;
use crate::store::content::digest_of;
use crate::store::digest::{Digest, Hasher};
use crate::sys::copy;

const PIECE: usize = 1 << 20;

/// A patch that is whole and, if it is signed, has the signature of the key that it names.
pub struct PatchFile {
    file: OwnedFd,
    about: String,
    size: u64,
    digest: Digest,
    signer: Option<PublicKey>,
    table: PatchTable,
    /// Of each content: its place in the table, and where it begins.
    places: HashMap<ContentId, (usize, u64)>,
}

impl PatchFile {
    /// Reads all of it once, and then its table.
    ///
    /// # Errors
    /// It is no patch, of another format, damaged, not whole, signed by another key than it says, or
    /// it says what cannot be: each says which.
    pub fn open(path: &Path) -> Result<Self> {
        let about = format!("patch {}", PathBytes::from(path));
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = fs::open(path, flags, Mode::empty()).about(&about)?;
        let stat = fs::fstat(&file).about(&about)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Error::failed(&about, "it is no regular file")
                .remedy("name a file that `foldfs patch create` has made"));
        }
        Self::read(file, stat.st_size as u64, about, false)
    }

    /// Reads the record of a change, which has no contents.
    ///
    /// # Errors
    /// Those of [`PatchFile::open`]; it is a patch.
    pub fn open_record(path: &Path) -> Result<PatchTable> {
        let about = format!("record {}", PathBytes::from(path));
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = fs::open(path, flags, Mode::empty()).about(&about)?;
        let stat = fs::fstat(&file).about(&about)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Error::failed(&about, "it is no regular file"));
        }
        Ok(Self::read(file, stat.st_size as u64, about, true)?.table)
    }

    fn read(file: OwnedFd, size: u64, about: String, as_record: bool) -> Result<Self> {
        let damaged = || damaged(&about);
        let read = |offset: u64, length: usize| -> Result<Vec<u8>> {
            let mut bytes = vec![0; length];
            let length = copy::read_at(&file, &mut bytes, offset).about(&about)?;
            bytes.truncate(length);
            Ok(bytes)
        };
        let Header { signer, is_record } = Header::decode(&read(0, HEADER as usize)?, &about)?;
        if is_record != as_record {
            let (cause, remedy) = match is_record {
                true => (
                    "it is what a store keeps of a change, without the contents",
                    "make a patch with `foldfs patch create`",
                ),
                false => (
                    "it is a patch, and no record of a change",
                    "run `foldfs check`",
                ),
            };
            return Err(Error::failed(&about, cause).remedy(remedy));
        }
        let digest_at = Footer::digest_at(size, signer.is_some()).ok_or_else(damaged)?;
        let digest = digest_of_start(&file, digest_at).about(&about)?;
        let end = read(digest_at, (size - digest_at) as usize)?;
        let (told, signature) = end.split_at_checked(32).ok_or_else(damaged)?;
        if digest.is_none_or(|digest| digest.as_bytes() != told) {
            return Err(damaged());
        }
        let digest = digest.ok_or_else(damaged)?;
        if let Some(signer) = &signer {
            let signature = signature.try_into().map_err(|_| damaged())?;
            if !signer.has_signed(&digest, signature) {
                let cause = format!("its signature is not of the key that it names, {signer}");
                return Err(
                    Error::failed(&about, cause).remedy("get it once more from where it was made")
                );
            }
        }
        let footer = read(digest_at - Footer::SIZE as u64, Footer::SIZE)?;
        let footer = Footer::decode(&footer, digest_at).ok_or_else(damaged)?;
        let refused = |cause: &str| {
            Error::failed(&about, format!("its table {cause}"))
                .remedy("do not use it: foldfs has not made it so")
        };
        if footer.length > TABLE_MAX || footer.stored > TABLE_MAX {
            return Err(refused("is too long"));
        }
        let packed = read(footer.table, footer.stored as usize)?;
        let table = unpack_table(&packed, footer.length).ok_or_else(|| refused("is no table"))?;
        let table = match as_record {
            true => PatchTable::decode_record(&table),
            false => PatchTable::decode(&table),
        };
        let table = table.map_err(refused)?;
        let mut places = HashMap::with_capacity(table.contents.len());
        let mut position = HEADER;
        for (place, content) in table.contents.iter().enumerate() {
            places.insert(content.id, (place, position));
            // No sum of blocks of a table that is so short is too large for a u64.
            position = position.saturating_add(content.stored());
        }
        if position != footer.table {
            return Err(refused("lies about the contents"));
        }
        Ok(Self {
            file,
            about,
            size,
            digest,
            signer,
            table,
            places,
        })
    }

    /// All that it says.
    pub fn table(&self) -> &PatchTable {
        &self.table
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// SHA-256 of what is before its own: the name of the patch.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Who signed it.
    pub fn signer(&self) -> Option<&PublicKey> {
        self.signer.as_ref()
    }

    /// Refuses a patch that nobody of these has signed; with no keys, none.
    ///
    /// # Errors
    /// It is not signed, or by somebody else.
    pub fn demand(&self, keys: &[PublicKey]) -> Result<()> {
        let refused = |cause: String| {
            Err(Error::failed(&self.about, cause)
                .remedy("have it signed with a key of `patch_keys` (`patch create --sign`)"))
        };
        match &self.signer {
            _ if keys.is_empty() => Ok(()),
            Some(signer) if keys.contains(signer) => Ok(()),
            Some(signer) => refused(format!(
                "it is signed by {signer}, which is none of `patch_keys`"
            )),
            None => refused(String::from("it is not signed")),
        }
    }

    /// Hands a content that is in the patch to `take`, a block at a time. `old`: the content that it is
    /// told by, if it is. What was handed out counts only if this returns without an error.
    ///
    /// # Errors
    /// The old content is another one; what comes out is not the content; those of reading and of
    /// `take`.
    pub fn unpack(
        &self,
        id: &ContentId,
        old: Option<BorrowedFd<'_>>,
        take: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let about = || format!("{}: content {}", self.about, id.digest);
        let place = self.places.get(id);
        let place = place.and_then(|(place, at)| Some((self.table.contents.get(*place)?, *at)));
        let (content, mut position) =
            place.ok_or_else(|| Error::failed(about(), "it is not in it"))?;
        let old = match (content.base, old) {
            (None, _) => None,
            (Some(base), Some(file)) => Some((base, file)),
            (Some(base), None) => {
                let cause = format!(
                    "the old content {} that it is told by is not here",
                    base.digest
                );
                return Err(Error::failed(about(), cause));
            }
        };
        if let Some((base, file)) = &old {
            let found = digest_of(file.as_fd()).about(about())?;
            if found != base.digest {
                let cause = format!("what should be its old content {} is {found}", base.digest);
                return Err(Error::failed(about(), cause).remedy("run `foldfs check --content`"));
            }
        }
        let mut hasher = Hasher::default();
        for (block, &length) in (0..).zip(&content.blocks) {
            let mut frame = vec![0; length as usize];
            let read = copy::read_at(&self.file, &mut frame, position).about(about())?;
            position += u64::from(length);
            let old = old.as_ref().map(|(base, file)| (base, *file));
            let bytes = match read == frame.len() {
                true => unpack(&frame, content.id.size, block, old)?,
                false => None,
            };
            let bytes = bytes.ok_or_else(|| self.not_the_content(content))?;
            hasher.update(&bytes);
            take(&bytes)?;
        }
        match hasher.finish() == content.id.digest {
            true => Ok(()),
            false => Err(self.not_the_content(content)),
        }
    }

    fn not_the_content(&self, content: &PatchContent) -> Error {
        let object = format!("{}: content {}", self.about, content.id.digest);
        Error::failed(object, "what is there is another content")
            .remedy("do not use it: foldfs has not made it so")
    }

    /// The file itself.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Where a content stands in the table; `None`: it is not in the patch.
    pub fn place(&self, id: &ContentId) -> Option<usize> {
        self.places.get(id).map(|(place, _)| *place)
    }

    /// How a content is in the patch; `None`: it is not.
    pub fn content(&self, id: &ContentId) -> Option<&PatchContent> {
        let (place, _) = self.places.get(id)?;
        self.table.contents.get(*place)
    }
}

/// Of the first bytes of a file; `None` if it has not so many.
fn digest_of_start(file: &OwnedFd, length: u64) -> rustix::io::Result<Option<Digest>> {
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; PIECE];
    let mut position = 0;
    while position < length {
        let want = PIECE.min(usize::try_from(length - position).unwrap_or(PIECE));
        if copy::read_at(file, &mut buffer[..want], position)? < want {
            return Ok(None);
        }
        hasher.update(&buffer[..want]);
        position += want as u64;
    }
    Ok(Some(hasher.finish()))
}

/// Takes memory as the bytes come, and no more of them than were told.
fn unpack_table(packed: &[u8], length: u64) -> Option<Vec<u8>> {
    let decoder = zstd::stream::read::Decoder::new(packed).ok()?;
    let mut bytes = Vec::new();
    let read = decoder
        .single_frame()
        .take(length + 1)
        .read_to_end(&mut bytes);
    (read.ok()? as u64 == length).then_some(bytes)
}
