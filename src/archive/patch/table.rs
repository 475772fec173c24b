//! The table of a patch: every path at which the trees differ, with what it was and what it becomes,
//! and which contents there are.

use std::collections::{HashMap, HashSet};

use super::ContentId;
use super::content::{blocks, stored_max};
use super::parser::Parser;
use crate::merge::compare::in_walk_order;
use crate::store::digest::Digest;
use crate::store::metadata::{Content, Metadata, Time, Xattrs, encode_xattrs};

/// The longest table, unpacked.
pub(super) const TABLE_MAX: u64 = 256 << 20;
/// The most paths.
pub(super) const ENTRIES_MAX: usize = 1 << 21;
const LABEL_MAX: usize = 4096;
const PATH_MAX: usize = 1 << 20;
const NAME_MAX: usize = 255;
/// readlink(2) never gives more.
const TARGET_MAX: usize = 4095;
/// XATTR_NAME_MAX and XATTR_SIZE_MAX of linux/limits.h.
const XATTR_NAME_MAX: usize = 255;
const XATTR_VALUE_MAX: usize = 1 << 16;
const XATTRS_MAX: usize = 1 << 20;
const NAMESPACES: [&[u8]; 4] = [b"user.", b"trusted.", b"security.", b"system.posix_acl_"];

const NONE: u8 = 0;
const DIRECTORY: u8 = 1;
const REGULAR: u8 = 2;
const SYMLINK: u8 = 3;
const CHAR_DEVICE: u8 = 4;
const BLOCK_DEVICE: u8 = 5;
const FIFO: u8 = 6;
const SOCKET: u8 = 7;
const SAME_FILE: u8 = 8;

/// The version of a path in one of the trees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathVersion {
    /// Type and content.
    pub content: Content,
    /// Owner, mode, mtime, xattrs.
    pub metadata: Metadata,
    /// Of a file with several names: the entry with the first of them, if this is another one.
    pub first_name: Option<usize>,
}

impl PathVersion {
    /// The content, if it is one that has bytes.
    pub fn content_id(&self) -> Option<ContentId> {
        match self.content {
            Content::Regular {
                size,
                digest: Some(digest),
            } => Some(ContentId { digest, size }),
            _ => None,
        }
    }
}

/// A path at which the trees differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PatchEntry {
    /// From the root, without a leading '/'; empty for the root itself.
    pub path: Vec<u8>,
    /// What it must be before; `None`: nothing.
    pub old: Option<PathVersion>,
    /// What it is afterwards.
    pub new: Option<PathVersion>,
}

impl PatchEntry {
    /// Bytes of what is told of another path and kept for this one, too.
    fn repeated(&self) -> u64 {
        let versions = [&self.old, &self.new].into_iter().flatten();
        let bytes = versions.filter(|version| version.first_name.is_some());
        let bytes = bytes.map(|version| {
            let xattrs = version.metadata.xattrs.iter();
            // In memory each takes more than its bytes.
            let xattrs: usize = xattrs
                .map(|(name, value)| name.len() + value.len() + 64)
                .sum();
            let target = match &version.content {
                Content::Symlink { target } => target.len(),
                _ => 0,
            };
            (xattrs + target) as u64
        });
        bytes.sum()
    }
}

/// A content that is in the patch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PatchContent {
    /// The content.
    pub id: ContentId,
    /// The old content that its blocks refer to.
    pub base: Option<ContentId>,
    /// Bytes in the patch of each block.
    pub blocks: Vec<u32>,
}

impl PatchContent {
    /// Bytes in the patch.
    pub fn stored(&self) -> u64 {
        self.blocks.iter().map(|&length| u64::from(length)).sum()
    }
}

/// All that a patch says. What it needs of contents and does not have is an old content itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PatchTable {
    /// How the old tree was named.
    pub old: Vec<u8>,
    /// How the new one was.
    pub new: Vec<u8>,
    /// In the order of a walk, each path once.
    pub entries: Vec<PatchEntry>,
    /// In the order in which they are in the file, each once.
    pub contents: Vec<PatchContent>,
}

/// Why a table is refused.
pub(super) type Refused = &'static str;

