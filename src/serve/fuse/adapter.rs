//! A live image as fuser wants it: translation only.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, INodeNo, IoctlFlags, KernelConfig,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::answer::{
    answer, caller, empty, kept, permissions, set_id_of_caller, set_id_of_write, xattr,
};
use super::capabilities::{DATA_MAX, negotiate, pass_through};
use super::connection::Protocol;
use super::convert::{errno, file_attr, number, rdev_from_kernel, time_change};
use super::registration::Device;
use super::resent::{is_new, once};
use crate::filesystem::Filesystem;
use crate::filesystem::attributes::Attributes;
use crate::filesystem::data::Seek;
use crate::filesystem::failure::Outcome;
use crate::filesystem::node::Node;
use crate::filesystem::passthrough::{Change, Passthrough};
use crate::filesystem::rename::Entry as Name;
use crate::filesystem::set_attributes::Changes;
use crate::filesystem::transport::flip_of;
use crate::filesystem::xattrs::SetXattr;
use crate::store::metadata::FileType;

/// Promotions of more bytes than this are left to the pool.
const SHORT: u64 = 256 << 10;

/// The adapter of one mount. Its clones are of the same one.
#[derive(Clone)]
pub struct Adapter {
    pub(super) filesystem: Arc<Filesystem>,
    pool: Arc<rayon::ThreadPool>,
    /// Wanted, until the kernel has said in INIT whether it can.
    pub(super) passthrough: Option<Arc<Passthrough>>,
    pub(super) passes_through: Arc<AtomicBool>,
    protocol: Arc<OnceLock<Protocol>>,
    /// The connection.
    pub(super) device: Device,
}

impl Adapter {
    /// Serves an image; long work goes to `pool`. Without a `passthrough` all files are cached.
    pub fn new(
        filesystem: Arc<Filesystem>,
        pool: Arc<rayon::ThreadPool>,
        passthrough: Option<Arc<Passthrough>>,
    ) -> Self {
        Self {
            filesystem,
            pool,
            passthrough,
            passes_through: Arc::default(),
            protocol: Arc::default(),
            device: Device::default(),
        }
    }

    /// What the kernel has said that it can do.
    pub(super) fn protocol(&self) -> Option<Protocol> {
        self.protocol.get().copied()
    }

    pub(super) fn node(&self, nodeid: INodeNo) -> Outcome<Arc<Node>> {
        let number = number(nodeid).map_err(|_| rustix::io::Errno::STALE)?;
        self.filesystem.node(number)
    }

    /// Does it here, or in the pool if it may take long.
    pub(super) fn run(&self, long: bool, work: impl FnOnce(&Filesystem) + Send + 'static) {
        if long {
            let filesystem = self.filesystem.clone();
            self.pool.spawn(move || work(&filesystem));
        } else {
            work(&self.filesystem);
        }
    }

    pub(super) fn is_long(&self, promotion: Outcome<Option<u64>>) -> bool {
        promotion.is_ok_and(|bytes| bytes.is_some_and(|bytes| bytes > SHORT))
    }
}

