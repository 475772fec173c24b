//! The members of a tar archive, one after the other: header, pax and GNU extensions, data.
//!
//! Reading is our own because the crate `tar`, whose layout of the header is used, reads names of any
//! length into memory, splits pax values at line ends, does not know sparse files in the pax format,
//! and takes a truncated archive for a whole one.

use std::collections::HashMap;
use std::io::{self, Read};

use tar::Header;

use super::tar_field::{Record, Segments, acl, decimal, number, records, time, xattr_name};
use crate::error::{Context, Error, Result};
use crate::path_bytes::PathBytes;
use crate::store::guest_xattr::is_acl_of_xfs;
use crate::store::metadata::{Content, Metadata, Time, Xattrs};

pub(super) const BLOCK: u64 = 512;
/// Long names and pax headers of one member: more is refused.
const EXTENSION_MAX: u64 = 16 << 20;

/// What a member makes.
#[derive(Debug)]
pub(super) enum MemberKind {
    Directory,
    /// A regular file of `size` bytes, of which the archive holds those of `segments` (`None`: all).
    Regular {
        size: u64,
        segments: Option<Segments>,
    },
    /// Another name of an earlier member.
    Link {
        target: Vec<u8>,
    },
    /// Anything else.
    Special(Content),
}

/// A member. Its data is read with [`Members::read`].
#[derive(Debug)]
pub(super) struct Member {
    /// As the archive has it.
    pub path: Vec<u8>,
    pub kind: MemberKind,
    pub metadata: Metadata,
    /// An ACL that could not be understood was left out.
    pub lost_acl: bool,
}

/// Reads an archive.
pub(super) struct Members<R> {
    reader: R,
    /// For messages.
    name: String,
    /// The last member's path, for messages.
    last: Option<PathBytes>,
    /// Bytes of the current member's data that are still to be read, and its padding.
    pub(super) data: u64,
    padding: u64,
    /// Records of global pax headers.
    global: Vec<Record>,
}

/// What stands before a member's own header.
#[derive(Default)]
struct Extensions {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    records: Vec<Record>,
}

impl<R: Read> Members<R> {
    pub(super) fn new(reader: R, name: String) -> Self {
        Self {
            reader,
            name,
            last: None,
            data: 0,
            padding: 0,
            global: Vec::new(),
        }
    }

    /// An error about the place in the archive that has been reached.
    pub(super) fn error(&self, cause: impl std::fmt::Display) -> Error {
        let place = match &self.last {
            Some(last) => format!("{}: at or after entry {last}", self.name),
            None => format!("{}: at its beginning", self.name),
        };
        Error::failed(place, cause)
    }

    fn cut_off(&self) -> Error {
        self.error("the archive is truncated")
            .remedy("get the whole archive; nothing was imported")
    }

