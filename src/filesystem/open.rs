//! Opening regular files.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::MutexGuard;
use rustix::fs::{self, MemfdFlags, Mode, OFlags};
use rustix::io::Errno;

use super::Filesystem;
use super::data::SetId;
use super::failure::{Failure, Outcome};
use super::handles::FileHandle;
use super::ledger::OpenHandle;
use super::node::{Backing, Node, OpenFile, Source};
use super::passthrough::{Change, Way};
use super::resolve::Host;
use super::transport::Register;
use crate::store::becoming;
use crate::store::digest::Digest;
use crate::store::mark::{self, Mark, Role, Shown};
use crate::store::metadata::{Content, FileType};
use crate::sys::xattr;

/// How a file is opened: what of open(2)'s flags is left to us. O_APPEND is not: the kernel gives
/// each write its offset, under the inode's lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenFlags {
    /// O_WRONLY or O_RDWR.
    pub write: bool,
    /// O_TRUNC.
    pub truncate: bool,
    /// What becomes of set-id bits with O_TRUNC, or if writes are not seen by us.
    pub set_id: SetId,
    /// execve(2) opens it: while such a handle is open the program may be running.
    pub execute: bool,
    /// The transport's number of the request.
    pub request: u64,
}

/// What execve(2) adds to the flags (`__FMODE_EXEC`, include/linux/fs.h); FUSE passes it on.
const FMODE_EXEC: i32 = 0x20;

impl OpenFlags {
    /// From open(2)'s flags.
    pub fn from_raw(flags: i32, set_id: SetId) -> Self {
        Self {
            write: flags & libc::O_ACCMODE != libc::O_RDONLY,
            truncate: flags & libc::O_TRUNC != 0,
            set_id,
            execute: flags & FMODE_EXEC != 0,
            request: 0,
        }
    }
}

/// How often an open for writing tries again, each millisecond, while somebody has a read lease.
const LEASE_PATIENCE: u32 = 5000;

/// How well an object is looked at that is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// It is only asked for its size.
    Short,
    /// It is going to be read.
    Full,
}

/// Proof that `node.content` is held.
pub(super) type ContentGuard<'a> = MutexGuard<'a, ()>;

impl Filesystem {
    /// Opens a regular file; [`Filesystem::release`] closes it. A file whose content is an object
    /// stays one until the first write; O_TRUNC makes it a private file without copying anything.
    ///
    /// Waits for a fold or a promotion of the file only with O_TRUNC.
    ///
    /// # Errors
    /// EPERM for writing to what is locked; EIO when the content is not there as it should be. The kernel refuses what permissions,
    /// read-only mounts and running programs (ETXTBSY) forbid, and opens special files itself; but
    /// with O_TRUNC and O_RDONLY it looks for running programs only after this: ETXTBSY, too.
    pub fn open(&self, node: &Arc<Node>, flags: OpenFlags) -> Outcome<u64> {
        let handle = self.opened(node, flags)?;
        let id = self.handles.new_id();
        self.handles.insert_file(id, handle);
        Ok(id)
    }

    /// [`Filesystem::open`] at the nodeid with this top byte, and which way the content takes.
    ///
    /// # Errors
    /// ESTALE when the kernel has to look the name up again and open what it finds then.
    pub fn open_at(
        &self,
        node: &Arc<Node>,
        flip: u8,
        flags: OpenFlags,
        register: Register<'_>,
    ) -> Outcome<(u64, Way)> {
        let write = flags.write || flags.truncate;
        if write {
            self.refuse_stale(node, flip, Change::Open)?;
        }
        let mut handle = self.opened(node, flags)?;
        if flags.write && node.state.lock().is_written_directly() {
            // It got its bits while somebody wrote: they go with the open, as we shall see no write.
            self.apply_set_id(node, flags.set_id)?;
        }
        let (way, open) = self.way(node, flip, flags.write, register)?;
        handle.flip = Some(flip);
        if !flags.write && matches!(way, Way::Direct(_)) {
            handle.direct = Some(open);
        }
        let id = self.handles.new_id();
        handle.record = self.ledger().and_then(|ledger| {
            let record = OpenHandle {
                number: node.number,
                id,
                flip,
                writes: handle.writer.is_some(),
                executes: handle.execute,
                registered: match &way {
                    Way::Direct(registered) => registered.id(),
                    Way::Cached { .. } => 0,
                },
                object: handle.direct.as_ref().and_then(|open| open.digest()),
                request: flags.request,
            };
            ledger.add_handle(&record)
        });
        self.handles.insert_file(id, handle);
        Ok((id, way))
    }