impl fuser::Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let version = config.kernel_abi();
        self.protocol.get_or_init(|| Protocol {
            major: version.0,
            minor: version.1,
            capabilities: config.capabilities().bits(),
        });
        negotiate(config)?;
        let passes_through = self.passthrough.is_some() && pass_through(config);
        self.passes_through.store(passes_through, Ordering::Release);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.look_up(parent, name, reply);
    }

    fn forget(&self, _req: &Request, nodeid: INodeNo, count: u64) {
        if let Ok(number) = number(nodeid) {
            self.filesystem.forget(number, count);
        }
    }

    fn getattr(&self, _req: &Request, nodeid: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        self.get_attributes(nodeid, reply);
    }

    fn setattr(
        &self,
        req: &Request,
        nodeid: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let node = match self.node(nodeid) {
            Ok(node) => node,
            Err(failure) => return reply.error(errno(&failure)),
        };
        let changes = Changes {
            mode: mode.map(|mode| mode & 0o7777),
            uid,
            gid,
            size,
            atime: time_change(atime),
            mtime: time_change(mtime),
            set_id: set_id_of_caller(req),
        };
        let thread = req.pid();
        // ftruncate(2) is of a file that is open for writing: no other inode is needed for that.
        if size.is_some() && fh.is_none() {
            let filesystem = &self.filesystem;
            let fresh = filesystem.refuse_stale(&node, flip_of(nodeid.0), Change::Size);
            if let Err(stale) = filesystem.noting_refusal(thread, fresh) {
                return reply.error(errno(&stale));
            }
        }
        let long = size.is_some() && self.is_long(self.filesystem.needs_promotion(&node));
        self.run(long, move |filesystem| {
            // What takes long is of a file, whose attributes no change of names alters.
            let answering = (!long).then(|| filesystem.answering());
            let attributes = filesystem.set_attributes(&node, &changes);
            let attributes = filesystem.noting_refusal(thread, attributes);
            let keeps = answering.as_ref().is_none_or(|answering| answering.keeps());
            answer!(reply, attributes, attributes => reply.attr(&kept(&attributes, keeps), &file_attr(&attributes)));
        });
    }

    fn readlink(&self, _req: &Request, nodeid: INodeNo, reply: ReplyData) {
        let target = self
            .node(nodeid)
            .and_then(|node| self.filesystem.read_link(&node));
        answer!(reply, target, target => reply.data(&target));
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let file_type = FileType::from_mode(mode).unwrap_or(FileType::Regular);
        let place = (parent, name.as_bytes());
        self.made(req, reply, place, is_new(file_type), |filesystem| {
            let parent = self.node(parent)?;
            let permissions = permissions(req, mode, umask);
            let rdev = rdev_from_kernel(rdev);
            filesystem.make_node(&parent, name.as_bytes(), file_type, rdev, &permissions)
        });
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let permissions = permissions(req, mode, umask);
        let place = (parent, name.as_bytes());
        self.made(
            req,
            reply,
            place,
            is_new(FileType::Directory),
            |filesystem| {
                let parent = self.node(parent)?;
                filesystem.make_directory(&parent, name.as_bytes(), &permissions)
            },
        );
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let parent = self.node(parent);
        let removed = parent.and_then(|parent| self.filesystem.unlink(&parent, name.as_bytes()));
        let removed = once(req, removed, rustix::io::Errno::NOENT);
        self.altered(req, reply, removed);
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let parent = self.node(parent);
        let removed = parent.and_then(|parent| self.filesystem.rmdir(&parent, name.as_bytes()));
        let removed = once(req, removed, rustix::io::Errno::NOENT);
        self.altered(req, reply, removed);
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let target = target.as_os_str().as_bytes();
        let place = (parent, name.as_bytes());
        self.made(req, reply, place, is_new(FileType::Symlink), |filesystem| {
            let parent = self.node(parent)?;
            filesystem.make_symlink(&parent, name.as_bytes(), target, caller(req))
        });
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let flags = rustix::fs::RenameFlags::from_bits_retain(flags.bits());
        let renamed = self.node(parent).and_then(|parent| {
            let new_parent = self.node(new_parent)?;
            let old = Name {
                parent: &parent,
                name: name.as_bytes(),
            };
            let new = Name {
                parent: &new_parent,
                name: new_name.as_bytes(),
            };
            self.rename_once(req, old, new, flags)
        });
        self.altered(req, reply, renamed);
    }

    fn link(
        &self,
        req: &Request,
        nodeid: INodeNo,
        parent: INodeNo,
        name: &OsStr,
        reply: ReplyEntry,
    ) {
        let place = (parent, name.as_bytes());
        let is_it = |found: &Attributes| number(nodeid).is_ok_and(|linked| linked == found.number);
        self.made(req, reply, place, is_it, |filesystem| {
            let node = self.node(nodeid)?;
            let parent = self.node(parent)?;
            filesystem.link(&node, &parent, name.as_bytes())
        });
    }

    fn open(&self, req: &Request, nodeid: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.open_file(req, nodeid, flags, reply);
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let permissions = permissions(req, mode, umask);
        self.create_file(req, parent, name, &permissions, flags, reply);
    }

    fn read(
        &self,
        _req: &Request,
        _nodeid: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        // No kernel asks for more; memory must not depend on it.
        let mut buffer = vec![0; size.min(DATA_MAX) as usize];
        let length = self.filesystem.read(fh.0, offset, &mut buffer);
        answer!(reply, length, length => reply.data(&buffer[..length]));
    }

    fn write(
        &self,
        req: &Request,
        _nodeid: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let set_id = set_id_of_write(req, write_flags);
        let answer = move |reply: ReplyWrite, written: Outcome<usize>| {
            answer!(reply, written, length => reply.written(length as u32));
        };
        if self.is_long(self.filesystem.handle_needs_promotion(fh.0)) {
            let data = data.to_vec();
            self.run(true, move |filesystem| {
                answer(reply, filesystem.write(fh.0, offset, &data, set_id));
            });
        } else {
            answer(reply, self.filesystem.write(fh.0, offset, data, set_id));
        }
    }

    /// close(2) waits for nothing, as no write is held back. The kernel asks once, and never again.
    fn flush(
        &self,
        _req: &Request,
        _nodeid: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn release(
        &self,
        _req: &Request,
        _nodeid: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.filesystem.release(fh.0);
        reply.ok();
    }

    fn fsync(
        &self,
        _req: &Request,
        _nodeid: INodeNo,
        fh: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        self.run(true, move |filesystem| {
            empty(reply, filesystem.sync_file(fh.0, data_only))
        });
    }

    /// Directories are read without handles. The kernel (5.1) asks once, and keeps what it reads.
    fn opendir(&self, _req: &Request, _nodeid: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn readdir(
        &self,
        _req: &Request,
        nodeid: INodeNo,
        _fh: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        self.list(nodeid, offset, reply);
    }

    fn readdirplus(
        &self,
        _req: &Request,
        nodeid: INodeNo,
        _fh: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        self.list_plus(nodeid, offset, reply);
    }

    fn fsyncdir(
        &self,
        _req: &Request,
        nodeid: INodeNo,
        _fh: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        let node = self.node(nodeid);
        self.run(true, move |filesystem| {
            empty(
                reply,
                node.and_then(|node| filesystem.sync_directory(&node)),
            )
        });
    }

    fn statfs(&self, _req: &Request, _nodeid: INodeNo, reply: ReplyStatfs) {
        answer!(reply, self.filesystem.space(), s => reply.statfs(
            s.blocks,
            s.blocks_free,
            s.blocks_available,
            s.inodes,
            s.inodes_free,
            s.block_size as u32,
            s.name_max as u32,
            s.fragment_size as u32,
        ));
    }

    fn setxattr(
        &self,
        req: &Request,
        nodeid: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let set = self.node(nodeid).and_then(|node| {
            let how = match flags {
                libc::XATTR_CREATE => SetXattr::Create,
                libc::XATTR_REPLACE => SetXattr::Replace,
                _ => SetXattr::Any,
            };
            self.set_xattr_once(req, &node, name.as_bytes(), value, how)
        });
        self.altered(req, reply, set);
    }

    fn getxattr(
        &self,
        _req: &Request,
        nodeid: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        let node = self.node(nodeid);
        let value = node.and_then(|node| self.filesystem.xattr(&node, name.as_bytes()));
        xattr(reply, size, value);
    }

    fn listxattr(&self, req: &Request, nodeid: INodeNo, size: u32, reply: ReplyXattr) {
        let names = self.node(nodeid);
        let names = names.and_then(|node| self.filesystem.xattr_names(&node, &caller(req)));
        let terminated = |name: Vec<u8>| name.into_iter().chain([0]);
        xattr(
            reply,
            size,
            names.map(|names| names.into_iter().flat_map(terminated).collect()),
        );
    }

    fn removexattr(&self, req: &Request, nodeid: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let node = self.node(nodeid);
        let removed = node.and_then(|node| self.remove_xattr_once(req, &node, name.as_bytes()));
        self.altered(req, reply, removed);
    }

    fn ioctl(
        &self,
        _req: &Request,
        _nodeid: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn fallocate(
        &self,
        req: &Request,
        _nodeid: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let set_id = set_id_of_caller(req);
        let long = self.is_long(self.filesystem.handle_needs_promotion(fh.0));
        self.run(long, move |filesystem| {
            empty(
                reply,
                filesystem.fallocate(fh.0, mode as u32, offset, length, set_id),
            );
        });
    }

    fn lseek(
        &self,
        _req: &Request,
        _nodeid: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let what = match whence {
            libc::SEEK_DATA => Seek::Data,
            libc::SEEK_HOLE => Seek::Hole,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else {
            return reply.error(Errno::ENXIO);
        };
        let found = self.filesystem.seek(fh.0, offset, what);
        answer!(reply, found, offset => reply.offset(offset as i64));
    }

    fn copy_file_range(
        &self,
        req: &Request,
        _from: INodeNo,
        from_fh: FileHandle,
        from_offset: u64,
        _to: INodeNo,
        to_fh: FileHandle,
        to_offset: u64,
        length: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let set_id = set_id_of_caller(req);
        self.run(true, move |filesystem| {
            let (from, to) = ((from_fh.0, from_offset), (to_fh.0, to_offset));
            let copied = filesystem.copy_range(from, to, length, set_id);
            answer!(reply, copied, length => reply.written(length as u32));
        });
    }
}
