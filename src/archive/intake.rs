//! Taking content in: what the store or this import has already is compared with it, byte by byte;
//! what neither has is written to `staging/NAME/objects`, under its digest.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Condvar, Mutex};
use rustix::fs::{self, Mode, OFlags};
use rustix::io::Errno;

use super::staging::{Purpose, Staging};
use crate::error::{Context, Error, Result};
use crate::store::Store;
use crate::store::digest::{Digest, Hasher};
use crate::store::metadata::Content;
use crate::store::objects::Objects;
use crate::store::pins::Pins;
use crate::sys::copy;
use crate::sys::durable::{self, Step};
use crate::sys::lease::ReadLease;

/// Content up to this size is held in memory as a whole.
pub(super) const SMALL: u64 = 1 << 20;
/// A run of zeros of this length, aligned, becomes a hole.
const HOLE: usize = 64 << 10;
/// Likewise where the source has holes itself.
const SMALLEST_HOLE: usize = 4 << 10;
/// What a dry run keeps of content.
const HEAD: usize = 4 << 10;
/// How much of large content is dealt with at a time.
const PIECE: usize = 1 << 20;

const READ: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

thread_local! {
    static PIECES: RefCell<(Vec<u8>, Vec<u8>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

/// Opens an object of the store, if it has it.
pub(super) fn open_known(objects: &Objects, digest: &Digest) -> Result<Option<OwnedFd>> {
    match objects.open(digest) {
        Err(error) if error.errno == Some(libc::ENOENT) => Ok(None),
        opened => opened.map(Some),
    }
}

/// Content that has been taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Taken {
    /// `None` exactly when the size is 0.
    pub digest: Option<Digest>,
    pub size: u64,
    /// It has just been put into `objects/`: nobody had it before.
    pub new: bool,
}

impl Taken {
    const EMPTY: Taken = Taken {
        digest: None,
        size: 0,
        new: false,
    };

    pub(super) fn content(&self) -> Content {
        Content::Regular {
            size: self.size,
            digest: self.digest,
        }
    }
}

/// Takes content in, from many threads.
pub(super) struct Intake<'a> {
    staged: BorrowedFd<'a>,
    /// For messages.
    path: String,
    known: &'a Objects,
    /// What is found there must not be collected before the image is committed.
    pins: Pins,
    /// Digests whose staged file is being written.
    writing: Mutex<HashSet<Digest>>,
    written: Condvar,
    temporaries: AtomicU64,
    /// In a dry run a staged file only says by its name that the content would be there, and has
    /// its first bytes, which tell what the tree is ([`super::Identity`]).
    purpose: Purpose,
}

impl<'a> Intake<'a> {
    /// Puts what the store lacks into the import's directory `objects`.
    pub(super) fn new(store: &'a Store, staging: &'a Staging) -> Result<Self> {
        Ok(Self {
            staged: staging.objects(),
            path: staging.path().join("objects").to_string_lossy().into(),
            known: store.objects(),
            pins: Pins::create(staging.directory())?,
            writing: Mutex::default(),
            written: Condvar::new(),
            temporaries: AtomicU64::new(0),
            purpose: staging.purpose(),
        })
    }

    /// Takes content that is in memory. `sparse`: its source has holes.
    pub(super) fn bytes(&self, content: &[u8], sparse: bool) -> Result<Taken> {
        if content.is_empty() {
            return Ok(Taken::EMPTY);
        }
        let digest = Digest::of(content);
        let same = |object: BorrowedFd<'_>| equals_bytes(object, content);
        let head = || Ok(content[..content.len().min(HEAD)].to_vec());
        let new = self.settle(&digest, head, same, |name| {
            self.create_filled(name, |file| {
                let write = || write_with_holes(file, content, 0, hole_size(sparse));
                durable::perform(Step::Write, write)
                    .and_then(|end| set_size_after(file, end, content.len() as u64))
                    .about(&self.path)
            })
        })?;
        Ok(Taken {
            digest: Some(digest),
            size: content.len() as u64,
            new,
        })
    }

    /// Takes `size` > 0 bytes of content, too much for memory, from a local file, by reflink where
    /// the host can. The caller compares the file's times before and after; what that misses,
    /// writing through a mapping, is seen here.
    ///
    /// `Ok(None)`: the file changed.
    pub(super) fn file(&self, file: BorrowedFd<'_>, size: u64) -> Result<Option<Taken>> {
        let again = rustix::io::fcntl_dupfd_cloexec(file, 0).about("a file descriptor")?;
        let Ok(Some(lease)) = ReadLease::take(again) else {
            // Somebody has it open for writing, or there are no leases here: what is hashed must
            // be what is written, so it is written before its digest is known.
            let mut position = 0;
            let mut read = |buffer: &mut [u8]| {
                let length = copy::read_at(file, buffer, position).about("reading it")?;
                position += length as u64;
                Ok(length)
            };
            return self.stream(&mut read, size, true);
        };
        let Some(digest) = digest_file(file, size)? else {
            return Ok(None);
        };
        let changed = Cell::new(false);
        let same = |object: BorrowedFd<'_>| equals_file(object, file, size);
        let head = || head_of(file);
        let settled = self.settle(&digest, head, same, |name| {
            self.create_filled(name, |target| {
                let copied = durable::perform(Step::Write, || copy::copy(file, target, size));
                changed.set(copied == Err(Errno::IO) && size_of(file)? != size);
                changed.set(changed.get() || lease.is_breaking());
                if changed.get() {
                    return Err(Error::failed("it", "changed"));
                }
                copied.about(&self.path)
            })
        });
        if changed.get() || lease.is_breaking() {
            return Ok(None);
        }
        Ok(Some(Taken {
            digest: Some(digest),
            size,
            new: settled?,
        }))
    }

