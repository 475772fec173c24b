//! Needs root: detached mounts do.

use std::os::fd::BorrowedFd;
use std::sync::atomic::AtomicU32;

use parking_lot::Mutex;
use rustix::fs::RenameFlags;
use rustix::io::Errno;

use super::*;
use crate::filesystem::create::Permissions;
use crate::filesystem::data::SetId;
use crate::filesystem::open::OpenFlags;
use crate::filesystem::passthrough::{Passthrough, Upcall, Way};
use crate::filesystem::rename::Entry as Name;
use crate::filesystem::test_image::{ROOT, TestImage};

struct Nobody;

impl Upcall for Nobody {
    fn forget_attributes(&self, _nodeid: u64) {}
    fn forget_entry(&self, _directory: u64, _name: &[u8]) {}
    fn forget_directory(&self, _nodeid: u64) {}
}

/// The kernel's registered files: those that were taken back, by the process that lives now.
#[derive(Default)]
struct Kernel {
    last: AtomicU32,
    closed: Mutex<Arc<Mutex<Vec<u32>>>>,
}

struct Registration(u32, Arc<Mutex<Vec<u32>>>);

impl Drop for Registration {
    fn drop(&mut self) {
        self.1.lock().push(self.0);
    }
}

impl Kernel {
    fn registered(&self, id: u32) -> Registered {
        Registered::new(id, Arc::new(Registration(id, self.closed.lock().clone())))
    }

    fn register(&self, _file: BorrowedFd<'_>) -> std::io::Result<Registered> {
        let id = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        Ok(self.registered(id))
    }

    fn closed(&self) -> Vec<u32> {
        std::mem::take(&mut self.closed.lock().lock())
    }
}

/// Serves the image with a new ledger; `None` without root.
fn serve(image: &TestImage, ledger: &Arc<Ledger>) -> Option<()> {
    let Ok(passthrough) = Passthrough::new(image.store.root(), []) else {
        assert!(!rustix::process::geteuid().is_root());
        return None;
    };
    let passthrough = Some(Arc::new(passthrough));
    image
        .fs
        .serve(Arc::new(Nobody), passthrough, Some(ledger.clone()));
    Some(())
}

/// This process is killed, and another one takes the image over.
fn killed(image: &mut TestImage, ledger: &Arc<Ledger>, kernel: &Arc<Kernel>) -> Arc<Ledger> {
    ledger.leave();
    let next = Ledger::open(ledger.as_fd().try_clone_to_owned().unwrap()).unwrap();
    *kernel.closed.lock() = Arc::default();
    let of = kernel.clone();
    image.inherit(Inheritance {
        ledger: next.clone(),
        adopt: Box::new(move |id| of.registered(id)),
    });
    serve(image, &next).unwrap();
    next
}

const PERMISSIONS: Permissions = Permissions {
    mode: 0o700,
    umask: 0,
    caller: ROOT,
};

fn open(image: &TestImage, kernel: &Kernel, path: &str, write: bool) -> Outcome<(u64, Way)> {
    let node = image.node(path);
    let flip = node.state.lock().identity().flip;
    let flags = OpenFlags {
        write,
        ..OpenFlags::default()
    };
    let register = |file: BorrowedFd<'_>| kernel.register(file);
    image.fs.open_at(&node, flip, flags, &register)
}

fn read(image: &TestImage, handle: u64) -> Vec<u8> {
    let mut buffer = vec![0; 100];
    let length = image.fs.read(handle, 0, &mut buffer).unwrap();
    buffer.truncate(length);
    buffer
}

fn orphans(image: &TestImage) -> usize {
    let orphans = image.fs.view.layer.orphans();
    layer::names_in(orphans).unwrap().len()
}