    fn io<T>(&self, result: io::Result<T>) -> Result<T> {
        result.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => self.cut_off(),
            _ if error.raw_os_error().is_none() => {
                self.error(format!("the archive is damaged: {error}"))
            }
            _ => match Err::<(), _>(error).about(&self.name) {
                Err(error) => error,
                Ok(()) => self.cut_off(),
            },
        })
    }

    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let read = self.reader.read(buffer);
        self.io(read)
    }

    pub(super) fn read_exact(&mut self, buffer: &mut [u8]) -> Result<()> {
        let read = self.reader.read_exact(buffer);
        self.io(read)
    }

    /// Reads from the current member's data; 0 at its end.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let want = buffer
            .len()
            .min(usize::try_from(self.data).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        let length = self.read_some(&mut buffer[..want])?;
        if length == 0 {
            return Err(self.cut_off());
        }
        self.data -= length as u64;
        Ok(length)
    }

    /// Skips what is left of the current member.
    fn skip(&mut self) -> Result<()> {
        let mut left = self.data + self.padding;
        (self.data, self.padding) = (0, 0);
        let mut buffer = [0; 16 << 10];
        while left > 0 {
            let want = buffer
                .len()
                .min(usize::try_from(left).unwrap_or(usize::MAX));
            self.read_exact(&mut buffer[..want])?;
            left -= want as u64;
        }
        Ok(())
    }

    pub(super) fn set_data(&mut self, size: u64) -> Result<()> {
        // Sums of the two must not overflow.
        if size > i64::MAX as u64 {
            return Err(self.error("a size that cannot be"));
        }
        self.data = size;
        self.padding = size.next_multiple_of(BLOCK) - size;
        Ok(())
    }

    /// The whole data of an extension.
    fn extension(&mut self, size: u64) -> Result<Vec<u8>> {
        if size > EXTENSION_MAX {
            return Err(self.error(format!("an extended header of {size} bytes")));
        }
        self.set_data(size)?;
        let mut bytes = vec![0; size as usize];
        self.read_exact(&mut bytes)?;
        self.data = 0;
        self.skip()?;
        Ok(bytes)
    }

    /// A header; `None` at the end of the archive.
    fn header(&mut self) -> Result<Option<Header>> {
        let mut header = Header::new_old();
        let mut length = 0;
        let bytes = header.as_mut_bytes();
        while length < bytes.len() {
            match self.read_some(&mut bytes[length..])? {
                0 if length == 0 && self.last.is_some() => {
                    return Err(self
                        .error("the archive is truncated: its end mark is missing")
                        .remedy("get the whole archive; nothing was imported"));
                }
                0 => return Err(self.no_archive()),
                more => length += more,
            }
        }
        if bytes.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        let sum = |signed: bool| {
            let value = |(index, &byte): (usize, &u8)| match index {
                148..156 => i64::from(b' '),
                _ if signed => i64::from(byte as i8),
                _ => i64::from(byte),
            };
            bytes.iter().enumerate().map(value).sum::<i64>()
        };
        let expected = number(&bytes[148..156]);
        if expected != Some(sum(false)) && expected != Some(sum(true)) {
            return Err(match &self.last {
                None => self.no_archive(),
                Some(_) => self
                    .error("the archive is damaged: a header's checksum is wrong")
                    .remedy("get the archive again; nothing was imported"),
            });
        }
        Ok(Some(header))
    }

    fn no_archive(&self) -> Error {
        Error::failed(&self.name, "it is no tar archive")
            .remedy("give a directory, or a tar archive, plain or compressed with gzip, xz or zstd")
    }

    /// The next member; `None` after the last one, when the archive has been read to its end.
    pub(super) fn next(&mut self) -> Result<Option<Member>> {
        self.skip()?;
        let mut extensions = Extensions::default();
        let mut extended = false;
        loop {
            let Some(header) = self.header()? else {
                if extended {
                    return Err(self.error("an extended header without a member"));
                }
                self.finish()?;
                return Ok(None);
            };
            let size = number(&header.as_old().size);
            let size = size.and_then(|size| u64::try_from(size).ok());
            let kind = header.as_old().linkflag[0];
            let need = |size: Option<u64>| size.ok_or_else(|| self.error("a negative or bad size"));
            extended |= matches!(kind, b'L' | b'K' | b'x' | b'X');
            match kind {
                b'L' => extensions.name = Some(until_zero(self.extension(need(size)?)?)),
                b'K' => extensions.link = Some(until_zero(self.extension(need(size)?)?)),
                b'x' | b'X' => extensions.records = self.records(need(size)?)?,
                b'g' => {
                    let records = self.records(need(size)?)?;
                    self.global.extend(records);
                    if self.global.len() > 10_000 {
                        return Err(self.error("too many global headers"));
                    }
                }
                // A volume's label is no file.
                b'V' => {
                    self.set_data(need(size)?)?;
                    self.skip()?;
                }
                _ => return self.member(&header, size, extensions).map(Some),
            }
        }
    }

    fn records(&mut self, size: u64) -> Result<Vec<Record>> {
        let bytes = self.extension(size)?;
        records(&bytes).ok_or_else(|| self.error("a malformed pax header"))
    }

    /// After the end mark: reads what is left, so that a compressed archive's checksum is verified.
    fn finish(&mut self) -> Result<()> {
        let mut buffer = vec![0; 64 << 10];
        let mut first = true;
        loop {
            let length = self.read_some(&mut buffer)?;
            if first
                && buffer[..length.min(BLOCK as usize)]
                    .iter()
                    .any(|&byte| byte != 0)
            {
                return Err(self.error("garbage behind a single block of zeros"));
            }
            first = false;
            if length == 0 {
                return Ok(());
            }
        }
    }

    fn member(
        &mut self,
        header: &Header,
        size: Option<u64>,
        extensions: Extensions,
    ) -> Result<Member> {
        let mut pax: HashMap<&[u8], &[u8]> = HashMap::new();
        let global = self.global.clone();
        for (key, value) in global.iter().chain(&extensions.records) {
            // An empty value takes a record back (pax).
            if value.is_empty() && !key.starts_with(b"SCHILY.xattr.") {
                pax.remove(&key[..]);
            } else {
                pax.insert(key, value);
            }
        }
        let get = |key: &str| pax.get(key.as_bytes()).copied();
        let path = get("GNU.sparse.name")
            .or_else(|| get("path"))
            .map(<[u8]>::to_vec)
            .or(extensions.name)
            .unwrap_or_else(|| header_path(header));
        let shown = PathBytes::from(&path[..]);
        self.last = Some(shown.clone());
        let bad = |cause: &str| {
            Error::failed(format!("{}: entry {shown}", self.name), cause)
                .remedy("nothing was imported")
        };
        let link = get("linkpath")
            .map(<[u8]>::to_vec)
            .or(extensions.link)
            .unwrap_or_else(|| until_zero(header.as_old().linkname.to_vec()));
        if path.contains(&0) || link.contains(&0) {
            return Err(bad("a zero byte in a name"));
        }

        let size = match get("size") {
            Some(text) => decimal(text),
            None => size,
        };
        let size = size.filter(|&size| size <= i64::MAX as u64);
        let size = size.ok_or_else(|| bad("a negative or bad size"))?;
        let field = |key: &str, field: &[u8]| match get(key) {
            Some(text) => decimal(text).and_then(|value| u32::try_from(value).ok()),
            None => number(field).and_then(|value| u32::try_from(value).ok()),
        };
        let old = header.as_old();
        let mode = number(&old.mode).ok_or_else(|| bad("a bad mode"))?;
        let mtime = match get("mtime") {
            Some(text) => time(text),
            None => number(&old.mtime).map(|seconds| Time {
                seconds,
                nanoseconds: 0,
            }),
        };
        let (xattrs, lost_acl) = xattrs(&pax);
        let metadata = Metadata {
            mode: (mode & 0o7777) as u32,
            uid: field("uid", &old.uid).ok_or_else(|| bad("a bad owner"))?,
            gid: field("gid", &old.gid).ok_or_else(|| bad("a bad group"))?,
            mtime: mtime.ok_or_else(|| bad("a bad mtime"))?,
            xattrs,
        };
        let device = || {
            let (major, minor) = match (header.as_ustar(), header.as_gnu()) {
                (Some(ustar), _) => (ustar.dev_major, ustar.dev_minor),
                (_, Some(gnu)) => (gnu.dev_major, gnu.dev_minor),
                _ => return Err(bad("a device in a header without device numbers")),
            };
            let part = |key: &str, value: &[u8]| {
                field(key, value).ok_or_else(|| bad("a bad device number"))
            };
            Ok(rustix::fs::makedev(
                part("SCHILY.devmajor", &major)?,
                part("SCHILY.devminor", &minor)?,
            ))
        };
        let mut data = 0;
        let kind = match old.linkflag[0] {
            b'0' | 0 | b'7' if get("SCHILY.filetype") == Some(b"socket") => {
                data = size;
                MemberKind::Special(Content::Socket)
            }
            b'0' | 0 if path.ends_with(b"/") => MemberKind::Directory,
            b'0' | 0 | b'7' | b'S' => {
                let records = &extensions.records;
                let sparse = self.sparse(header, &pax, records, size)?;
                let (size, segments) = match sparse {
                    Some((size, segments)) => (size, Some(segments)),
                    None => {
                        self.set_data(size)?;
                        (size, None)
                    }
                };
                let kind = MemberKind::Regular { size, segments };
                return Ok(Member {
                    path,
                    kind,
                    metadata,
                    lost_acl,
                });
            }
            // Sizes of links are those of the file; no data follows (as GNU tar reads it).
            b'1' => MemberKind::Link { target: link },
            b'2' if link.is_empty() => return Err(bad("a symbolic link to nothing")),
            b'2' => MemberKind::Special(Content::Symlink {
                target: link.into(),
            }),
            b'3' => MemberKind::Special(Content::CharDevice { rdev: device()? }),
            b'4' => MemberKind::Special(Content::BlockDevice { rdev: device()? }),
            b'6' => MemberKind::Special(Content::Fifo),
            // D: GNU, with the names it held, for incremental archives.
            b'5' | b'D' => {
                data = size;
                MemberKind::Directory
            }
            other => {
                let cause = format!("its type {:?} is not supported", char::from(other));
                return Err(bad(&cause));
            }
        };
        self.set_data(data)?;
        Ok(Member {
            path,
            kind,
            metadata,
            lost_acl,
        })
    }
}

