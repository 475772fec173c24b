//! Random operations on names, in the image and in a plain directory of the host: outcome, tree,
//! links, identity and which times change must agree, whatever goes on invisibly in between.
//!
//! FOLDFS_TEST_SEEDS=FROM..TO runs others than the usual few.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{self, AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::super::create::Permissions;
use super::super::node::{Node, Source};
use super::super::rename::Entry;
use super::fixture::{Base, Fixture, Look, ROOT};
use crate::store::metadata::{FileType, Time};
use crate::sys::handle::FileHandle;

const OPERATIONS: usize = 60;

struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % end
    }
}

/// A plain directory of the host, at first like the image.
struct Plain {
    directory: tempfile::TempDir,
}

/// What a plain file system tells of a path.
#[derive(Debug, Clone, PartialEq)]
struct Found {
    identity: FileHandle,
    file_type: FileType,
    mode: u32,
    links: u64,
    uid: u32,
    gid: u32,
    rdev: u64,
    size: i64,
    target: Option<Vec<u8>>,
    mtime: Time,
    ctime: Time,
}

impl Plain {
    fn new(fixture: &Fixture) -> Self {
        let plain = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        let mut first = BTreeMap::new();
        for (path, look) in fixture.looks() {
            let Look {
                attributes,
                target,
                xattrs,
                ..
            } = look;
            let whole = plain.path(&path);
            if let Some(first) = first.get(&attributes.number) {
                std::fs::hard_link(first, &whole).unwrap();
                continue;
            }
            first.insert(attributes.number, whole.clone());
            let mode = attributes.file_type.bits() | attributes.mode;
            match attributes.file_type {
                FileType::Directory if path.is_empty() => {}
                FileType::Directory => std::fs::create_dir(&whole).unwrap(),
                FileType::Symlink => fs::symlink(target.unwrap(), &whole).unwrap(),
                file_type => {
                    let kind = fs::FileType::from_raw_mode(file_type.bits());
                    let mode = Mode::from_raw_mode(mode & 0o7777);
                    fs::mknodat(fs::CWD, &whole, kind, mode, attributes.rdev).unwrap();
                }
            }
            let uid = Some(fs::Uid::from_raw(attributes.uid));
            let gid = Some(fs::Gid::from_raw(attributes.gid));
            fs::chownat(fs::CWD, &whole, uid, gid, AtFlags::SYMLINK_NOFOLLOW).unwrap();
            for (name, value) in &xattrs {
                fs::lsetxattr(&whole, &**name, value, fs::XattrFlags::empty()).unwrap();
            }
            if attributes.file_type != FileType::Symlink {
                fs::chmod(&whole, Mode::from_raw_mode(attributes.mode)).unwrap();
            }
            if attributes.file_type == FileType::Regular {
                std::fs::File::options()
                    .write(true)
                    .open(&whole)
                    .unwrap()
                    .set_len(attributes.size)
                    .unwrap();
                fs::chmod(&whole, Mode::from_raw_mode(attributes.mode)).unwrap();
            }
        }
        plain
    }

    fn path(&self, path: &str) -> String {
        format!("{}/{path}", self.directory.path().display())
    }

