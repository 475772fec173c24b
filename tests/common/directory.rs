//! Carries operations out in a directory of the host, a mounted one or a plain one.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    self, AtFlags, CWD, FallocateFlags, Gid, Mode, OFlags, RenameFlags, SeekFrom, Timespec,
    Timestamps, Uid, XattrFlags,
};
use rustix::io::{self, Errno, Result};

use super::at;
use super::mapping::Mapped;
use super::model::Outcome;
use super::model::attributes::xattr_name;
use super::model::names::special;
use super::op::{self, Access, Allocation, Also, Invisible, Op, Renaming, Setting, When};
use super::snapshot::{Depth, Entry, Snapshot};

/// What can be seen of a system at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// The tree.
    pub tree: Snapshot,
    /// fstat of each open file and, if it is open for reading, its content.
    pub handles: Vec<Option<(Entry, Option<Vec<u8>>)>>,
    /// What each mapping shows.
    pub mappings: Vec<Option<Vec<u8>>>,
}

/// Whatever carries operations out. The core in process is to become a third one, beside the two
/// kinds of directories.
pub trait System {
    /// For messages.
    fn name(&self) -> String;
    /// Carries out an operation that programs can ask for.
    fn perform(&mut self, op: &Op<Vec<u8>>) -> Outcome;
    /// Carries out what nobody must see.
    fn invisible(&mut self, what: Invisible);
    /// Looks at everything.
    fn scan(&mut self, depth: Depth) -> Scan;
    /// Whether a number is never given to a second file.
    fn never_reuses_numbers(&self) -> bool;
    /// Looks at what the operations must not have touched.
    fn check_others(&mut self) -> std::result::Result<(), String>;
}

/// A directory and the files of it that are open.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    root: Option<OwnedFd>,
    handles: [Option<(OwnedFd, Access)>; 8],
    mappings: [Option<Mapped>; 2],
}

impl Directory {
    /// Of a path.
    pub fn new(path: &Path) -> Directory {
        Directory {
            path: path.to_owned(),
            root: Some(at::open_root(path)),
            handles: Default::default(),
            mappings: Default::default(),
        }
    }

    /// Lets go of the directory, so that it can be unmounted.
    pub fn leave(&mut self) {
        self.root = None;
    }

    /// Opens the directory again.
    pub fn enter(&mut self) {
        self.root = Some(at::open_root(&self.path));
    }

    fn root(&self) -> &OwnedFd {
        self.root.as_ref().expect("the directory is entered")
    }

    fn handle(&self, slot: u8) -> &OwnedFd {
        &self.handles[usize::from(slot)]
            .as_ref()
            .expect("an open handle")
            .0
    }

    fn hold(&mut self, file: OwnedFd, access: Access) {
        let free = self.handles.iter_mut().find(|slot| slot.is_none());
        *free.expect("a free slot") = Some((file, access));
    }

    fn open(&mut self, path: &[u8], create: Option<u32>, access: Access, also: Also) -> Result<()> {
        let (directory, name) = at::parent(self.root().as_fd(), path)?;
        let mut flags = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        flags |= match access {
            Access::Read => OFlags::RDONLY,
            Access::Write => OFlags::WRONLY,
            Access::Both => OFlags::RDWR,
        };
        flags |= match also {
            Also::Nothing => OFlags::empty(),
            Also::Truncate => OFlags::TRUNC,
            Also::Append => OFlags::APPEND,
            Also::Exclusive => OFlags::EXCL,
        };
        if create.is_some() {
            flags |= OFlags::CREATE;
        }
        let mode = Mode::from_raw_mode(create.unwrap_or(0));
        let file = fs::openat(&directory, name, flags, mode)?;
        let stat = fs::fstat(&file)?;
        if fs::FileType::from_raw_mode(stat.st_mode) == fs::FileType::RegularFile {
            self.hold(file, access);
        }
        Ok(())
    }