#[test]
fn nodes_and_handles_are_what_they_were() {
    let mut image = TestImage::new();
    let kernel = Arc::new(Kernel::default());
    let ledger = Ledger::new().unwrap();
    if serve(&image, &ledger).is_none() {
        return;
    }
    let root = image.fs.root().clone();
    image.make(&root, "own", b"mine");
    image.make(&root, "gone", b"unlinked");
    image.make(&root, "again", b"linked");
    let again = image.node("again");
    image.fs.link(&again, &root, b"other").unwrap();
    let handles = ["own", "gone", "again", "dir/file", "big", "twin"];
    let handles = handles.map(|path| open(&image, &kernel, path, false).unwrap().0);
    let writer = open(&image, &kernel, "own", true).unwrap().0;
    let dir = image.node("dir");
    image.fs.unlink(&root, b"gone").unwrap();
    image.fs.unlink(&dir, b"file").unwrap();
    image.fs.unlink(&root, b"again").unwrap();
    image.fs.unlink(&root, b"other").unwrap();
    let made = image
        .fs
        .make_directory(&root, b"left", &PERMISSIONS)
        .unwrap();
    image.fs.rmdir(&root, b"left").unwrap();
    let sub = image.node("sub").number;
    image.fs.rmdir(&root, b"sub").unwrap();
    let numbers: Vec<_> = ledger.numbers().collect();
    let attributes = |image: &TestImage| -> Vec<_> {
        let nodes = numbers.iter().map(|&number| image.fs.node(number).unwrap());
        nodes
            .map(|node| {
                let found = image.fs.attributes(&node).unwrap();
                (
                    found.number,
                    found.links,
                    found.mode,
                    found.ctime,
                    found.size,
                )
            })
            .collect()
    };
    let before = attributes(&image);
    let contents: Vec<_> = handles.iter().map(|&it| read(&image, it)).collect();
    drop((root, again, dir));

    for _ in 0..2 {
        let ledger = image.fs.ledger().unwrap();
        let ledger = killed(&mut image, &ledger, &kernel);
        assert_eq!(attributes(&image), before);
        let now: Vec<_> = handles.iter().map(|&it| read(&image, it)).collect();
        assert_eq!(now, contents);
        let mut known: Vec<_> = ledger.numbers().collect();
        known.sort();
        let mut expected = numbers.clone();
        expected.sort();
        assert_eq!(known, expected);
    }
    image.fs.write(writer, 0, b"M", SetId::Keep).unwrap();
    assert_eq!(read(&image, handles[0]), b"Mine");
    let next = open(&image, &kernel, "own", false).unwrap().0;
    assert!(!handles.contains(&next) && next != writer);
    assert_eq!(orphans(&image), 3);

    for handle in handles.into_iter().chain([writer, next]) {
        image.fs.release(handle);
    }
    for number in numbers {
        image.fs.forget(number, u64::MAX);
    }
    for number in [made.number, sub] {
        assert!(image.fs.node(number).is_err());
    }
    assert_eq!(orphans(&image), 0);
    let ledger = image.fs.ledger().unwrap();
    assert_eq!(ledger.open_handles().len(), 0);
}

#[test]
fn readers_of_an_object_keep_it_and_its_registration() {
    let mut image = TestImage::new();
    let kernel = Arc::new(Kernel::default());
    let ledger = Ledger::new().unwrap();
    if serve(&image, &ledger).is_none() {
        return;
    }
    // It stays registered, but nobody has it open.
    let idle = open(&image, &kernel, "big", false).unwrap();
    image.fs.release(idle.0);
    let Way::Direct(idle) = idle.1 else {
        panic!("{:?}", idle.1);
    };
    let (reader, way) = open(&image, &kernel, "dir/file", false).unwrap();
    let Way::Direct(registered) = way else {
        panic!("{way:?}");
    };
    // Who writes gets another inode.
    let stale = open(&image, &kernel, "dir/file", true);
    assert!(matches!(stale, Err(failure) if failure.errno() == Errno::STALE));
    let (writer, way) = open(&image, &kernel, "dir/file", true).unwrap();
    assert!(matches!(way, Way::Cached { .. }));
    image.fs.write(writer, 0, b"S", SetId::Keep).unwrap();
    let (reader_id, idle_id) = (registered.id(), idle.id());
    drop((registered, idle));
    assert!(kernel.closed().is_empty());

    let ledger = killed(&mut image, &ledger, &kernel);
    assert_eq!(kernel.closed(), [idle_id]);
    assert_eq!(read(&image, reader), b"shared content");
    assert_eq!(read(&image, writer), b"Shared content");
    // As long as the writer is there all are cached, at the nodeid from after the flip.
    let node = image.node("dir/file");
    assert_eq!(node.state.lock().identity().flip, 1);
    let (third, way) = open(&image, &kernel, "dir/file", false).unwrap();
    assert!(matches!(way, Way::Cached { .. }));
    image.fs.release(third);
    image.fs.release(writer);
    let ledger = killed(&mut image, &ledger, &kernel);
    assert_eq!(read(&image, reader), b"shared content");
    assert!(kernel.closed().is_empty());
    image.fs.release(reader);
    assert_eq!(kernel.closed(), [reader_id]);
    drop(ledger);
}

