//! All ways to alter a path.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use foldfs::sys::handle::FileHandle;
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, RenameFlags, Timespec, Timestamps, UTIME_NOW, Uid,
    XattrFlags, chownat, fchmod, lremovexattr, lsetxattr, mknodat, renameat_with, utimensat,
};
use rustix::io::Errno;

use super::common::at;
use super::common::mapping::truncate_path;
use super::common::op;

/// What an attempt ends with.
pub type Ended = Result<(), Errno>;

/// A way to alter something below `DIR/dir`, or the file that is `DIR/dir/linked` and `DIR/alias`.
pub struct Way {
    /// Also of the directory that is there for the attempt that nothing is in the way of.
    pub name: &'static str,
    /// Gets DIR.
    pub attempt: fn(&Path) -> Ended,
}

fn ended<T>(result: std::io::Result<T>) -> Ended {
    result
        .map(drop)
        .map_err(|error| Errno::from_io_error(&error).unwrap())
}

fn open(path: &Path, flags: i32) -> Ended {
    let access = flags & libc::O_ACCMODE;
    let mut options = OpenOptions::new();
    options.read(access != libc::O_WRONLY);
    options.write(access != libc::O_RDONLY);
    ended(options.custom_flags(flags & !libc::O_ACCMODE).open(path))
}

/// open(2) of O_RDONLY with O_TRUNC, which std does not do.
fn truncate_by_reader(path: &Path) -> Ended {
    use rustix::fs::{OFlags, openat};
    let flags = OFlags::RDONLY | OFlags::TRUNC | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty()).map(drop)
}

fn chmod(path: &Path, mode: u32) -> Ended {
    ended(fs::set_permissions(path, Permissions::from_mode(mode)))
}

fn lchown(path: &Path) -> Ended {
    let (owner, group) = (Uid::from_raw(7), Gid::from_raw(8));
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    chownat(CWD, path, Some(owner), Some(group), flags)
}

fn touch(path: &Path) -> Ended {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_NOW,
    };
    let times = Timestamps {
        last_access: now,
        last_modification: now,
    };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
}

fn set_xattr(path: &Path, name: &str, value: &[u8]) -> Ended {
    lsetxattr(path, name, value, XattrFlags::empty())
}

fn rename(from: &Path, to: &Path) -> Ended {
    ended(fs::rename(from, to))
}

fn rename_with(from: &Path, to: &Path, flags: RenameFlags) -> Ended {
    renameat_with(CWD, from, CWD, to, flags)
}

fn node(path: &Path, file_type: FileType, device: u64) -> Ended {
    mknodat(CWD, path, file_type, Mode::from_raw_mode(0o600), device)
}

/// By a handle, as an NFS server does.
fn open_by_handle(path: &Path, flags: i32) -> Ended {
    let above = at::open_root(path.parent().unwrap());
    let name = CString::new(path.file_name().unwrap().as_encoded_bytes()).unwrap();
    let handle = FileHandle::of(above.as_fd(), name.as_bytes()).unwrap();
    handle.open(above.as_fd(), flags).map(drop)
}

/// Again, what somebody has open for reading.
fn reopen(path: &Path) -> Ended {
    let reader = File::open(path).unwrap();
    let again = format!("/proc/self/fd/{}", reader.as_raw_fd());
    match open(again.as_ref(), libc::O_RDWR) {
        // docs/semantics.md, Exceptions: while it is read directly.
        Err(Errno::STALE) => Ok(()),
        opened => opened,
    }
}

macro_rules! ways {
    ($($name:ident: |$top:ident| $attempt:expr;)*) => {
        /// All of them.
        pub const WAYS: &[Way] = &[$(Way {
            name: stringify!($name),
            attempt: |$top: &Path| $attempt,
        }),*];
    };
}

