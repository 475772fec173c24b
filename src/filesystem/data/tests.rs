use super::*;
use crate::filesystem::node::Source;
use crate::filesystem::open::OpenFlags;
use crate::filesystem::set_attributes::Changes;
use crate::filesystem::test_image::{OLD, ROOT, TestImage, big};
use crate::filesystem::xattrs::SetXattr;
use crate::sys::lease::ReadLease;

fn read(image: &TestImage, handle: u64) -> Vec<u8> {
    let mut buffer = vec![0; 2 << 20];
    let length = image.fs.read(handle, 0, &mut buffer).unwrap();
    buffer.truncate(length);
    buffer
}

fn refused<T>(outcome: Outcome<T>) -> Errno {
    match outcome {
        Ok(_) => panic!("it is done"),
        Err(failure) => failure.errno(),
    }
}

#[test]
fn shared_files_read_as_they_are() {
    let image = TestImage::new();
    assert_eq!(image.content(&image.node("dir/file")), b"shared content");
    assert_eq!(image.content(&image.node("dir/empty")), b"");
    assert_eq!(image.fs.open_handles(), 0);
}

#[test]
fn the_first_write_promotes_and_every_handle_sees_it() {
    let image = TestImage::new();
    let node = image.node("dir/file");
    let before = image.fs.attributes(&node).unwrap();
    let reader = image.fs.open(&node, OpenFlags::default()).unwrap();
    let writer = image.writer(&node);
    assert_eq!(image.fs.attributes(&node).unwrap(), before);
    assert_eq!(image.fs.handle_needs_promotion(writer).unwrap(), Some(14));

    let written = image.fs.write(writer, 7, b"CONTENT", SetId::Keep).unwrap();
    assert_eq!(written, 7);
    assert_eq!(image.fs.handle_needs_promotion(writer).unwrap(), None);
    assert_eq!(read(&image, reader), b"shared CONTENT");
    let after = image.fs.attributes(&node).unwrap();
    assert_eq!(after.number, before.number);
    assert!(after.mtime > OLD && after.ctime > OLD, "{after:?}");
    image.fs.release(writer);
    assert_eq!(read(&image, reader), b"shared CONTENT");
    image.fs.release(reader);
    assert!(node.state.lock().open.is_none());
    assert_eq!(image.content(&node), b"shared CONTENT");
    assert_eq!(image.debris(), 0);
}

#[test]
fn opening_for_writing_alone_promotes_nothing() {
    let image = TestImage::new();
    let node = image.node("big");
    let handle = image.writer(&node);
    image.fs.write(handle, 0, b"", SetId::Keep).unwrap();
    image.fs.sync_file(handle, false).unwrap();
    image.fs.release(handle);
    assert_eq!(node.source(), Source::Shared(node.number));
}

#[test]
fn a_handle_is_for_what_it_was_opened_for() {
    let image = TestImage::new();
    let node = image.node("dir/file");
    let reader = image.fs.open(&node, OpenFlags::default()).unwrap();
    let keep = SetId::Keep;
    assert_eq!(refused(image.fs.write(reader, 0, b"x", keep)), Errno::BADF);
    let fallocate = image.fs.fallocate(reader, 0, 0, 1, keep);
    assert_eq!(refused(fallocate), Errno::BADF);
    let list = image.fs.read_directory(&node, 0, &mut |_| true);
    assert_eq!(refused(list), Errno::NOTDIR);
    image.fs.release(reader);
    assert_eq!(refused(image.fs.read(reader, 0, &mut [0])), Errno::BADF);
    let flags = OpenFlags::default();
    assert_eq!(
        refused(image.fs.open(&image.node("dir"), flags)),
        Errno::ISDIR
    );
    let link = image.node("dir/link");
    assert_eq!(refused(image.fs.open(&link, flags)), Errno::LOOP);
    image.fs.release(12345);
}

#[test]
fn no_descriptor_stays_open_for_writing_behind_the_last_writer() {
    let image = TestImage::new();
    let node = image.node("dir/file");
    let reader = image.fs.open(&node, OpenFlags::default()).unwrap();
    let (first, second) = (image.writer(&node), image.writer(&node));
    image.fs.write(first, 0, b"S", SetId::Keep).unwrap();
    let lease = || {
        let _names = image.fs.names.read();
        let host = image.fs.host(&node).unwrap().unwrap();
        let flags = rustix::fs::OFlags::RDONLY;
        let file = crate::filesystem::open::open_private(&image.fs, &host, flags).unwrap();
        ReadLease::take(file).unwrap()
    };
    assert!(lease().is_none());
    image.fs.release(first);
    assert!(lease().is_none());
    image.fs.release(second);
    assert!(lease().is_some());
    assert_eq!(read(&image, reader), b"Shared content");
    assert!(lease().is_some());
    image.fs.release(reader);
}

