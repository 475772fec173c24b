//! Objects: the content of regular files, named by its SHA-256.
//!
//! ```text
//! objects/ab/cdef...     regular file, 0400, root:root, no xattrs, link count 1
//! ```
//! An object gets its name only after its content is synced, and is never written to afterwards.
//! All names are formed from a [`Digest`].

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::content::{GoOn, Unreadable, digest_of, same_bytes};
use super::digest::Digest;
use super::layout;
use super::metadata::Time;
use super::tree;
use super::verification::Verification;
use crate::error::{Context, Error, Result};
use crate::sys::{durable, xattr};

/// The objects of a store.
pub struct Objects {
    directory: OwnedFd,
    verification: Verification,
}

/// What [`Objects::for_each`] finds.
pub enum Found<'a> {
    /// An object, and what fstatat(2) says about it.
    Object(Digest, &'a Stat),
    /// Something that does not belong there; its path below `objects/`.
    Foreign(Vec<u8>),
}

/// Whether [`Objects::publish`] made an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// The staged file is the object now.
    New,
    /// The object was there already; the staged file is removed.
    Existing,
}

impl Objects {
    /// The objects in an open directory `objects/`.
    pub fn new(directory: OwnedFd) -> Self {
        Self {
            directory,
            verification: Verification::default(),
        }
    }

    /// `objects/` itself.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// What is known of their soundness.
    pub fn verification(&self) -> &Verification {
        &self.verification
    }

    /// Opens an object for reading.
    ///
    /// # Errors
    /// With errno ENOENT when it does not exist; when it is no regular file.
    pub fn open(&self, digest: &Digest) -> Result<OwnedFd> {
        // O_NONBLOCK: should a fifo be in its place, fail below instead of waiting.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let inside = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let name = layout::object_name(digest);
        let file = fs::openat2(&self.directory, name, flags, Mode::empty(), inside)
            .about(about(digest))?;
        let stat = fs::fstat(&file).about(about(digest))?;
        check_regular(digest, &stat)?;
        Ok(file)
    }

    /// Opens an object for reading, if it exists.
    ///
    /// # Errors
    /// As [`Objects::open`] otherwise.
    pub fn find(&self, digest: &Digest) -> Result<Option<OwnedFd>> {
        match self.open(digest) {
            Err(error) if error.errno == Some(libc::ENOENT) => Ok(None),
            opened => opened.map(Some),
        }
    }

