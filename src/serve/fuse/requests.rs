//! How many requests of each kind the kernel sent. A round trip costs more than what is done for
//! it: tests/mounted_requests.rs compares what operations take with docs/performance.md.

use std::array;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, FileHandle, INodeNo, IoctlFlags, KernelConfig, LockOwner,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr,
    Request, TimeOrNow, WriteFlags,
};

use super::adapter::Adapter;

/// Counters of all mounts of a process.
#[derive(Debug)]
pub struct Requests([AtomicU64; NAMES.len()]);

impl Default for Requests {
    fn default() -> Self {
        Self(array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Requests {
    /// How many there were, by what the protocol calls them.
    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        let counts = self.0.iter().map(|count| count.load(Ordering::Relaxed));
        NAMES.into_iter().zip(counts).collect()
    }
}

/// The adapter of one mount, whose requests are counted.
#[derive(Clone)]
pub struct Counted {
    pub(super) adapter: Adapter,
    requests: Arc<Requests>,
}

impl Counted {
    /// Counts in `requests` what `adapter` is asked.
    pub fn new(adapter: Adapter, requests: Arc<Requests>) -> Self {
        Self { adapter, requests }
    }
}

/// All that the adapter answers. What is missing here does not reach it.
macro_rules! counted {
    ($($operation:ident($($argument:ident: $of:ty),*);)*) => {
        #[allow(non_camel_case_types, reason = "as the protocol calls them")]
        enum Operation {
            $($operation),*
        }

        const NAMES: [&str; [$(stringify!($operation)),*].len()] = [$(stringify!($operation)),*];

        impl fuser::Filesystem for Counted {
            fn init(&mut self, request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
                self.adapter.init(request, config)
            }

            $(fn $operation(&self, request: &Request, $($argument: $of),*) {
                self.requests.0[Operation::$operation as usize].fetch_add(1, Ordering::Relaxed);
                self.adapter.$operation(request, $($argument),*);
            })*
        }
    };
}

counted! {
    lookup(parent: INodeNo, name: &OsStr, reply: ReplyEntry);
    forget(nodeid: INodeNo, count: u64);
    getattr(nodeid: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr);
    setattr(
        nodeid: INodeNo, mode: Option<u32>, uid: Option<u32>, gid: Option<u32>, size: Option<u64>,
        atime: Option<TimeOrNow>, mtime: Option<TimeOrNow>, ctime: Option<SystemTime>,
        fh: Option<FileHandle>, crtime: Option<SystemTime>, chgtime: Option<SystemTime>,
        bkuptime: Option<SystemTime>, flags: Option<BsdFileFlags>, reply: ReplyAttr
    );
    readlink(nodeid: INodeNo, reply: ReplyData);
    mknod(parent: INodeNo, name: &OsStr, mode: u32, umask: u32, rdev: u32, reply: ReplyEntry);
    mkdir(parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry);
    unlink(parent: INodeNo, name: &OsStr, reply: ReplyEmpty);
    rmdir(parent: INodeNo, name: &OsStr, reply: ReplyEmpty);
    symlink(parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry);
    rename(
        parent: INodeNo, name: &OsStr, new_parent: INodeNo, new_name: &OsStr, flags: RenameFlags,
        reply: ReplyEmpty
    );
    link(nodeid: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry);
    open(nodeid: INodeNo, flags: OpenFlags, reply: ReplyOpen);
    create(parent: INodeNo, name: &OsStr, mode: u32, umask: u32, flags: i32, reply: ReplyCreate);
    read(
        nodeid: INodeNo, fh: FileHandle, offset: u64, size: u32, flags: OpenFlags,
        lock_owner: Option<LockOwner>, reply: ReplyData
    );
    write(
        nodeid: INodeNo, fh: FileHandle, offset: u64, data: &[u8], write_flags: WriteFlags,
        flags: OpenFlags, lock_owner: Option<LockOwner>, reply: ReplyWrite
    );
    flush(nodeid: INodeNo, fh: FileHandle, lock_owner: LockOwner, reply: ReplyEmpty);
    release(
        nodeid: INodeNo, fh: FileHandle, flags: OpenFlags, lock_owner: Option<LockOwner>, flush: bool,
        reply: ReplyEmpty
    );
    fsync(nodeid: INodeNo, fh: FileHandle, data_only: bool, reply: ReplyEmpty);
    opendir(nodeid: INodeNo, flags: OpenFlags, reply: ReplyOpen);
    readdir(nodeid: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectory);
    readdirplus(nodeid: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectoryPlus);
    fsyncdir(nodeid: INodeNo, fh: FileHandle, data_only: bool, reply: ReplyEmpty);
    statfs(nodeid: INodeNo, reply: ReplyStatfs);
    setxattr(
        nodeid: INodeNo, name: &OsStr, value: &[u8], flags: i32, position: u32, reply: ReplyEmpty
    );
    getxattr(nodeid: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr);
    listxattr(nodeid: INodeNo, size: u32, reply: ReplyXattr);
    removexattr(nodeid: INodeNo, name: &OsStr, reply: ReplyEmpty);
    ioctl(
        nodeid: INodeNo, fh: FileHandle, flags: IoctlFlags, command: u32, data: &[u8], size: u32,
        reply: ReplyIoctl
    );
    fallocate(
        nodeid: INodeNo, fh: FileHandle, offset: u64, length: u64, mode: i32, reply: ReplyEmpty
    );
    lseek(nodeid: INodeNo, fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek);
    copy_file_range(
        from: INodeNo, from_fh: FileHandle, from_offset: u64, to: INodeNo, to_fh: FileHandle,
        to_offset: u64, length: u64, flags: CopyFileRangeFlags, reply: ReplyWrite
    );
}