    fn try_perform(&mut self, op: &Op<Vec<u8>>) -> Result<Outcome> {
        let root = self.root().as_fd();
        let mode_of = |mode: &u32| Mode::from_raw_mode(*mode);
        match op {
            Op::Create {
                at,
                mode,
                access,
                also,
            } => {
                self.open(at, Some(*mode), *access, *also)?;
            }
            Op::Open { at, access, also } => self.open(at, None, *access, *also)?,
            Op::Mkdir { at, mode } => {
                let (directory, name) = at::parent(root, at)?;
                fs::mkdirat(&directory, name, mode_of(mode))?;
            }
            Op::Symlink { at, target } => {
                let (directory, name) = at::parent(root, at)?;
                fs::symlinkat(op::target(*target), &directory, name)?;
            }
            Op::Mknod { at, what, mode } => {
                let (directory, name) = at::parent(root, at)?;
                let (file_type, device) = special(*what);
                fs::mknodat(&directory, name, file_type, mode_of(mode), device)?;
            }
            Op::Link { from, to } => {
                let (source, source_name) = at::parent(root, from)?;
                let (directory, name) = at::parent(root, to)?;
                fs::linkat(&source, source_name, &directory, name, AtFlags::empty())?;
            }
            Op::Unlink { at } => {
                let (directory, name) = at::parent(root, at)?;
                fs::unlinkat(&directory, name, AtFlags::empty())?;
            }
            Op::Rmdir { at } => {
                let (directory, name) = at::parent(root, at)?;
                fs::unlinkat(&directory, name, AtFlags::REMOVEDIR)?;
            }
            Op::Rename { from, to, how } => {
                let (source, source_name) = at::parent(root, from)?;
                let (directory, name) = at::parent(root, to)?;
                let flags = match how {
                    Renaming::Plain => RenameFlags::empty(),
                    Renaming::NoReplace => RenameFlags::NOREPLACE,
                    Renaming::Exchange => RenameFlags::EXCHANGE,
                    Renaming::Whiteout => RenameFlags::WHITEOUT,
                };
                let renamed = fs::renameat_with(&source, source_name, &directory, name, flags);
                match renamed {
                    // Of a directory that is not empty rename(2) may say either; xfs says this.
                    Err(Errno::EXIST) if *how == Renaming::Plain => Err(Errno::NOTEMPTY)?,
                    renamed => renamed?,
                }
            }
            Op::Close { handle } => self.handles[usize::from(*handle)] = None,
            Op::Read {
                handle,
                offset,
                length,
            } => {
                let mut bytes = vec![0; *length as usize];
                let count = io::pread(self.handle(*handle), &mut bytes, u64::from(*offset))?;
                bytes.truncate(count);
                return Ok(Outcome::Bytes(bytes));
            }
            Op::Write {
                handle,
                length,
                seed,
            } => {
                let bytes = op::pattern(*seed, *length);
                return Ok(Outcome::Count(io::write(self.handle(*handle), &bytes)?));
            }
            Op::Pwrite {
                handle,
                offset,
                length,
                seed,
            } => {
                let bytes = op::pattern(*seed, *length);
                let count = io::pwrite(self.handle(*handle), &bytes, u64::from(*offset))?;
                return Ok(Outcome::Count(count));
            }
            Op::Ftruncate { handle, length } => {
                fs::ftruncate(self.handle(*handle), u64::from(*length))?;
            }
            Op::Truncate { at, length } => truncate(&at::open_path(root, at)?, *length)?,
            Op::Fallocate {
                handle,
                how,
                offset,
                length,
            } => {
                let flags = match how {
                    Allocation::Extend => FallocateFlags::empty(),
                    Allocation::Keep => FallocateFlags::KEEP_SIZE,
                    Allocation::Punch => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                    Allocation::Zero => FallocateFlags::ZERO_RANGE,
                    Allocation::ZeroKeep => FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
                };
                let (offset, length) = (u64::from(*offset), u64::from(*length));
                fs::fallocate(self.handle(*handle), flags, offset, length)?;
            }
            Op::Map { handle } => {
                let file = self.handle(*handle);
                let length = fs::fstat(file)?.st_size as usize;
                let access = self.handles[usize::from(*handle)]
                    .as_ref()
                    .map(|(_, access)| *access);
                let mapped = Mapped::new(file.as_fd(), length, access != Some(Access::Read))?;
                let free = self.mappings.iter_mut().find(|slot| slot.is_none());
                *free.expect("a free slot") = Some(mapped);
            }
            Op::MapLoad { map } => {
                let mapped = self.mappings[usize::from(*map)].as_ref();
                return Ok(Outcome::Bytes(mapped.expect("a mapping").load()));
            }
            Op::MapStore {
                map,
                offset,
                length,
                seed,
            } => {
                let mapped = self.mappings[usize::from(*map)]
                    .as_ref()
                    .expect("a mapping");
                mapped.store(*offset as usize, &op::pattern(*seed, *length))?;
            }
            Op::Unmap { map } => self.mappings[usize::from(*map)] = None,
            Op::Chmod { at, mode } => {
                let (directory, name) = at::parent(root, at)?;
                fs::chmodat(&directory, name, mode_of(mode), AtFlags::empty())?;
            }
            Op::Fchmod { handle, mode } => fs::fchmod(self.handle(*handle), mode_of(mode))?,
            Op::Chown { at, uid, gid } => {
                let (directory, name) = at::parent(root, at)?;
                let uid = uid.map(Uid::from_raw);
                let gid = gid.map(Gid::from_raw);
                fs::chownat(&directory, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            Op::Utimens { at, mtime } => {
                let (directory, name) = at::parent(root, at)?;
                let time = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
                let last_modification = match mtime {
                    When::Now => time(0, fs::UTIME_NOW),
                    When::Omit => time(0, fs::UTIME_OMIT),
                    When::At(seconds, nanoseconds) => time(*seconds, i64::from(*nanoseconds)),
                };
                let last_access = time(5, 6);
                let times = Timestamps {
                    last_access,
                    last_modification,
                };
                fs::utimensat(&directory, name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            Op::SetXattr {
                at,
                xattr,
                value,
                how,
            } => {
                let (directory, name) = at::parent(root, at)?;
                let entry = at::proc_entry(directory.as_fd(), name);
                let xattr = xattr_name(*xattr);
                let flags = match how {
                    Setting::Any => XattrFlags::empty(),
                    Setting::Create => XattrFlags::CREATE,
                    Setting::Replace => XattrFlags::REPLACE,
                };
                fs::lsetxattr(&entry[..], xattr, &op::xattr_value(xattr, *value), flags)?;
            }
            Op::GetXattr { at, xattr } => {
                let value = at::get_xattr(root, at, xattr_name(*xattr).as_bytes())?;
                return Ok(Outcome::Bytes(value));
            }
            Op::RemoveXattr { at, xattr } => {
                let (directory, name) = at::parent(root, at)?;
                let entry = at::proc_entry(directory.as_fd(), name);
                fs::lremovexattr(&entry[..], xattr_name(*xattr))?;
            }
            Op::ListXattr { at } => return Ok(Outcome::Names(at::list_xattrs(root, at)?)),
            Op::Readdir { at } => {
                let listed = at::list(root, at)?;
                let mut names: Vec<_> = listed.into_iter().map(|item| item.name).collect();
                names.sort();
                return Ok(Outcome::Names(names));
            }
            Op::Readlink { at } => return Ok(Outcome::Bytes(at::read_link(root, at)?)),
            Op::Access { at, mode } => {
                let (directory, name) = at::parent(root, at)?;
                let access = fs::Access::from_bits_retain(u32::from(*mode));
                fs::accessat(&directory, name, access, AtFlags::empty())?;
            }
            Op::Stat { at } => {
                at::stat(root, at)?;
            }
            Op::Fsync { handle } => fs::fsync(self.handle(*handle))?,
            Op::CopyRange {
                from,
                to,
                source,
                target,
                length,
            } => {
                let (mut source, mut target) = (u64::from(*source), u64::from(*target));
                let count = fs::copy_file_range(
                    self.handle(*from),
                    Some(&mut source),
                    self.handle(*to),
                    Some(&mut target),
                    *length as usize,
                )?;
                return Ok(Outcome::Count(count));
            }
            // lseek moves what write(2) uses, so it is asked of a descriptor of its own.
            Op::SeekData { handle, offset } => {
                return seek(self.handle(*handle), SeekFrom::Data(u64::from(*offset)));
            }
            Op::SeekHole { handle, offset } => {
                return seek(self.handle(*handle), SeekFrom::Hole(u64::from(*offset)));
            }
            Op::Invisible(_) => panic!("invisible operations are not performed"),
        }
        Ok(Outcome::Done)
    }
}

fn seek(file: &OwnedFd, to: SeekFrom) -> Result<Outcome> {
    let before = fs::tell(file)?;
    let found = fs::seek(file, to);
    fs::seek(file, SeekFrom::Start(before))?;
    Ok(Outcome::Position(found?))
}

fn truncate(file: &OwnedFd, length: u32) -> Result<()> {
    super::mapping::truncate_descriptor(file.as_fd(), u64::from(length))
}

impl System for Directory {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn perform(&mut self, op: &Op<Vec<u8>>) -> Outcome {
        self.try_perform(op).unwrap_or_else(Outcome::Error)
    }

    fn invisible(&mut self, what: Invisible) {
        if what == Invisible::DropCaches {
            drop_caches();
        }
    }

    fn scan(&mut self, depth: Depth) -> Scan {
        let handles = self.handles.iter().map(|slot| {
            let (file, access) = slot.as_ref()?;
            let entry = Entry::new(&fs::fstat(file).expect("fstat"));
            let readable = *access != Access::Write && depth == Depth::Full;
            let content = readable.then(|| read_all(file));
            Some((entry, content))
        });
        let mappings = self
            .mappings
            .iter()
            .map(|slot| slot.as_ref().map(Mapped::load));
        Scan {
            handles: handles.collect(),
            mappings: mappings.collect(),
            tree: Snapshot::take(self.root().as_fd(), depth),
        }
    }

    fn never_reuses_numbers(&self) -> bool {
        false
    }

    fn check_others(&mut self) -> std::result::Result<(), String> {
        Ok(())
    }
}

fn read_all(file: &OwnedFd) -> Vec<u8> {
    let file = File::from(file.try_clone().expect("dup"));
    let mut content = Vec::new();
    let mut buffer = vec![0; 65536];
    loop {
        let count = io::pread(&file, &mut buffer, content.len() as u64).expect("pread");
        if count == 0 {
            return content;
        }
        content.extend_from_slice(&buffer[..count]);
    }
}

/// Makes the kernel forget the inodes and names that nothing holds.
pub fn drop_caches() {
    fs::openat(
        CWD,
        "/proc/sys/vm/drop_caches",
        OFlags::WRONLY,
        Mode::empty(),
    )
    .and_then(|file| io::write(file, b"2"))
    .map_err(|error: Errno| error)
    .expect("drop_caches");
}
