//! A store with a small shared layer and one live image over it, and what the image looks like.
//!
//! ```text
//! etc/ passwd hostname empty shell        shell, sh and bash are one file
//! usr/ bin/ sh bash  link -> bin/sh  hollow/  deep/a/b/file
//! dev/ null fifo socket
//! gone  emptied/file
//! shared-gid/ (02775, group 50)  acl/ (a default ACL)
//! ```

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use super::super::attributes::Attributes;
use super::super::create::Permissions;
use super::super::failure::Outcome;
use super::super::node::Node;
use super::super::{Caller, Filesystem};
use crate::merge::lookup::Item;
use crate::merge::view::View;
use crate::merge::walk;
use crate::store::catalog::{NewFamily, Share};
use crate::store::digest::Digest;
use crate::store::draft;
use crate::store::guest_xattr;
use crate::store::layer::{self, Layer, PrivateEntry, names_in};
use crate::store::layout;
use crate::store::mark::{DirectoryRole, Mark, Role};
use crate::store::metadata::{Content, Metadata, SharedInode, Time, Xattrs};
use crate::store::number::{ImageId, Number};
use crate::store::open::Store;
use crate::store::shared::SharedLayer;
use crate::sys::{copy, durable};

pub(super) const MTIME: Time = Time {
    seconds: 1_000_000_000,
    nanoseconds: 123_456_789,
};
pub(super) const CTIME: Time = Time {
    seconds: 1_100_000_000,
    nanoseconds: 987_654_321,
};
pub(super) const ROOT: Caller = Caller {
    uid: 0,
    gid: 0,
    pid: 0,
};
pub(super) const USER: Caller = Caller {
    uid: 1000,
    gid: 1001,
    pid: 0,
};

/// user::rwx user:7:rwx group::r-x mask::rwx other::---
pub(super) const DEFAULT_ACL: &[u8] = &[
    2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 7, 0, 7, 0, 0, 0, 4, 0, 5, 0, 255, 255, 255,
    255, 16, 0, 7, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255,
];

pub(super) fn permissions(mode: u32) -> Permissions {
    Permissions {
        mode,
        umask: 0o022,
        caller: ROOT,
    }
}

/// What one path looks like: all but atime and blocks, which no version has.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Look {
    pub attributes: Attributes,
    pub xattrs: Xattrs,
    pub target: Option<Vec<u8>>,
    pub digest: Option<Digest>,
}

pub(super) type Looks = BTreeMap<String, Look>;

/// A store with a shared layer.
pub(super) struct Base {
    directory: tempfile::TempDir,
    store: Arc<Store>,
    shared: Arc<SharedLayer>,
    root: Number,
    images: AtomicI64,
}

/// A live image.
pub(super) struct Fixture {
    base: Arc<Base>,
    image: ImageId,
    directory: OwnedFd,
    pub fs: Filesystem,
}

struct Builder<'a> {
    store: &'a Store,
    inodes: BTreeMap<u64, SharedInode>,
    entries: Vec<(Number, String, Number)>,
    next: u64,
}

impl Builder<'_> {
    fn inode(&mut self, content: Content, mode: u32) -> Number {
        let number = Number::new(self.next).unwrap();
        self.next += 1;
        let links = if content == Content::Directory { 2 } else { 0 };
        let metadata = Metadata {
            mode,
            uid: 0,
            gid: 0,
            mtime: MTIME,
            xattrs: Xattrs::new(),
        };
        let inode = SharedInode {
            number,
            content,
            metadata,
            ctime: CTIME,
            links,
        };
        self.inodes.insert(number.get(), inode);
        number
    }

    fn get(&mut self, number: Number) -> &mut SharedInode {
        self.inodes.get_mut(&number.get()).unwrap()
    }

    fn name(&mut self, parent: Number, name: &str, number: Number) -> Number {
        self.entries.push((parent, name.into(), number));
        let counted = if self.get(number).content == Content::Directory {
            parent
        } else {
            number
        };
        self.get(counted).links += 1;
        number
    }

    fn directory(&mut self, parent: Number, name: &str) -> Number {
        let number = self.inode(Content::Directory, 0o755);
        self.name(parent, name, number)
    }

    fn file(&mut self, parent: Number, name: &str, text: &str) -> Number {
        let digest = (!text.is_empty()).then(|| Digest::of(text.as_bytes()));
        if let Some(digest) = digest {
            let staging = self.store.stage("test").unwrap();
            let file = durable::create(staging.directory(), b"x", 0o400).unwrap();
            copy::write_all_at(&file, text.as_bytes(), 0).unwrap();
            self.store
                .objects()
                .publish(staging.directory(), b"x", &digest)
                .unwrap();
        }
        let content = Content::Regular {
            size: text.len() as u64,
            digest,
        };
        let number = self.inode(content, 0o644);
        self.name(parent, name, number)
    }

    fn other(&mut self, parent: Number, name: &str, content: Content) -> Number {
        let is_symlink = matches!(content, Content::Symlink { .. });
        let number = self.inode(content, if is_symlink { 0o777 } else { 0o666 });
        self.name(parent, name, number)
    }
}

