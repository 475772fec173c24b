//! What a tree looks like to who uses it, and how two such looks differ.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{self, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::at;

/// Seconds since 1970 and nanoseconds.
pub type Time = (i64, u64);

/// What is compared of an entry. atime and st_blocks are not looked at: reading changes the one,
/// folding the other; nor is the size of a directory, which each file system counts in its own way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The type bits of st_mode.
    pub kind: u32,
    /// 07777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// 0 for directories.
    pub size: u64,
    /// SHA-256 of a regular file's content; only at [`Depth::Full`].
    pub digest: Option<[u8; 32]>,
    /// Modification time.
    pub mtime: Time,
    /// Change time.
    pub ctime: Time,
    /// All xattrs, ACLs included; only at [`Depth::Full`].
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Of a symlink.
    pub target: Vec<u8>,
    /// Of a device.
    pub rdev: u64,
    /// st_nlink.
    pub nlink: u64,
    /// st_ino.
    pub ino: u64,
}

/// How much to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// lstat and readlink.
    Attributes,
    /// Contents and xattrs too.
    Full,
}

/// A tree: path below its root to entry; the root is the empty path.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// By path.
    pub entries: BTreeMap<Vec<u8>, Entry>,
}

/// Which fields two snapshots are compared by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fields(u32);

impl Fields {
    /// mtime of everything but directories.
    pub const MTIME: Fields = Fields(1);
    /// ctime.
    pub const CTIME: Fields = Fields(2);
    /// st_ino as a value.
    pub const INO: Fields = Fields(4);
    /// st_nlink.
    pub const NLINK: Fields = Fields(8);
    /// mtime of directories.
    pub const DIRECTORY_MTIME: Fields = Fields(16);
    /// Which names are the same file.
    pub const LINKS: Fields = Fields(32);
    /// Everything.
    pub const ALL: Fields = Fields(63);
    /// What a copy with `cp -a` keeps.
    pub const COPY: Fields = Fields(63 - 2 - 4);

    /// Without the fields of `other`.
    pub const fn without(self, other: Fields) -> Fields {
        Fields(self.0 & !other.0)
    }

    fn has(self, other: Fields) -> bool {
        self.0 & other.0 != 0
    }
}

/// What may be asked of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Host {
    Usual,
    Overlay,
}

impl Entry {
    /// The entry of an lstat, without what must be read separately.
    pub fn new(stat: &Stat) -> Entry {
        let kind = stat.st_mode & 0o170_000;
        let directory = FileType::from_raw_mode(kind) == FileType::Directory;
        let device = [FileType::CharacterDevice, FileType::BlockDevice]
            .contains(&FileType::from_raw_mode(kind));
        Entry {
            kind,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: if directory { 0 } else { stat.st_size as u64 },
            digest: None,
            mtime: (stat.st_mtime, stat.st_mtime_nsec),
            ctime: (stat.st_ctime, stat.st_ctime_nsec),
            xattrs: BTreeMap::new(),
            target: Vec::new(),
            rdev: if device { stat.st_rdev } else { 0 },
            nlink: stat.st_nlink,
            ino: stat.st_ino,
        }
    }

    /// The type.
    pub fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.kind)
    }
}

impl Snapshot {
    /// Everything below a directory of the host.
    pub fn of(path: &Path) -> Snapshot {
        Snapshot::take(at::open_root(path).as_fd(), Depth::Full)
    }

    /// Everything below a mount of the kernel's overlayfs, where d_ino may be another than st_ino,
    /// and readdir lists a whiteout that nothing is below.
    pub fn of_overlay(path: &Path) -> Snapshot {
        Snapshot::take_from(at::open_root(path).as_fd(), Depth::Full, Host::Overlay)
    }

    /// Everything below an open directory. Panics, naming the path, where something cannot be
    /// read, and where readdir and lstat contradict each other.
    pub fn take(root: BorrowedFd<'_>, depth: Depth) -> Snapshot {
        Snapshot::take_from(root, depth, Host::Usual)
    }

    fn take_from(root: BorrowedFd<'_>, depth: Depth, host: Host) -> Snapshot {
        let mut entries = BTreeMap::new();
        entries.insert(Vec::new(), read_entry(root, b"", depth));
        let mut pending = vec![Vec::new()];
        while let Some(directory) = pending.pop() {
            let listed = at::list(root, &directory)
                .unwrap_or_else(|error| panic!("readdir {}: {error}", show(&directory)));
            for item in listed {
                let path = at::join(&directory, &item.name);
                if host == Host::Overlay && at::stat(root, &path).err() == Some(Errno::NOENT) {
                    continue;
                }
                let entry = read_entry(root, &path, depth);
                assert_eq!(item.kind, entry.kind, "d_type of {}", show(&path));
                if host == Host::Usual {
                    assert_eq!(item.ino, entry.ino, "d_ino of {}", show(&path));
                }
                if entry.file_type() == FileType::Directory {
                    pending.push(path.clone());
                }
                let double = entries.insert(path, entry);
                assert!(double.is_none(), "readdir lists {} twice", show(&item.name));
            }
        }
        Snapshot { entries }
    }

