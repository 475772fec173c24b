//! Folding one private file: its content is an object's afterwards, and it a stub. Nothing shows.
//!
//! ```text
//! 1  no lock          under a read lease: hashed, or compared with the object, byte by byte
//! 2  content, change, the stub is built and renamed over the file, wherever that is by now;
//!    names            for a new object the file is linked to work/DIGEST before
//! 3  no lock          after a sync of the file system: store::becoming::finish
//! ```
//! Whoever wants to write raises `node.writers` first and has the lease given back: the fold looks at both
//! after every piece and gives up. The lease tells of everybody else, mappings too. Nobody waits for who
//! reads, so that may be done at the lowest priority. Where there are no leases `node.content` is held
//! all the time, and who wants to write waits for it.
//! A crash, or an error, before the rename leaves the file as it was; after it, `work/DIGEST` is
//! where the content is read from until step 3.

#[cfg(test)]
mod races;
mod steady;

use std::cell::RefCell;
use std::ops::Deref;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::fs::{self, OFlags, RenameFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;

use super::Filesystem;
use super::failure::Outcome;
use super::node::{Backing, Node, OpenFile, Place, Source};
use super::open::open_private;
use super::resolve::Host;
use crate::merge::lookup;
use crate::merge::private_directories::PrivatePath;
use crate::store::content::digest_while;
use crate::store::digest::Digest;
use crate::store::draft::Draft;
use crate::store::entry;
use crate::store::layer::{self, PrivateEntry};
use crate::store::layout;
use crate::store::mark::{self, Mark, Role, Shown};
use crate::store::metadata::{Content, FileType, Time};
use crate::store::number::Number;
use crate::store::objects::Objects;
use crate::sys::durable::{self, Step};
use crate::sys::lease::{ReadLease, WatchedLease};
use crate::sys::priority::Idle;
use crate::sys::{copy, xattr};
use steady::{Access, Steady, has_writers};

/// What is to be folded, and how.
pub struct FoldFile<'a> {
    /// Only if the content has this digest.
    pub digest: Option<Digest>,
    /// Nobody but this process can have files of the image open: where the host knows no leases,
    /// that has to be enough.
    pub unmounted: bool,
    /// When the last sync of the whole file system began.
    pub synced: Option<Time>,
    /// Whether somebody waits for the fold: as long as nobody does, it reads at the lowest priority.
    pub is_awaited: &'a (dyn Fn() -> bool + Sync),
    /// Gets the bytes that were read.
    pub progress: &'a (dyn Fn(u64) + Sync),
    /// Gets a file that has no name any more, and how many bytes it occupies until it is closed.
    pub replaced: &'a (dyn Fn(OwnedFd, u64) + Sync),
}

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Folded {
    /// A stub of an object that was there.
    Stub {
        /// Size.
        bytes: u64,
        /// Allocated bytes that its own content occupied.
        freed: u64,
    },
    /// A stub; its content is `work/DIGEST` and becomes an object after a sync.
    Becoming {
        /// The object.
        digest: Digest,
        /// Size.
        bytes: u64,
    },
    /// It stays: a file with this content is on its way to become the object.
    Later,
    /// It stays: it is in use.
    Busy,
    /// It stays: it is no private file with content, or with another content.
    Other,
}

/// A node that background work has in its hands.
pub struct Held<'a> {
    filesystem: &'a Filesystem,
    node: Option<Arc<Node>>,
    root: &'a Arc<Node>,
}

impl Deref for Held<'_> {
    type Target = Arc<Node>;

    fn deref(&self) -> &Arc<Node> {
        self.node.as_ref().unwrap_or(self.root)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some(node) = self.node.take() {
            self.filesystem.done(node);
        }
    }
}

/// The object that a file is to be a stub of.
enum Object<'a> {
    /// It is there, and has the file's very bytes.
    There(OwnedFd),
    /// The file itself becomes it.
    File,
    /// A copy of the file, which has other names, becomes it.
    Copy(Draft<'a>),
}

/// Times of a file are said to be as old as they look after so many seconds.
const SETTLED: i64 = 2;

