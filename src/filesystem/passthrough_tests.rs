//! Needs root: detached mounts do.

use std::cell::Cell;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{self, Mode, OFlags};
use rustix::io::Errno;

use super::data::SetId;
use super::failure::Failure;
use super::ledger::Ledger;
use super::open::OpenFlags;
use super::passthrough::{Passthrough, Upcall, Way};
use super::test_image::TestImage;
use super::transport::Registered;
use crate::store::digest::Digest;
use crate::store::layout;
use crate::sys::durable;

#[test]
fn the_kernel_could_not_open_an_object_for_writing() {
    let image = TestImage::new();
    if !serve(&image) {
        return;
    }
    let reopened = |name: &str, write: bool| {
        let found = std::cell::Cell::new(None);
        let register = |file: BorrowedFd<'_>| {
            // As the kernel does: the O_PATH descriptor with the flags of who opens.
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            let opened = fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
            found.set(Some(opened.map(drop)));
            Ok(Registered::new(1, Arc::new(())))
        };
        let flags = OpenFlags {
            write,
            ..OpenFlags::default()
        };
        let node = image.node(name);
        let (handle, way) = image.fs.open_at(&node, 0, flags, &register).unwrap();
        image.fs.release(handle);
        (found.get(), matches!(way, Way::Direct(_)))
    };
    let refused = Some(Err(Errno::ROFS));
    assert_eq!(reopened("dir/file", false), (refused, true));
    // Whoever may write is never given the object.
    assert_eq!(reopened("dir/file", true), (None, false));
    let handle = image.writer(&image.node("dir/file"));
    image.fs.write(handle, 0, b"mine", SetId::Keep).unwrap();
    image.fs.release(handle);
    assert_eq!(reopened("dir/file", true), (Some(Ok(())), true));
}

struct Nobody;

impl Upcall for Nobody {
    fn forget_attributes(&self, _nodeid: u64) {}
    fn forget_entry(&self, _directory: u64, _name: &[u8]) {}
    fn forget_directory(&self, _nodeid: u64) {}
}

/// Whether it could; detached mounts are root's.
fn serve(image: &TestImage) -> bool {
    serve_noted(image, None)
}

fn serve_noted(image: &TestImage, ledger: Option<Arc<Ledger>>) -> bool {
    let Ok(passthrough) = Passthrough::new(image.store.root(), []) else {
        assert!(!rustix::process::geteuid().is_root());
        return false;
    };
    image
        .fs
        .serve(Arc::new(Nobody), Some(Arc::new(passthrough)), ledger);
    true
}

/// Opens `dir/file` as the kernel does; the answer is a handle and whether it was registered now.
fn opened(image: &TestImage, write: bool) -> (u64, bool) {
    let is_new = Cell::new(false);
    let register = |_: BorrowedFd<'_>| {
        is_new.set(true);
        Ok(Registered::new(1, Arc::new(())))
    };
    let flags = OpenFlags {
        write,
        ..OpenFlags::default()
    };
    let node = image.node("dir/file");
    let flip = node.state.lock().identity().flip;
    let (handle, way) = image.fs.open_at(&node, flip, flags, &register).unwrap();
    assert!(matches!(way, Way::Direct(_)) || !is_new.get());
    (handle, is_new.get())
}

/// Opens and closes it.
fn registers(image: &TestImage) -> bool {
    let (handle, is_new) = opened(image, false);
    image.fs.release(handle);
    is_new
}

fn start_of(image: &TestImage, handle: u64) -> Result<Vec<u8>, Failure> {
    let mut buffer = [0; 6];
    let length = image.fs.read(handle, 0, &mut buffer)?;
    Ok(buffer[..length].to_vec())
}

#[test]
fn a_shared_file_that_is_opened_again_is_still_registered() {
    let image = TestImage::new();
    if !serve(&image) {
        return;
    }
    assert!(registers(&image));
    assert!(!registers(&image));
    // Beside one that is open, too.
    let (open, is_new) = opened(&image, false);
    assert!(!is_new && !registers(&image));
    image.fs.release(open);
    image.fs.close_kept();
    assert!(registers(&image) && !registers(&image));

    // Another mount does not know what the one before had registered.
    assert!(serve(&image));
    assert!(registers(&image) && !registers(&image));

    // An image's own file: the object is not what is read.
    let (writer, _) = opened(&image, true);
    image.fs.write(writer, 0, b"mine", SetId::Keep).unwrap();
    image.fs.release(writer);
    let (reader, is_new) = opened(&image, false);
    assert_eq!(start_of(&image, reader).unwrap(), b"mineed");
    assert!(is_new);
    image.fs.release(reader);
    assert!(registers(&image), "only objects are kept");
}

/// A file that the kernel has registered until this is dropped.
struct Hold {
    ledger: Arc<Ledger>,
    seen: Arc<Mutex<Option<usize>>>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        *self.seen.lock() = Some(handles_in(&self.ledger));
    }
}

