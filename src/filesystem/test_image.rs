//! For the tests of this module: a store with one family and one image, built by hand.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::create::Permissions;
use super::data::SetId;
use super::images::Images;
use super::inherit::Inheritance;
use super::node::Node;
use super::open::OpenFlags;
use super::{Caller, Filesystem};
use crate::store::catalog::{NewFamily, NewImage, Share};
use crate::store::digest::Digest;
use crate::store::mark::{self, DirectoryRole, Mark, Role};
use crate::store::metadata::{Content, Metadata, SharedInode, Time, Xattrs};
use crate::store::number::{ImageId, Number};
use crate::store::open::Store;
use crate::sys::durable;

/// A live image over this shared layer, all of it old, root's and mode 0755:
///
/// ```text
/// dir/            also: user.kind = shared
///   file          "shared content", mode 0644
///   empty         ""
///   link -> file
/// big             1 MiB
/// twin, dir/twin  one file, "twin"
/// sub/            empty
/// spares/         0 to 99, each 200,000 bytes; and as many files a0 = b0 to a99 = b99
/// ```
pub(super) struct TestImage {
    pub fs: Arc<Filesystem>,
    image: ImageId,
    pub store: Arc<Store>,
    // Removed last.
    _directory: tempfile::TempDir,
}

pub(super) const ROOT: Caller = Caller {
    uid: 0,
    gid: 0,
    pid: 0,
};

pub(super) const OLD: Time = Time {
    seconds: 1_000_000_000,
    nanoseconds: 123_456_789,
};

pub(super) fn big() -> Vec<u8> {
    (0..1u32 << 20)
        .map(|i| (i ^ i >> 9 ^ i >> 17) as u8)
        .collect()
}

struct Builder<'a> {
    store: &'a Store,
    entries: Vec<(Number, Vec<u8>, Number)>,
    inodes: Vec<SharedInode>,
}

impl Builder<'_> {
    fn object(&self, bytes: &[u8]) -> Content {
        if bytes.is_empty() {
            return Content::Regular {
                size: 0,
                digest: None,
            };
        }
        let staging = self.store.stage("test").unwrap();
        let file = durable::create(staging.directory(), b"new", 0o400).unwrap();
        crate::sys::copy::write_all_at(&file, bytes, 0).unwrap();
        let digest = Digest::of(bytes);
        let objects = self.store.objects();
        objects
            .publish(staging.directory(), b"new", &digest)
            .unwrap();
        Content::Regular {
            size: bytes.len() as u64,
            digest: Some(digest),
        }
    }

    fn add(&mut self, parent: Option<Number>, name: &str, content: Content) -> Number {
        let number = self.store.numbers().next().unwrap();
        let is_directory = content == Content::Directory;
        let mut xattrs = Xattrs::new();
        if !matches!(content, Content::Symlink { .. }) {
            xattrs.insert(Box::from(&b"user.kind"[..]), Box::from(&b"shared"[..]));
        }
        self.inodes.push(SharedInode {
            number,
            metadata: Metadata {
                mode: if is_directory { 0o755 } else { 0o644 },
                uid: 0,
                gid: 0,
                mtime: OLD,
                xattrs,
            },
            content,
            ctime: Time {
                seconds: OLD.seconds + 1,
                ..OLD
            },
            links: if is_directory { 2 } else { 0 },
        });
        if let Some(parent) = parent {
            self.name(parent, name, number);
        }
        number
    }

    fn name(&mut self, parent: Number, name: &str, number: Number) {
        self.entries.push((parent, name.into(), number));
        let of = |number: Number| move |inode: &&mut SharedInode| inode.number == number;
        let inode = self.inodes.iter_mut().find(of(number)).unwrap();
        if inode.content == Content::Directory {
            self.inodes.iter_mut().find(of(parent)).unwrap().links += 1;
        } else {
            inode.links += 1;
        }
    }
}