impl Base {
    pub fn new() -> Arc<Self> {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::init(&directory.path().join("store")).unwrap());
        let next = store.catalog().reserve_numbers(64).unwrap().start;
        let mut build = Builder {
            store: &store,
            inodes: BTreeMap::new(),
            entries: Vec::new(),
            next,
        };
        let root = build.inode(Content::Directory, 0o755);
        build.tree(root);
        let Builder {
            inodes, entries, ..
        } = build;
        let transaction = store.catalog().transaction().unwrap();
        let family = transaction
            .create_family(&NewFamily {
                name: "family",
                root,
                base: ImageId(1),
                os: "",
                os_version: "",
                architecture: "",
                share: Share::Majority,
                created: 0,
                source: "test",
            })
            .unwrap();
        for inode in inodes.values() {
            transaction.insert_inode(family, inode).unwrap();
        }
        for (parent, name, number) in &entries {
            transaction
                .insert_entry(*parent, name.as_bytes(), *number)
                .unwrap();
        }
        transaction.commit().unwrap();
        let shared = Arc::new(SharedLayer::new(store.catalog().clone()));
        let images = AtomicI64::new(1);
        Arc::new(Self {
            directory,
            store,
            shared,
            root,
            images,
        })
    }

    /// An image that is as the shared layer. (The catalog need not know it.)
    pub fn image(self: &Arc<Self>) -> Fixture {
        let image = ImageId(self.images.fetch_add(1, Ordering::Relaxed));
        let path = self.directory.path().join(format!("image{image}"));
        std::fs::create_dir(&path).unwrap();
        let directory: OwnedFd = std::fs::File::open(&path).unwrap().into();
        for part in layout::IMAGE_PARTS {
            std::fs::create_dir(path.join(part)).unwrap();
        }
        let role = Role::Directory(DirectoryRole::Transparent { shared: self.root });
        let mark = Mark::new(Number::ROOT, role);
        draft::write_mark(directory.as_fd(), layout::PRIVATE.as_bytes(), &mark).unwrap();
        let fs = self.open(image, &directory);
        Fixture {
            base: self.clone(),
            image,
            directory,
            fs,
        }
    }

    fn open(&self, image: ImageId, directory: &OwnedFd) -> Filesystem {
        let directory = directory.try_clone().unwrap();
        let view = View::open(directory, image, self.root, self.shared.clone()).unwrap();
        Filesystem::new(self.store.clone(), view, Arc::default()).unwrap()
    }
}

impl Fixture {
    pub fn new() -> Self {
        Base::new().image()
    }

    /// The image as it is on the disk, in a new instance.
    fn reopened(&self) -> Filesystem {
        self.base.open(self.image, &self.directory)
    }

    /// The live image is given up and brought to life again.
    pub fn remount(&mut self) {
        self.fs = self.reopened();
        self.fs.recover(&Default::default()).unwrap();
    }

    /// The node of a path, looked up from the root. The kernel does not know it.
    pub fn node(&self, path: &str) -> Arc<Node> {
        self.try_node(path)
            .unwrap_or_else(|error| panic!("{path}: {error:?}"))
    }

    pub fn try_node(&self, path: &str) -> Outcome<Arc<Node>> {
        node(&self.fs, path)
    }

    pub fn exists(&self, path: &str) -> bool {
        self.try_node(path).is_ok()
    }

    pub fn look(&self, path: &str) -> Look {
        self.looks()
            .remove(path)
            .unwrap_or_else(|| panic!("{path} does not exist"))
    }

    /// What the image looks like, after having made sure that a new instance sees the same, and
    /// that no debris is left.
    pub fn looks(&self) -> Looks {
        let looks = looks(&self.fs);
        let reopened = self.reopened();
        let again = self::looks(&reopened);
        for (path, look) in &looks {
            assert_eq!(Some(look), again.get(path), "{path} after a remount");
        }
        assert_eq!(looks.len(), again.len());
        assert_eq!(
            names_in(self.fs.view.layer.work()).unwrap(),
            Vec::<Vec<u8>>::new()
        );
        looks
    }

    /// What opening a store does.
    pub fn clear_work(&self) {
        crate::store::tree::remove_contents(self.fs.view.layer.work(), "work").unwrap();
    }

    /// Expects that `index/` holds files with their tokens and nothing else.
    pub fn assert_no_debris_in_index(&self, what: &str) {
        let layer = &self.fs.view.layer;
        let numbers = layer.index_numbers().unwrap();
        for number in layer.token_numbers().unwrap() {
            assert!(numbers.contains(&number), "{what}: {number}.names");
        }
        for number in numbers {
            let name = Layer::number_name(number);
            let entry = layer::read_entry(layer.index(), &name).unwrap();
            let is_file = match entry {
                Some(PrivateEntry::Marked { mark, .. }) => mark.role != Role::Name,
                _ => false,
            };
            assert!(is_file, "{what}: {number}");
        }
    }