#[test]
fn a_lease_holds_an_open_for_writing_up_until_it_is_given_back() {
    crate::sys::lease::ignore_break_signal();
    let image = TestImage::new();
    let node = image.make(image.fs.root(), "own", b"own");
    let lease = {
        let _names = image.fs.names.read();
        let host = image.fs.host(&node).unwrap().unwrap();
        let flags = rustix::fs::OFlags::RDONLY;
        let file = crate::filesystem::open::open_private(&image.fs, &host, flags).unwrap();
        ReadLease::take(file).unwrap().unwrap()
    };
    std::thread::scope(|scope| {
        let opened = scope.spawn(|| image.writer(&node));
        while !lease.is_breaking() {
            std::thread::yield_now();
        }
        drop(lease);
        image.fs.release(opened.join().unwrap());
    });
}

#[test]
fn truncation_at_open_copies_nothing() {
    let image = TestImage::new();
    let node = image.node("big");
    let reader = image.fs.open(&node, OpenFlags::default()).unwrap();
    let flags = OpenFlags {
        write: true,
        truncate: true,
        set_id: SetId::Keep,
        execute: false,
        request: 0,
    };
    let writer = image.fs.open(&node, flags).unwrap();
    assert_eq!(read(&image, reader), b"");
    assert_eq!(image.fs.attributes(&node).unwrap().size, 0);
    image.fs.write(writer, 3, b"x", SetId::Keep).unwrap();
    assert_eq!(read(&image, reader), b"\0\0\0x");
    image.fs.release(writer);
    image.fs.release(reader);
}

#[test]
fn unlinked_files_are_read_and_written_and_then_gone() {
    let image = TestImage::new();
    let root = image.fs.root();
    image.make(root, "own", b"own");
    for path in ["big", "twin", "own", "dir/twin", "dir/file"] {
        let node = image.node(path);
        let handle = image.writer(&node);
        let before = read(&image, handle);
        let (parent, name) = match path.split_once('/') {
            Some((parent, name)) => (image.node(parent), name),
            None => (root.clone(), path),
        };
        image.fs.unlink(&parent, name.as_bytes()).unwrap();
        assert_eq!(read(&image, handle), before);
        let mode = Changes {
            mode: Some(0o600),
            ..Changes::default()
        };
        assert_eq!(image.fs.set_attributes(&node, &mode).unwrap().mode, 0o600);
        image.fs.write(handle, 0, b"!", SetId::Keep).unwrap();
        let mut expected = before;
        expected[0] = b'!';
        assert_eq!(read(&image, handle), expected, "{path}");
        let size = Changes {
            size: Some(2),
            ..Changes::default()
        };
        image.fs.set_attributes(&node, &size).unwrap();
        image.fs.sync_file(handle, false).unwrap();
        assert_eq!(read(&image, handle), expected[..2]);
        image.fs.release(handle);
        let number = node.number;
        drop(node);
        image.fs.forget(number, 10);
    }
    let orphans = image.fs.view.layer.orphans();
    assert!(crate::store::layer::names_in(orphans).unwrap().is_empty());
}

#[test]
fn fallocate_knows_the_modes_of_the_host() {
    let image = TestImage::new();
    let node = image.node("big");
    let handle = image.writer(&node);
    let size = 1 << 20;
    let fallocate = |mode: i32, offset, length| {
        let mode = mode as u32;
        image
            .fs
            .fallocate(handle, mode, offset, length, SetId::Keep)
    };
    assert_eq!(refused(fallocate(0x4000, 0, 1)), Errno::OPNOTSUPP);
    assert_eq!(refused(fallocate(0, 0, 0)), Errno::INVAL);
    assert_eq!(refused(fallocate(0, u64::MAX, 2)), Errno::FBIG);
    assert_eq!(node.source(), Source::Shared(node.number));
    fallocate(libc::FALLOC_FL_KEEP_SIZE, size, 8192).unwrap();
    assert_eq!(image.fs.attributes(&node).unwrap().size, size);
    assert!(image.fs.attributes(&node).unwrap().mtime > OLD);
    fallocate(0, size, 8192).unwrap();
    assert_eq!(image.fs.attributes(&node).unwrap().size, size + 8192);
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    fallocate(punch, 4096, 8192).unwrap();
    fallocate(libc::FALLOC_FL_ZERO_RANGE, 0, 10).unwrap();
    let mut expected = big();
    expected.resize(size as usize + 8192, 0);
    expected[4096..12288].fill(0);
    expected[..10].fill(0);
    assert_eq!(read(&image, handle), expected);
    assert_eq!(image.fs.seek(handle, 0, Seek::Hole).unwrap(), 4096);
    assert_eq!(image.fs.seek(handle, 4096, Seek::Data).unwrap(), 12288);
    let beyond = image.fs.seek(handle, 1 << 30, Seek::Data);
    assert_eq!(refused(beyond), Errno::NXIO);
    assert_eq!(
        refused(image.fs.seek(handle, u64::MAX, Seek::Hole)),
        Errno::NXIO
    );
    image.fs.release(handle);
}