impl TestImage {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::init(&directory.path().join("store")).unwrap());
        let mut builder = Builder {
            store: &store,
            entries: Vec::new(),
            inodes: Vec::new(),
        };
        let root = builder.add(None, "", Content::Directory);
        let dir = builder.add(Some(root), "dir", Content::Directory);
        let content = builder.object(b"shared content");
        builder.add(Some(dir), "file", content);
        let content = builder.object(b"");
        builder.add(Some(dir), "empty", content);
        let target = Box::from(&b"file"[..]);
        builder.add(Some(dir), "link", Content::Symlink { target });
        let content = builder.object(&big());
        builder.add(Some(root), "big", content);
        let content = builder.object(b"twin");
        let twin = builder.add(Some(root), "twin", content);
        builder.name(dir, "twin", twin);
        builder.add(Some(root), "sub", Content::Directory);

        let spares = builder.add(Some(root), "spares", Content::Directory);
        let content = builder.object(&big()[..200_000]);
        for number in 0..100 {
            builder.add(Some(spares), &number.to_string(), content.clone());
            let both = builder.add(Some(spares), &format!("a{number}"), content.clone());
            builder.name(spares, &format!("b{number}"), both);
        }

        let base = store.catalog().reserve_image_id().unwrap();
        let image = store.catalog().reserve_image_id().unwrap();
        for id in [base, image] {
            let staged = store.create_image_dirs().unwrap();
            let role = Role::Directory(DirectoryRole::Transparent { shared: root });
            let mark = Mark::new(Number::ROOT, role).encode();
            let private = staged.dirs().private.as_fd();
            let name = mark::NAME.as_bytes();
            durable::set_xattr(private, b".", name, &mark, XattrFlags::empty()).unwrap();
            store.publish_image(staged, id).unwrap();
        }
        let transaction = store.catalog().transaction().unwrap();
        let family = transaction
            .create_family(&NewFamily {
                name: "family",
                root,
                base,
                os: "",
                os_version: "",
                architecture: "",
                share: Share::Majority,
                created: 0,
                source: "test",
            })
            .unwrap();
        for inode in &builder.inodes {
            transaction.insert_inode(family, inode).unwrap();
        }
        for (parent, name, number) in &builder.entries {
            transaction.insert_entry(*parent, name, *number).unwrap();
        }
        let role = crate::store::catalog::ImageRole::Guest;
        transaction
            .create_image(&NewImage {
                id: image,
                family,
                name: "image",
                role,
                created: 0,
                source: "test",
            })
            .unwrap();
        transaction.commit().unwrap();

        let images = Images::new(store.clone());
        let fs = images.filesystem(image).unwrap();
        Self {
            fs,
            image,
            store,
            _directory: directory,
        }
    }

    /// The node of a path, looked up by the kernel.
    pub fn node(&self, path: &str) -> Arc<Node> {
        let mut node = self.fs.root().clone();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let found = self.fs.lookup(&node, name.as_bytes()).unwrap();
            node = self.fs.node(found.number).unwrap();
        }
        node
    }

    /// The content as a fresh handle reads it.
    pub fn content(&self, node: &Arc<Node>) -> Vec<u8> {
        let handle = self.fs.open(node, Default::default()).unwrap();
        let size = self.fs.attributes(node).unwrap().size as usize;
        let mut buffer = vec![0; size + 1];
        let length = self.fs.read(handle, 0, &mut buffer).unwrap();
        self.fs.release(handle);
        buffer.truncate(length);
        buffer
    }

    /// Opens for reading and writing.
    pub fn writer(&self, node: &Arc<Node>) -> u64 {
        let flags = OpenFlags {
            write: true,
            truncate: false,
            set_id: SetId::Keep,
            execute: false,
            request: 0,
        };
        self.fs.open(node, flags).unwrap()
    }

    /// Makes a private file of this content.
    pub fn make(&self, parent: &Arc<Node>, name: &str, content: &[u8]) -> Arc<Node> {
        let permissions = Permissions {
            mode: 0o644,
            umask: 0,
            caller: ROOT,
        };
        let made = self
            .fs
            .create(parent, name.as_bytes(), &permissions)
            .unwrap();
        let node = self.fs.node(made.number).unwrap();
        if !content.is_empty() {
            let handle = self.writer(&node);
            self.fs.write(handle, 0, content, SetId::Keep).unwrap();
            self.fs.release(handle);
        }
        node
    }

    /// How many entries `work/` holds.
    pub fn debris(&self) -> usize {
        crate::store::layer::names_in(self.fs.view.layer.work())
            .unwrap()
            .len()
    }

    /// The image as the process finds it that takes it over.
    pub fn inherit(&mut self, inheritance: Inheritance) {
        let images = Images::new(self.store.clone());
        images.inherit([(self.image, inheritance)].into());
        self.fs = images.filesystem(self.image).unwrap();
    }

    /// The image as a new process finds it, from what is on the disk alone.
    pub fn reopened(&self) -> Arc<Filesystem> {
        let images = Images::new(self.store.clone());
        images.filesystem(self.image).unwrap()
    }
}

/// One test at a time has the hook.
static HOOK: Mutex<()> = Mutex::new(());

/// Runs something while this thread's durable step number `step` fails; whether it was reached.
pub(super) fn failing_at<T>(step: usize, error: Errno, run: impl FnOnce() -> T) -> (T, bool) {
    let _hook = HOOK.lock();
    let this = std::thread::current().id();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    durable::set_hook(Some(Arc::new(move |_, _| {
        if std::thread::current().id() != this {
            return Ok(());
        }
        match counted.fetch_add(1, Ordering::SeqCst) == step {
            true => Err(error),
            false => Ok(()),
        }
    })));
    let outcome = run();
    durable::set_hook(None);
    (outcome, count.load(Ordering::SeqCst) > step)
}