    /// The same with one mtime for everything modified since then: two trees in which the same was
    /// done at different moments become equal.
    pub fn with_recent_alike(mut self, since: SystemTime) -> Snapshot {
        let since = since
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| time.as_secs() as i64);
        for entry in self.entries.values_mut() {
            if entry.mtime.0 >= since {
                entry.mtime = (i64::MAX, 0);
            }
        }
        self
    }

    /// For each name of a file with several names, the first of them.
    fn link_groups(&self) -> BTreeMap<&[u8], &[u8]> {
        let mut first: BTreeMap<u64, &[u8]> = BTreeMap::new();
        let mut groups = BTreeMap::new();
        for (path, entry) in &self.entries {
            if entry.file_type() != FileType::Directory {
                groups.insert(&path[..], *first.entry(entry.ino).or_insert(path));
            }
        }
        groups
    }

    /// One line for each difference; `self` is what was expected.
    pub fn differences(&self, found: &Snapshot, fields: Fields) -> Vec<String> {
        let mut lines = Vec::new();
        for (path, expected) in &self.entries {
            match found.entries.get(path) {
                None => lines.push(format!("{}: missing", show(path))),
                Some(entry) => compare(path, expected, entry, fields, &mut lines),
            }
        }
        for path in found.entries.keys() {
            if !self.entries.contains_key(path) {
                lines.push(format!("{}: not expected", show(path)));
            }
        }
        if fields.has(Fields::LINKS) {
            let (expected, groups) = (self.link_groups(), found.link_groups());
            for (path, first) in &expected {
                if let Some(other) = groups.get(path)
                    && other != first
                {
                    lines.push(format!(
                        "{}: is the same file as {}, expected {}",
                        show(path),
                        show(other),
                        show(first)
                    ));
                }
            }
        }
        lines
    }

    /// Panics with the differences if there are any.
    #[track_caller]
    pub fn assert_same(&self, found: &Snapshot, fields: Fields, what: &str) {
        let lines = self.differences(found, fields);
        assert!(lines.is_empty(), "{what}:\n{}", lines.join("\n"));
    }
}

fn read_entry(root: BorrowedFd<'_>, path: &[u8], depth: Depth) -> Entry {
    let fail = |what: &str, error: rustix::io::Errno| -> ! {
        panic!("{what} {}: {error}", show(path));
    };
    let stat = at::stat(root, path).unwrap_or_else(|error| fail("lstat", error));
    let mut entry = Entry::new(&stat);
    if entry.file_type() == FileType::Symlink {
        entry.target = at::read_link(root, path).unwrap_or_else(|error| fail("readlink", error));
    }
    if depth == Depth::Full {
        let names = at::list_xattrs(root, path).unwrap_or_else(|e| fail("listxattr", e));
        for name in names {
            let value = at::get_xattr(root, path, &name)
                .unwrap_or_else(|error| fail(&format!("getxattr {}", show(&name)), error));
            entry.xattrs.insert(name, value);
        }
        if entry.file_type() == FileType::RegularFile {
            let (directory, name) = at::parent(root, path).unwrap_or_else(|e| fail("open", e));
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = fs::openat(&directory, name, flags, Mode::empty())
                .unwrap_or_else(|error| fail("open", error));
            let mut file = File::from(file);
            let mut hash = Sha256::new();
            let mut buffer = vec![0; 131_072];
            let mut length = 0;
            loop {
                match file.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(count) => {
                        hash.update(&buffer[..count]);
                        length += count as u64;
                    }
                    Err(error) => panic!("read {}: {error}", show(path)),
                }
            }
            assert_eq!(length, entry.size, "bytes read of {}", show(path));
            entry.digest = Some(hash.finalize().into());
        }
    }
    entry
}

fn compare(path: &[u8], a: &Entry, b: &Entry, fields: Fields, lines: &mut Vec<String>) {
    let mut line = String::new();
    let mut note = |field: &str, expected: String, found: String| {
        if expected != found {
            let _infallible = write!(line, "; {field} is {found}, expected {expected}");
        }
    };
    let octal = |mode: u32| format!("{mode:o}");
    note("type", octal(a.kind), octal(b.kind));
    note("mode", octal(a.mode), octal(b.mode));
    note(
        "owner",
        format!("{}:{}", a.uid, a.gid),
        format!("{}:{}", b.uid, b.gid),
    );
    note("size", a.size.to_string(), b.size.to_string());
    note("content", hex(a.digest), hex(b.digest));
    note("target", show(&a.target), show(&b.target));
    note("device", format!("{:x}", a.rdev), format!("{:x}", b.rdev));
    note("xattrs", show_xattrs(a), show_xattrs(b));
    let mtime = match a.file_type() {
        FileType::Directory => Fields::DIRECTORY_MTIME,
        _ => Fields::MTIME,
    };
    if fields.has(mtime) {
        note("mtime", show_time(a.mtime), show_time(b.mtime));
    }
    if fields.has(Fields::CTIME) {
        note("ctime", show_time(a.ctime), show_time(b.ctime));
    }
    if fields.has(Fields::NLINK) {
        note("links", a.nlink.to_string(), b.nlink.to_string());
    }
    if fields.has(Fields::INO) {
        note("inode", a.ino.to_string(), b.ino.to_string());
    }
    if !line.is_empty() {
        lines.push(format!("{}: {}", show(path), &line[2..]));
    }
}

/// A path for a person.
pub fn show(path: &[u8]) -> String {
    if path.is_empty() {
        return "(root)".into();
    }
    let text = path.escape_ascii().to_string();
    // The long names of the sample tree would drown the rest.
    if text.len() > 160 {
        format!(
            "{}...{} ({} bytes)",
            &text[..60],
            &text[text.len() - 60..],
            path.len()
        )
    } else {
        text
    }
}

fn show_time((seconds, nanoseconds): Time) -> String {
    format!("{seconds}.{nanoseconds:09}")
}

fn hex(digest: Option<[u8; 32]>) -> String {
    let digest = digest.unwrap_or_default();
    digest[..6]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn show_xattrs(entry: &Entry) -> String {
    let mut text = String::from("{");
    for (name, value) in &entry.xattrs {
        let shown = value[..value.len().min(40)].escape_ascii();
        let _infallible = write!(text, "{}={shown}({}) ", name.escape_ascii(), value.len());
    }
    text.push('}');
    text
}
