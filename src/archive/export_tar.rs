//! A tree as a tar archive in the pax format: what [`super::import_tar`] makes the same tree of, and
//! GNU tar and libarchive understand.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{RenameFlags, SeekFrom};
use rustix::io::Errno;
use tar::{EntryType, Header};

use super::export_directory::{Target, changed_or};
use super::tar_field::Segments;
use super::tar_record::Records;
use super::view_source::{ViewEntry, ViewSource};
use crate::error::{Context, Error, Result};
use crate::progress::Progress;
use crate::store::Store;
use crate::store::metadata::Content;
use crate::store::number::Number;
use crate::sys::{copy, durable};

const BLOCK: u64 = 512;
/// tar(1) writes records of this many bytes.
const RECORD: u64 = 20 * BLOCK;
const PIECE: usize = 256 << 10;
/// A file with more pieces than this is written with its holes as zeros.
const SEGMENTS_MAX: usize = 10_000;
/// Eleven octal digits.
const FIELD_MAX: u64 = (1 << 33) - 1;
/// Seven octal digits.
const SMALL_FIELD_MAX: u64 = (1 << 21) - 1;

/// Writes a tree to a new file, or to standard output for `-`. The file gets its name when it is
/// complete and synced.
///
/// Sockets, for which the format has nothing, are written as empty files with the record
/// `SCHILY.filetype=socket`.
///
/// # Errors
/// When the file exists or is inside the store, standard output is a terminal, or anything cannot
/// be read or written.
pub fn export_tar(
    source: &dyn ViewSource,
    store: &Store,
    destination: &Path,
    progress: &dyn Progress,
) -> Result<()> {
    if destination.as_os_str() == "-" {
        let output = io::stdout();
        if output.is_terminal() {
            return Err(Error::usage("standard output", "it is a terminal")
                .remedy("name a file, or send the archive to another program"));
        }
        // Not through Rust's own buffer, which looks for line ends.
        let output = File::from(
            output
                .as_fd()
                .try_clone_to_owned()
                .about("standard output")?,
        );
        return write_archive(source, output, "standard output", progress).map(drop);
    }
    let target = Target::prepare(store, destination)?;
    let shown = &target.shown;
    if destination.symlink_metadata().is_ok() {
        return Err(Error::failed(shown, "it exists already").remedy("name a new file"));
    }
    let pid = std::process::id().to_string();
    let name = [b".", &target.name[..], b".foldfs-", pid.as_bytes()].concat();
    let name = &name[name.len().saturating_sub(255)..];
    let file = durable::create(&target.parent, name, 0o600).about(shown)?;
    let written = write_archive(source, File::from(file), shown, progress).and_then(|file| {
        durable::sync(&file).about(shown)?;
        let flags = RenameFlags::NOREPLACE;
        durable::rename(&target.parent, name, &target.parent, &target.name, flags).about(shown)
    });
    if let Err(error) = written {
        durable::unlink(&target.parent, name).about(shown)?;
        return Err(error);
    }
    durable::sync(&target.parent).about(shown)
}

/// The whole archive; gives `output` back.
pub(super) fn write_archive<W: Write>(
    source: &dyn ViewSource,
    output: W,
    name: &str,
    progress: &dyn Progress,
) -> Result<W> {
    let mut archive = ArchiveWriter {
        output: BufWriter::with_capacity(PIECE, output),
        name,
        written: 0,
        linked: HashMap::new(),
        progress,
    };
    source.visit(&mut |entry| archive.entry(entry))?;
    archive.finish()
}

struct ArchiveWriter<'a, W: Write> {
    output: BufWriter<W>,
    /// For messages.
    name: &'a str,
    written: u64,
    /// Files that may have several names, by the first of them.
    linked: HashMap<Number, Vec<u8>>,
    progress: &'a dyn Progress,
}