    /// Takes `size` > 0 bytes of content that can be read but once. `sparse`: its source has
    /// holes. Errors of `read` are returned as they are.
    ///
    /// `Ok(None)`: the source ended before that or went on after.
    pub(super) fn stream(
        &self,
        read: &mut dyn FnMut(&mut [u8]) -> Result<usize>,
        size: u64,
        sparse: bool,
    ) -> Result<Option<Taken>> {
        let count = self.temporaries.fetch_add(1, Ordering::Relaxed);
        let name = format!("new-{count}");
        let digest = Cell::new(None);
        let made = self.create_filled(&name, |file| {
            digest.set(self.copy_and_digest(read, file, size, hole_size(sparse))?);
            Ok(())
        })?;
        if !made {
            return Err(Error::failed(&self.path, format!("{name} exists already")));
        }
        let settled = digest.get().map(|digest| {
            let file = self.open_staged(&name)?;
            let same = |object: BorrowedFd<'_>| equals_file(object, file.as_fd(), size);
            let head = || head_of(file.as_fd());
            let new = self.settle(&digest, head, same, |target| {
                let (from, to) = (name.as_bytes(), target.as_bytes());
                let flags = fs::RenameFlags::NOREPLACE;
                match durable::rename(self.staged, from, self.staged, to, flags) {
                    Err(Errno::EXIST) => Ok(false),
                    renamed => renamed.map(|()| true).about(&self.path),
                }
            })?;
            Ok(Taken {
                digest: Some(digest),
                size,
                new,
            })
        });
        let moved = matches!(settled, Some(Ok(Taken { new: true, .. })));
        if !moved || self.purpose == Purpose::DryRun {
            durable::unlink(self.staged, name.as_bytes()).about(&self.path)?;
        }
        settled.transpose()
    }