impl PatchTable {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        counted(&mut out, &self.old[..self.old.len().min(LABEL_MAX)]);
        counted(&mut out, &self.new[..self.new.len().min(LABEL_MAX)]);
        out.extend((self.entries.len() as u32).to_le_bytes());
        for entry in &self.entries {
            counted(&mut out, &entry.path);
            encode_version(&mut out, entry.old.as_ref());
            encode_version(&mut out, entry.new.as_ref());
        }
        out.extend((self.contents.len() as u32).to_le_bytes());
        for content in &self.contents {
            encode_id(&mut out, &content.id);
            out.push(u8::from(content.base.is_some()));
            if let Some(base) = &content.base {
                encode_id(&mut out, base);
            }
            let blocks = content.blocks.iter();
            out.extend(blocks.flat_map(|length| length.to_le_bytes()));
        }
        out
    }

    /// The inverse of [`PatchTable::encode`], of a table that keeps all rules.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Refused> {
        let table = Self::parse(bytes)?;
        table.check_contents()?;
        Ok(table)
    }

    /// That of a record, which has no contents.
    pub(super) fn decode_record(bytes: &[u8]) -> Result<Self, Refused> {
        let table = Self::parse(bytes)?;
        match table.contents.is_empty() {
            true => Ok(table),
            false => Err("has contents, which no record has"),
        }
    }

    /// What takes it back: from the new tree to the old one, without any content.
    pub fn reversed(&self) -> Self {
        let reversed = |entry: &PatchEntry| PatchEntry {
            path: entry.path.clone(),
            old: entry.new.clone(),
            new: entry.old.clone(),
        };
        Self {
            old: self.new.clone(),
            new: self.old.clone(),
            entries: self.entries.iter().map(reversed).collect(),
            contents: Vec::new(),
        }
    }

    fn parse(bytes: &[u8]) -> Result<Self, Refused> {
        const SHORT: Refused = "ends too early, or has a length that is too large";
        let mut parser = Parser::new(bytes);
        let old = parser.counted(LABEL_MAX).ok_or(SHORT)?.to_vec();
        let new = parser.counted(LABEL_MAX).ok_or(SHORT)?.to_vec();
        let count = parser.u32().ok_or(SHORT)? as usize;
        if count > ENTRIES_MAX {
            return Err("has too many paths");
        }
        let mut entries: Vec<PatchEntry> = Vec::new();
        // A name of a file that another name tells of repeats all of it.
        let mut repeated = 0;
        for _ in 0..count {
            let path = parser.counted(PATH_MAX).ok_or(SHORT)?.to_vec();
            check_path(&path)?;
            let old = decode_version(&mut parser, &entries, |entry| entry.old.as_ref())?;
            let new = decode_version(&mut parser, &entries, |entry| entry.new.as_ref())?;
            let entry = PatchEntry { path, old, new };
            repeated += entry.repeated();
            if repeated > TABLE_MAX {
                return Err("has files of too many names, with too much to tell of each");
            }
            check_entry(&entry, entries.last())?;
            entries.push(entry);
        }
        let count = parser.u32().ok_or(SHORT)?;
        let mut contents = Vec::new();
        for _ in 0..count {
            contents.push(decode_content(&mut parser).ok_or(SHORT)?);
        }
        if !parser.is_empty() {
            return Err("goes on after its end");
        }
        let table = Self {
            old,
            new,
            entries,
            contents,
        };
        table.check_parents()?;
        Ok(table)
    }

    /// What a path is in and what it holds must be directories wherever the patch says what they are.
    fn check_parents(&self) -> Result<(), Refused> {
        let known: HashMap<&[u8], &PatchEntry> = self
            .entries
            .iter()
            .map(|entry| (&entry.path[..], entry))
            .collect();
        let is_directory = |version: &Option<PathVersion>| {
            let content = version.as_ref().map(|version| &version.content);
            content == Some(&Content::Directory)
        };
        for entry in &self.entries {
            // Those above it are looked at when it is their turn.
            let Some(above) = parent(&entry.path).and_then(|above| known.get(above)) else {
                continue;
            };
            let lost = entry.old.is_some() && !is_directory(&above.old)
                || entry.new.is_some() && !is_directory(&above.new);
            if lost {
                return Err("has a path below what is no directory");
            }
        }
        Ok(())
    }

    fn check_contents(&self) -> Result<(), Refused> {
        let ids = |of: fn(&PatchEntry) -> &Option<PathVersion>| -> HashSet<ContentId> {
            let versions = self.entries.iter().filter_map(|entry| of(entry).as_ref());
            versions.filter_map(PathVersion::content_id).collect()
        };
        let (old, new) = (ids(|entry| &entry.old), ids(|entry| &entry.new));
        let mut here = HashSet::new();
        for content in &self.contents {
            if !here.insert(content.id) {
                return Err("has a content twice");
            }
            if !new.contains(&content.id) {
                return Err("has a content that no path has");
            }
            if content.base.is_some_and(|base| !old.contains(&base)) {
                return Err("has a content that refers to one of no old path");
            }
        }
        match new.iter().all(|id| here.contains(id) || old.contains(id)) {
            true => Ok(()),
            false => Err("lacks a content"),
        }
    }
}