impl<W: Write> ArchiveWriter<'_, W> {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.written += bytes.len() as u64;
        self.output.write_all(bytes).about(self.name)
    }

    fn pad(&mut self, unit: u64) -> Result<()> {
        const ZEROS: [u8; RECORD as usize] = [0; RECORD as usize];
        let missing = self.written.next_multiple_of(unit) - self.written;
        self.put(&ZEROS[..missing as usize])
    }

    fn finish(mut self) -> Result<W> {
        self.put(&[0; 2 * BLOCK as usize])?;
        self.pad(RECORD)?;
        let name = self.name;
        self.output
            .into_inner()
            .map_err(io::IntoInnerError::into_error)
            .about(name)
    }

    fn entry(&mut self, entry: &ViewEntry<'_>) -> Result<()> {
        let mut path = match entry.path {
            b"" => b".".to_vec(),
            path => path.to_vec(),
        };
        let mut header = Header::new_ustar();
        let mut records = Records::default();
        if let Some(first) = self
            .linked
            .get(&entry.number)
            .filter(|_| entry.several_names)
        {
            header.set_entry_type(EntryType::Link);
            set_link(&mut header, &mut records, first);
            return self.member(header, records, &path, entry, 0);
        }
        if entry.several_names {
            self.linked.insert(entry.number, path.clone());
        }
        records.add_xattrs(&entry.metadata.xattrs);
        let mut device = |rdev: u64| -> io::Result<()> {
            let (major, minor) = (rustix::fs::major(rdev), rustix::fs::minor(rdev));
            for (key, value) in [("SCHILY.devmajor", major), ("SCHILY.devminor", minor)] {
                if u64::from(value) > SMALL_FIELD_MAX {
                    records.add(key, value.to_string().as_bytes());
                }
            }
            header.set_device_major(major & SMALL_FIELD_MAX as u32)?;
            header.set_device_minor(minor & SMALL_FIELD_MAX as u32)
        };
        let kind = match entry.content {
            Content::Regular { size: 0, .. } => EntryType::Regular,
            Content::Regular { size, .. } => {
                header.set_entry_type(EntryType::Regular);
                return self.file(header, records, &path, entry, *size);
            }
            Content::Directory => {
                path.push(b'/');
                EntryType::Directory
            }
            Content::Symlink { target } => {
                set_link(&mut header, &mut records, target);
                EntryType::Symlink
            }
            Content::CharDevice { rdev } => {
                device(*rdev).about(entry.shown_path())?;
                EntryType::Char
            }
            Content::BlockDevice { rdev } => {
                device(*rdev).about(entry.shown_path())?;
                EntryType::Block
            }
            Content::Fifo => EntryType::Fifo,
            Content::Socket => {
                records.add("SCHILY.filetype", b"socket");
                EntryType::Regular
            }
        };
        header.set_entry_type(kind);
        self.member(header, records, &path, entry, 0)
    }

    /// Header, and the extended one before it where it is needed.
    fn member(
        &mut self,
        mut header: Header,
        mut records: Records,
        path: &[u8],
        entry: &ViewEntry<'_>,
        size: u64,
    ) -> Result<()> {
        let metadata = entry.metadata;
        set_path(&mut header, &mut records, path);
        header.set_mode(metadata.mode);
        for (key, value) in [("uid", metadata.uid), ("gid", metadata.gid)] {
            if u64::from(value) > SMALL_FIELD_MAX {
                records.add(key, value.to_string().as_bytes());
            }
        }
        header.set_uid(u64::from(metadata.uid).min(SMALL_FIELD_MAX));
        header.set_gid(u64::from(metadata.gid).min(SMALL_FIELD_MAX));
        if size > FIELD_MAX {
            records.add("size", size.to_string().as_bytes());
        }
        header.set_size(size.min(FIELD_MAX));
        let seconds = u64::try_from(metadata.mtime.seconds);
        let fits = metadata.mtime.nanoseconds == 0 && seconds.is_ok_and(|s| s <= FIELD_MAX);
        if !fits {
            records.add_mtime(metadata.mtime);
        }
        header.set_mtime(seconds.unwrap_or(0).min(FIELD_MAX));
        header.set_cksum();
        let extended = records.into_bytes();
        if !extended.is_empty() {
            let mut before = Header::new_ustar();
            before.set_entry_type(EntryType::XHeader);
            set_path(&mut before, &mut Records::default(), b"PaxHeaders/extended");
            before.set_mode(0o644);
            before.set_size(extended.len() as u64);
            before.set_cksum();
            self.put(before.as_bytes())?;
            self.put(&extended)?;
            self.pad(BLOCK)?;
        }
        self.put(header.as_bytes())
    }

    /// A file with content; with large holes as a sparse one (GNU, version 1.0).
    fn file(
        &mut self,
        header: Header,
        mut records: Records,
        path: &[u8],
        entry: &ViewEntry<'_>,
        size: u64,
    ) -> Result<()> {
        let file = (entry.open)()?;
        let segments = segments(&file, size).about(entry.shown_path())?;
        let data: u64 = segments.iter().map(|(_, length)| length).sum();
        if size - data < 2 * BLOCK * (1 + segments.len() as u64) || segments.len() > SEGMENTS_MAX {
            self.member(header, records, path, entry, size)?;
            return self.data(&file, &[(0, size)], entry, size);
        }
        records.add("GNU.sparse.major", b"1");
        records.add("GNU.sparse.minor", b"0");
        records.add("GNU.sparse.name", path);
        records.add("GNU.sparse.realsize", size.to_string().as_bytes());
        let mut map = format!("{}\n", segments.len());
        for (offset, length) in &segments {
            map += &format!("{offset}\n{length}\n");
        }
        let mut map = map.into_bytes();
        map.resize(map.len().next_multiple_of(BLOCK as usize), 0);
        let stored = map.len() as u64 + data;
        self.member(header, records, b"GNUSparseFile.0/sparse", entry, stored)?;
        self.put(&map)?;
        self.data(&file, &segments, entry, size)
    }

    fn data(
        &mut self,
        file: &OwnedFd,
        segments: &[(u64, u64)],
        entry: &ViewEntry<'_>,
        size: u64,
    ) -> Result<()> {
        let mut buffer = vec![0; PIECE];
        for &(offset, length) in segments {
            let mut position = offset;
            while position < offset + length {
                let rest = usize::try_from(offset + length - position).unwrap_or(PIECE);
                let want = rest.min(PIECE);
                let read = copy::read_at(file, &mut buffer[..want], position);
                match read {
                    Ok(0) => return Err(changed_or(Errno::IO, file, size, entry)),
                    read => {
                        let read = read.about(entry.shown_path())?;
                        self.put(&buffer[..read])?;
                        position += read as u64;
                    }
                }
            }
        }
        self.progress.advance(size);
        self.pad(BLOCK)
    }
}