    fn looks(&self) -> BTreeMap<String, Found> {
        let mut found = BTreeMap::new();
        let mut pending = vec![String::new()];
        while let Some(path) = pending.pop() {
            let whole = self.path(&path);
            let (parent, name) = match path.is_empty() {
                true => (whole.as_str(), "."),
                false => whole.rsplit_once('/').unwrap(),
            };
            let directory: OwnedFd = std::fs::File::open(parent).unwrap().into();
            let stat = fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW).unwrap();
            let file_type = FileType::from_mode(stat.st_mode).unwrap();
            use std::os::fd::AsFd;
            let time = |seconds, nanoseconds: u64| Time {
                seconds,
                nanoseconds: nanoseconds as u32,
            };
            let target = fs::readlinkat(&directory, name, Vec::new()).ok();
            let one = Found {
                identity: FileHandle::of(directory.as_fd(), name.as_bytes()).unwrap(),
                file_type,
                mode: stat.st_mode & 0o7777,
                links: stat.st_nlink,
                uid: stat.st_uid,
                gid: stat.st_gid,
                rdev: stat.st_rdev,
                size: if file_type == FileType::Directory {
                    4096
                } else {
                    stat.st_size
                },
                target: target.map(|target| target.into_bytes()),
                mtime: time(stat.st_mtime, stat.st_mtime_nsec),
                ctime: time(stat.st_ctime, stat.st_ctime_nsec),
            };
            if file_type == FileType::Directory {
                for entry in std::fs::read_dir(&whole).unwrap() {
                    let name = entry.unwrap().file_name().into_string().unwrap();
                    pending.push(if path.is_empty() {
                        name
                    } else {
                        format!("{path}/{name}")
                    });
                }
            }
            found.insert(path, one);
        }
        found
    }
}

/// One operation; paths are directory and name.
#[derive(Debug, Clone)]
enum Op {
    Create(String, String),
    Mkdir(String, String),
    Symlink(String, String),
    Mknod(String, String, FileType),
    Link(String, String, String),
    Unlink(String, String),
    Rmdir(String, String),
    Rename(String, String, String, String, RenameFlags),
    /// Nothing of it shows.
    Stub(String),
    Own(String),
    Cover(String),
    Remount,
}

fn choose(random: &mut Random, paths: &BTreeMap<String, Found>) -> Op {
    const NAMES: [&str; 8] = [
        "etc", "hollow", "passwd", "shell", "deep", "new", "gone", "other",
    ];
    let all: Vec<&String> = paths.keys().collect();
    let directories: Vec<&String> = paths
        .iter()
        .filter(|(_, found)| found.file_type == FileType::Directory)
        .map(|(path, _)| path)
        .collect();
    let any = |random: &mut Random| all[random.below(all.len())].clone();
    let directory = |random: &mut Random| directories[random.below(directories.len())].clone();
    let split = |path: String| match path.rsplit_once('/') {
        Some((parent, name)) => (parent.to_string(), name.to_string()),
        None => (String::new(), path),
    };
    let spot = |random: &mut Random| match random.below(3) {
        0 => (
            directory(random),
            NAMES[random.below(NAMES.len())].to_string(),
        ),
        _ => loop {
            let path = any(random);
            if !path.is_empty() {
                break split(path);
            }
        },
    };
    let (parent, name) = spot(random);
    match random.below(22) {
        0 => Op::Create(parent, name),
        1 => Op::Mkdir(parent, name),
        2 => Op::Symlink(parent, name),
        3 => Op::Mknod(parent, name, FileType::CharDevice),
        4 => Op::Mknod(parent, name, FileType::Fifo),
        5 | 6 => Op::Link(any(random), parent, name),
        7 | 8 => Op::Unlink(parent, name),
        9 | 10 => Op::Rmdir(parent, name),
        11..=16 => {
            let (to, new) = spot(random);
            let flags = match random.below(6) {
                0 => RenameFlags::NOREPLACE,
                1 => RenameFlags::WHITEOUT,
                2 | 3 => RenameFlags::EXCHANGE,
                _ => RenameFlags::empty(),
            };
            Op::Rename(parent, name, to, new, flags)
        }
        17 | 18 => Op::Stub(any(random)),
        19 => Op::Own(directory(random)),
        20 => Op::Cover(directory(random)),
        _ => Op::Remount,
    }
}

