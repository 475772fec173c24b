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
    let next = taken_over(image, ledger, kernel);
    serve(image, &next).unwrap();
    next
}

/// It does, but does not serve it yet.
fn taken_over(image: &mut TestImage, ledger: &Arc<Ledger>, kernel: &Arc<Kernel>) -> Arc<Ledger> {
    let next = Ledger::open(ledger.as_fd().try_clone_to_owned().unwrap()).unwrap();
    *kernel.closed.lock() = Arc::default();
    let of = kernel.clone();
    image.inherit(Inheritance {
        ledger: next.clone(),
        adopt: Box::new(move |id| of.registered(id)),
    });
    next
}

/// An image that is served, and what it is served by; `None` without root.
fn served() -> Option<(TestImage, Arc<Kernel>, Arc<Ledger>)> {
    let image = TestImage::new();
    let ledger = Ledger::new().unwrap();
    serve(&image, &ledger)?;
    Some((image, Arc::default(), ledger))
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
    let Some((mut image, kernel, ledger)) = served() else {
        return;
    };
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
    let Some((mut image, kernel, ledger)) = served() else {
        return;
    };
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
    let Some((mut image, kernel, ledger)) = served() else {
        return;
    };
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
    let Some((mut image, kernel, ledger)) = served() else {
        return;
    };
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
    let Some((mut image, kernel, ledger)) = served() else {
        return;
    };
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

#[test]
fn who_fails_before_it_serves_leaves_all_to_the_next_one() {
    let Some((mut image, kernel, ledger)) = served() else {
        return;
    };
    let root = image.fs.root().clone();
    image.make(&root, "gone", b"unlinked");
    let handles = ["gone", "big"].map(|path| open(&image, &kernel, path, false).unwrap().0);
    let idle = open(&image, &kernel, "dir/file", false).unwrap();
    image.fs.release(idle.0);
    image.fs.unlink(&root, b"gone").unwrap();
    let numbers = ledger.numbers().count();
    drop((root, idle));

    ledger.leave();
    for _ in 0..2 {
        let failed = taken_over(&mut image, &ledger, &kernel);
        assert_eq!(failed.numbers().count(), numbers);
    }
    let next = taken_over(&mut image, &ledger, &kernel);
    assert!(kernel.closed().is_empty());
    serve(&image, &next).unwrap();
    assert_eq!(kernel.closed().len(), 1, "what was idle");
    assert_eq!(read(&image, handles[0]), b"unlinked");
    assert_eq!(next.numbers().count(), numbers);
}

#[test]
fn no_handle_gets_the_id_of_one_that_was_closed() {
    let Some((mut image, kernel, ledger)) = served() else {
        return;
    };
    let handles = [(); 3].map(|()| open(&image, &kernel, "big", false).unwrap().0);
    image.fs.release(handles[2]);
    killed(&mut image, &ledger, &kernel);
    let next = open(&image, &kernel, "big", false).unwrap().0;
    assert!(!handles.contains(&next), "{next} of {handles:?}");
}

#[test]
fn a_deep_tree_is_found_from_the_root_once() {
    const DEPTH: usize = 2000;
    let Some((mut image, kernel, ledger)) = served() else {
        return;
    };
    let mut numbers = Vec::new();
    let mut directory = image.fs.root().clone();
    for _ in 0..DEPTH {
        // Each level has two, so that the walk comes back.
        for name in ["a", "b"] {
            let made = image
                .fs
                .make_directory(&directory, name.as_bytes(), &PERMISSIONS)
                .unwrap();
            numbers.push(made.number);
        }
        directory = image.fs.node(numbers[numbers.len() - 1]).unwrap();
    }
    let last = directory.number;
    drop(directory);
    killed(&mut image, &ledger, &kernel);
    for number in numbers {
        let mut node = image.fs.node(number).unwrap();
        if number == last {
            let mut depth = 0;
            while let Place::Entry { parent, .. } = node.place() {
                node = parent;
                depth += 1;
            }
            assert_eq!(depth, DEPTH);
        }
    }
}

#[test]
fn what_is_not_found_in_a_damaged_layer_is_not_what_the_shared_one_has() {
    let Some((mut image, kernel, ledger)) = served() else {
        return;
    };
    let file = image.node("dir/file");
    image.fs.open(&file, OpenFlags::default()).unwrap();
    let writer = open(&image, &kernel, "dir/file", true);
    let writer = writer.or_else(|_| open(&image, &kernel, "dir/file", true));
    let writer = writer.unwrap().0;
    image.fs.write(writer, 0, b"S", SetId::Keep).unwrap();
    image.fs.release(writer);
    let number = file.number;
    drop(file);
    // Its name is where nobody can read it.
    let root = image.fs.root().clone();
    image
        .fs
        .make_directory(&root, b"inner", &PERMISSIONS)
        .unwrap();
    let (dir, inner) = (image.node("dir"), image.node("inner"));
    let old = Name {
        parent: &dir,
        name: b"file",
    };
    let new = Name {
        parent: &inner,
        name: b"file",
    };
    let flags = RenameFlags::empty();
    image.fs.rename(old, new, flags, ROOT).unwrap();
    drop((root, dir, inner));
    let private = image.fs.view.layer.private();
    let flags = rustix::fs::XattrFlags::empty();
    let inner = rustix::fs::openat(
        private,
        "inner",
        rustix::fs::OFlags::RDONLY,
        rustix::fs::Mode::empty(),
    )
    .unwrap();
    rustix::fs::fsetxattr(&inner, crate::store::mark::NAME, b"damaged", flags).unwrap();
    killed(&mut image, &ledger, &kernel);
    let error = image.fs.node(number).map(drop).unwrap_err();
    assert_eq!(error.errno(), Errno::STALE);
}

#[test]
fn a_file_is_open_as_it_was_however_often_it_is_taken_over() {
    let Some((mut image, kernel, ledger)) = served() else {
        return;
    };
    let root = image.fs.root().clone();
    image.make(&root, "own", b"mine");
    drop(root);
    let (writer, way) = open(&image, &kernel, "own", true).unwrap();
    let Way::Direct(registered) = way else {
        panic!("{way:?}");
    };
    let id = registered.id();
    drop(registered);
    let mut ledger = ledger;
    for _ in 0..3 {
        let known = ledger.known_nodes();
        let words: Vec<_> = known.iter().map(|(node, _)| *node).collect();
        ledger.leave();
        drop(known);
        // One that is killed before it serves takes over from the first, too.
        taken_over(&mut image, &ledger, &kernel);
        ledger = killed(&mut image, &ledger, &kernel);
        let now = ledger.known_nodes();
        assert_eq!(now.iter().map(|(node, _)| *node).collect::<Vec<_>>(), words);
        now.into_iter().for_each(std::mem::forget);
    }
    let (second, way) = open(&image, &kernel, "own", true).unwrap();
    assert!(matches!(way, Way::Direct(registered) if registered.id() == id));
    assert_eq!(image.node("own").state.lock().identity().flip, 0);
    image.fs.release(writer);
    image.fs.release(second);
}

#[test]
fn what_happens_before_it_is_served_is_known_to_the_one_after() {
    let Some((mut image, kernel, ledger)) = served() else {
        return;
    };
    let root = image.fs.root().clone();
    image.make(&root, "own", b"mine");
    let handle = open(&image, &kernel, "own", false).unwrap().0;
    let own = image.node("own").number;
    drop(root);
    ledger.leave();
    let next = taken_over(&mut image, &ledger, &kernel);
    let root = image.fs.root().clone();
    image.fs.unlink(&root, b"own").unwrap();
    drop(root);
    serve(&image, &next).unwrap();
    let gone = image.fs.attributes(&image.fs.node(own).unwrap()).unwrap();
    killed(&mut image, &next, &kernel);
    let node = image.fs.node(own).unwrap();
    let found = image.fs.attributes(&node).unwrap();
    assert_eq!((found.links, found.ctime), (0, gone.ctime));
    assert_eq!(read(&image, handle), b"mine");
}

#[test]
fn who_tries_again_has_what_the_first_try_had() {
    let Some((mut image, kernel, ledger)) = served() else {
        return;
    };
    let handle = open(&image, &kernel, "big", false).unwrap().0;
    let numbers = ledger.numbers().count();
    ledger.leave();
    let next = taken_over(&mut image, &ledger, &kernel);
    // In the same process, with the same ledger.
    let of = kernel.clone();
    image.inherit(Inheritance {
        ledger: next.clone(),
        adopt: Box::new(move |id| of.registered(id)),
    });
    // The first try goes only now.
    serve(&image, &next).unwrap();
    assert_eq!(next.numbers().count(), numbers);
    assert_eq!(next.open_handles().len(), 1);
    assert_eq!(read(&image, handle).len(), 100);
}