/// The path of the directory that a path is in.
fn parent(path: &[u8]) -> Option<&[u8]> {
    if path.is_empty() {
        return None;
    }
    let slash = path.iter().rposition(|&byte| byte == b'/');
    Some(&path[..slash.unwrap_or(0)])
}

fn check_path(path: &[u8]) -> Result<(), Refused> {
    if path.is_empty() {
        return Ok(());
    }
    let is_name = |name: &[u8]| {
        (1..=NAME_MAX).contains(&name.len()) && name != b"." && name != b".." && !name.contains(&0)
    };
    match path.split(|&byte| byte == b'/').all(is_name) {
        true => Ok(()),
        false => Err("has a path that leaves the tree, or that no tree can have"),
    }
}

fn check_entry(entry: &PatchEntry, before: Option<&PatchEntry>) -> Result<(), Refused> {
    let ordered = before.is_none_or(|before| in_walk_order(&before.path, &entry.path).is_lt());
    if !ordered {
        return Err("has a path twice, or not in its place");
    }
    if entry.old.is_none() && entry.new.is_none() {
        return Err("has a path at which nothing was and nothing will be");
    }
    let versions = [&entry.old, &entry.new];
    let contents = versions.map(|version| version.as_ref().map(|version| &version.content));
    if entry.path.is_empty() && contents != [Some(&Content::Directory); 2] {
        return Err("has a root that is no directory");
    }
    Ok(())
}

fn counted(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u32).to_le_bytes());
    out.extend(bytes);
}

fn encode_id(out: &mut Vec<u8>, id: &ContentId) {
    out.extend(id.digest.as_bytes());
    out.extend(id.size.to_le_bytes());
}

fn decode_id(parser: &mut Parser<'_>) -> Option<ContentId> {
    let digest = Digest::from_bytes(parser.digest()?);
    let size = parser.u64()?;
    let is_size = (1..=i64::MAX as u64).contains(&size);
    is_size.then_some(ContentId { digest, size })
}

fn encode_version(out: &mut Vec<u8>, version: Option<&PathVersion>) {
    let Some(version) = version else {
        out.push(NONE);
        return;
    };
    if let Some(first) = version.first_name {
        out.push(SAME_FILE);
        out.extend((first as u32).to_le_bytes());
        return;
    }
    let kind = match version.content {
        Content::Directory => DIRECTORY,
        Content::Regular { .. } => REGULAR,
        Content::Symlink { .. } => SYMLINK,
        Content::CharDevice { .. } => CHAR_DEVICE,
        Content::BlockDevice { .. } => BLOCK_DEVICE,
        Content::Fifo => FIFO,
        Content::Socket => SOCKET,
    };
    out.push(kind);
    let metadata = &version.metadata;
    for number in [metadata.mode, metadata.uid, metadata.gid] {
        out.extend(number.to_le_bytes());
    }
    out.extend(metadata.mtime.seconds.to_le_bytes());
    out.extend(metadata.mtime.nanoseconds.to_le_bytes());
    counted(out, &encode_xattrs(&metadata.xattrs).unwrap_or_default());
    match &version.content {
        Content::Regular { .. } => match version.content_id() {
            Some(id) => {
                out.push(1);
                encode_id(out, &id);
            }
            None => out.push(0),
        },
        Content::Symlink { target } => counted(out, target),
        Content::CharDevice { rdev } | Content::BlockDevice { rdev } => {
            out.extend(rdev.to_le_bytes());
        }
        Content::Directory | Content::Fifo | Content::Socket => {}
    }
}