fn in_plain(plain: &Plain, op: &Op) -> Result<(), Errno> {
    let path = |parent: &str, name: &str| match parent.is_empty() {
        true => plain.path(name),
        false => plain.path(&format!("{parent}/{name}")),
    };
    match op {
        Op::Create(parent, name) => {
            let flags = OFlags::CREATE | OFlags::EXCL;
            fs::open(path(parent, name), flags, Mode::from_raw_mode(0o644)).map(drop)
        }
        Op::Mkdir(parent, name) => fs::mkdir(path(parent, name), Mode::from_raw_mode(0o755)),
        Op::Symlink(parent, name) => fs::symlink("target", path(parent, name)),
        Op::Mknod(parent, name, file_type) => {
            let kind = fs::FileType::from_raw_mode(file_type.bits());
            let mode = Mode::from_raw_mode(0o600);
            fs::mknodat(fs::CWD, path(parent, name), kind, mode, 0)
        }
        Op::Link(old, parent, name) => {
            let (new, none) = (path(parent, name), AtFlags::empty());
            fs::linkat(fs::CWD, plain.path(old), fs::CWD, new, none)
        }
        Op::Unlink(parent, name) => fs::unlink(path(parent, name)),
        Op::Rmdir(parent, name) => fs::rmdir(path(parent, name)),
        Op::Rename(parent, name, to, new, flags) => {
            fs::renameat_with(fs::CWD, path(parent, name), fs::CWD, path(to, new), *flags)
        }
        Op::Stub(_) | Op::Own(_) | Op::Cover(_) | Op::Remount => Ok(()),
    }
}

fn in_image(fixture: &mut Fixture, op: &Op) -> Result<(), Errno> {
    let permissions = |mode| Permissions {
        mode,
        umask: 0o022,
        caller: ROOT,
    };
    let fs = &fixture.fs;
    let node = |path: &str| fixture.try_node(path).map_err(|failure| failure.errno());
    let outcome = match op {
        Op::Create(parent, name) => fs
            .create(&node(parent)?, name.as_bytes(), &permissions(0o644))
            .map(drop),
        Op::Mkdir(parent, name) => fs
            .make_directory(&node(parent)?, name.as_bytes(), &permissions(0o755))
            .map(drop),
        Op::Symlink(parent, name) => fs
            .make_symlink(&node(parent)?, name.as_bytes(), b"target", ROOT)
            .map(drop),
        Op::Mknod(parent, name, file_type) => {
            let (parent, name) = (node(parent)?, name.as_bytes());
            fs.make_node(&parent, name, *file_type, 0, &permissions(0o600))
                .map(drop)
        }
        Op::Link(old, parent, name) => {
            let (old, parent) = (node(old)?, node(parent)?);
            // The kernel looks first whether there is such a name already.
            match fs.lookup(&parent, name.as_bytes()) {
                Ok(_) => return Err(Errno::EXIST),
                Err(_) => fs.link(&old, &parent, name.as_bytes()).map(drop),
            }
        }
        Op::Unlink(parent, name) => fs.unlink(&node(parent)?, name.as_bytes()),
        Op::Rmdir(parent, name) => fs.rmdir(&node(parent)?, name.as_bytes()),
        Op::Rename(parent, name, to, new, flags) => {
            let (parent, to) = (node(parent)?, node(to)?);
            let old = Entry {
                parent: &parent,
                name: name.as_bytes(),
            };
            fs.rename(
                old,
                Entry {
                    parent: &to,
                    name: new.as_bytes(),
                },
                *flags,
                ROOT,
            )
        }
        Op::Stub(path) => {
            let node = node(path)?;
            let _names = fs.names.write();
            invisibly(fixture, &node);
            Ok(())
        }
        Op::Own(path) => {
            let node = node(path)?;
            let _names = fs.names.write();
            fs.own_directory(&node).unwrap();
            Ok(())
        }
        // The root is never covered as a whole.
        Op::Cover(path) => {
            let shared = node(path)?.shared_directory().filter(|_| !path.is_empty());
            shared.map_or(Ok(()), |shared| fs.cover_directory(shared))
        }
        Op::Remount => {
            fixture.remount();
            Ok(())
        }
    };
    outcome.map_err(|failure| failure.errno())
}

