use super::*;
use crate::filesystem::attributes::Attributes;
use crate::filesystem::data::SetId;
use crate::filesystem::open::OpenFlags;
use crate::filesystem::set_attributes::Changes;
use crate::filesystem::test_image::{OLD, TestImage, big, failing_at};

const WRITE: OpenFlags = OpenFlags {
    write: true,
    truncate: false,
    set_id: SetId::Keep,
    execute: false,
    request: 0,
};

/// All but atime, which a look changes, and blocks, which promotion may change.
fn lasting(image: &TestImage, node: &Arc<Node>) -> Attributes {
    let attributes = image.fs.attributes(node).unwrap();
    Attributes {
        atime: OLD,
        blocks: 0,
        ..attributes
    }
}

/// Fails each step in turn, of a promotion of another file each time.
fn fail_each_step(image: &TestImage, prefix: &str, first: usize, size: Option<u64>) {
    let spares = image.node("spares");
    for step in 0.. {
        let path = format!("spares/{prefix}{}", first + step);
        let error = [Errno::NOSPC, Errno::IO][step % 2];
        let node = image.node(&path);
        let before = lasting(image, &node);
        let content = image.content(&node);
        let parent = lasting(image, &spares);
        let handle = image.fs.open(&node, WRITE).unwrap();
        let (outcome, reached) = failing_at(step, error, || match size {
            None => image.fs.write(handle, 0, b"X", SetId::Keep).map(|_| ()),
            size => {
                let changes = Changes {
                    size,
                    ..Changes::default()
                };
                image.fs.set_attributes(&node, &changes).map(|_| ())
            }
        });
        image.fs.release(handle);
        assert_eq!(lasting(image, &spares), parent, "{path}");
        assert_eq!(image.debris(), 0, "{path}");
        if !reached {
            outcome.unwrap();
            assert_ne!(image.content(&node), content);
            return;
        }
        // Keeping the parent's times or clearing up may fail without consequence.
        let Err(failure) = outcome else { continue };
        assert_eq!(failure.errno(), error);
        assert_eq!(image.content(&node), content, "{path}");
        let after = lasting(image, &node);
        if after.ctime == before.ctime {
            assert_eq!(after, before, "{path}");
        } else {
            // The last step, the write itself: shown times are dropped before it.
            assert_eq!(after.mtime, before.mtime, "{path}");
        }
        let reopened = image.reopened();
        let found = reopened.lookup(reopened.root(), b"spares").unwrap();
        let spares = reopened.node(found.number).unwrap();
        let name = path.rsplit('/').next().unwrap();
        let found = reopened.lookup(&spares, name.as_bytes()).unwrap();
        let same = (found.size, found.number, found.links);
        assert_eq!(same, (before.size, before.number, before.links));
    }
}

#[test]
fn a_promotion_that_fails_at_any_step_leaves_the_file_as_it_was() {
    let image = TestImage::new();
    fail_each_step(&image, "", 0, None);
    fail_each_step(&image, "", 50, Some(5000));
    fail_each_step(&image, "a", 0, None);
    fail_each_step(&image, "a", 50, Some(0));
}

#[test]
fn a_missing_or_short_object_is_an_error_and_never_wrong_bytes() {
    let image = TestImage::new();
    let node = image.node("dir/file");
    let digest = Digest::of(b"shared content");
    let name = crate::store::layout::object_name(&digest);
    let objects = image.store.objects().directory();
    let flags = OFlags::RDWR;
    let object = fs::openat(objects, &*name, flags, fs::Mode::empty()).unwrap();
    fs::ftruncate(&object, 5).unwrap();
    let failure = image.fs.open(&node, WRITE).unwrap_err();
    assert_eq!(failure.errno(), Errno::IO);
    image.store.objects().remove(&digest).unwrap();
    let failure = image.fs.open(&node, OpenFlags::default()).unwrap_err();
    assert_eq!(failure.errno(), Errno::IO);
    assert_eq!(node.state.lock().handles, 0);
    // Truncation needs none of it.
    let flags = OpenFlags {
        write: true,
        truncate: true,
        set_id: SetId::Keep,
        execute: false,
        request: 0,
    };
    let handle = image.fs.open(&node, flags).unwrap_err();
    assert_eq!(handle.errno(), Errno::IO);
}

