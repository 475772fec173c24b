//! The exceptions of docs/semantics.md, each by a command that works in a plain directory and does
//! not in an image. One that works in both is no exception any more and has to leave the table.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use rustix::fs::{SeekFrom, seek};
use serde_json::Value;

use super::common::device::{Device, Kind};
use super::common::store::{Mounted, Ran, TestStore, run};
use super::common::{can_run, needs_fuse, sample};

/// What stands in the table's first column, and shell commands.
const SHELL: [(&str, &str); 14] = [
    (
        "FALLOC_FL_COLLAPSE_RANGE",
        "fallocate -c -o 4096 -l 4096 usr/bin/tool",
    ),
    (
        "FALLOC_FL_INSERT_RANGE",
        "fallocate -i -o 4096 -l 4096 usr/bin/tool",
    ),
    ("chattr", "lsattr -d etc"),
    ("fsfreeze", "fsfreeze -f .; fsfreeze -u ."),
    (
        "O_TMPFILE",
        "perl -e 'sysopen(F, \"var\", 020200002, 0600) or die $!'",
    ),
    ("birth time", "test \"$(stat -c %W etc/hosts)\" != 0"),
    (
        "atime",
        "touch -a -d 2001-01-01 etc/hosts; cat etc/hosts; test \"$(stat -c %X etc/hosts)\" -gt 1000000000",
    ),
    (
        "st_size of a directory",
        "mkdir d; cd d; seq 400 | sed s/^/a_longer_name_than_most_have_/ | xargs touch; test \"$(stat -c %s .)\" -gt 4096",
    ),
    ("_PC_LINK_MAX", "test \"$(getconf LINK_MAX .)\" != 127"),
    // Here success is what differs.
    (
        "chown(file, -1, -1)",
        "! setpriv --reuid 1000 --clear-groups perl -e 'chown -1, -1, \"usr/bin/tool\" or die $!'",
    ),
    ("st_blocks", "test \"$(stat -c %b usr/sparse)\" -lt 100"),
    ("f_type", "test \"$(stat -f -c %t .)\" = ef53"),
    ("f_fsid", "test \"$(stat -f -c %i .)\" != 0"),
    (
        "trusted.foldfs",
        "setfattr -n trusted.foldfs$(printf '%0240d' 0) -v x etc/hosts",
    ),
];

/// Likewise for python, after `PRELUDE`.
const PYTHON: [(&str, &str); 12] = [
    (
        "FIEMAP",
        "fcntl.ioctl(read('usr/bin/tool'), 0xc020660b, struct.pack('<QQIIII', 0, 1 << 40, 0, 0, 9, 0) + bytes(560))",
    ),
    (
        "FIBMAP",
        "assert struct.unpack('i', fcntl.ioctl(read('usr/bin/tool'), 1, struct.pack('i', 0)))[0] > 0",
    ),
    (
        "RWF_NOWAIT",
        "read_all('usr/bin/tool'); os.preadv(read('usr/bin/tool'), [bytearray(9)], 0, os.RWF_NOWAIT)",
    ),
    (
        "lseek(2) behind the largest file",
        "refuses(errno.EINVAL, lambda: os.lseek(read('usr/bin/tool'), 1 << 45, 0))",
    ),
    (
        "O_DIRECT without alignment",
        "refuses(errno.EINVAL, lambda: os.pread(os.open('usr/bin/tool', os.O_RDONLY | os.O_DIRECT), 100, 3))",
    ),
    (
        "STATX_DIOALIGN",
        "b = ctypes.create_string_buffer(256); call(libc.statx(-100, b'usr/bin/tool', 0, 0x2000, b)); \
         assert struct.unpack_from('I', b)[0] & 0x2000",
    ),
    (
        "FAN_REPORT_FID",
        "fd = call(libc.fanotify_init(0x200, 0)); call(libc.fanotify_mark(fd, 0x101, ctypes.c_ulong(0x100), -100, b'.'))",
    ),
    (
        "quotactl_fd(2)",
        "refuses(errno.ESRCH, lambda: call(libc.syscall(443, read('.'), 0x800004 << 8, 0, ctypes.create_string_buffer(100))))",
    ),
    (
        "swapon",
        "open('swap', 'wb').write(bytes(1 << 20)); os.chmod('swap', 0o600); os.fsync(read('swap')); \
         assert os.system('mkswap -q swap') == 0; call(libc.swapon(b'swap', 0)); call(libc.swapoff(b'swap'))",
    ),
    (
        "xattrs of one inode",
        "os.setxattr('etc/conf.d/a.conf', 'user.a', b'a'); os.setxattr('etc/conf.d/a.conf', 'user.large', bytes(os.statvfs('.').f_bsize - 66))",
    ),
    (
        "written through a mapping",
        "os.setxattr('usr/bin/other', 'security.capability', CAPABILITY); fd = os.open('usr/bin/other', os.O_RDWR); \
         m = mmap.mmap(fd, 4096); m[0:1] = b'x'; m.flush(); os.getxattr('usr/bin/other', 'security.capability')",
    ),
    (
        "set-uid and has a capability",
        "os.setxattr('usr/bin/tool', 'security.capability', CAPABILITY); \
         os.pwrite(os.open('usr/bin/tool', os.O_WRONLY), b'x', 0); assert os.stat('usr/bin/tool').st_mode & 0o4000",
    ),
];