    /// Compares content with the store's or the import's file of that digest, or lets `write` make
    /// the latter (`false`: it exists already). Whether it is new.
    fn settle(
        &self,
        digest: &Digest,
        head: impl Fn() -> Result<Vec<u8>>,
        same: impl Fn(BorrowedFd<'_>) -> Result<bool>,
        write: impl FnOnce(&str) -> Result<bool>,
    ) -> Result<bool> {
        let compare = |object: OwnedFd| {
            if same(object.as_fd())? {
                return Ok(false);
            }
            Err(Error::failed(
                format!("object {digest}"),
                "a file with this digest has other content",
            )
            .remedy("run `foldfs check --content`: the object is probably damaged"))
        };
        self.pins.add(digest)?;
        if let Some(object) = open_known(self.known, digest)? {
            return compare(object);
        }
        let _claim = Claim::take(self, *digest);
        let name = digest.to_string();
        if self.purpose == Purpose::DryRun {
            return self.create_filled(&name, |file| {
                copy::write_all_at(file, &head()?, 0).about(&self.path)
            });
        }
        if write(&name)? {
            return Ok(true);
        }
        compare(self.open_staged(&name)?)
    }

    fn open_staged(&self, name: &str) -> Result<OwnedFd> {
        fs::openat(self.staged, name, READ, Mode::empty()).about(&self.path)
    }

    /// Makes a staged file; `false` if it exists already. If `fill` fails it is gone again.
    fn create_filled(
        &self,
        name: &str,
        fill: impl FnOnce(BorrowedFd<'_>) -> Result<()>,
    ) -> Result<bool> {
        let file = match durable::create(self.staged, name.as_bytes(), 0o400) {
            Err(Errno::EXIST) => return Ok(false),
            created => created.about(&self.path)?,
        };
        if let Err(error) = fill(file.as_fd()) {
            durable::unlink(self.staged, name.as_bytes()).about(&self.path)?;
            return Err(error);
        }
        Ok(true)
    }

    /// `None`: the source has not `size` bytes.
    fn copy_and_digest(
        &self,
        read: &mut dyn FnMut(&mut [u8]) -> Result<usize>,
        file: BorrowedFd<'_>,
        size: u64,
        hole: usize,
    ) -> Result<Option<Digest>> {
        let mut buffer = vec![0; PIECE];
        let mut hasher = Hasher::default();
        let (mut position, mut end) = (0, 0);
        while position < size {
            let want = PIECE.min(usize::try_from(size - position).unwrap_or(PIECE));
            let mut length = 0;
            while length < want {
                match read(&mut buffer[length..want])? {
                    0 => return Ok(None),
                    more => length += more,
                }
            }
            hasher.update(&buffer[..want]);
            let write = || write_with_holes(file, &buffer[..want], position, hole);
            let written = durable::perform(Step::Write, write).about(&self.path)?;
            end = end.max(written);
            position += want as u64;
        }
        if read(&mut buffer[..1])? > 0 {
            return Ok(None);
        }
        set_size_after(file, end, size).about(&self.path)?;
        Ok(Some(hasher.finish()))
    }
}

/// While it lives no other thread writes the staged file of this digest: one that exists is whole.
struct Claim<'a> {
    intake: &'a Intake<'a>,
    digest: Digest,
}

impl<'a> Claim<'a> {
    fn take(intake: &'a Intake<'_>, digest: Digest) -> Self {
        let mut writing = intake.writing.lock();
        while !writing.insert(digest) {
            intake.written.wait(&mut writing);
        }
        Self { intake, digest }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.intake.writing.lock().remove(&self.digest);
        self.intake.written.notify_all();
    }
}

fn hole_size(sparse: bool) -> usize {
    if sparse { SMALLEST_HOLE } else { HOLE }
}

fn size_of(file: BorrowedFd<'_>) -> Result<u64> {
    Ok(fs::fstat(file).about("a file descriptor")?.st_size as u64)
}

fn head_of(file: BorrowedFd<'_>) -> Result<Vec<u8>> {
    let mut head = vec![0; HEAD];
    let length = copy::read_at(file, &mut head, 0).about("reading it")?;
    head.truncate(length);
    Ok(head)
}

/// The digest of a file; `None` if it has not `size` bytes.
fn digest_file(file: BorrowedFd<'_>, size: u64) -> Result<Option<Digest>> {
    PIECES.with_borrow_mut(|(buffer, _)| {
        buffer.resize(PIECE, 0);
        let mut hasher = Hasher::default();
        let mut position = 0;
        loop {
            let length = copy::read_at(file, buffer, position).about("reading it")?;
            hasher.update(&buffer[..length]);
            position += length as u64;
            if length < PIECE || position > size {
                return Ok((position == size).then(|| hasher.finish()));
            }
        }
    })
}

fn equals_bytes(object: BorrowedFd<'_>, content: &[u8]) -> Result<bool> {
    PIECES.with_borrow_mut(|(buffer, _)| {
        buffer.resize(PIECE, 0);
        let mut position = 0;
        // One more read than there are pieces: the object must end here too.
        loop {
            let rest = &content[position..];
            let want = PIECE.min(rest.len() + 1);
            let length = copy::read_at(object, &mut buffer[..want], position as u64);
            let length = length.about("reading an object")?;
            if length > rest.len() || buffer[..length] != rest[..length] {
                return Ok(false);
            }
            position += length;
            if length < want {
                return Ok(position == content.len());
            }
        }
    })
}

fn equals_file(object: BorrowedFd<'_>, file: BorrowedFd<'_>, size: u64) -> Result<bool> {
    if size_of(object)? != size {
        return Ok(false);
    }
    PIECES.with_borrow_mut(|(ours, theirs)| {
        ours.resize(PIECE, 0);
        theirs.resize(PIECE, 0);
        let mut position = 0;
        while position < size {
            let length = copy::read_at(object, ours, position).about("reading an object")?;
            let other = copy::read_at(file, theirs, position).about("reading it")?;
            if length == 0 || length != other || ours[..length] != theirs[..length] {
                return Ok(false);
            }
            position += length as u64;
        }
        Ok(position == size)
    })
}

/// Writes bytes at `offset`, leaving out aligned runs of `hole` zeros. How far it wrote.
fn write_with_holes(
    file: BorrowedFd<'_>,
    bytes: &[u8],
    offset: u64,
    hole: usize,
) -> rustix::io::Result<u64> {
    let is_zero = |piece: &[u8]| piece.iter().all(|&byte| byte == 0);
    let mut end = 0;
    let mut start = 0;
    while start < bytes.len() {
        let mut stop = start;
        // As much as holds no hole.
        while stop < bytes.len() {
            let piece = &bytes[stop..bytes.len().min(stop + hole)];
            if piece.len() == hole && is_zero(piece) {
                break;
            }
            stop += piece.len();
        }
        if stop > start {
            copy::write_all_at(file, &bytes[start..stop], offset + start as u64)?;
            end = offset + stop as u64;
        }
        start = stop + hole;
    }
    Ok(end)
}

/// Gives a file that was written up to `end` its size, if it ends in a hole.
fn set_size_after(file: BorrowedFd<'_>, end: u64, size: u64) -> rustix::io::Result<()> {
    if end < size {
        durable::truncate(file, size)?;
    }
    Ok(())
}
