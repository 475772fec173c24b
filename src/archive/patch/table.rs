//! The table of a patch: every path at which the trees differ, with what it was and what it becomes,
//! and which contents there are.

use std::collections::{HashMap, HashSet};

use super::ContentId;
use super::content::{blocks, stored_max};
use super::parser::Parser;
use super::version::{
    PathVersion, Refused, counted, decode_id, decode_version, encode_id, encode_version,
};
use crate::merge::compare::in_walk_order;
use crate::store::metadata::Content;

/// The longest table, unpacked.
pub(super) const TABLE_MAX: u64 = 256 << 20;
/// The most paths.
pub(super) const ENTRIES_MAX: usize = 1 << 21;
const LABEL_MAX: usize = 4096;
const PATH_MAX: usize = 1 << 20;
const NAME_MAX: usize = 255;
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
    /// In the order of a walk, each path once; then the variants.
    pub entries: Vec<PatchEntry>,
    /// How many of the entries, the last ones, are variants, which only records have: what the change was
    /// at a path of another entry for images that had a version of their own there. No directories, and no files
    /// of several names.
    pub variants: usize,
    /// In the order in which they are in the file, each once.
    pub contents: Vec<PatchContent>,
}

impl PatchTable {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        counted(&mut out, &self.old[..self.old.len().min(LABEL_MAX)]);
        counted(&mut out, &self.new[..self.new.len().min(LABEL_MAX)]);
        let (entries, variants) = self.entries.split_at(self.variants_at());
        encode_entries(&mut out, entries);
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
        if !variants.is_empty() {
            encode_entries(&mut out, variants);
        }
        out
    }

    /// The position of the first variant; how many paths there are.
    pub fn variants_at(&self) -> usize {
        self.entries.len().saturating_sub(self.variants)
    }

    /// The inverse of [`PatchTable::encode`], of a table that keeps all rules.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Refused> {
        let table = Self::parse(bytes)?;
        if table.variants > 0 {
            return Err("goes on after its end");
        }
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

    /// The positions of files of several names.
    pub fn grouped(&self) -> HashSet<usize> {
        let mut grouped = HashSet::new();
        for (position, entry) in self.entries.iter().enumerate() {
            let versions = [&entry.old, &entry.new].into_iter().flatten();
            for first in versions.filter_map(|version| version.first_name) {
                grouped.extend([position, first]);
            }
        }
        grouped
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
            variants: self.variants,
            contents: Vec::new(),
        }
    }

    fn parse(bytes: &[u8]) -> Result<Self, Refused> {
        let mut parser = Parser::new(bytes);
        let old = parser.counted(LABEL_MAX).ok_or(SHORT)?.to_vec();
        let new = parser.counted(LABEL_MAX).ok_or(SHORT)?.to_vec();
        let mut entries: Vec<PatchEntry> = Vec::new();
        parse_entries(&mut parser, &mut entries, |before, entry| {
            check_entry(entry, before)
        })?;
        let count = parser.u32().ok_or(SHORT)?;
        let mut contents = Vec::new();
        for _ in 0..count {
            contents.push(decode_content(&mut parser).ok_or(SHORT)?);
        }
        let paths = entries.len();
        if !parser.is_empty() {
            parse_entries(&mut parser, &mut entries, |_, entry| check_variant(entry))?;
        }
        if !parser.is_empty() {
            return Err("goes on after its end");
        }
        let table = Self {
            old,
            new,
            variants: entries.len() - paths,
            entries,
            contents,
        };
        table.check_parents()?;
        Ok(table)
    }

    /// What a path is in and what it holds must be directories wherever the patch says what they are.
    fn check_parents(&self) -> Result<(), Refused> {
        let known: HashMap<&[u8], &PatchEntry> = self.entries[..self.variants_at()]
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

const SHORT: Refused = "ends too early, or has a length that is too large";

/// Reads entries to those that there are.
fn parse_entries(
    parser: &mut Parser<'_>,
    entries: &mut Vec<PatchEntry>,
    check: impl Fn(Option<&PatchEntry>, &PatchEntry) -> Result<(), Refused>,
) -> Result<(), Refused> {
    let count = parser.u32().ok_or(SHORT)? as usize;
    if count > ENTRIES_MAX {
        return Err("has too many paths");
    }
    // A name of a file that another name tells of repeats all of it.
    let mut repeated = 0;
    for _ in 0..count {
        let path = parser.counted(PATH_MAX).ok_or(SHORT)?.to_vec();
        check_path(&path)?;
        let old = decode_version(parser, |first| entries.get(first)?.old.as_ref())?;
        let new = decode_version(parser, |first| entries.get(first)?.new.as_ref())?;
        let entry = PatchEntry { path, old, new };
        repeated += entry.repeated();
        if repeated > TABLE_MAX {
            return Err("has files of too many names, with too much to tell of each");
        }
        check(entries.last(), &entry)?;
        entries.push(entry);
    }
    Ok(())
}

fn encode_entries(out: &mut Vec<u8>, entries: &[PatchEntry]) {
    out.extend((entries.len() as u32).to_le_bytes());
    for entry in entries {
        counted(out, &entry.path);
        encode_version(out, entry.old.as_ref());
        encode_version(out, entry.new.as_ref());
    }
}

fn check_variant(entry: &PatchEntry) -> Result<(), Refused> {
    let versions = [&entry.old, &entry.new];
    let simple = |version: &&PathVersion| {
        version.content != Content::Directory && version.first_name.is_none()
    };
    let versions = versions.into_iter().flatten();
    match entry.old != entry.new && versions.clone().count() == versions.filter(simple).count() {
        true => Ok(()),
        false => Err("has a variant that is no change of a file"),
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