ways! {
    write_only: |top| open(&top.join("dir/file"), libc::O_WRONLY);
    read_write: |top| open(&top.join("dir/sub/x"), libc::O_RDWR);
    append: |top| open(&top.join("dir/file"), libc::O_WRONLY | libc::O_APPEND);
    create_over: |top| ended(File::create(top.join("dir/file")));
    truncating_reader: |top| truncate_by_reader(&top.join("dir/file"));
    truncated: |top| truncate_path(&top.join("dir/file"), 5);
    truncated_to_its_size: |top| truncate_path(&top.join("dir/file"), 10_000);
    by_alias: |top| open(&top.join("alias"), libc::O_WRONLY);
    alias_truncated: |top| truncate_path(&top.join("alias"), 0);
    by_handle: |top| open_by_handle(&top.join("dir/file"), libc::O_WRONLY);
    by_handle_of_the_alias: |top| open_by_handle(&top.join("alias"), libc::O_RDWR);
    opened_again: |top| reopen(&top.join("dir/file"));
    mode: |top| chmod(&top.join("dir/file"), 0o600);
    mode_by_descriptor: |top| {
        let reader = File::open(top.join("dir/file")).unwrap();
        fchmod(&reader, Mode::from_raw_mode(0o600))
    };
    mode_of_the_directory: |top| chmod(&top.join("dir"), 0o700);
    mode_below: |top| chmod(&top.join("dir/sub/deep"), 0o700);
    mode_of_the_alias: |top| chmod(&top.join("alias"), 0o600);
    mode_of_a_fifo: |top| chmod(&top.join("dir/fifo"), 0o600);
    owner: |top| lchown(&top.join("dir/file"));
    owner_of_a_symlink: |top| lchown(&top.join("dir/symlink"));
    owner_of_the_directory: |top| lchown(&top.join("dir"));
    same_owner: |top| chownat(CWD, top.join("dir/file"), None, None, AtFlags::empty());
    times: |top| touch(&top.join("dir/file"));
    times_of_the_alias: |top| touch(&top.join("alias"));
    times_of_a_symlink: |top| touch(&top.join("dir/symlink"));
    xattr: |top| set_xattr(&top.join("dir/file"), "user.new", b"1");
    xattr_of_the_alias: |top| set_xattr(&top.join("alias"), "trusted.new", b"1");
    xattr_of_the_directory: |top| set_xattr(&top.join("dir"), "user.new", b"1");
    xattr_removed: |top| lremovexattr(top.join("dir/file"), "user.note");
    acl: |top| {
        let name = "system.posix_acl_access";
        set_xattr(&top.join("dir/file"), name, &op::xattr_value(name, 1))
    };
    default_acl: |top| {
        let name = "system.posix_acl_default";
        set_xattr(&top.join("dir"), name, &op::xattr_value(name, 1))
    };
    unlinked: |top| ended(fs::remove_file(top.join("dir/file")));
    unlinked_below: |top| ended(fs::remove_file(top.join("dir/sub/x")));
    unlinked_symlink: |top| ended(fs::remove_file(top.join("dir/symlink")));
    unlinked_alias: |top| ended(fs::remove_file(top.join("alias")));
    removed_directory: |top| ended(fs::remove_dir(top.join("dir/empty")));
    renamed: |top| rename(&top.join("dir/file"), &top.join("dir/renamed"));
    moved_out: |top| rename(&top.join("dir/file"), &top.join("out"));
    moved_in: |top| rename(&top.join("other/file"), &top.join("dir/in"));
    moved_over: |top| rename(&top.join("other/file"), &top.join("dir/file"));
    moved_over_a_directory: |top| rename(&top.join("other/empty"), &top.join("dir/empty"));
    alias_renamed: |top| rename(&top.join("alias"), &top.join("alias2"));
    alias_replaced: |top| rename(&top.join("other/file"), &top.join("alias"));
    exchanged: |top| {
        rename_with(&top.join("dir/file"), &top.join("other/file"), RenameFlags::EXCHANGE)
    };
    exchanged_the_other_way: |top| {
        rename_with(&top.join("other/file"), &top.join("dir/sub"), RenameFlags::EXCHANGE)
    };
    exchanged_directories: |top| {
        rename_with(&top.join("other"), &top.join("dir"), RenameFlags::EXCHANGE)
    };
    whiteout_left: |top| {
        rename_with(&top.join("dir/file"), &top.join("out"), RenameFlags::WHITEOUT)
    };
    directory_renamed: |top| rename(&top.join("dir"), &top.join("dir2"));
    directory_above_renamed: |top| rename(top, &top.with_file_name("moved"));
    linked_from: |top| ended(fs::hard_link(top.join("dir/file"), top.join("out")));
    linked_to: |top| ended(fs::hard_link(top.join("other/file"), top.join("dir/in")));
    alias_linked: |top| ended(fs::hard_link(top.join("alias"), top.join("alias2")));
    file_made: |top| ended(File::create_new(top.join("dir/new")));
    file_made_below: |top| ended(File::create_new(top.join("dir/sub/deep/new")));
    directory_made: |top| ended(fs::create_dir(top.join("dir/new")));
    symlink_made: |top| ended(symlink("x", top.join("dir/new")));
    fifo_made: |top| node(&top.join("dir/new"), FileType::Fifo, 0);
    device_made: |top| node(&top.join("dir/new"), FileType::CharacterDevice, 0);
    regular_node_made: |top| node(&top.join("dir/new"), FileType::RegularFile, 0);
    socket_made: |top| {
        // Its address is shorter than a path may be.
        let directory = at::open_root(&top.join("dir"));
        ended(UnixListener::bind(format!("/proc/self/fd/{}/new", directory.as_raw_fd())))
    };
}