const PRELUDE: &str = "
import ctypes, errno, fcntl, mmap, os, struct
libc = ctypes.CDLL(None, use_errno=True)
CAPABILITY = struct.pack('<5I', 0x02000001, 1 << 13, 0, 0, 0)
def call(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
def read(path):
    return os.open(path, os.O_RDONLY)
def read_all(path):
    return open(path, 'rb').read()
def refuses(number, attempt):
    try:
        attempt()
    except OSError as error:
        assert error.errno == number, error
        return
    raise AssertionError('not refused')
";

/// Those that need more than one command.
const OTHERS: [&str; 5] = [
    "truncate(2) to the length that a file has",
    "FICLONE",
    "FIDEDUPERANGE",
    "syncfs(2)",
    "parts of a file are holes",
];

fn shell(directory: &Path, text: &str) -> Ran {
    let mut command = Command::new("bash");
    command.env("LC_ALL", "C").args(["-euc", text]);
    run(command.current_dir(directory), b"")
}

fn python(directory: &Path, text: &str) -> Ran {
    let mut command = Command::new("python3");
    command.args(["-c", &format!("{PRELUDE}{text}\n")]);
    run(command.current_dir(directory), b"")
}

/// A file system of its own, so that what is compared with is known.
fn beside_plain(test: &str, kind: Kind, mebibytes: u64) -> Option<(Device, TestStore, Mounted)> {
    if !can_run(test, needs_fuse().or(Device::missing(kind))) {
        return None;
    }
    let device = Device::new(kind, mebibytes);
    let store = TestStore::at(&device.path);
    store.configure("coherent = ['/']");
    let tree = store.sample(0);
    sample::copy(&tree, &store.place.join("plain"));
    store.import("first", &tree, "family");
    let first = store.mount_with("first", "dev,suid,allow_other");
    Some((device, store, first))
}

#[track_caller]
fn assert_shows(name: &str, plain: Ran, image: Ran) {
    plain.exits(0);
    let Ran { line, code, .. } = image;
    assert_ne!(
        code, 0,
        "{name} works: take it out of docs/semantics.md\n{line}"
    );
}

fn finish(store: &TestStore, first: Mounted) {
    first.unmount();
    store.wait_for_daemons();
    store.assert_sound();
}

#[test]
fn each_exception_still_shows() {
    let test = "each_exception_still_shows";
    let Some((_device, store, first)) = beside_plain(test, Kind::Ext4, 96) else {
        return;
    };
    let plain = store.place.join("plain");
    for (name, text) in SHELL {
        assert_shows(name, shell(&plain, text), shell(&first.path, text));
    }
    for (name, text) in PYTHON {
        assert_shows(name, python(&plain, text), python(&first.path, text));
    }
    finish(&store, first);
}

#[test]
fn each_exception_is_documented() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/semantics.md");
    let text = fs::read_to_string(path).unwrap();
    let (_, table) = text.split_once("\n## Exceptions").unwrap();
    let names = SHELL.iter().chain(&PYTHON).map(|(name, _)| *name);
    for name in names.chain(OTHERS) {
        assert!(table.contains(name), "{name} is not in docs/semantics.md");
    }
}