impl Filesystem {
    /// The directory that these names lead to, if there is one: a guest may have put something else
    /// in its place.
    ///
    /// # Errors
    /// Those of reading the private layer.
    pub fn directory_at(&self, path: &PrivatePath) -> Outcome<Option<Held<'_>>> {
        let _names = self.names.read();
        let node = self.descend(path)?.map(|node| self.held(node));
        Ok(node.filter(|node| node.file_type == FileType::Directory))
    }

    /// The private regular file of this name.
    ///
    /// # Errors
    /// Those of reading the private layer.
    pub fn private_file(&self, parent: &Arc<Node>, name: &[u8]) -> Outcome<Option<Held<'_>>> {
        let _names = self.names.read();
        let node = self.child(parent, name)?.map(|node| self.held(node));
        Ok(node.filter(|node| is_private_file(node)))
    }

    /// The file `index/NUMBER`.
    ///
    /// # Errors
    /// Those of reading the private layer.
    pub fn indexed_file(&self, number: Number) -> Outcome<Option<Held<'_>>> {
        let _names = self.names.read();
        if !self.view.is_indexed(number) {
            return Ok(None);
        }
        let item = lookup::indexed(&self.view, number)?;
        let node = self.held(self.node_of(&self.root, b"", &item));
        Ok(Some(node).filter(|node| is_private_file(node)))
    }

    pub(super) fn held(&self, node: Arc<Node>) -> Held<'_> {
        Held {
            filesystem: self,
            node: Some(node),
            root: &self.root,
        }
    }

    /// Makes a private file a stub (see above), unless it is in use.
    ///
    /// # Errors
    /// ENOSPC, EIO and the like; the file is as it was.
    pub fn fold_file(&self, node: &Arc<Node>, fold: &FoldFile<'_>) -> Outcome<Folded> {
        let Some(content) = node.content.try_lock() else {
            return Ok(Folded::Busy);
        };
        if has_writers(node) || self.is_read_coherently(node) {
            return Ok(Folded::Busy);
        }
        let steady = match self.steady(node, fold.unmounted)? {
            Ok(steady) => steady,
            Err(stays) => return Ok(stays),
        };
        let content = (!steady.is_leased()).then_some(content);
        let (digest, object) = match self.read_through(node, &steady, fold)? {
            Ok(read) => read,
            Err(stays) => return Ok(stays),
        };
        let object = match object {
            Some(object) => Object::There(object),
            None => self.new_object(node, &steady, fold.synced)?,
        };
        let Some(_content) = content.or_else(|| node.content.try_lock()) else {
            return Ok(Folded::Busy);
        };
        let folded = self.swap(node, &steady, digest, object)?;
        if let Folded::Stub { freed, .. } = folded {
            (fold.replaced)(steady.into_file(), freed);
        }
        Ok(folded)
    }

    /// A file's digest, and the object that has the very same content, if there is one; else what is to be
    /// said of the file.
    fn read_through(
        &self,
        node: &Node,
        steady: &Steady,
        fold: &FoldFile<'_>,
    ) -> Outcome<Result<(Digest, Option<OwnedFd>), Folded>> {
        let is_idle = steady.is_leased() && !(fold.is_awaited)();
        let idle = RefCell::new(is_idle.then(Idle::begin));
        let go_on = |_| {
            if (fold.is_awaited)() {
                drop(idle.take());
            }
            !steady.is_wanted(node)
        };
        let hashing = |bytes| {
            (fold.progress)(bytes);
            go_on(bytes)
        };
        let objects = self.store.objects();
        let expected = match fold.digest {
            Some(digest) => objects.find(&digest)?.map(|object| (digest, object)),
            None => None,
        };
        let (digest, object) = match expected {
            Some((digest, object)) => (digest, Some(object)),
            None => match digest_while(steady.file(), &hashing)? {
                None => return Ok(Err(Folded::Busy)),
                Some(digest) if fold.digest.is_some_and(|expected| expected != digest) => {
                    return Ok(Err(Folded::Other));
                }
                Some(digest) => (digest, objects.find(&digest)?),
            },
        };
        let Some(object) = object else {
            return Ok(Ok((digest, None)));
        };
        Ok(
            match Objects::compare(steady.file(), &object, &digest, &go_on)? {
                None => Err(Folded::Busy),
                Some(false) => Err(self.unlike(node, steady, &digest, &object)?),
                Some(true) => Ok((digest, Some(object))),
            },
        )
    }

    /// What is to be said of a file that has other content than the object of its digest: was the digest
    /// not its own, it stays; else why the object is damaged, of which nothing is read from now on.
    fn unlike(
        &self,
        node: &Node,
        steady: &Steady,
        digest: &Digest,
        object: &OwnedFd,
    ) -> Outcome<Folded> {
        let go_on = |_| !steady.is_wanted(node);
        let Some(found) = digest_while(steady.file(), &go_on)? else {
            return Ok(Folded::Busy);
        };
        if found == *digest {
            let verification = self.store.objects().verification();
            verification.examine_all(object.as_fd(), digest, steady.bytes())?;
        }
        Ok(Folded::Other)
    }

    /// Opens a private file and makes sure that it does not change; else what is to be said of it.
    fn steady(&self, node: &Arc<Node>, unmounted: bool) -> Outcome<Result<Steady, Folded>> {
        let _names = self.names.read();
        let Some(host) = self.host_of_file(node)? else {
            return Ok(Err(Folded::Other));
        };
        let file = open_private(self, &host, OFlags::RDONLY)?;
        let bytes = xattr::get_descriptor(file.as_fd(), mark::NAME.as_bytes())?;
        let mark = bytes.and_then(|bytes| Mark::decode(&bytes).ok());
        if mark.ok_or(Errno::BADMSG)?.role != Role::File {
            return Ok(Err(Folded::Other));
        }
        let access = match ReadLease::take(file) {
            Ok(Some(lease)) => Access::Leased(WatchedLease::new(lease).map_err(io)?),
            Ok(None) => return Ok(Err(Folded::Busy)),
            Err(Errno::INVAL) if unmounted => {
                Access::Trusted(open_private(self, &host, OFlags::RDONLY)?)
            }
            Err(Errno::INVAL) => return Ok(Err(Folded::Busy)),
            Err(error) => return Err(error.into()),
        };
        let stat = match &access {
            Access::Leased(lease) => fs::fstat(lease.file())?,
            Access::Trusted(file) => fs::fstat(file)?,
        };
        if stat.st_size == 0 {
            return Ok(Err(Folded::Other));
        }
        Ok(Ok(Steady { access, stat }))
    }

    /// Where a private file that has a name lies. With `names` held.
    fn host_of_file(&self, node: &Arc<Node>) -> Outcome<Option<Host>> {
        match (node.source(), node.place()) {
            (Source::Private, Place::Entry { .. } | Place::Index) => self.host(node),
            _ => Ok(None),
        }
    }

    /// Makes the content durable; where the file has other names on the host, or the kernel has it
    /// registered as one that may be written to, in a copy.
    fn new_object(
        &self,
        node: &Node,
        steady: &Steady,
        synced: Option<Time>,
    ) -> Outcome<Object<'_>> {
        if steady.stat.st_nlink > 1 || node.state.lock().is_direct() {
            let (draft, file) = Draft::file(&self.view.layer)?;
            durable::perform(Step::Write, || {
                copy::copy(steady.file(), file.as_fd(), steady.bytes())
            })?;
            durable::sync(&file)?;
            return Ok(Object::Copy(draft));
        }
        if synced.is_none_or(|synced| steady.last_change() + SETTLED >= synced.seconds) {
            durable::sync(steady.file())?;
        }
        Ok(Object::File)
    }

    /// Step 2.
    fn swap(
        &self,
        node: &Arc<Node>,
        steady: &Steady,
        digest: Digest,
        object: Object<'_>,
    ) -> Outcome<Folded> {
        let _change = self.change.read();
        let _names = self.names.write();
        steady.hold();
        if steady.is_wanted(node) || self.is_read_coherently(node) {
            return Ok(Folded::Busy);
        }
        let Some(host) = self.host_of_file(node)? else {
            return Ok(Folded::Other);
        };
        let (directory, name) = (host.directory(self), host.name());
        let (stat, mark) = match layer::read_entry(directory, name)? {
            Some(PrivateEntry::Marked { stat, mark }) => (stat, mark),
            _ => return Ok(Folded::Other),
        };
        let is_same = (stat.st_dev, stat.st_ino) == (steady.stat.st_dev, steady.stat.st_ino);
        if !is_same || mark.role != Role::File || stat.st_size != steady.stat.st_size {
            return Ok(Folded::Other);
        }
        let work = self.view.layer.work();
        let becoming = layout::work_name(&digest).into_bytes();
        let (file, is_new) = match object {
            Object::There(file) => (file, false),
            Object::File if stat.st_nlink > 1 || node.state.lock().is_direct() => {
                return Ok(Folded::Busy);
            }
            Object::File => {
                // A link changes it, and the file may stay after all.
                self.keep_ctime(node)?;
                match durable::link(directory, name, work, &becoming) {
                    Ok(()) => {}
                    Err(Errno::EXIST) => return Ok(Folded::Later),
                    Err(error) => return Err(error.into()),
                }
                (steady.file().try_clone_to_owned().map_err(io)?, true)
            }
            Object::Copy(draft) => {
                match draft.place(work, &becoming, RenameFlags::NOREPLACE) {
                    Ok(()) => {}
                    Err(Errno::EXIST) => return Ok(Folded::Later),
                    Err(error) => return Err(error.into()),
                }
                (steady.file().try_clone_to_owned().map_err(io)?, true)
            }
        };
        if let Err(failure) = self.put_stub(node, &host, &stat, &mark, digest) {
            if is_new && let Err(error) = durable::unlink(work, &becoming) {
                log::warn!("images/{}/work: {error}", self.view.layer.image());
            }
            return Err(failure);
        }
        let bytes = steady.bytes();
        let epoch = self.store.objects().verification().epoch();
        let mut state = node.state.lock();
        state.direct_is_folded();
        if state.open.is_some() {
            state.open = Some(Arc::new(OpenFile {
                file,
                backing: Backing::Object {
                    size: bytes,
                    digest: Some(digest),
                    epoch,
                },
                shown_times: AtomicBool::new(false),
            }));
        }
        Ok(match is_new {
            true => Folded::Becoming { digest, bytes },
            false => Folded::Stub {
                bytes,
                freed: stat.st_blocks as u64 * 512,
            },
        })
    }

    /// Renames a stub that looks like the file over it.
    fn put_stub(
        &self,
        node: &Arc<Node>,
        host: &Host,
        stat: &Stat,
        mark: &Mark,
        digest: Digest,
    ) -> Outcome<()> {
        let (directory, name) = (host.directory(self), host.name());
        let metadata = entry::read_metadata(directory, name, stat, mark)?;
        let draft = Draft::new(
            &self.view.layer,
            &Content::Regular {
                size: stat.st_size as u64,
                digest: Some(digest),
            },
        )?;
        draft.mark(&Mark {
            number: mark.number,
            role: Role::Stub { digest },
            shown: Shown {
                ctime: Some(entry::shown_ctime(stat, mark)),
                mtime: None,
            },
        })?;
        let times = Timestamps {
            last_access: Timespec {
                tv_sec: stat.st_atime,
                tv_nsec: stat.st_atime_nsec as _,
            },
            last_modification: Timespec {
                tv_sec: metadata.mtime.seconds,
                tv_nsec: metadata.mtime.nanoseconds.into(),
            },
        };
        draft.describe_at(&metadata, &times)?;
        let replace = || Ok(draft.place(directory, name, RenameFlags::empty())?);
        match node.place() {
            Place::Entry { parent, .. } => self.keep_times(&parent, replace),
            Place::Root | Place::Index | Place::Unlinked => replace(),
        }
    }
}

fn is_private_file(node: &Node) -> bool {
    node.file_type == FileType::Regular && node.source() == Source::Private
}

fn io(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::super::test_image::TestImage;
    use super::*;

    #[test]
    fn what_a_guest_put_in_the_place_of_a_directory_is_none() {
        let image = TestImage::new();
        let (fs, root) = (&image.fs, image.fs.root());
        image.make(root, "place", b"a file");
        let path = |names: &[&str]| -> PrivatePath {
            names.iter().map(|name| name.as_bytes().into()).collect()
        };
        assert!(fs.directory_at(&path(&["place"])).unwrap().is_none());
        assert!(
            fs.directory_at(&path(&["place", "below"]))
                .unwrap()
                .is_none()
        );
        assert!(fs.directory_at(&path(&["sub"])).unwrap().is_some());
        assert!(fs.directory_at(&path(&[])).unwrap().is_some());
    }
}