    /// What fstatat(2) says about an object; `None` when it does not exist.
    ///
    /// # Errors
    /// When it is no regular file; errors of the file system.
    pub fn stat(&self, digest: &Digest) -> Result<Option<Stat>> {
        let name = layout::object_name(digest);
        match fs::statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => {
                check_regular(digest, &stat)?;
                Ok(Some(stat))
            }
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno).about(about(digest)),
        }
    }

    /// The size in bytes; `None` when it does not exist.
    ///
    /// # Errors
    /// As [`Objects::stat`].
    pub fn size(&self, digest: &Digest) -> Result<Option<u64>> {
        Ok(self.stat(digest)?.map(|stat| stat.st_size as u64))
    }

    /// Whether it exists.
    ///
    /// # Errors
    /// As [`Objects::stat`].
    pub fn exists(&self, digest: &Digest) -> Result<bool> {
        Ok(self.stat(digest)?.is_some())
    }

    /// Makes the file `name` in `from`, on the same file system, the object `digest`. An object
    /// that exists wins, and the file is removed.
    ///
    /// The file's content is `digest`'s, synced, and it has an object's mode, owner and xattrs.
    /// The name is durable after a sync of the file system.
    ///
    /// # Errors
    /// The file stays where it is.
    pub fn publish(&self, from: BorrowedFd<'_>, name: &[u8], digest: &Digest) -> Result<Published> {
        let object = layout::object_name(digest);
        let to = self.directory.as_fd();
        let rename = || durable::rename(from, name, to, object.as_bytes(), RenameFlags::NOREPLACE);
        let mut outcome = rename();
        if outcome == Err(Errno::NOENT) {
            let directory = layout::object_directory(digest);
            match durable::mkdir(to, directory.as_bytes(), 0o700) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno).about(about(digest)),
            }
            outcome = rename();
        }
        match outcome {
            Ok(()) => {
                self.verification.is_mended(digest);
                Ok(Published::New)
            }
            Err(Errno::EXIST) => {
                durable::unlink(from, name).about(about(digest))?;
                Ok(Published::Existing)
            }
            Err(errno) => Err(errno).about(about(digest)),
        }
    }

    /// Makes the file `name` in `from` the object `digest`, in place of a damaged one, if there is
    /// one. Otherwise as [`Objects::publish`].
    ///
    /// # Errors
    /// The file stays where it is.
    #[track_caller]
    pub fn replace(&self, from: BorrowedFd<'_>, name: &[u8], digest: &Digest) -> Result<()> {
        if self.stat(digest)?.is_none() {
            self.publish(from, name, digest)?;
            return Ok(());
        }
        let object = layout::object_name(digest);
        let (to, flags) = (self.directory.as_fd(), RenameFlags::empty());
        durable::rename(from, name, to, object.as_bytes(), flags).about(about(digest))?;
        self.verification.is_replaced(digest);
        Ok(())
    }

    /// Gives the file `name` in `from` an object's mode, owner and xattrs (none).
    ///
    /// # Errors
    /// Errors of the file system.
    #[track_caller]
    pub fn strip(from: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
        let object = || name.escape_ascii().to_string();
        durable::chown(from, name, Some(0), Some(0)).about(object())?;
        durable::chmod(from, name, 0o400).about(object())?;
        for attribute in xattr::list(from, name).about(object())? {
            // A security label is given by the host; it is not ours to remove.
            if attribute == b"security.selinux" {
                continue;
            }
            match durable::remove_xattr(from, name, &attribute) {
                // xfs lists an ACL under two names.
                Err(Errno::NODATA) => {}
                removed => removed.about(object())?,
            }
        }
        Ok(())
    }

    /// Removes an object; whether it existed.
    ///
    /// # Errors
    /// Errors of the file system.
    #[track_caller]
    pub fn remove(&self, digest: &Digest) -> Result<bool> {
        match durable::unlink(&self.directory, layout::object_name(digest).as_bytes()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(errno).about(about(digest)),
        }
    }

    /// Moves an object to `to`, on the same file system, as `work_name(digest)`, where
    /// [`Objects::publish`] can fetch it back; whether it existed.
    ///
    /// # Errors
    /// Errors of the file system.
    #[track_caller]
    pub fn withdraw(&self, digest: &Digest, to: BorrowedFd<'_>) -> Result<bool> {
        let (object, name) = (layout::object_name(digest), layout::work_name(digest));
        let flags = RenameFlags::NOREPLACE;
        match durable::rename(
            &self.directory,
            object.as_bytes(),
            to,
            name.as_bytes(),
            flags,
        ) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(errno).about(about(digest)),
        }
    }

    /// Hands everything in `objects/` to `take`, in no order.
    ///
    /// # Errors
    /// What `take` returns; errors of the file system.
    pub fn for_each(&self, mut take: impl FnMut(Found<'_>) -> Result<()>) -> Result<()> {
        for (directory, kind) in entries(self.directory.as_fd())? {
            if kind != FileType::Directory || directory.len() != 2 {
                take(Found::Foreign(directory))?;
                continue;
            }
            self.for_each_in(&directory, &mut take)?;
        }
        Ok(())
    }

    /// Hands everything in the directory of the objects whose digests begin with a byte to `take`.
    ///
    /// # Errors
    /// As [`Objects::for_each`].
    pub fn for_each_beginning(
        &self,
        first: u8,
        mut take: impl FnMut(Found<'_>) -> Result<()>,
    ) -> Result<()> {
        self.for_each_in(layout::objects_beginning(first).as_bytes(), &mut take)
    }

    /// When a name was last made or removed in the directory of the objects whose digests begin with a
    /// byte; `None` if there is none.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn last_change(&self, first: u8) -> Result<Option<Time>> {
        let name = layout::objects_beginning(first);
        match fs::statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(Time {
                seconds: stat.st_ctime,
                nanoseconds: stat.st_ctime_nsec as u32,
            })),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno).about("objects"),
        }
    }

    fn for_each_in(
        &self,
        directory: &[u8],
        take: &mut dyn FnMut(Found<'_>) -> Result<()>,
    ) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let inner =
            fs::openat(&self.directory, directory, flags, Mode::empty()).about("objects")?;
        for (name, _) in entries(inner.as_fd())? {
            let stat = match fs::statat(&inner, &name[..], AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(errno).about("objects"),
            };
            match layout::parse_object(directory, &name) {
                Some(digest) if is_regular(&stat) => take(Found::Object(digest, &stat))?,
                _ => take(Found::Foreign([directory, &name].join(&b'/')))?,
            }
        }
        Ok(())
    }

    /// Whether an object's content has its digest.
    ///
    /// # Errors
    /// As [`Objects::open`]; errors of reading.
    pub fn verify(&self, digest: &Digest) -> Result<bool> {
        let file = self.open(digest)?;
        Ok(digest_of(file.as_fd()).about(about(digest))? == *digest)
    }

    /// Whether a file has an object's content, byte by byte.
    ///
    /// # Errors
    /// As [`Objects::open`]; errors of reading.
    pub fn same_content(&self, file: BorrowedFd<'_>, digest: &Digest) -> Result<bool> {
        let object = self.open(digest)?;
        Ok(Self::compare(file, &object, digest, &|_| true)? == Some(true))
    }

    /// Whether a file has the content of an object, which is open, byte by byte, for as long as `go_on`
    /// says so; `None` if it did not to the end.
    ///
    /// # Errors
    /// Errors of reading.
    pub fn compare(
        file: BorrowedFd<'_>,
        object: &OwnedFd,
        digest: &Digest,
        go_on: GoOn<'_>,
    ) -> Result<Option<bool>> {
        match same_bytes(file, object.as_fd(), go_on) {
            Ok(same) => Ok(same),
            Err(Unreadable::First(errno)) => {
                Err(errno).about(format!("compared with {}", about(digest)))
            }
            Err(Unreadable::Second(errno)) => Err(errno)
                .about(about(digest))
                .map_err(|error| error.remedy("run `foldfs check --content`")),
        }
    }

    /// What `objects/` occupies, in bytes of allocated blocks.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn allocated(&self) -> Result<u64> {
        tree::allocated(self.directory.as_fd(), "objects")
    }
}

