//! Random system calls at a mount, by threads that see nothing but the mount.
#![allow(
    unsafe_code,
    reason = "system calls with arguments that no wrapper lets through"
)]

use std::ffi::CString;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::common::mapping::Mapped;
use super::random::Random;

/// As long as any argument that is read or written, and as what xattrs may have and one more.
const BUFFER: usize = 70_000;
/// Descriptors that one thread keeps open.
const OPEN_MAX: usize = 24;

/// A guest's thread.
pub struct Guest<'a> {
    random: Random,
    open: Vec<i32>,
    mapped: Vec<Mapped>,
    handle: [u8; 256],
    buffer: Vec<u8>,
    /// Calls that have come back; those that succeeded.
    counts: &'a [AtomicU64; 2],
}

/// What a call gave: as the kernel gives it, or -1.
fn call(number: i64, arguments: [i64; 6]) -> i64 {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: pointers among the arguments point to memory that outlives the call and is as long as
    // the lengths among them say.
    unsafe { libc::syscall(number, a, b, c, d, e, f) }
}

impl<'a> Guest<'a> {
    /// Takes everything but the mount out of this thread's sight.
    pub fn enter(root: &Path, seed: u64, counts: &'a [AtomicU64; 2]) -> Self {
        // SAFETY: it concerns root and working directory of this thread only.
        let unshared = unsafe { libc::unshare(libc::CLONE_FS) };
        assert_eq!(unshared, 0, "unshare");
        rustix::process::chdir(root).unwrap();
        rustix::process::chroot(".").unwrap();
        Self {
            random: Random::new(seed),
            open: Vec::new(),
            mapped: Vec::new(),
            handle: [0; 256],
            buffer: vec![b'x'; BUFFER],
            counts,
        }
    }

    /// Makes random calls.
    pub fn work(&mut self, calls: usize) {
        for _ in 0..calls {
            let result = self.step();
            self.counts[0].fetch_add(1, Ordering::Relaxed);
            if result >= 0 {
                self.counts[1].fetch_add(1, Ordering::Relaxed);
            }
        }
        self.mapped.clear();
        for descriptor in self.open.drain(..) {
            call(libc::SYS_close, [descriptor.into(), 0, 0, 0, 0, 0]);
        }
    }

    fn descriptor(&mut self) -> i64 {
        match self.open.len() {
            0 => -1,
            _ => (*self.random.one(&self.open)).into(),
        }
    }

    /// A path: some names, chains of "..", slashes at either end.
    fn path(&mut self) -> CString {
        let mut path = Vec::new();
        match self.random.below(12) {
            0 => path.push(b'/'),
            1 => path.extend(b"../".repeat(self.random.below(30))),
            2 if self.random.once_in(10) => path.extend(b"./".repeat(2100)),
            _ => {}
        }
        for _ in 0..*self.random.one(&[0, 0, 0, 1, 1, 2, 5]) {
            path.extend(self.random.name());
            path.push(b'/');
        }
        path.extend(self.random.name());
        if self.random.once_in(30) {
            path.push(b'/');
        }
        CString::new(path).unwrap()
    }