/// `side`: the version of an earlier entry in the same tree.
fn decode_version(
    parser: &mut Parser<'_>,
    earlier: &[PatchEntry],
    side: impl Fn(&PatchEntry) -> Option<&PathVersion>,
) -> Result<Option<PathVersion>, Refused> {
    const BAD: Refused = "has a file that no tree can have";
    let kind = parser.u8().ok_or(BAD)?;
    if kind == NONE {
        return Ok(None);
    }
    if kind == SAME_FILE {
        let first = parser.u32().ok_or(BAD)? as usize;
        let version = earlier.get(first).and_then(&side);
        let version = version.filter(|version| {
            version.first_name.is_none() && version.content != Content::Directory
        });
        let version = version.ok_or("has a name of no file")?.clone();
        let first_name = Some(first);
        return Ok(Some(PathVersion {
            first_name,
            ..version
        }));
    }
    let metadata = decode_metadata(parser).ok_or(BAD)?;
    let content = decode_file(parser, kind).ok_or(BAD)?;
    Ok(Some(PathVersion {
        content,
        metadata,
        first_name: None,
    }))
}

fn decode_metadata(parser: &mut Parser<'_>) -> Option<Metadata> {
    let (mode, uid, gid) = (parser.u32()?, parser.u32()?, parser.u32()?);
    let mtime = Time {
        seconds: parser.i64()?,
        nanoseconds: parser.u32()?,
    };
    let xattrs = decode_xattrs(parser.counted(XATTRS_MAX)?)?;
    let possible =
        mode <= 0o7777 && uid != u32::MAX && gid != u32::MAX && mtime.nanoseconds < 1_000_000_000;
    possible.then_some(Metadata {
        mode,
        uid,
        gid,
        mtime,
        xattrs,
    })
}

/// As [`encode_xattrs`] writes them: sorted, each once.
fn decode_xattrs(bytes: &[u8]) -> Option<Xattrs> {
    let xattrs = crate::store::metadata::decode_xattrs(bytes)?;
    let possible = |name: &[u8], value: &[u8]| {
        name.len() <= XATTR_NAME_MAX
            && value.len() <= XATTR_VALUE_MAX
            && !name.contains(&0)
            && NAMESPACES
                .iter()
                .any(|space| name.len() > space.len() && name.starts_with(space))
    };
    let exact = encode_xattrs(&xattrs).unwrap_or_default() == bytes;
    let all = xattrs.iter().all(|(name, value)| possible(name, value));
    (exact && all).then_some(xattrs)
}

fn decode_file(parser: &mut Parser<'_>, kind: u8) -> Option<Content> {
    Some(match kind {
        DIRECTORY => Content::Directory,
        REGULAR => match parser.u8()? {
            0 => Content::Regular {
                size: 0,
                digest: None,
            },
            1 => {
                let id = decode_id(parser)?;
                Content::Regular {
                    size: id.size,
                    digest: Some(id.digest),
                }
            }
            _ => return None,
        },
        SYMLINK => {
            let target = parser.counted(TARGET_MAX)?;
            let possible = !target.is_empty() && !target.contains(&0);
            possible.then(|| Content::Symlink {
                target: target.into(),
            })?
        }
        CHAR_DEVICE => Content::CharDevice {
            rdev: parser.u64()?,
        },
        BLOCK_DEVICE => Content::BlockDevice {
            rdev: parser.u64()?,
        },
        FIFO => Content::Fifo,
        SOCKET => Content::Socket,
        _ => return None,
    })
}

fn decode_content(parser: &mut Parser<'_>) -> Option<PatchContent> {
    let id = decode_id(parser)?;
    let base = match parser.u8()? {
        0 => None,
        1 => Some(decode_id(parser)?),
        _ => return None,
    };
    let mut lengths = Vec::new();
    for block in 0..blocks(id.size) {
        let length = parser.u32()?;
        if u64::from(length) > stored_max(super::content::block_size(id.size, block)) {
            return None;
        }
        lengths.push(length);
    }
    Some(PatchContent {
        id,
        base,
        blocks: lengths,
    })
}