#[test]
fn ranges_are_copied_between_files_and_within_one() {
    let image = TestImage::new();
    let source = image.fs.open(&image.node("big"), OpenFlags::default());
    let source = source.unwrap();
    let node = image.node("dir/file");
    let target = image.writer(&node);
    let copy = |from, to, length| image.fs.copy_range(from, to, length, SetId::Keep);
    assert_eq!(copy((source, 5 << 20), (target, 0), 10).unwrap(), 0);
    assert_eq!(node.source(), Source::Shared(node.number));
    assert_eq!(copy((source, 100), (target, 7), 5000).unwrap(), 5000);
    let mut expected = b"shared ".to_vec();
    expected.extend_from_slice(&big()[100..5100]);
    assert_eq!(read(&image, target), expected);
    assert_eq!(copy((target, 0), (target, 6000), 10).unwrap(), 10);
    expected.resize(6000, 0);
    expected.extend_from_within(..10);
    assert_eq!(read(&image, target), expected);
    assert_eq!(refused(copy((target, 0), (target, 5), 10)), Errno::INVAL);
    assert_eq!(refused(copy((target, 0), (source, 5), 10)), Errno::BADF);
    let twin = image.node("twin");
    let handle = image.writer(&twin);
    assert_eq!(copy((handle, 0), (handle, 4), 100).unwrap(), 4);
    assert_eq!(read(&image, handle), b"twintwin");
    for handle in [source, target, handle] {
        image.fs.release(handle);
    }
}

#[test]
fn a_change_of_content_takes_privileges_away() {
    let image = TestImage::new();
    let node = image.node("dir/file");
    let stranger = crate::filesystem::Caller {
        uid: 7,
        gid: 7,
        pid: 0,
    };
    let capability = b"security.capability";
    let mode = Changes {
        mode: Some(0o6755),
        ..Changes::default()
    };
    // VFS_CAP_REVISION_2, cap_net_raw+ep
    let mut value = [0u8; 20];
    value[..6].copy_from_slice(&[1, 0, 0, 2, 0, 0x20]);
    for (set_id, kept) in [(SetId::Keep, 0o6755), (SetId::ClearFor(stranger), 0o755)] {
        image.fs.set_attributes(&node, &mode).unwrap();
        image
            .fs
            .set_xattr(&node, capability, &value, SetXattr::Any, &ROOT)
            .unwrap();
        let handle = image.writer(&node);
        assert_eq!(image.fs.xattr(&node, capability).unwrap(), value);
        image.fs.write(handle, 0, b"S", set_id).unwrap();
        image.fs.release(handle);
        assert_eq!(refused(image.fs.xattr(&node, capability)), Errno::NODATA);
        assert_eq!(image.fs.attributes(&node).unwrap().mode, kept);
    }
}

#[test]
fn syncing_reaches_files_directories_and_what_has_several_names() {
    let image = TestImage::new();
    let root = image.fs.root();
    let own = image.make(root, "own", b"own");
    image.fs.link(&own, &image.node("dir"), b"own too").unwrap();
    for path in ["own", "twin", "dir/file", "dir/empty"] {
        let handle = image.writer(&image.node(path));
        image.fs.sync_file(handle, true).unwrap();
        image.fs.write(handle, 0, b"1", SetId::Keep).unwrap();
        image.fs.sync_file(handle, true).unwrap();
        image.fs.sync_file(handle, false).unwrap();
        image.fs.release(handle);
    }
    for path in ["", "dir", "sub"] {
        let node = image.node(path);
        image.fs.sync_directory(&node).unwrap();
        image.fs.sync_directory(&node).unwrap();
    }
}

#[test]
fn the_image_has_the_space_of_its_host() {
    let image = TestImage::new();
    let space = image.fs.space().unwrap();
    assert_eq!(space.name_max, 255);
    assert!(space.blocks > space.blocks_free && space.fragment_size > 0);
}