/// A name in a field that ends with zero bytes.
fn until_zero(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|&byte| byte == 0) {
        bytes.truncate(end);
    }
    bytes
}

/// The name in the header itself; in ustar headers behind a prefix.
fn header_path(header: &Header) -> Vec<u8> {
    let name = until_zero(header.as_old().name.to_vec());
    let Some(ustar) = header.as_ustar() else {
        return name;
    };
    let prefix = until_zero(ustar.prefix.to_vec());
    if prefix.is_empty() {
        return name;
    }
    [prefix, name].join(&b'/')
}

/// The xattrs in pax records, and whether an ACL had to be left out.
fn xattrs(pax: &HashMap<&[u8], &[u8]>) -> (Xattrs, bool) {
    let mut xattrs = Xattrs::new();
    let mut lost_acl = false;
    for (key, value) in pax {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            let name = xattr_name(name);
            if !is_acl_of_xfs(&name) {
                xattrs.insert(name.into(), (*value).into());
            }
        }
        if *key == b"RHT.security.selinux" {
            // The kernel's form ends with a zero byte.
            let label = [value, &b"\0"[..]].concat();
            xattrs.insert(b"security.selinux"[..].into(), label.into());
        }
    }
    for (key, name) in [
        ("SCHILY.acl.access", "system.posix_acl_access"),
        ("SCHILY.acl.default", "system.posix_acl_default"),
    ] {
        let Some(text) = pax.get(key.as_bytes()) else {
            continue;
        };
        if !xattrs.contains_key(name.as_bytes()) {
            match acl(text) {
                // Owner, group and others only: that is the mode, and the kernel keeps no ACL.
                Some(binary) if key.ends_with("access") && binary.len() <= 4 + 3 * 8 => {}
                Some(binary) => {
                    xattrs.insert(name.as_bytes().into(), binary.into());
                }
                None => lost_acl = true,
            }
        }
    }
    (xattrs, lost_acl)
}