    fn opened(&self, node: &Arc<Node>, flags: OpenFlags) -> Outcome<FileHandle> {
        match node.file_type {
            FileType::Regular => {}
            FileType::Directory => return Err(Errno::ISDIR.into()),
            FileType::Symlink => return Err(Errno::LOOP.into()),
            _ => return Err(Errno::NXIO.into()),
        }
        if flags.truncate && !flags.write && node.state.lock().programs > 0 {
            return Err(Errno::TXTBSY.into());
        }
        let write = flags.write || flags.truncate;
        let writer = write.then(|| self.writer(node));
        if write {
            self.refuse_locked_now(node)?;
        }
        let mut handle = FileHandle::new(node.clone(), writer, flags.execute);
        if flags.truncate {
            let content = node.content.lock();
            self.resize(node, &content, 0)?;
            self.apply_set_id(node, flags.set_id)?;
            drop(content);
            // Who has truncated it and is going to read only is in no fold's way, nor in a lock's.
            if !flags.write {
                handle.writer = None;
            }
        } else {
            // Held by a promotion or a fold under way: the first write waits for it.
            let content = write.then(|| node.content.try_lock()).flatten();
            match content {
                Some(content) => self.open_to_write(node, &content)?,
                None => self.open_to_read(node)?,
            };
        }
        Ok(handle)
    }

    /// What is open behind a node's handles. With `names` held.
    pub(super) fn open_now(&self, node: &Arc<Node>) -> Outcome<Arc<OpenFile>> {
        let open = node.state.lock().open.clone();
        if let Some(open) = open {
            return Ok(open);
        }
        let opened = match self.kept(node)? {
            Some(open) => open,
            None => Arc::new(self.open_host(node, OFlags::RDONLY, Look::Full)?),
        };
        Ok(node.state.lock().open.get_or_insert(opened).clone())
    }

    /// A shared file's object, if it is open since an earlier handle, and still the one. With `names`
    /// held.
    fn kept(&self, node: &Arc<Node>) -> Outcome<Option<Arc<OpenFile>>> {
        let (Source::Shared(shared), Some(open)) = (node.source(), self.kept_open(node)) else {
            return Ok(None);
        };
        let inode = self.shared_inode(node, shared)?;
        let now = match inode.content {
            Content::Regular { size, digest } => Some((size, digest)),
            _ => None,
        };
        let size = match open.backing {
            Backing::Object { size, digest, .. } if now == Some((size, digest)) => size,
            _ => return Ok(None),
        };
        self.refuse_damaged(&open)?;
        let stat = fs::fstat(&open.file)?;
        // Who lays hands on an object has it looked at as if it were opened first.
        let is_whole = stat.st_nlink > 0 && stat.st_size as u64 == size;
        Ok((is_whole && !self.is_outdated(&open)).then_some(open))
    }

    /// Whether an object has been replaced by a sound one since it was opened.
    pub(super) fn is_outdated(&self, open: &OpenFile) -> bool {
        match &open.backing {
            Backing::Object {
                digest: Some(digest),
                epoch,
                ..
            } => {
                let verification = self.store.objects().verification();
                verification.is_replaced_since(digest, *epoch)
            }
            _ => false,
        }
    }

