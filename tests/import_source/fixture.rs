//! A store, and a source with everything that a tree can hold.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use foldfs::archive::{StagedImport, import_directory};
use foldfs::error::Result;
use foldfs::progress::Silent;
use foldfs::store::Store;
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

impl Drop for Fixture {
    /// tempfile cannot remove trees of any depth.
    fn drop(&mut self) {
        if let Ok(parent) = File::open(self.temporary.path()) {
            foldfs::store::tree::remove(parent.as_fd(), b"source", "source").unwrap();
        }
    }
}

/// A new store beside an empty directory, on one file system.
pub struct Fixture {
    temporary: tempfile::TempDir,
    pub store: Store,
    pub source: PathBuf,
}

impl Fixture {
    pub fn new() -> Self {
        Self::below(&std::env::temp_dir())
    }

    /// On the file system of `directory`.
    pub fn below(directory: &Path) -> Self {
        let temporary = tempfile::tempdir_in(directory).unwrap();
        let source = temporary.path().join("source");
        fs::create_dir(&source).unwrap();
        Self {
            store: Store::init(&temporary.path().join("store")).unwrap(),
            source,
            temporary,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.temporary.path().join(name)
    }

    pub fn import(&self) -> Result<StagedImport> {
        import_directory(&self.store, &self.source, &Silent)
    }

    /// Makes the import's new contents objects, as a commit does.
    pub fn adopt(&self, import: &StagedImport) {
        import
            .for_each_new(|digest, _| {
                let name = digest.to_string();
                let objects = self.store.objects();
                objects.publish(import.objects(), name.as_bytes(), &digest)?;
                Ok(())
            })
            .unwrap();
    }

    /// Nothing of an import is left.
    pub fn assert_no_trace(&self) {
        for part in ["staging", "objects"] {
            let left = fs::read_dir(self.store.path().join(part)).unwrap().count();
            assert_eq!(left, 0, "{part} is not empty");
        }
    }
}

pub fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

pub fn set_time(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds as _,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

pub fn make_node(path: &Path, file_type: FileType, mode: u32, device: u64) {
    rustix::fs::mknodat(CWD, path, file_type, Mode::from_raw_mode(mode), device).unwrap();
}

/// Fills a directory with every file type and everything that metadata can be.
pub fn fill(root: &Path) {
    let at = |name: &str| root.join(name);
    fs::write(at("empty"), b"").unwrap();
    fs::write(at("plain"), b"content").unwrap();
    fs::write(at("same"), b"content").unwrap();
    fs::write(at("large"), vec![7; 3 << 20]).unwrap();
    fs::write(at("large2"), vec![7; 3 << 20]).unwrap();
    fs::write(at("edge"), vec![9; 1 << 20]).unwrap();
    fs::write(at("zeros"), vec![0; 300_000]).unwrap();
    let sparse = File::create(at("sparse")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    rustix::io::pwrite(&sparse, b"middle", 32 << 20).unwrap();
    let small = File::create(at("small-sparse")).unwrap();
    small.set_len(200_000).unwrap();
    rustix::io::pwrite(&small, b"x", 100_000).unwrap();

    fs::create_dir_all(at("usr/lib/empty")).unwrap();
    fs::create_dir_all(at("links")).unwrap();
    fs::hard_link(at("plain"), at("links/second")).unwrap();
    fs::hard_link(at("plain"), at("usr/lib/third")).unwrap();
    fs::write(at("outside"), b"linked elsewhere").unwrap();
    fs::hard_link(at("outside"), root.parent().unwrap().join("elsewhere")).unwrap();
    symlink("plain", at("link")).unwrap();
    fs::hard_link(at("link"), at("links/link")).unwrap();
    symlink("/no/where/at/all", at("dangling")).unwrap();
    symlink("x".repeat(1000), at("long-target")).unwrap();
    symlink(OsStr::from_bytes(b"\xff\xfe"), at("odd-target")).unwrap();

    make_node(
        &at("null"),
        FileType::CharacterDevice,
        0o666,
        rustix::fs::makedev(1, 3),
    );
    make_node(
        &at("large-device"),
        FileType::BlockDevice,
        0o600,
        rustix::fs::makedev(259, 70_000),
    );
    make_node(&at("whiteout"), FileType::CharacterDevice, 0o600, 0);
    make_node(&at("fifo"), FileType::Fifo, 0o644, 0);
    make_node(&at("socket"), FileType::Socket, 0o755, 0);

    fs::write(root.join(OsStr::from_bytes(b"odd\xff\n\x01 name")), b"odd").unwrap();
    fs::write(root.join("n".repeat(255)), b"255").unwrap();
    let mut long = root.to_owned();
    for _ in 0..12 {
        long.push("d".repeat(255));
    }
    fs::create_dir_all(&long).unwrap();
    fs::write(long.join("bottom"), b"bottom").unwrap();

    set_xattr(&at("plain"), "user.one", b"1");
    set_xattr(&at("plain"), "user.empty", b"");
    set_xattr(&at("plain"), "trusted.overlay.opaque", b"y");
    set_xattr(&at("plain"), "security.capability", &capability());
    set_xattr(&at("link"), "trusted.on-a-link", b"yes");
    set_xattr(&at("null"), "trusted.on-a-device", b"yes");
    set_xattr(&at("usr"), "user.directory", &[0, 1, 255]);
    set_xattr(&at("large"), "user.large", &[b'v'; 3000]);
    let acl = [
        &b"\x02\0\0\0"[..],
        b"\x01\0\x07\0\xff\xff\xff\xff",
        b"\x02\0\x05\0\xe8\x03\0\0",
        b"\x04\0\x05\0\xff\xff\xff\xff",
        b"\x10\0\x05\0\xff\xff\xff\xff",
        b"\x20\0\x01\0\xff\xff\xff\xff",
    ]
    .concat();
    set_xattr(&at("same"), "system.posix_acl_access", &acl);
    set_xattr(&at("usr/lib"), "system.posix_acl_default", &acl);

    std::os::unix::fs::lchown(at("link"), Some(12), Some(34)).unwrap();
    std::os::unix::fs::lchown(at("same"), Some(1000), Some(4_000_000_000)).unwrap();
    fs::set_permissions(at("large"), fs::Permissions::from_mode(0o6755)).unwrap();
    fs::set_permissions(at("links"), fs::Permissions::from_mode(0o1777)).unwrap();
    set_time(&at("plain"), -1_000_000, 123_456_789);
    set_time(&at("link"), 1, 1);
    set_time(&at("null"), 2_000_000_000, 999_999_999);
    set_time(&at("usr"), -1, 5);
    set_time(root, 86_400, 7);
}

fn capability() -> Vec<u8> {
    // VFS_CAP_REVISION_2, cap_net_bind_service
    let words = [0x0200_0001_u32, 1 << 10, 0, 0, 0];
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Makes `depth` directories in each other; paths far beyond PATH_MAX.
pub fn fill_deep(root: &Path, depth: usize, name: &str) {
    let mut here: rustix::fd::OwnedFd = File::open(root).unwrap().into();
    for level in 0..depth {
        rustix::fs::mkdirat(&here, name, Mode::RWXU).unwrap();
        let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::RDONLY;
        here = rustix::fs::openat(&here, name, flags, Mode::empty()).unwrap();
        if level % 100 == 99 || level + 1 == depth {
            let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
            let file = rustix::fs::openat(here.as_fd(), "file", flags, Mode::RUSR).unwrap();
            rustix::io::write(file, format!("{level}").as_bytes()).unwrap();
        }
    }
}

/// Unmounted when dropped.
pub struct Mount(PathBuf);

impl Mount {
    pub fn new(arguments: &[&str], directory: &Path) -> Self {
        let done = Command::new("mount")
            .args(arguments)
            .arg(directory)
            .status()
            .unwrap();
        assert!(done.success(), "mount {arguments:?}");
        Self(directory.to_owned())
    }

    /// Something that is mounted already.
    pub fn taken(directory: &Path) -> Self {
        Self(directory.to_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let done = Command::new("umount")
            .arg("-l")
            .arg(&self.0)
            .status()
            .unwrap();
        assert!(done.success(), "umount {}", self.0.display());
    }
}

/// A test that cannot run here says so; where everything is required it fails.
pub fn skip(why: &str) {
    assert!(
        std::env::var_os("FOLDFS_TEST_REQUIRE_ALL").is_none(),
        "cannot run: {why}"
    );
    eprintln!("SKIPPED: {why}");
}