    fn step(&mut self) -> i64 {
        let path = self.path();
        let other = self.path();
        let (at, second) = (path.as_ptr() as i64, other.as_ptr() as i64);
        let here = i64::from(libc::AT_FDCWD);
        let buffer = self.buffer.as_mut_ptr() as i64;
        let length = *self.random.one(&[0, 1, 7, 4096, 65_536, 65_537]);
        let offset = self.random.edge() as i64;
        let any = self.random.any() as i64;
        let nofollow = i64::from(libc::AT_SYMLINK_NOFOLLOW);
        match self.random.below(44) {
            0..5 => self.open(at, any),
            5 => self.close(),
            6 => call(
                libc::SYS_pread64,
                [self.descriptor(), buffer, length, offset, 0, 0],
            ),
            7..9 => call(
                libc::SYS_pwrite64,
                [self.descriptor(), buffer, length, offset, 0, 0],
            ),
            9 => call(
                libc::SYS_write,
                [self.descriptor(), buffer, length, 0, 0, 0],
            ),
            10 => call(
                libc::SYS_lseek,
                [self.descriptor(), offset, any % 7, 0, 0, 0],
            ),
            11 => call(libc::SYS_ftruncate, [self.descriptor(), offset, 0, 0, 0, 0]),
            12 => call(libc::SYS_truncate, [at, offset, 0, 0, 0, 0]),
            13 => {
                let mode = if self.random.once_in(3) {
                    any
                } else {
                    any & 0x7f
                };
                let end = self.random.edge() as i64;
                call(
                    libc::SYS_fallocate,
                    [self.descriptor(), mode, offset, end, 0, 0],
                )
            }
            14 => {
                let (from, to) = (self.descriptor(), self.descriptor());
                call(libc::SYS_copy_file_range, [from, 0, to, 0, offset, 0])
            }
            15..18 => call(libc::SYS_mkdirat, [here, at, any & 0o7777, 0, 0, 0]),
            18 => {
                let kind = (any >> 20 & 15) << 12;
                call(
                    libc::SYS_mknodat,
                    [here, at, kind | any & 0o7777, any >> 32, 0, 0],
                )
            }
            19 => self.symlink(at),
            20..22 => call(libc::SYS_linkat, [here, at, here, second, any & 0x400, 0]),
            22..26 => {
                let flags = *self.random.one(&[0, 0, 0, 1, 2, 2, 4, 5, 7, -1]);
                call(libc::SYS_renameat2, [here, at, here, second, flags, 0])
            }
            26 => call(libc::SYS_unlinkat, [here, at, 0, 0, 0, 0]),
            27 => call(
                libc::SYS_unlinkat,
                [here, at, libc::AT_REMOVEDIR.into(), 0, 0, 0],
            ),
            28 => call(libc::SYS_fchmodat, [here, at, any & 0o7777, 0, 0, 0]),
            29 => call(
                libc::SYS_fchownat,
                [here, at, any % 3, offset % 3, nofollow, 0],
            ),
            30 => self.times(at),
            31..33 => self.set_xattr(at),
            33 => self.other_xattr(at, buffer, length),
            34 => call(
                libc::SYS_getdents64,
                [self.descriptor(), buffer, length, 0, 0, 0],
            ),
            35 => call(
                libc::SYS_statx,
                [here, at, nofollow, any & 0xfff, buffer, 0],
            ),
            36 => call(libc::SYS_readlinkat, [here, at, buffer, length, 0, 0]),
            37 => self.lock(offset),
            38 => call(
                libc::SYS_ioctl,
                [self.descriptor(), any & 0xffff_ffff, buffer, 0, 0, 0],
            ),
            39 => self.open_by_handle(at),
            40 => self.map(offset),
            41 => call(libc::SYS_chdir, [at, 0, 0, 0, 0, 0]),
            42 => call(libc::SYS_chdir, [c"/".as_ptr() as i64, 0, 0, 0, 0, 0]),
            _ if self.random.once_in(20) => {
                call(libc::SYS_fsync, [self.descriptor(), 0, 0, 0, 0, 0])
            }
            _ => {
                let advice = any % 9;
                call(
                    libc::SYS_fadvise64,
                    [self.descriptor(), offset, offset, advice, 0, 0],
                )
            }
        }
    }

    fn open(&mut self, path: i64, any: i64) -> i64 {
        if self.open.len() >= OPEN_MAX {
            self.close();
        }
        let flags = *self.random.one(&[
            libc::O_RDONLY,
            libc::O_RDWR,
            libc::O_RDWR | libc::O_CREAT,
            libc::O_RDWR | libc::O_CREAT | libc::O_EXCL,
            libc::O_WRONLY | libc::O_TRUNC,
            libc::O_WRONLY | libc::O_APPEND,
            libc::O_RDWR | libc::O_DIRECT,
            libc::O_PATH,
            libc::O_DIRECTORY,
            libc::O_TMPFILE | libc::O_RDWR,
        ]);
        let strange = if self.random.once_in(20) {
            any as i32
        } else {
            0
        };
        // Nobody is at the other end of a fifo.
        let flags = flags | strange | libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_NOCTTY;
        let here = libc::AT_FDCWD.into();
        let opened = call(
            libc::SYS_openat,
            [here, path, flags.into(), any & 0o7777, 0, 0],
        );
        if opened >= 0 {
            self.open.push(opened as i32);
        }
        opened
    }

    fn close(&mut self) -> i64 {
        if self.open.is_empty() {
            return -1;
        }
        let index = self.random.below(self.open.len());
        let descriptor = self.open.swap_remove(index);
        call(libc::SYS_close, [descriptor.into(), 0, 0, 0, 0, 0])
    }

    fn symlink(&mut self, path: i64) -> i64 {
        let long = "x/".repeat(2047);
        let targets = [
            "../../../../../../../../etc/passwd",
            "/",
            "/proc/self/root",
            ".",
            &long,
        ];
        let target = match self.random.once_in(2) {
            true => self.path(),
            false => CString::new(*self.random.one(&targets)).unwrap(),
        };
        let here = libc::AT_FDCWD.into();
        call(
            libc::SYS_symlinkat,
            [target.as_ptr() as i64, here, path, 0, 0, 0],
        )
    }