fn handles_in(ledger: &Arc<Ledger>) -> usize {
    let handles = ledger.open_handles();
    let count = handles.len();
    // To drop one takes it out of the ledger.
    std::mem::forget(handles);
    count
}

/// A daemon killed in between left a handle of a file that the kernel did not know any more; the next one answered with
/// it, which the kernel told who opened the file as EIO.
#[test]
fn regression_a_handle_is_no_longer_noted_when_its_file_is_taken_back() {
    let image = TestImage::new();
    let ledger = Ledger::new().unwrap();
    if !serve_noted(&image, Some(ledger.clone())) {
        return;
    }
    let handle = image.writer(&image.node("dir/file"));
    image.fs.write(handle, 0, b"mine", SetId::Keep).unwrap();
    image.fs.release(handle);
    for write in [true, false] {
        let seen = Arc::new(Mutex::new(None));
        let register = |_: BorrowedFd<'_>| {
            let (ledger, seen) = (ledger.clone(), seen.clone());
            Ok(Registered::new(1, Arc::new(Hold { ledger, seen })))
        };
        let flags = OpenFlags {
            write,
            ..OpenFlags::default()
        };
        let node = image.node("dir/file");
        let (handle, way) = image.fs.open_at(&node, 0, flags, &register).unwrap();
        assert!(matches!(way, Way::Direct(_)));
        drop(way);
        assert_eq!(handles_in(&ledger), 1);
        assert_eq!(*seen.lock(), None);
        image.fs.release(handle);
        assert_eq!(*seen.lock(), Some(0));
    }
}

#[test]
fn an_object_that_was_altered_removed_or_mended_is_opened_again() {
    let image = TestImage::new();
    if !serve(&image) {
        return;
    }
    let content = &b"shared content"[..];
    let digest = Digest::of(content);
    let objects = image.store.path().join("objects");
    let object = objects.join(layout::object_name(&digest));
    let replace = || {
        let staged = image.store.stage("test").unwrap();
        std::fs::write(
            image
                .store
                .path()
                .join("staging")
                .join(staged.name())
                .join("new"),
            content,
        )
        .unwrap();
        let objects = image.store.objects();
        objects
            .replace(staged.directory(), b"new", &digest)
            .unwrap();
        staged.discard().unwrap();
    };
    assert!(registers(&image) && !registers(&image));

    // Cut off by somebody: nobody gets to read what is left.
    durable::truncate(
        std::fs::OpenOptions::new()
            .write(true)
            .open(&object)
            .unwrap(),
        3,
    )
    .unwrap();
    let node = image.node("dir/file");
    let refused = |_: BorrowedFd<'_>| -> std::io::Result<Registered> { unreachable!() };
    let flags = OpenFlags::default();
    let failure = image.fs.open_at(&node, 0, flags, &refused).unwrap_err();
    assert_eq!(failure.errno(), Errno::IO);
    std::fs::write(&object, content).unwrap();
    assert!(!registers(&image));

    // Removed and made again: it is another file.
    std::fs::remove_file(&object).unwrap();
    image.fs.open_at(&node, 0, flags, &refused).unwrap_err();
    replace();
    assert!(registers(&image) && !registers(&image));

    // Other bytes, as long: who reads it still is not given them once they are known to be wrong, nor
    // when a sound file has the name. Who opens it then reads that.
    let (reader, is_new) = opened(&image, false);
    assert!(!is_new);
    std::fs::write(&object, b"SHARED CONTENT").unwrap();
    image
        .store
        .objects()
        .verification()
        .is_damaged(&digest, "test");
    assert_eq!(start_of(&image, reader).unwrap_err().errno(), Errno::IO);
    image.fs.open_at(&node, 0, flags, &refused).unwrap_err();
    replace();
    assert_eq!(start_of(&image, reader).unwrap_err().errno(), Errno::IO);
    // The kernel looks the name up again.
    let stale = image.fs.open_at(&node, 0, flags, &refused).unwrap_err();
    assert_eq!(stale.errno(), Errno::STALE);
    let (later, _) = opened(&image, false);
    assert_eq!(start_of(&image, later).unwrap(), b"shared");
    image.fs.release(reader);
    image.fs.release(later);
}

#[test]
fn who_reads_past_the_kernel_reads_an_object_that_was_mended() {
    let image = TestImage::new();
    let content = &b"shared content"[..];
    let digest = Digest::of(content);
    let object = image
        .store
        .path()
        .join("objects")
        .join(layout::object_name(&digest));
    let node = image.node("dir/file");
    let handle = image.fs.open(&node, OpenFlags::default()).unwrap();
    std::fs::write(&object, b"SHARED CONTENT").unwrap();
    let staged = image.store.stage("test").unwrap();
    let path = image.store.path().join("staging").join(staged.name());
    std::fs::write(path.join("new"), content).unwrap();
    let objects = image.store.objects();
    objects
        .replace(staged.directory(), b"new", &digest)
        .unwrap();
    assert_eq!(start_of(&image, handle).unwrap(), b"shared");
    image.fs.release(handle);
}
