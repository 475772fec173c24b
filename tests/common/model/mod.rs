//! A tree in memory that behaves like ext4 under Linux, used by root with a umask of 022.

pub mod attributes;
mod data;
mod locks;
pub mod names;
mod resolve;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::FileType;
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::at;
use super::op::{Invisible, Op};
use super::snapshot::{Depth, Entry, Snapshot, Time};
pub use attributes::Acl;
pub use data::{Handle, Mapping};

/// Stands for one inode as long as the model lives.
pub type Id = u64;

/// What an operation gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Success without a value.
    Done,
    /// An errno.
    Error(Errno),
    /// EPERM for what is locked, or what it would have failed with anyway; only the model says this.
    Denied(Option<Errno>),
    /// Bytes read, a target, a value.
    Bytes(Vec<u8>),
    /// Bytes written.
    Count(usize),
    /// Names, sorted.
    Names(Vec<Vec<u8>>),
    /// Where lseek went; only real systems answer this.
    Position(u64),
    /// What lseek may answer; only the model says this. Holes may differ (see [`Outcome::agrees`]).
    Seek {
        content: Vec<u8>,
        from: u64,
        data: bool,
    },
}

impl Outcome {
    /// Whether a real system's outcome is what the model expects. A file system may report
    /// fewer holes than there are zeros, so a seek is right if it skips nothing but zeros, or
    /// finds a hole where zeros are.
    pub fn agrees(&self, found: &Outcome) -> bool {
        let (content, from, data) = match self {
            Outcome::Seek {
                content,
                from,
                data,
            } => (content, from, data),
            Outcome::Denied(otherwise) => {
                let is_error = |errno| found == &Outcome::Error(errno);
                return is_error(Errno::PERM) || otherwise.is_some_and(is_error);
            }
            _ => return self == found,
        };
        let from = *from as usize;
        let zeros = |range: &[u8]| range.iter().all(|byte| *byte == 0);
        match found {
            Outcome::Error(Errno::NXIO) => {
                from >= content.len() || (*data && zeros(&content[from..]))
            }
            Outcome::Position(found) if from < content.len() => {
                let found = *found as usize;
                let inside = (from..content.len()).contains(&found);
                if *data {
                    inside && zeros(&content[from..found])
                } else {
                    found == content.len() || (inside && content[found] == 0)
                }
            }
            _ => false,
        }
    }
}

impl From<Errno> for Outcome {
    fn from(error: Errno) -> Self {
        Outcome::Error(error)
    }
}

/// What an inode is.
#[derive(Debug, Clone)]
pub enum Body {
    /// A regular file.
    File(Vec<u8>),
    /// A directory.
    Directory(BTreeMap<Vec<u8>, Id>),
    /// A symlink.
    Symlink(Vec<u8>),
    /// Anything else: type and device.
    Special(FileType, u64),
}

/// When an inode was modified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Modified {
    /// By the n-th operation.
    By(u64),
    /// Set to this time.
    At(Time),
}

/// An inode.
#[derive(Debug, Clone)]
pub struct Node {
    /// Type and content.
    pub body: Body,
    /// 07777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names; for directories see [`Model::links`].
    pub names: u64,
    /// Without ACLs.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The access ACL, if it says more than the mode.
    pub acl: Option<Acl>,
    /// The default ACL of a directory.
    pub default_acl: Option<Acl>,
    /// Modification time.
    pub mtime: Modified,
    /// The operation that changed it last.
    pub ctime: u64,
    /// The operation that may have changed it or not.
    pub ctime_maybe: u64,
}

/// The tree and the open handles.
#[derive(Debug, Clone)]
pub struct Model {
    /// All inodes that have a name or are in use.
    pub nodes: BTreeMap<Id, Node>,
    /// The root directory.
    pub root: Id,
    /// The slots of open files.
    pub handles: [Option<Handle>; 8],
    /// The slots of mappings.
    pub mappings: [Option<Mapping>; 2],
    /// How many operations there were.
    pub tick: u64,
    /// What [`super::op::LOCKED`] says is locked.
    pub is_locking: bool,
    next: Id,
}

type Result<T> = std::result::Result<T, Errno>;

