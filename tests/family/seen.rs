//! What a guest can see of an image, and in what two looks differ.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use foldfs::filesystem::Filesystem;
use foldfs::filesystem::attributes::Attributes;
use foldfs::filesystem::node::Node;
use foldfs::filesystem::open::OpenFlags;
use foldfs::merge::lookup::Item;
use foldfs::merge::walk;
use foldfs::store::mark::{DirectoryRole, Role};
use foldfs::store::metadata::{Content, FileType, Time};
use foldfs::store::{Store, guest_xattr};
use foldfs::sys::copy;

use super::find;
use super::live::ROOT;

/// What a path looks like, as a guest can see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub number: u64,
    pub file_type: String,
    pub mode: u32,
    pub links: u32,
    pub owner: (u32, u32),
    pub rdev: u64,
    pub size: u64,
    pub mtime: Time,
    pub ctime: Time,
    pub content: Vec<u8>,
    pub xattrs: Xattrs,
}

/// Values by name.
pub type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// All of a view, by path.
pub type Snapshot = BTreeMap<String, Seen>;

impl Seen {
    fn new(attributes: &Attributes, content: Vec<u8>, xattrs: Xattrs) -> Self {
        Seen {
            number: attributes.number.get(),
            file_type: format!("{:?}", attributes.file_type),
            mode: attributes.mode,
            links: attributes.links,
            owner: (attributes.uid, attributes.gid),
            rdev: attributes.rdev,
            size: match attributes.file_type {
                FileType::Directory => 0,
                _ => attributes.size,
            },
            mtime: attributes.mtime,
            ctime: attributes.ctime,
            content,
            xattrs,
        }
    }

    /// In one line, with the beginning of its content.
    pub fn short(&self) -> String {
        let mut seen = self.clone();
        let length = seen.content.len();
        seen.content.truncate(24);
        format!("{seen:?} ({length} bytes)")
    }
}

/// What a view shows: attributes through the live image, content and xattrs from where they lie.
pub fn in_layers(store: &Store, filesystem: &Filesystem) -> Snapshot {
    let view = &filesystem.view;
    let mut snapshot = Snapshot::new();
    walk::walk(view, &mut |visit| {
        let path = String::from_utf8_lossy(visit.path).into_owned();
        let (_, attributes) = find(filesystem, &path).expect(&path);
        assert_eq!(attributes.number, visit.item.number(), "{path}");
        let (content, xattrs) = match visit.item {
            Item::Shared { inode, .. } => {
                let content = match &inode.content {
                    Content::Regular {
                        digest: Some(digest),
                        ..
                    } => all(&store.objects().open(digest)?),
                    Content::Symlink { target } => target.to_vec(),
                    _ => Vec::new(),
                };
                (content, inode.metadata.xattrs.clone())
            }
            Item::Private { stat, mark, .. } => {
                let (directory, name) = visit.host(view).expect("a private item has a host inode");
                let content = match mark.role {
                    Role::Stub { digest } => all(&store.objects().open(&digest)?),
                    Role::File if stat.st_mode & libc::S_IFMT == libc::S_IFREG => {
                        all(&visit.open_private(view)?.expect("a private file opens"))
                    }
                    Role::File if stat.st_mode & libc::S_IFMT == libc::S_IFLNK => {
                        let target = rustix::fs::readlinkat(directory, &name[..], Vec::new());
                        target.unwrap().into_bytes()
                    }
                    _ => Vec::new(),
                };
                // A transparent directory has the shared one's.
                let xattrs = match visit.item.directory_role() {
                    Some(DirectoryRole::Transparent { shared }) => {
                        let inode = view.shared.inode(shared)?.expect("it is shared");
                        inode.metadata.xattrs
                    }
                    _ => guest_xattr::read_all(directory, &name).unwrap(),
                };
                (content, xattrs)
            }
        };
        let xattrs = xattrs.into_iter();
        let xattrs = xattrs.map(|(name, value)| (name.into_vec(), value.into_vec()));
        let seen = Seen::new(&attributes, content, xattrs.collect());
        snapshot.insert(path, seen);
        Ok(true)
    })
    .unwrap();
    snapshot
}

/// What a view shows to a guest, all of it through the live image.
pub fn by_a_guest(live: &Filesystem) -> Snapshot {
    let mut paths = Vec::new();
    walk::walk(&live.view, &mut |visit| {
        paths.push(String::from_utf8(visit.path.to_vec()).unwrap());
        Ok(true)
    })
    .unwrap();
    let mut directories = BTreeMap::new();
    let mut snapshot = Snapshot::new();
    // From the root down: each name is looked up once.
    for path in paths {
        let (node, attributes) = match path.rsplit_once('/').unwrap_or(("", &path)) {
            (_, "") => {
                let attributes = live.attributes(live.root()).unwrap();
                (live.root().clone(), attributes)
            }
            (above, name) => {
                let found = live.lookup(&directories[above], name.as_bytes());
                let found = found.unwrap_or_else(|failure| panic!("{path}: {failure}"));
                (live.node(found.number).unwrap(), found)
            }
        };
        let seen = look(live, &path, &node, &attributes);
        if attributes.file_type == FileType::Directory {
            directories.insert(path.clone(), node);
        }
        snapshot.insert(path, seen);
    }
    snapshot
}

fn look(live: &Filesystem, path: &str, node: &Arc<Node>, attributes: &Attributes) -> Seen {
    let content = match attributes.file_type {
        FileType::Regular => content(live, node, path, attributes.size),
        FileType::Symlink => live.read_link(node).unwrap(),
        _ => Vec::new(),
    };
    let names = live.xattr_names(node, &ROOT).unwrap();
    let xattrs = names.into_iter().map(|name| {
        let value = live.xattr(node, &name).unwrap();
        (name, value)
    });
    Seen::new(attributes, content, xattrs.collect())
}

fn content(live: &Filesystem, node: &Arc<Node>, path: &str, size: u64) -> Vec<u8> {
    let handle = live.open(node, OpenFlags::default());
    let handle = handle.unwrap_or_else(|failure| panic!("{path}: {failure}"));
    let mut content = Vec::new();
    // One more than there should be.
    let mut buffer = vec![0; size as usize + 1];
    loop {
        let read = live.read(handle, content.len() as u64, &mut buffer);
        match read.unwrap_or_else(|failure| panic!("{path}: {failure}")) {
            0 => break,
            length => content.extend_from_slice(&buffer[..length]),
        }
    }
    live.release(handle);
    content
}

fn all(file: &OwnedFd) -> Vec<u8> {
    let size = rustix::fs::fstat(file).unwrap().st_size as usize;
    let mut bytes = vec![0; size];
    assert_eq!(copy::read_at(file, &mut bytes, 0).unwrap(), size);
    bytes
}

/// In what two snapshots differ: three lines for each path.
pub fn differences(left: &Snapshot, right: &Snapshot) -> String {
    let paths: BTreeSet<_> = left.keys().chain(right.keys()).collect();
    let mut text = String::new();
    for path in paths {
        if left.get(path) != right.get(path) {
            let show = |seen: Option<&Seen>| seen.map_or("nothing".into(), Seen::short);
            let (left, right) = (show(left.get(path)), show(right.get(path)));
            text += &format!("\n/{path}\n  {left}\n  {right}");
        }
    }
    text
}

/// Asserts that two snapshots are the same, and says where they are not.
#[track_caller]
pub fn assert_same(before: &Snapshot, after: &Snapshot, what: &str) {
    let differences = differences(before, after);
    assert!(differences.is_empty(), "{what}:{differences}");
}
