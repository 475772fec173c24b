use super::*;
use crate::filesystem::Caller;
use crate::filesystem::open::OpenFlags;
use crate::filesystem::test_image::{OLD, TestImage, big};

const NONE: Changes = Changes {
    mode: None,
    uid: None,
    gid: None,
    size: None,
    atime: None,
    mtime: None,
    set_id: SetId::Keep,
};

const STRANGER: Caller = Caller {
    uid: 7,
    gid: 7,
    pid: 0,
};

#[test]
fn chmod_leaves_content_and_mtime_and_is_there_after_a_remount() {
    let image = TestImage::new();
    for (path, mode) in [("dir/file", 0o600), ("dir", 0o1700), ("twin", 0o4755)] {
        let node = image.node(path);
        let before = image.fs.attributes(&node).unwrap();
        let changes = Changes {
            mode: Some(mode),
            ..NONE
        };
        let after = image.fs.set_attributes(&node, &changes).unwrap();
        assert_eq!(after, image.fs.attributes(&node).unwrap());
        let expected = Attributes {
            mode,
            ctime: after.ctime,
            atime: after.atime,
            blocks: after.blocks,
            ..before
        };
        assert_eq!(after, expected, "{path}");
        assert!(after.ctime > before.ctime);
    }
    let content = image.node("dir/file");
    assert_eq!(image.fs.needs_promotion(&content).unwrap(), Some(14));
    let reopened = image.reopened();
    let found = reopened.lookup(reopened.root(), b"dir").unwrap();
    assert_eq!((found.mode, found.mtime), (0o1700, OLD));
    let root = Changes {
        mode: Some(0o711),
        ..NONE
    };
    let root = image.fs.set_attributes(image.fs.root(), &root).unwrap();
    assert_eq!((root.mode, root.mtime), (0o711, OLD));
}

#[test]
fn chown_clears_set_id_bits_as_on_the_host() {
    let image = TestImage::new();
    let node = image.node("dir/file");
    let changes = Changes {
        mode: Some(0o6755),
        ..NONE
    };
    image.fs.set_attributes(&node, &changes).unwrap();
    let changes = Changes {
        uid: Some(33),
        gid: Some(44),
        ..NONE
    };
    let after = image.fs.set_attributes(&node, &changes).unwrap();
    assert_eq!((after.uid, after.gid, after.mode), (33, 44, 0o755));
    let link = image.node("dir/link");
    let after = image.fs.set_attributes(&link, &changes).unwrap();
    assert_eq!((after.uid, after.file_type), (33, FileType::Symlink));
    assert_eq!(image.fs.attributes(&node).unwrap().uid, 33);
}

#[test]
fn times_are_set_to_the_nanosecond() {
    let image = TestImage::new();
    let time = Time {
        seconds: -5,
        nanoseconds: 999_999_999,
    };
    for path in ["dir/file", "dir", "dir/link", "twin"] {
        let node = image.node(path);
        let changes = Changes {
            mtime: Some(NewTime::At(time)),
            atime: Some(NewTime::At(OLD)),
            ..NONE
        };
        let after = image.fs.set_attributes(&node, &changes).unwrap();
        assert_eq!((after.mtime, after.atime), (time, OLD), "{path}");
        let changes = Changes {
            atime: Some(NewTime::Now),
            ..NONE
        };
        let after = image.fs.set_attributes(&node, &changes).unwrap();
        assert_eq!(after.mtime, time);
        assert!(after.atime > OLD);
    }
}

#[test]
fn truncation_keeps_the_beginning_and_growth_adds_zeros() {
    for size in [0, 1, 5000, 1 << 20, (1 << 20) + 10] {
        for open in [false, true] {
            let image = TestImage::new();
            let node = image.node("big");
            let flags = OpenFlags::default();
            let handle = open.then(|| image.fs.open(&node, flags).unwrap());
            let changes = Changes {
                size: Some(size),
                ..NONE
            };
            let after = image.fs.set_attributes(&node, &changes).unwrap();
            assert_eq!((after.size, after.number), (size, node.number));
            assert!(after.mtime > OLD && after.ctime > OLD);
            assert_eq!(after.mode, 0o644);
            let mut expected = big();
            expected.resize(size as usize, 0);
            assert_eq!(image.content(&node), expected);
            if let Some(handle) = handle {
                let mut buffer = vec![0; size as usize + 1];
                assert_eq!(
                    image.fs.read(handle, 0, &mut buffer).unwrap(),
                    size as usize
                );
                image.fs.release(handle);
            }
            assert!(node.state.lock().open.is_none());
            assert_eq!(image.debris(), 0);
        }
    }
}

#[test]
fn set_id_bits_go_with_a_change_of_content_if_asked() {
    let image = TestImage::new();
    for (mode, kept) in [(0o6755, 0o755), (0o2745, 0o745), (0o4644, 0o644)] {
        let node = image.node("dir/file");
        let changes = Changes {
            mode: Some(mode),
            ..NONE
        };
        image.fs.set_attributes(&node, &changes).unwrap();
        let changes = Changes {
            size: Some(3),
            set_id: SetId::ClearFor(STRANGER),
            ..NONE
        };
        let after = image.fs.set_attributes(&node, &changes).unwrap();
        assert_eq!(after.mode, kept, "{mode:o}");
    }
}

#[test]
fn what_cannot_be_changed_is_refused() {
    let image = TestImage::new();
    let size = Changes {
        size: Some(0),
        ..NONE
    };
    let refused = |path: &str, changes: &Changes| {
        let failure = image.fs.set_attributes(&image.node(path), changes);
        failure.unwrap_err().errno()
    };
    assert_eq!(refused("dir", &size), Errno::ISDIR);
    assert_eq!(refused("dir/link", &size), Errno::INVAL);
    let mode = Changes {
        mode: Some(0o600),
        ..NONE
    };
    assert_eq!(refused("dir/link", &mode), Errno::OPNOTSUPP);
    let huge = Changes {
        size: Some(u64::MAX),
        ..NONE
    };
    assert_eq!(refused("big", &huge), Errno::FBIG);
    assert_eq!(
        image.node("big").source(),
        crate::filesystem::node::Source::Shared(image.node("big").number)
    );
}

#[test]
fn a_chown_of_nothing_clears_set_id_bits_for_the_owner_only() {
    let image = TestImage::new();
    let node = image.node("dir/file");
    let by = |uid| Changes {
        set_id: SetId::ClearFor(Caller { uid, ..STRANGER }),
        ..NONE
    };
    let before = image.fs.attributes(&node).unwrap();
    let after = image.fs.set_attributes(&node, &by(7)).unwrap();
    assert!(after.ctime > before.ctime && after.mtime == OLD);
    let mode = Changes {
        mode: Some(0o6755),
        uid: Some(7),
        ..NONE
    };
    image.fs.set_attributes(&node, &mode).unwrap();
    let after = image.fs.set_attributes(&node, &by(8)).unwrap();
    assert_eq!(after.mode, 0o6755);
    let after = image.fs.set_attributes(&node, &by(7)).unwrap();
    assert_eq!(after.mode, 0o755);
    let mode = Changes {
        mode: Some(0o2745),
        ..NONE
    };
    image.fs.set_attributes(&node, &mode).unwrap();
    let after = image.fs.set_attributes(&node, &by(7)).unwrap();
    assert_eq!(after.mode, 0o745);
}