    pub fn orphans(&self) -> usize {
        names_in(self.fs.view.layer.orphans()).unwrap().len()
    }

    /// The names in a private directory of the host.
    pub fn private_names(&self, path: &str) -> Vec<String> {
        let node = self.node(path);
        let directory = self.fs.private_directory(&node).unwrap();
        let names = directory.map(|directory| names_in(directory.as_fd()).unwrap());
        let mut names: Vec<_> = names.unwrap_or_default();
        names.sort();
        names
            .into_iter()
            .map(|name| String::from_utf8(name).unwrap())
            .collect()
    }
}

impl Builder<'_> {
    fn tree(&mut self, root: Number) {
        let etc = self.directory(root, "etc");
        let passwd = self.file(etc, "passwd", "root:x:0:0");
        self.get(passwd)
            .metadata
            .xattrs
            .insert(b"user.note"[..].into(), b"1"[..].into());
        self.file(etc, "hostname", "host");
        self.file(etc, "empty", "");
        let usr = self.directory(root, "usr");
        let bin = self.directory(usr, "bin");
        let shell = self.file(bin, "sh", "#!");
        self.get(shell).metadata.mode = 0o4755;
        self.name(bin, "bash", shell);
        self.name(etc, "shell", shell);
        self.other(
            usr,
            "link",
            Content::Symlink {
                target: b"bin/sh"[..].into(),
            },
        );
        self.directory(usr, "hollow");
        let deep = self.directory(usr, "deep");
        let a = self.directory(deep, "a");
        let b = self.directory(a, "b");
        self.file(b, "file", "deep");
        let dev = self.directory(root, "dev");
        self.other(
            dev,
            "null",
            Content::CharDevice {
                rdev: rustix::fs::makedev(1, 3),
            },
        );
        self.other(dev, "fifo", Content::Fifo);
        self.other(dev, "socket", Content::Socket);
        self.file(root, "gone", "gone");
        let emptied = self.directory(root, "emptied");
        self.file(emptied, "file", "x");
        let gid = self.directory(root, "shared-gid");
        self.get(gid).metadata.mode = 0o2775;
        self.get(gid).metadata.gid = 50;
        let acl = self.directory(root, "acl");
        let name = super::super::acl::DEFAULT;
        self.get(acl)
            .metadata
            .xattrs
            .insert(name.into(), DEFAULT_ACL.into());
    }
}

fn node(fs: &Filesystem, path: &str) -> Outcome<Arc<Node>> {
    let mut node = fs.root().clone();
    for name in path.split('/').filter(|name| !name.is_empty()) {
        let number = fs.lookup(&node, name.as_bytes())?.number;
        node = fs.node(number)?;
        fs.forget(number, 1);
    }
    Ok(node)
}

fn looks(fs: &Filesystem) -> Looks {
    let mut looks = Looks::new();
    walk::walk(&fs.view, &mut |visit| {
        let path = String::from_utf8_lossy(visit.path).into_owned();
        let node = node(fs, &path).unwrap_or_else(|error| panic!("{path}: {error:?}"));
        let mut attributes = fs.attributes(&node).unwrap();
        assert_eq!(attributes.number, visit.item.number(), "{path}");
        attributes.atime = Time::default();
        attributes.blocks = 0;
        let shared = match visit.item {
            Item::Shared { inode, .. } => Some(inode.clone()),
            Item::Private {
                mark: Mark { role, .. },
                ..
            } => match role {
                Role::Directory(DirectoryRole::Transparent { shared }) => {
                    Some(Arc::new(fs.view.shared.inode(*shared).unwrap().unwrap()))
                }
                _ => None,
            },
        };
        let mut look = Look {
            attributes,
            xattrs: Xattrs::new(),
            target: None,
            digest: None,
        };
        if let Some(inode) = shared {
            look.xattrs = inode.metadata.xattrs.clone();
            match &inode.content {
                Content::Regular { digest, .. } => look.digest = *digest,
                Content::Symlink { target } => look.target = Some(target.to_vec()),
                _ => {}
            }
        } else {
            let (directory, name) = visit.host(&fs.view).unwrap();
            look.xattrs = guest_xattr::read_all(directory, &name).unwrap();
            look.target = rustix::fs::readlinkat(directory, &name[..], Vec::new())
                .ok()
                .map(|target| target.into_bytes());
            if let Item::Private {
                mark:
                    Mark {
                        role: Role::Stub { digest },
                        ..
                    },
                ..
            } = visit.item
            {
                look.digest = Some(*digest);
            }
        }
        looks.insert(path, look);
        Ok(true)
    })
    .unwrap();
    looks
}