impl Model {
    /// The model of a tree that exists.
    pub fn read(path: &Path) -> Model {
        let root = at::open_root(path);
        let snapshot = Snapshot::take(root.as_fd(), Depth::Full);
        let mut model = Model {
            nodes: BTreeMap::new(),
            root: 1,
            handles: Default::default(),
            mappings: Default::default(),
            tick: 0,
            is_locking: false,
            next: 2,
        };
        let mut known: BTreeMap<u64, Id> = BTreeMap::new();
        for (path, entry) in &snapshot.entries {
            let id = match known.get(&entry.ino) {
                Some(id) => *id,
                None if path.is_empty() => model.root,
                None => model.fresh_id(),
            };
            known.insert(entry.ino, id);
            if !path.is_empty() {
                let (parent, name) = at::split(path);
                let parent = model.find(parent).expect("parents come first");
                model.entries_mut(parent).insert(name.to_vec(), id);
            }
            if let Some(node) = model.nodes.get_mut(&id) {
                node.names += 1;
                continue;
            }
            let body = match entry.file_type() {
                FileType::RegularFile => {
                    let (directory, name) = at::parent(root.as_fd(), path).unwrap();
                    let entry_path = at::proc_entry(directory.as_fd(), name);
                    let file = rustix::fs::open(
                        &entry_path[..],
                        rustix::fs::OFlags::RDONLY,
                        rustix::fs::Mode::empty(),
                    );
                    let mut content = vec![0; entry.size as usize];
                    File::from(file.unwrap())
                        .read_exact_at(&mut content, 0)
                        .unwrap();
                    Body::File(content)
                }
                FileType::Directory => Body::Directory(BTreeMap::new()),
                FileType::Symlink => Body::Symlink(entry.target.clone()),
                other => Body::Special(other, entry.rdev),
            };
            let mut xattrs = entry.xattrs.clone();
            let acl = xattrs.remove(&b"system.posix_acl_access"[..]);
            let default_acl = xattrs.remove(&b"system.posix_acl_default"[..]);
            let node = Node {
                body,
                mode: entry.mode,
                uid: entry.uid,
                gid: entry.gid,
                names: 1,
                xattrs,
                acl: acl.map(|value| Acl::parse(&value).expect("the kernel's ACL")),
                default_acl: default_acl.map(|value| Acl::parse(&value).expect("kernel's ACL")),
                mtime: Modified::At(entry.mtime),
                ctime: 0,
                ctime_maybe: 0,
            };
            model.nodes.insert(id, node);
        }
        model
    }

    /// Carries out an operation.
    pub fn perform(&mut self, op: &Op<Vec<u8>>) -> Outcome {
        if self.denies(op) {
            let mut otherwise = self.clone();
            otherwise.is_locking = false;
            return Outcome::Denied(match otherwise.perform(op) {
                Outcome::Error(errno) => Some(errno),
                _ => None,
            });
        }
        self.tick += 1;
        let outcome = match op {
            Op::Invisible(what) => {
                self.is_locking ^= *what == Invisible::Lock;
                Ok(Outcome::Done)
            }
            op => self
                .perform_names(op)
                .or_else(|| self.perform_data(op))
                .or_else(|| self.perform_attributes(op))
                .expect("every operation belongs to one of the three"),
        };
        self.forget_unused();
        outcome.unwrap_or_else(Outcome::Error)
    }

    /// What the tree must look like, with ids for st_ino and no times.
    pub fn snapshot(&self, depth: Depth) -> Snapshot {
        let mut entries = BTreeMap::new();
        for (path, id) in self.paths() {
            entries.insert(path, self.entry(id, depth));
        }
        Snapshot { entries }
    }

