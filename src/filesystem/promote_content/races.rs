//! What happens to a file while its content is being promoted, step by step and by luck.

use super::*;
use crate::filesystem::data::SetId;
use crate::filesystem::open::OpenFlags;
use crate::filesystem::rename::Entry;
use crate::filesystem::set_attributes::Changes;
use crate::filesystem::test_image::{OLD, ROOT, TestImage, big};

/// A promotion that stops before it is published, for something else to come between.
fn promote_around(image: &TestImage, node: &Arc<Node>, between: impl FnOnce()) {
    let _writer = image.fs.writer(node);
    let content = node.content.lock();
    let stub = image.fs.stub_to_promote(node).unwrap().unwrap();
    let object = image.fs.open_to_read(node).unwrap();
    let Backing::Object { size, .. } = object.backing else {
        panic!("no object");
    };
    let (draft, file) = Draft::file(&image.fs.view.layer).unwrap();
    copy::copy(object.file.as_fd(), file.as_fd(), size).unwrap();
    let build = Build {
        draft,
        file,
        kept: size,
        size: None,
    };
    build.describe(node, &stub).unwrap();
    between();
    let open = image.fs.publish(node, build, &stub).unwrap();
    assert_eq!(open.backing, Backing::Writable);
    drop(content);
    assert_eq!(image.debris(), 0);
}

#[test]
fn unlinked_meanwhile() {
    let image = TestImage::new();
    for path in ["big", "twin"] {
        let node = image.node(path);
        let handle = image.writer(&node);
        promote_around(&image, &node, || {
            image.fs.unlink(image.fs.root(), path.as_bytes()).unwrap();
        });
        if path == "big" {
            assert!(matches!(node.place(), Place::Unlinked));
        }
        image.fs.write(handle, 0, b"X", SetId::Keep).unwrap();
        assert_eq!(image.content(&node)[..1], *b"X");
        assert!(image.fs.lookup(image.fs.root(), path.as_bytes()).is_err());
        image.fs.release(handle);
    }
    assert_eq!(image.content(&image.node("dir/twin")), b"Xwin");
}

#[test]
fn renamed_linked_and_replaced_meanwhile() {
    let image = TestImage::new();
    let root = image.fs.root();
    let node = image.node("big");
    let sub = image.node("sub");
    promote_around(&image, &node, || {
        let old = Entry {
            parent: root,
            name: b"big",
        };
        let new = Entry {
            parent: &sub,
            name: b"moved",
        };
        image
            .fs
            .rename(old, new, RenameFlags::empty(), ROOT)
            .unwrap();
        image.make(root, "big", b"another");
    });
    assert_eq!(image.content(&image.node("sub/moved")), big());
    assert_eq!(image.content(&image.node("big")), b"another");
    assert_eq!(image.fs.attributes(&node).unwrap().mtime, OLD);

    let node = image.node("dir/file");
    promote_around(&image, &node, || {
        image.fs.link(&node, root, b"linked").unwrap();
    });
    let handle = image.writer(&node);
    image.fs.write(handle, 0, b"S", SetId::Keep).unwrap();
    image.fs.release(handle);
    assert_eq!(image.content(&image.node("linked")), b"Shared content");
    assert_eq!(image.content(&image.node("dir/file")), b"Shared content");
    assert_eq!(image.fs.attributes(&node).unwrap().links, 2);

    let node = image.node("twin");
    let handle = image.writer(&node);
    promote_around(&image, &node, || {
        for (parent, name) in [(root, "twin"), (&image.node("dir"), "twin")] {
            image.make(&sub, "new", b"new");
            let old = Entry {
                parent: &sub,
                name: b"new",
            };
            let new = Entry {
                parent,
                name: name.as_bytes(),
            };
            image
                .fs
                .rename(old, new, RenameFlags::empty(), ROOT)
                .unwrap();
        }
    });
    assert_eq!(image.content(&image.node("dir/twin")), b"new");
    assert_eq!(image.content(&node), b"twin");
    assert_eq!(image.fs.attributes(&node).unwrap().links, 0);
    image.fs.release(handle);
}

#[test]
fn an_open_waits_for_nothing() {
    let image = TestImage::new();
    let node = image.node("big");
    let content = node.content.lock();
    let handle = image.writer(&node);
    assert_eq!(
        image.fs.handle_needs_promotion(handle).unwrap(),
        Some(1 << 20)
    );
    std::thread::scope(|scope| {
        let written = scope.spawn(|| image.fs.write(handle, 0, b"x", SetId::Keep));
        assert_eq!(image.content(&node), big());
        drop(content);
        assert_eq!(written.join().unwrap().unwrap(), 1);
    });
    assert_eq!(image.content(&node)[..1], *b"x");
    image.fs.release(handle);
}

#[test]
fn everything_at_once() {
    let expected = big();
    for round in 0..12u64 {
        let image = TestImage::new();
        let root = image.fs.root();
        let node = image.node("big");
        let sub = image.node("sub");
        std::thread::scope(|scope| {
            for thread in 0..3u64 {
                let (image, node, expected) = (&image, &node, &expected);
                scope.spawn(move || {
                    for step in 0..10 {
                        let handle = image.writer(node);
                        let offset = (round * 7919 + thread * 31 + step) % 1_000_000;
                        let at = offset as usize;
                        let bytes = &expected[at..at + 100];
                        image.fs.write(handle, offset, bytes, SetId::Keep).unwrap();
                        let mut buffer = [0; 100];
                        image.fs.read(handle, offset, &mut buffer).unwrap();
                        assert_eq!(buffer, bytes);
                        image.fs.sync_file(handle, true).unwrap();
                        image.fs.release(handle);
                    }
                });
            }
            scope.spawn(|| {
                let (mut here, mut there) = ((root, &b"big"[..]), (&sub, &b"moved"[..]));
                for step in 0..10 {
                    let entry = |(parent, name)| Entry { parent, name };
                    let (old, new) = (entry(here), entry(there));
                    image
                        .fs
                        .rename(old, new, RenameFlags::empty(), ROOT)
                        .unwrap();
                    std::mem::swap(&mut here, &mut there);
                    let mode = Changes {
                        mode: Some(0o600 + step),
                        ..Changes::default()
                    };
                    image.fs.set_attributes(&node, &mode).unwrap();
                }
            });
            let reader = image.fs.open(&node, OpenFlags::default()).unwrap();
            let mut buffer = vec![0; 1 << 20];
            for _ in 0..3 {
                image.fs.read(reader, 0, &mut buffer).unwrap();
                assert!(buffer == expected);
            }
            image.fs.release(reader);
        });
        assert!(node.state.lock().open.is_none());
        assert_eq!(image.fs.attributes(&node).unwrap().mode, 0o611);
        assert!(image.content(&node) == expected);
        assert_eq!(image.debris(), 0);
    }
}
