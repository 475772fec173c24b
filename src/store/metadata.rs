//! What an inode is besides its names: type, content, owner, mode, times, xattrs.

use std::collections::BTreeMap;

use super::digest::Digest;
use super::number::Number;

/// Seconds since 1970 (may be negative) and nanoseconds below 1e9.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time {
    /// Seconds since 1970.
    pub seconds: i64,
    /// Nanoseconds, always counted forward, below 1e9.
    pub nanoseconds: u32,
}

impl Time {
    /// The system clock's time.
    pub fn now() -> Self {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        Self {
            seconds: now.tv_sec,
            nanoseconds: now.tv_nsec as u32,
        }
    }
}

/// Extended attributes by name, POSIX ACLs among them as `system.posix_acl_*`. Guest's names, not
/// the escaped ones of the private layer.
pub type Xattrs = BTreeMap<Box<[u8]>, Box<[u8]>>;

/// Encodes xattrs as the catalog holds them (docs/format.md); `None` when there are none.
pub fn encode_xattrs(xattrs: &Xattrs) -> Option<Vec<u8>> {
    if xattrs.is_empty() {
        return None;
    }
    let mut out = Vec::new();
    for (name, value) in xattrs {
        out.extend_from_slice(&(name.len() as u16).to_le_bytes());
        out.extend_from_slice(name);
        out.extend_from_slice(&(value.len() as u32).to_le_bytes());
        out.extend_from_slice(value);
    }
    Some(out)
}

/// The inverse of [`encode_xattrs`]; `None` for bytes that it never makes.
pub fn decode_xattrs(mut bytes: &[u8]) -> Option<Xattrs> {
    fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
        let (head, tail) = bytes.split_at_checked(length)?;
        *bytes = tail;
        Some(head)
    }
    let mut xattrs = Xattrs::new();
    while !bytes.is_empty() {
        let length = u16::from_le_bytes(take(&mut bytes, 2)?.try_into().ok()?);
        let name = take(&mut bytes, length.into())?;
        let length = u32::from_le_bytes(take(&mut bytes, 4)?.try_into().ok()?);
        let value = take(&mut bytes, length as usize)?;
        xattrs.insert(name.into(), value.into());
    }
    Some(xattrs)
}

/// Owner, permission bits, mtime and xattrs: what a version compares besides type and content.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Metadata {
    /// Permission, set-id and sticky bits: 07777 of st_mode.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of the last modification.
    pub mtime: Time,
    /// Extended attributes, ACLs included.
    pub xattrs: Xattrs,
}

impl Metadata {
    /// Whether it is the same but for mtime.
    pub fn equal_but_mtime(&self, other: &Self) -> bool {
        (self.mode, self.uid, self.gid) == (other.mode, other.uid, other.gid)
            && self.xattrs == other.xattrs
    }
}

/// The seven file types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileType {
    /// S_IFDIR
    Directory,
    /// S_IFREG
    Regular,
    /// S_IFLNK
    Symlink,
    /// S_IFCHR
    CharDevice,
    /// S_IFBLK
    BlockDevice,
    /// S_IFIFO
    Fifo,
    /// S_IFSOCK
    Socket,
}

impl FileType {
    /// The S_IFMT bits of st_mode.
    pub fn bits(self) -> u32 {
        match self {
            FileType::Directory => libc::S_IFDIR,
            FileType::Regular => libc::S_IFREG,
            FileType::Symlink => libc::S_IFLNK,
            FileType::CharDevice => libc::S_IFCHR,
            FileType::BlockDevice => libc::S_IFBLK,
            FileType::Fifo => libc::S_IFIFO,
            FileType::Socket => libc::S_IFSOCK,
        }
    }

    /// From st_mode; `None` for bits that Linux does not know.
    pub fn from_mode(mode: u32) -> Option<Self> {
        Some(match mode & libc::S_IFMT {
            libc::S_IFDIR => FileType::Directory,
            libc::S_IFREG => FileType::Regular,
            libc::S_IFLNK => FileType::Symlink,
            libc::S_IFCHR => FileType::CharDevice,
            libc::S_IFBLK => FileType::BlockDevice,
            libc::S_IFIFO => FileType::Fifo,
            libc::S_IFSOCK => FileType::Socket,
            _ => return None,
        })
    }
}

/// Type and content of an inode of the shared layer or of an import: content that needs bytes is
/// an object.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Content {
    /// A directory; its names are rows of `entries`.
    Directory,
    /// A regular file. `digest` is `None` exactly when `size` is 0.
    Regular {
        /// Bytes.
        size: u64,
        /// The object with the content.
        digest: Option<Digest>,
    },
    /// A symbolic link.
    Symlink {
        /// Where it points, as readlink(2) gives it.
        target: Box<[u8]>,
    },
    /// A character device.
    CharDevice {
        /// st_rdev.
        rdev: u64,
    },
    /// A block device.
    BlockDevice {
        /// st_rdev.
        rdev: u64,
    },
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

impl Content {
    /// The file type.
    pub fn file_type(&self) -> FileType {
        match self {
            Content::Directory => FileType::Directory,
            Content::Regular { .. } => FileType::Regular,
            Content::Symlink { .. } => FileType::Symlink,
            Content::CharDevice { .. } => FileType::CharDevice,
            Content::BlockDevice { .. } => FileType::BlockDevice,
            Content::Fifo => FileType::Fifo,
            Content::Socket => FileType::Socket,
        }
    }

    /// st_size as a plain file system shows it; directories have a constant one.
    pub fn size(&self) -> u64 {
        match self {
            Content::Regular { size, .. } => *size,
            Content::Symlink { target } => target.len() as u64,
            Content::Directory => 4096,
            _ => 0,
        }
    }

    /// st_rdev, 0 for all but devices.
    pub fn rdev(&self) -> u64 {
        match self {
            Content::CharDevice { rdev } | Content::BlockDevice { rdev } => *rdev,
            _ => 0,
        }
    }
}

/// An inode of the shared layer, as the catalog has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedInode {
    /// Its row.
    pub number: Number,
    /// Type and content.
    pub content: Content,
    /// Owner, mode, mtime, xattrs.
    pub metadata: Metadata,
    /// What views show as ctime (an alias may say otherwise).
    pub ctime: Time,
    /// Names it has in the shared layer; for a directory 2 + subdirectories.
    pub links: u32,
}