    /// The open file of a node that has a handle or writer, opened now if it is not.
    pub(super) fn open_to_read(&self, node: &Arc<Node>) -> Outcome<Arc<OpenFile>> {
        let open = node.state.lock().open.clone();
        if let Some(open) = open {
            self.refuse_damaged(&open)?;
            if !self.is_outdated(&open) {
                return Ok(open);
            }
            let mut state = node.state.lock();
            let is_ours = |now: &mut Arc<OpenFile>| Arc::ptr_eq(now, &open);
            let old = state.open.take_if(is_ours);
            drop(state);
            if old.is_some() {
                self.leave_direct_readers(node)?;
            }
        }
        let _names = self.names.read();
        self.open_now(node)
    }

    /// EIO for an object that was found damaged since it was opened.
    pub(super) fn refuse_damaged(&self, open: &OpenFile) -> Outcome<()> {
        match &open.backing {
            Backing::Object {
                digest: Some(digest),
                ..
            } => Ok(self.store.objects().verification().refuse_damaged(digest)?),
            _ => Ok(()),
        }
    }

    /// Likewise for a writer: the private file opened for writing, unless content is an object.
    pub(super) fn open_to_write(
        &self,
        node: &Arc<Node>,
        _content: &ContentGuard<'_>,
    ) -> Outcome<Arc<OpenFile>> {
        let open = node.state.lock().open.clone();
        if let Some(open) = open.filter(|open| open.backing != Backing::Private) {
            return Ok(open);
        }
        let mut patience = LEASE_PATIENCE;
        loop {
            let names = self.names.read();
            match self.open_host(node, OFlags::RDWR, Look::Full) {
                Ok(opened) => {
                    let opened = Arc::new(opened);
                    node.state.lock().open = Some(opened.clone());
                    return Ok(opened);
                }
                // A read lease: its holder has just been told to give it back.
                Err(Failure::Refused(Errno::AGAIN)) if patience > 0 => patience -= 1,
                Err(failure) => return Err(failure),
            }
            drop(names);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Opens what a node's content is now. With `names` held.
    fn open_host(&self, node: &Arc<Node>, access: OFlags, look: Look) -> Outcome<OpenFile> {
        if let Source::Shared(shared) = node.source() {
            let inode = self.shared_inode(node, shared)?;
            return match inode.content {
                Content::Regular { size, digest } => self.open_object(digest, size, look),
                _ => Err(Errno::IO.into()),
            };
        }
        let host = self.host(node)?.ok_or(Errno::ISDIR)?;
        let file = open_private(self, &host, access)?;
        let bytes = xattr::get_descriptor(file.as_fd(), mark::NAME.as_bytes())?;
        let mark = bytes.and_then(|bytes| Mark::decode(&bytes).ok());
        match mark.map(|mark| (mark.role, mark.shown)) {
            Some((Role::File, shown)) => Ok(OpenFile {
                file,
                backing: match access.contains(OFlags::RDWR) {
                    true => Backing::Writable,
                    false => Backing::Private,
                },
                shown_times: AtomicBool::new(shown != Shown::default()),
            }),
            Some((Role::Stub { digest }, _)) => {
                let size = fs::fstat(&file)?.st_size as u64;
                self.open_object(Some(digest), size, look)
            }
            _ => Err(Errno::BADMSG.into()),
        }
    }

    /// Opens an object.
    ///
    /// # Errors
    /// EIO when there is none, it has not the size that it must have, or it is known or found to be
    /// damaged: rather than wrong bytes.
    fn open_object(&self, digest: Option<Digest>, size: u64, look: Look) -> Outcome<OpenFile> {
        let epoch = self.store.objects().verification().epoch();
        let file = match digest {
            Some(digest) => {
                let objects = self.store.objects();
                let verification = objects.verification();
                verification.refuse_damaged(&digest)?;
                let file = becoming::open(objects, self.view.layer.work(), &digest)?;
                if look == Look::Full {
                    verification.examine(file.as_fd(), &digest, size)?;
                }
                file
            }
            // Content of length 0 has no object.
            None => fs::memfd_create("foldfs-empty", MemfdFlags::CLOEXEC)?,
        };
        Ok(OpenFile {
            file,
            backing: Backing::Object {
                size,
                digest,
                epoch,
            },
            shown_times: AtomicBool::new(false),
        })
    }

    /// An object that a direct reader had open before this process took the image over.
    pub(super) fn reopen_object(&self, digest: &Digest) -> Outcome<OpenFile> {
        let objects = self.store.objects();
        let epoch = objects.verification().epoch();
        let file = becoming::open(objects, self.view.layer.work(), digest)?;
        let size = fs::fstat(&file)?.st_size as u64;
        Ok(OpenFile {
            file,
            backing: Backing::Object {
                size,
                digest: Some(*digest),
                epoch,
            },
            shown_times: AtomicBool::new(false),
        })
    }

    /// Likewise, a private file.
    pub(super) fn open_private_to_read(&self, node: &Arc<Node>) -> Outcome<OpenFile> {
        let _names = self.names.read();
        self.open_host(node, OFlags::RDONLY, Look::Short)
    }

    /// How many bytes a change of a file's content would copy, or wait for while another request
    /// copies them; `None` if it is a private file. For the caller to decide which thread does it.
    pub fn needs_promotion(&self, node: &Arc<Node>) -> Outcome<Option<u64>> {
        if node.file_type != FileType::Regular {
            return Ok(None);
        }
        let open = node.state.lock().open.clone();
        let backing = match open {
            Some(open) => open.backing,
            None => {
                let _names = self.names.read();
                self.open_host(node, OFlags::RDONLY, Look::Short)?.backing
            }
        };
        Ok(match backing {
            Backing::Object { size, .. } => Some(size),
            Backing::Private | Backing::Writable => None,
        })
    }

    /// How many bytes an open of a file may read before it is done, to verify them.
    pub fn needs_verification(&self, node: &Arc<Node>) -> Outcome<Option<u64>> {
        match self.store.objects().verification().is_on() {
            true => self.needs_promotion(node),
            false => Ok(None),
        }
    }

    /// Like [`Filesystem::needs_promotion`], of an open file.
    pub fn handle_needs_promotion(&self, handle: u64) -> Outcome<Option<u64>> {
        let handle = self.handles.file(handle)?;
        self.needs_promotion(&handle.node)
    }

    /// The open file of a node with a writer, ready to be changed by the guest: content is private,
    /// the times are the host's.
    pub(super) fn open_to_change(&self, node: &Arc<Node>) -> Outcome<Arc<OpenFile>> {
        let open = node.state.lock().open.clone();
        if let Some(open) = open.filter(is_ready) {
            return Ok(open);
        }
        let content = node.content.lock();
        self.open_to_change_locked(node, &content)
    }

    pub(super) fn open_to_change_locked(
        &self,
        node: &Arc<Node>,
        content: &ContentGuard<'_>,
    ) -> Outcome<Arc<OpenFile>> {
        let mut open = self.open_to_write(node, content)?;
        if let Backing::Object { .. } = open.backing {
            open = self.promote_content(node, content, None)?;
        }
        if open.shown_times.load(Ordering::Acquire) {
            let _change = self.change.read();
            let _names = self.names.write();
            self.drop_shown(node)?;
            open.shown_times.store(false, Ordering::Release);
        }
        Ok(open)
    }
}

fn is_ready(open: &Arc<OpenFile>) -> bool {
    open.backing == Backing::Writable && !open.shown_times.load(Ordering::Acquire)
}

/// Opens a file of the private layer. O_NONBLOCK, so that an open for writing does not stop this
/// thread, with `names` held, while somebody has a read lease: EAGAIN.
pub(super) fn open_private(
    filesystem: &Filesystem,
    host: &Host,
    access: OFlags,
) -> Outcome<OwnedFd> {
    let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOATIME;
    let directory = host.directory(filesystem);
    Ok(fs::openat(directory, host.name(), flags, Mode::empty())?)
}