#[test]
fn a_handle_that_the_kernel_has_not_heard_of_is_closed_when_the_request_comes_again() {
    let mut image = TestImage::new();
    let kernel = Arc::new(Kernel::default());
    let ledger = Ledger::new().unwrap();
    if serve(&image, &ledger).is_none() {
        return;
    }
    let node = image.node("dir/file");
    let register = |file: BorrowedFd<'_>| kernel.register(file);
    let asked = |request| OpenFlags {
        request,
        ..OpenFlags::default()
    };
    let heard = image.fs.open_at(&node, 0, asked(10), &register).unwrap();
    image.fs.open_at(&node, 0, asked(12), &register).unwrap();
    drop(node);
    killed(&mut image, &ledger, &kernel);
    assert_eq!(image.fs.open_handles(), 2);
    image.fs.close_unheard_of(14);
    assert_eq!(image.fs.open_handles(), 2);
    image.fs.close_unheard_of(12);
    assert_eq!(image.fs.open_handles(), 1);
    assert_eq!(read(&image, heard.0), b"shared content");
}

#[test]
fn what_a_change_had_put_aside_is_removed_if_its_name_is_still_there() {
    let mut image = TestImage::new();
    let kernel = Arc::new(Kernel::default());
    let ledger = Ledger::new().unwrap();
    if serve(&image, &ledger).is_none() {
        return;
    }
    let root = image.fs.root().clone();
    image.make(&root, "own", b"mine");
    let own = image.node("own").number;
    let orphan = Layer::number_name(own);
    let beside = image.fs.view.layer.orphans();
    rustix::fs::mkdirat(beside, &orphan[..], rustix::fs::Mode::RWXU).unwrap();
    rustix::fs::mkdirat(beside, "7777", rustix::fs::Mode::RWXU).unwrap();
    drop(root);
    killed(&mut image, &ledger, &kernel);
    assert_eq!(orphans(&image), 0);
    assert_eq!(image.content(&image.node("own")), b"mine");
}

#[test]
fn moved_and_linked_files_are_found_wherever_they_are() {
    let mut image = TestImage::new();
    let kernel = Arc::new(Kernel::default());
    let ledger = Ledger::new().unwrap();
    if serve(&image, &ledger).is_none() {
        return;
    }
    let root = image.fs.root().clone();
    let (file, twin) = (image.node("dir/file").number, image.node("twin").number);
    let rename = |from: &str, to: &str| {
        let (old, new) = (from.as_bytes(), to.as_bytes());
        let old = Name {
            parent: &root,
            name: old,
        };
        let new = Name {
            parent: &root,
            name: new,
        };
        image
            .fs
            .rename(old, new, RenameFlags::empty(), ROOT)
            .unwrap();
    };
    rename("dir", "moved");
    image.fs.unlink(&root, b"twin").unwrap();
    drop(root);
    killed(&mut image, &ledger, &kernel);
    for (number, path) in [(file, "moved/file"), (twin, "moved/twin")] {
        let node = image.fs.node(number).unwrap();
        assert!(Arc::ptr_eq(&node, &image.node(path)), "{path}");
    }
    assert_eq!(image.content(&image.fs.node(twin).unwrap()), b"twin");
}