fn about(digest: &Digest) -> String {
    format!("object {digest}")
}

fn is_regular(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

fn check_regular(digest: &Digest, stat: &Stat) -> Result<()> {
    if is_regular(stat) {
        return Ok(());
    }
    Err(Error::failed(about(digest), "it is no regular file").remedy("run `foldfs check`"))
}

/// Names and types of a directory's entries.
fn entries(directory: BorrowedFd<'_>) -> Result<Vec<(Vec<u8>, FileType)>> {
    let mut found = Vec::new();
    let mut reader = Dir::read_from(directory).about("objects")?;
    while let Some(entry) = reader.read() {
        let entry = entry.about("objects")?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => {
                let stat =
                    fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).about("objects")?;
                FileType::from_raw_mode(stat.st_mode)
            }
            kind => kind,
        };
        found.push((name.to_vec(), kind));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::path::PathBuf;

    struct Fixture {
        temporary: tempfile::TempDir,
        staging: OwnedFd,
        objects: Objects,
    }

    impl Fixture {
        fn new() -> Self {
            let temporary = tempfile::tempdir().unwrap();
            for name in ["objects", "staging"] {
                std::fs::create_dir(temporary.path().join(name)).unwrap();
            }
            let open = |name| File::open(temporary.path().join(name)).unwrap();
            Self {
                staging: open("staging").into(),
                objects: Objects::new(open("objects").into()),
                temporary,
            }
        }

        fn staged(&self, name: &str, content: &[u8]) -> PathBuf {
            let path = self.temporary.path().join("staging").join(name);
            std::fs::write(&path, content).unwrap();
            path
        }

        fn path(&self, digest: &Digest) -> PathBuf {
            self.temporary
                .path()
                .join("objects")
                .join(layout::object_name(digest))
        }

        fn publish(&self, content: &[u8]) -> (Digest, Published) {
            let digest = Digest::of(content);
            let path = self.staged("new", content);
            let outcome = self.objects.publish(self.staging.as_fd(), b"new", &digest);
            assert!(!path.exists());
            (digest, outcome.unwrap())
        }
    }

    #[test]
    fn an_existing_object_wins() {
        let fixture = Fixture::new();
        let (digest, outcome) = fixture.publish(b"content");
        assert_eq!(outcome, Published::New);
        let inode = fixture.path(&digest).metadata().unwrap().ino();
        assert_eq!(fixture.publish(b"content"), (digest, Published::Existing));
        assert_eq!(fixture.path(&digest).metadata().unwrap().ino(), inode);
        assert_eq!(fixture.objects.size(&digest).unwrap(), Some(7));
        assert!(fixture.objects.verify(&digest).unwrap());
        let staging = fixture.staging.as_fd();
        assert!(fixture.objects.withdraw(&digest, staging).unwrap());
        assert!(!fixture.objects.withdraw(&digest, staging).unwrap());
        let name = layout::work_name(&digest);
        let back = fixture.objects.publish(staging, name.as_bytes(), &digest);
        assert_eq!(back.unwrap(), Published::New);
        assert!(fixture.objects.remove(&digest).unwrap());
        assert!(!fixture.objects.remove(&digest).unwrap());
        assert!(!fixture.objects.exists(&digest).unwrap());
        let missing = fixture.objects.open(&digest).unwrap_err();
        assert_eq!(missing.errno, Some(libc::ENOENT));
    }

    #[test]
    fn a_missing_staged_file_is_an_error() {
        let fixture = Fixture::new();
        let digest = Digest::of(b"x");
        let outcome = fixture
            .objects
            .publish(fixture.staging.as_fd(), b"none", &digest);
        assert_eq!(outcome.unwrap_err().errno, Some(libc::ENOENT));
    }

    #[test]
    fn stripping_leaves_content_only() {
        let fixture = Fixture::new();
        let path = fixture.staged("file", b"x");
        std::os::unix::fs::chown(&path, Some(5), Some(6)).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o6755)).unwrap();
        let staging = fixture.staging.as_fd();
        let flags = fs::XattrFlags::empty();
        durable::set_xattr(staging, b"file", b"user.a", b"1", flags).unwrap();
        durable::set_xattr(staging, b"file", b"trusted.foldfs", b"1", flags).unwrap();
        Objects::strip(staging, b"file").unwrap();
        let metadata = path.metadata().unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (0, 0));
        assert_eq!(metadata.mode() & 0o7777, 0o400);
        assert!(xattr::list(staging, b"file").unwrap().is_empty());
    }

    #[test]
    fn only_regular_files_are_objects() {
        let fixture = Fixture::new();
        let (digest, _) = fixture.publish(b"content");
        let path = fixture.path(&digest);
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(fixture.objects.open(&digest).is_err());
        assert!(fixture.objects.stat(&digest).is_err());
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        let error = fixture.objects.open(&digest).unwrap_err();
        assert!(error.to_string().contains("no regular file"), "{error}");
    }

    #[test]
    fn comparing_and_verifying_see_every_byte() {
        let fixture = Fixture::new();
        use crate::store::content::PIECE;
        for length in [1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE] {
            let content = vec![7; length];
            let (digest, _) = fixture.publish(&content);
            let same = |content: &[u8]| {
                let path = fixture.staged("other", content);
                let file = File::open(path).unwrap();
                fixture.objects.same_content(file.as_fd(), &digest).unwrap()
            };
            assert!(same(&content));
            for position in [0, length / 2, length - 1] {
                let mut other = content.clone();
                other[position] ^= 1;
                assert!(!same(&other));
            }
            assert!(!same(&content[1..]));
            assert!(fixture.objects.verify(&digest).unwrap());
            std::fs::write(fixture.path(&digest), &content[1..]).unwrap();
            assert!(!fixture.objects.verify(&digest).unwrap());
        }
    }

    #[test]
    fn iteration_reports_what_does_not_belong() {
        let fixture = Fixture::new();
        let (a, _) = fixture.publish(b"a");
        let (b, _) = fixture.publish(b"b");
        let root = fixture.temporary.path().join("objects");
        std::fs::write(root.join("file"), b"").unwrap();
        std::fs::create_dir_all(root.join("zz/x")).unwrap();
        std::fs::write(fixture.path(&a).with_file_name("short"), b"").unwrap();
        let (mut objects, mut foreign) = (Vec::new(), Vec::new());
        let take = |found: Found<'_>| {
            match found {
                Found::Object(digest, stat) => objects.push((digest, stat.st_size)),
                Found::Foreign(path) => foreign.push(String::from_utf8(path).unwrap()),
            }
            Ok(())
        };
        fixture.objects.for_each(take).unwrap();
        objects.sort();
        let mut expected = [(a, 1), (b, 1)];
        expected.sort();
        assert_eq!(objects, expected);
        foreign.sort();
        let short = format!("{}/short", layout::object_directory(&a));
        assert_eq!(foreign, [short.as_str(), "file", "zz/x"]);
        assert!(fixture.objects.allocated().unwrap() >= 8192);
    }
}