    fn times(&mut self, path: i64) -> i64 {
        let edges = [
            i64::MIN,
            i64::MIN + 1,
            i64::MAX,
            -1,
            0,
            1 << 31,
            1 << 32,
            1 << 34,
        ];
        let mut times = [0; 4];
        for index in [0, 2] {
            times[index] = *self.random.one(&edges);
            times[index + 1] = *self.random.one(&[0, 1, 999_999_999, 1_000_000_000, -1]);
        }
        let here = libc::AT_FDCWD.into();
        let nofollow = libc::AT_SYMLINK_NOFOLLOW.into();
        call(
            libc::SYS_utimensat,
            [here, path, times.as_ptr() as i64, nofollow, 0, 0],
        )
    }

    fn set_xattr(&mut self, path: i64) -> i64 {
        let name = CString::new(self.random.xattr()).unwrap();
        let value = match name.to_bytes().starts_with(b"system.posix") {
            true => self.random.acl(),
            false => {
                let lengths = [0, 1, 30, 200, 3000, 65_536, 65_537];
                vec![b'x'; *self.random.one(&lengths)]
            }
        };
        let flags = self.random.below(4) as i64;
        let (key, start) = (name.as_ptr() as i64, value.as_ptr() as i64);
        let length = value.len() as i64;
        call(libc::SYS_lsetxattr, [path, key, start, length, flags, 0])
    }

    fn other_xattr(&mut self, path: i64, buffer: i64, length: i64) -> i64 {
        let name = CString::new(self.random.xattr()).unwrap();
        let name = name.as_ptr() as i64;
        match self.random.below(3) {
            0 => call(libc::SYS_lgetxattr, [path, name, buffer, length, 0, 0]),
            1 => call(libc::SYS_llistxattr, [path, buffer, length, 0, 0, 0]),
            _ => call(libc::SYS_lremovexattr, [path, name, 0, 0, 0, 0]),
        }
    }

    fn lock(&mut self, offset: i64) -> i64 {
        let descriptor = self.descriptor();
        if self.random.once_in(2) {
            let how = *self
                .random
                .one(&[libc::LOCK_SH, libc::LOCK_EX, libc::LOCK_UN]);
            return call(
                libc::SYS_flock,
                [descriptor, (how | libc::LOCK_NB).into(), 0, 0, 0, 0],
            );
        }
        let lock = libc::flock {
            l_type: self.random.below(4) as i16,
            l_whence: self.random.below(4) as i16,
            l_start: offset,
            l_len: self.random.edge() as i64,
            l_pid: 0,
        };
        let command = *self
            .random
            .one(&[libc::F_SETLK, libc::F_GETLK, libc::F_OFD_SETLK]);
        call(
            libc::SYS_fcntl,
            [descriptor, command.into(), &raw const lock as i64, 0, 0, 0],
        )
    }

    /// What the kernel gave for a name, with some of it changed.
    fn open_by_handle(&mut self, path: i64) -> i64 {
        let handle = self.handle.as_mut_ptr() as i64;
        if self.random.once_in(2) {
            self.handle[..4].copy_from_slice(&128u32.to_ne_bytes());
            let (mut mount, here) = (0i32, libc::AT_FDCWD.into());
            let mount = &raw mut mount as i64;
            return call(
                libc::SYS_name_to_handle_at,
                [here, path, handle, mount, 0, 0],
            );
        }
        for _ in 0..self.random.below(3) {
            let at = 4 + self.random.below(20);
            self.handle[at] = *self.random.one(&[0, 1, 2, 255, self.buffer[at]]);
        }
        let bytes = *self.random.one(&[8, 12, 16, 24, 128]);
        self.handle[..4].copy_from_slice(&u32::to_ne_bytes(bytes));
        let flags = libc::O_RDWR | libc::O_NONBLOCK | libc::O_CLOEXEC;
        let descriptor = self.descriptor();
        let opened = call(
            libc::SYS_open_by_handle_at,
            [descriptor, handle, flags.into(), 0, 0, 0],
        );
        if opened >= 0 {
            self.open.push(opened as i32);
        }
        opened
    }

    /// Stores to and loads from mappings of what other threads truncate.
    fn map(&mut self, offset: i64) -> i64 {
        if self.mapped.len() > 4 || self.random.once_in(3) {
            let offset = offset as usize % 50_000;
            let Some(mapped) = self.mapped.pop() else {
                return -1;
            };
            let loaded = mapped.load().len() as i64;
            return match mapped.store(offset, b"through a mapping") {
                Ok(()) => loaded,
                Err(_) => -1,
            };
        }
        let descriptor = self.descriptor() as i32;
        if descriptor < 0 {
            return -1;
        }
        // SAFETY: it is open as long as this thread does not close it.
        let file = unsafe { BorrowedFd::borrow_raw(descriptor) };
        match Mapped::new(file, 65_536, true) {
            Ok(mapped) => {
                self.mapped.push(mapped);
                0
            }
            Err(_) => -1,
        }
    }
}