    /// What lstat and more must tell of an inode.
    pub fn entry(&self, id: Id, depth: Depth) -> Entry {
        let node = &self.nodes[&id];
        let (file_type, rdev) = match &node.body {
            Body::File(_) => (FileType::RegularFile, 0),
            Body::Directory(_) => (FileType::Directory, 0),
            Body::Symlink(_) => (FileType::Symlink, 0),
            Body::Special(file_type, device) => (*file_type, *device),
        };
        let mut entry = Entry {
            kind: file_type.as_raw_mode(),
            mode: node.mode,
            uid: node.uid,
            gid: node.gid,
            size: 0,
            digest: None,
            mtime: (0, 0),
            ctime: (0, 0),
            xattrs: BTreeMap::new(),
            target: Vec::new(),
            rdev,
            nlink: self.links(id),
            ino: id,
        };
        match &node.body {
            Body::File(content) => {
                entry.size = content.len() as u64;
                if depth == Depth::Full {
                    entry.digest = Some(Sha256::digest(content).into());
                }
            }
            Body::Symlink(target) => {
                entry.size = target.len() as u64;
                entry.target = target.clone();
            }
            _ => {}
        }
        if depth == Depth::Full {
            entry.xattrs = node.xattrs.clone();
            let acls = [("access", &node.acl), ("default", &node.default_acl)];
            for (kind, acl) in acls {
                if let Some(acl) = acl {
                    let name = format!("system.posix_acl_{kind}");
                    entry.xattrs.insert(name.into_bytes(), acl.encode());
                }
            }
        }
        entry
    }

    /// All paths, the root's first, with what they name.
    pub fn paths(&self) -> Vec<(Vec<u8>, Id)> {
        let mut paths = vec![(Vec::new(), self.root)];
        let mut at = 0;
        while at < paths.len() {
            let (path, id) = paths[at].clone();
            if let Body::Directory(entries) = &self.nodes[&id].body {
                paths.extend(
                    entries
                        .iter()
                        .map(|(name, id)| (at::join(&path, name), *id)),
                );
            }
            at += 1;
        }
        paths.sort();
        paths
    }

    /// st_nlink.
    pub fn links(&self, id: Id) -> u64 {
        let node = &self.nodes[&id];
        match &node.body {
            Body::Directory(entries) => {
                2 + entries
                    .values()
                    .filter(|id| self.is_directory(**id))
                    .count() as u64
            }
            _ => node.names,
        }
    }

    fn fresh_id(&mut self) -> Id {
        self.next += 1;
        self.next
    }

    fn is_directory(&self, id: Id) -> bool {
        matches!(self.nodes[&id].body, Body::Directory(_))
    }

    fn is_symlink(&self, id: Id) -> bool {
        matches!(self.nodes[&id].body, Body::Symlink(_))
    }

    fn node(&mut self, id: Id) -> &mut Node {
        self.nodes.get_mut(&id).expect("ids in use are known")
    }

    fn entries_mut(&mut self, id: Id) -> &mut BTreeMap<Vec<u8>, Id> {
        match &mut self.node(id).body {
            Body::Directory(entries) => entries,
            _ => panic!("{id} is no directory"),
        }
    }

    /// mtime and ctime are now.
    fn touch(&mut self, id: Id) {
        let tick = self.tick;
        let node = self.node(id);
        node.mtime = Modified::By(tick);
        node.ctime = tick;
    }

    /// ctime is now.
    fn change(&mut self, id: Id) {
        let tick = self.tick;
        self.node(id).ctime = tick;
    }

    fn child(&self, directory: Id, name: &[u8]) -> Result<Option<Id>> {
        let Body::Directory(entries) = &self.nodes[&directory].body else {
            return Err(Errno::NOTDIR);
        };
        if name.len() > 255 {
            return Err(Errno::NAMETOOLONG);
        }
        Ok(entries.get(name).copied())
    }

    /// The inode of a path.
    pub fn find(&self, path: &[u8]) -> Result<Id> {
        let mut current = self.root;
        for name in path
            .split(|byte| *byte == b'/')
            .filter(|name| !name.is_empty())
        {
            current = self.child(current, name)?.ok_or(Errno::NOENT)?;
        }
        Ok(current)
    }

    /// The directory of a path, and the name in it.
    fn locate<'p>(&self, path: &'p [u8]) -> Result<(Id, &'p [u8])> {
        let (directory, name) = at::split(path);
        let directory = self.find(directory)?;
        if !self.is_directory(directory) {
            return Err(Errno::NOTDIR);
        }
        Ok((directory, name))
    }

    fn forget_unused(&mut self) {
        let held: Vec<Id> = (self.handles.iter().flatten().map(|handle| handle.id))
            .chain(self.mappings.iter().flatten().map(|mapping| mapping.id))
            .collect();
        self.nodes
            .retain(|id, node| node.names > 0 || held.contains(id));
    }
}
