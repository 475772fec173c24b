//! The version of a path, as a table has it: type, content, owner, mode, mtime, xattrs.

use super::ContentId;
use super::parser::Parser;
use crate::store::digest::Digest;
use crate::store::metadata::{Content, Metadata, Time, Xattrs, encode_xattrs};

/// Why a table is refused.
pub(super) type Refused = &'static str;

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

pub(super) fn counted(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u32).to_le_bytes());
    out.extend(bytes);
}

pub(super) fn encode_id(out: &mut Vec<u8>, id: &ContentId) {
    out.extend(id.digest.as_bytes());
    out.extend(id.size.to_le_bytes());
}

pub(super) fn decode_id(parser: &mut Parser<'_>) -> Option<ContentId> {
    let digest = Digest::from_bytes(parser.digest()?);
    let size = parser.u64()?;
    let is_size = (1..=i64::MAX as u64).contains(&size);
    is_size.then_some(ContentId { digest, size })
}

pub(super) fn encode_version(out: &mut Vec<u8>, version: Option<&PathVersion>) {
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
pub(super) fn decode_version<'a>(
    parser: &mut Parser<'_>,
    earlier: impl Fn(usize) -> Option<&'a PathVersion>,
) -> Result<Option<PathVersion>, Refused> {
    const BAD: Refused = "has a file that no tree can have";
    let kind = parser.u8().ok_or(BAD)?;
    if kind == NONE {
        return Ok(None);
    }
    if kind == SAME_FILE {
        let first = parser.u32().ok_or(BAD)? as usize;
        let version = earlier(first);
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