#[test]
fn reflink_ioctls_do_not_reach_an_image() {
    let test = "reflink_ioctls_do_not_reach_an_image";
    let Some((_device, store, first)) = beside_plain(test, Kind::Xfs, 400) else {
        return;
    };
    let plain = store.place.join("plain");
    let clone = "cp --reflink=always usr/bin/other clone";
    assert_shows("FICLONE", shell(&plain, clone), shell(&first.path, clone));
    let same = "open('same', 'wb').write(read_all('usr/bin/tool')); \
        a = read('usr/bin/tool'); b = os.open('same', os.O_RDWR); \
        fcntl.ioctl(a, 0xc0189436, struct.pack('<QQHHIqQQiI', 0, 65536, 1, 0, 0, b, 0, 0, 0, 0))";
    assert_shows(
        "FIDEDUPERANGE",
        python(&plain, same),
        python(&first.path, same),
    );
    finish(&store, first);
}

/// xfs leaves the times then, but not with ftruncate(2); a server can't tell the two apart.
#[test]
fn truncation_to_the_same_length_sets_times_on_xfs() {
    let test = "truncation_to_the_same_length_sets_times_on_xfs";
    let Some((_device, store, first)) = beside_plain(test, Kind::Xfs, 400) else {
        return;
    };
    let text = "os.utime('etc/hosts', (5, 6)); os.truncate('etc/hosts', 20); \
        assert os.stat('etc/hosts').st_mtime == 6";
    let plain = python(&store.place.join("plain"), text);
    assert_shows(
        "truncate(2) to the same length",
        plain,
        python(&first.path, text),
    );
    finish(&store, first);
}

/// Nothing of syncfs(2) reaches the daemon: what fsync(2) is not asked for may still be in the
/// host's cache. The host's own sync(2), and unmounting, write it.
#[test]
fn syncfs_of_a_mount_does_not_reach_the_disk() {
    let test = "syncfs_of_a_mount_does_not_reach_the_disk";
    let Some((_device, store, first)) = beside_plain(test, Kind::Ext4, 96) else {
        return;
    };
    // What lies above both is the device itself.
    let text = "import json
device = os.stat('..').st_dev
def written():
    os.stat('..')
    stat = open(f'/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat').read()
    return int(stat.split()[6]) * 512
def grown(sync):
    fd = os.open('grown', os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    before = written()
    os.write(fd, b'x' * (8 << 20))
    sync(fd)
    return written() - before
print(json.dumps([grown(lambda fd: call(libc.syncfs(fd))), grown(os.fsync)]))";
    let told = |directory: &Path| -> Vec<Value> {
        serde_json::from_slice(&python(directory, text).exits(0).stdout).unwrap()
    };
    let (plain, image) = (told(&store.place.join("plain")), told(&first.path));
    let whole = |value: &Value| value.as_u64().unwrap() >= 8 << 20;
    assert!(whole(&plain[0]) && whole(&plain[1]), "{plain:?}");
    assert!(
        !whole(&image[0]),
        "syncfs works: take it out of docs/semantics.md"
    );
    assert!(whole(&image[1]), "fsync writes {image:?}");
    finish(&store, first);
}

#[test]
fn a_fold_keeps_content_and_not_its_holes() {
    let test = "a_fold_keeps_content_and_not_its_holes";
    let Some((_device, store, first)) = beside_plain(test, Kind::Ext4, 96) else {
        return;
    };
    let sparse = fs::read(first.join("usr/sparse")).unwrap();
    let path = first.join("var/written in full");
    fs::write(&path, &sparse).unwrap();
    let hole = || seek(File::open(&path).unwrap(), SeekFrom::Hole(0)).unwrap();
    assert_eq!(hole(), sparse.len() as u64);
    store.ok(&["fold"]);
    assert!(
        hole() < 4096,
        "holes stay as they are: take it out of docs/semantics.md"
    );
    assert!(fs::read(&path).unwrap() == sparse);
    finish(&store, first);
}