#[test]
fn metadata_that_changes_during_a_promotion_is_kept() {
    let image = TestImage::new();
    let node = image.node("big");
    let _writer = image.fs.writer(&node);
    let content = node.content.lock();
    let stub = image.fs.stub_to_promote(&node).unwrap().unwrap();
    let (draft, file) = Draft::file(&image.fs.view.layer).unwrap();
    let build = Build {
        draft,
        file,
        kept: 0,
        size: None,
    };
    build.describe(&node, &stub).unwrap();
    let changes = Changes {
        mode: Some(0o4750),
        uid: Some(7),
        ..Changes::default()
    };
    let changed = image.fs.set_attributes(&node, &changes).unwrap();
    let caller = &crate::filesystem::test_image::ROOT;
    let any = crate::filesystem::xattrs::SetXattr::Any;
    image
        .fs
        .set_xattr(&node, b"user.new", b"1", any, caller)
        .unwrap();
    image.fs.remove_xattr(&node, b"user.kind").unwrap();
    image.fs.publish(&node, build, &stub).unwrap();
    drop(content);
    let after = image.fs.attributes(&node).unwrap();
    assert_eq!((after.mode, after.uid), (0o4750, 7));
    assert_eq!(after.mtime, OLD);
    assert!(after.ctime >= changed.ctime);
    let names = image.fs.xattr_names(&node, caller).unwrap();
    assert_eq!(names, [b"user.new"]);
}

#[test]
fn an_empty_shared_file_is_promoted_without_an_object() {
    let image = TestImage::new();
    let node = image.node("dir/empty");
    let reader = image.fs.open(&node, OpenFlags::default()).unwrap();
    let writer = image.fs.open(&node, WRITE).unwrap();
    image.fs.write(writer, 2, b"x", SetId::Keep).unwrap();
    let mut buffer = [9; 4];
    assert_eq!(image.fs.read(reader, 0, &mut buffer).unwrap(), 3);
    assert_eq!(buffer[..3], [0, 0, b'x']);
    assert!(image.fs.attributes(&node).unwrap().mtime > OLD);
    image.fs.release(writer);
    image.fs.release(reader);
}

#[test]
fn all_names_of_a_file_are_promoted_at_once() {
    let image = TestImage::new();
    let node = image.node("twin");
    let other = image.node("dir/twin");
    assert!(Arc::ptr_eq(&node, &other));
    let handle = image.fs.open(&node, WRITE).unwrap();
    image.fs.write(handle, 0, b"T", SetId::Keep).unwrap();
    image.fs.release(handle);
    let reopened = image.reopened();
    for (parent, name) in [("", "twin"), ("dir", "twin")] {
        let mut directory = reopened.root().clone();
        if !parent.is_empty() {
            let found = reopened.lookup(&directory, parent.as_bytes()).unwrap();
            directory = reopened.node(found.number).unwrap();
        }
        let found = reopened.lookup(&directory, name.as_bytes()).unwrap();
        assert_eq!((found.number, found.links), (node.number, 2));
        let file = reopened.node(found.number).unwrap();
        let handle = reopened.open(&file, OpenFlags::default()).unwrap();
        let mut buffer = [0; 4];
        reopened.read(handle, 0, &mut buffer).unwrap();
        assert_eq!(&buffer, b"Twin");
        reopened.release(handle);
    }
}

#[test]
fn readers_and_others_go_on_during_a_promotion() {
    let image = TestImage::new();
    let node = image.node("big");
    let reader = image.fs.open(&node, OpenFlags::default()).unwrap();
    let writer = image.fs.open(&node, WRITE).unwrap();
    let expected = big();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                image
                    .fs
                    .write(writer, 0, &[expected[0]], SetId::Keep)
                    .unwrap();
            });
        }
        let mut buffer = vec![0; 4096];
        for round in 0..500u64 {
            let offset = round * 16000 % (1 << 20);
            let length = image.fs.read(reader, offset, &mut buffer).unwrap();
            let start = offset as usize;
            assert_eq!(buffer[..length], expected[start..start + length]);
            image.fs.attributes(&node).unwrap();
            image.fs.lookup(image.fs.root(), b"twin").unwrap();
        }
    });
    image.fs.release(reader);
    image.fs.release(writer);
    assert_eq!(image.content(&node), expected);
}