fn invisibly(fixture: &Fixture, node: &Arc<Node>) {
    match node.source() {
        Source::Shared(_) => fixture.fs.stub(node).unwrap(),
        Source::Private => fixture.fs.index(node).unwrap(),
        Source::SharedDirectory(_) => drop(fixture.fs.ensure_private_directory(node).unwrap()),
        Source::PrivateDirectory(_) => fixture.fs.keep_times(node, || Ok(())).unwrap(),
    }
}

/// What both show of everything, and which times changed since `before`.
fn compare(
    plain: &BTreeMap<String, Found>,
    image: &BTreeMap<String, Look>,
    before: &(BTreeMap<String, Found>, BTreeMap<String, Look>),
) {
    let names = |paths: &mut dyn Iterator<Item = &String>| paths.cloned().collect::<Vec<_>>();
    assert_eq!(names(&mut plain.keys()), names(&mut image.keys()));
    let mut numbers = BTreeMap::new();
    for (path, found) in plain {
        let look = &image[path];
        let shown = look.attributes;
        assert_eq!(shown.file_type, found.file_type, "{path}");
        assert_eq!(u64::from(shown.links), found.links, "{path}: links");
        let ours = (
            shown.mode,
            shown.uid,
            shown.gid,
            shown.rdev,
            shown.size as i64,
        );
        assert_eq!(
            ours,
            (found.mode, found.uid, found.gid, found.rdev, found.size),
            "{path}"
        );
        assert_eq!(look.target, found.target, "{path}");
        // One file there is one file here.
        let identity = format!("{:?}", found.identity);
        let number = *numbers.entry(identity).or_insert(shown.number);
        assert_eq!(number, shown.number, "{path}: identity");
    }
    let distinct: std::collections::BTreeSet<_> = numbers.values().collect();
    assert_eq!(distinct.len(), numbers.len(), "two files have one number");
    let (old_plain, old_image) = before;
    for (path, found) in plain {
        let Some((old_path, old)) = old_plain
            .iter()
            .find(|(_, old)| old.identity == found.identity)
        else {
            continue;
        };
        let (then, now) = (old_image[old_path].attributes, image[path].attributes);
        assert_eq!(then.number, now.number, "{path}: number");
        assert_eq!(
            then.mtime != now.mtime,
            old.mtime != found.mtime,
            "{path}: mtime"
        );
        assert_eq!(
            then.ctime != now.ctime,
            old.ctime != found.ctime,
            "{path}: ctime"
        );
    }
}

fn seeds() -> std::ops::Range<u64> {
    let Ok(range) = std::env::var("FOLDFS_TEST_SEEDS") else {
        return 1..7;
    };
    let (from, to) = range.split_once("..").unwrap();
    from.parse().unwrap()..to.parse().unwrap()
}

#[test]
fn random_operations_agree_with_a_plain_directory() {
    let base = Base::new();
    for seed in seeds() {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let mut fixture = base.image();
        let plain = Plain::new(&fixture);
        let mut history = Vec::new();
        let mut before = (plain.looks(), fixture.looks());
        for _ in 0..OPERATIONS {
            let op = choose(&mut random, &before.0);
            history.push(op.clone());
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let (expected, found) = (in_plain(&plain, &op), in_image(&mut fixture, &op));
                assert_eq!(found, expected, "outcome");
                let after = (plain.looks(), fixture.looks());
                // ext4 undoes a rename with RENAME_WHITEOUT that fails, and sets mtime by that.
                let is_undone = matches!(op, Op::Rename(.., RenameFlags::WHITEOUT));
                match expected.is_err() && is_undone {
                    true => compare(&after.0, &after.1, &after),
                    false => compare(&after.0, &after.1, &before),
                }
                after
            }));
            match result {
                Ok(after) => before = after,
                Err(_) => {
                    history.iter().for_each(|op| eprintln!("{op:?}"));
                    panic!("seed {seed}");
                }
            }
        }
    }
}