/// The name in the header, and in a record where it does not fit. A long name is cut there for
/// readers that do not know pax.
fn set_path(header: &mut Header, records: &mut Records, path: &[u8]) {
    let field = &mut header.as_old_mut().name;
    let fits = path.len() <= field.len() && path.is_ascii();
    if !fits {
        let whole = path.strip_suffix(b"/").unwrap_or(path);
        records.add_unless_present("GNU.sparse.name", "path", whole);
    }
    let length = path.len().min(field.len());
    field[..length].copy_from_slice(&path[..length]);
    if length < path.len() && field[length - 1] == b'/' {
        field[length - 1] = b'_';
    }
}

fn set_link(header: &mut Header, records: &mut Records, target: &[u8]) {
    let field = &mut header.as_old_mut().linkname;
    if target.len() > field.len() || !target.is_ascii() {
        records.add("linkpath", target);
    }
    let length = target.len().min(field.len());
    field[..length].copy_from_slice(&target[..length]);
}

/// Where a file has data (lseek(2), SEEK_DATA).
fn segments(file: &OwnedFd, size: u64) -> rustix::io::Result<Segments> {
    let file = file.as_fd();
    let mut segments = Segments::new();
    let mut position = 0;
    while position < size {
        let start = match rustix::fs::seek(file, SeekFrom::Data(position)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(vec![(0, size)]),
            Err(error) => return Err(error),
        };
        if start >= size {
            break;
        }
        position = rustix::fs::seek(file, SeekFrom::Hole(start))?.min(size);
        segments.push((start, position - start));
    }
    // GNU tar ends the map with the end of the file.
    if segments
        .last()
        .is_none_or(|&(offset, length)| offset + length < size)
    {
        segments.push((size, 0));
    }
    Ok(segments)
}
