//! Every change of metadata, failing at each of its durable steps: nothing of it shows.

use std::collections::BTreeMap;

use super::*;
use crate::filesystem::test_image::{OLD, ROOT, TestImage, failing_at};
use crate::filesystem::xattrs::SetXattr;

type Operation = fn(&TestImage, &Arc<Node>) -> Outcome<()>;

const OPERATIONS: [(&str, Operation); 7] = [
    ("chmod", |image, node| {
        change(image, node, |changes| changes.mode = Some(0o601))
    }),
    ("chown", |image, node| {
        change(image, node, |changes| changes.uid = Some(7))
    }),
    ("utimensat", |image, node| {
        change(image, node, |changes| {
            let time = Time {
                seconds: 5,
                nanoseconds: 6,
            };
            (changes.atime, changes.mtime) = (Some(NewTime::Now), Some(NewTime::At(time)));
        })
    }),
    ("setxattr of a new one", |image, node| {
        set_xattr(image, node, b"user.new", b"value")
    }),
    ("setxattr of one that is there", |image, node| {
        set_xattr(image, node, b"user.kind", b"another value")
    }),
    ("setxattr of a large one", |image, node| {
        set_xattr(image, node, b"user.large", &[7; 1000])
    }),
    ("removexattr", |image, node| {
        image.fs.remove_xattr(node, b"user.kind")
    }),
];

const ERRORS: [Errno; 3] = [Errno::NOSPC, Errno::DQUOT, Errno::IO];

fn change(image: &TestImage, node: &Arc<Node>, what: fn(&mut Changes)) -> Outcome<()> {
    let mut changes = Changes::default();
    what(&mut changes);
    image.fs.set_attributes(node, &changes).map(drop)
}

fn set_xattr(image: &TestImage, node: &Arc<Node>, name: &[u8], value: &[u8]) -> Outcome<()> {
    image.fs.set_xattr(node, name, value, SetXattr::Any, &ROOT)
}

/// All that shows of a node, but for atime and blocks.
type Looks = (Attributes, BTreeMap<Vec<u8>, Vec<u8>>);

fn looks(fs: &Filesystem, node: &Arc<Node>) -> Outcome<Looks> {
    let attributes = Attributes {
        atime: OLD,
        blocks: 0,
        ..fs.attributes(node)?
    };
    let mut xattrs = BTreeMap::new();
    for name in fs.xattr_names(node, &ROOT)? {
        let value = fs.xattr(node, &name)?;
        xattrs.insert(name, value);
    }
    Ok((attributes, xattrs))
}

fn find(fs: &Filesystem, path: &str) -> Arc<Node> {
    let mut node = fs.root().clone();
    for name in path.split('/') {
        let found = fs.lookup(&node, name.as_bytes()).unwrap();
        node = fs.node(found.number).unwrap();
    }
    node
}

/// Each operation on each kind of node: shared, a stub, private, with several names, a directory.
#[test]
fn a_change_that_fails_at_any_step_leaves_everything_as_it_was() {
    let paths = ["dir/file", "twin", "sub", "dir/stub", "dir/empty", "dir"];
    for (index, (what, operation)) in OPERATIONS.into_iter().enumerate() {
        let image = TestImage::new();
        let directory = image.node("dir");
        let old = crate::filesystem::rename::Entry {
            parent: image.fs.root(),
            name: b"big",
        };
        let new = crate::filesystem::rename::Entry {
            parent: &directory,
            name: b"stub",
        };
        let flags = rustix::fs::RenameFlags::empty();
        image.fs.rename(old, new, flags, ROOT).unwrap();
        for path in paths {
            for step in 0.. {
                let error = ERRORS[(index + step) % ERRORS.len()];
                let node = image.node(path);
                let before = looks(&image.fs, &node).unwrap();
                let (outcome, reached) = failing_at(step, error, || operation(&image, &node));
                let about = format!("{what} of {path}, {error} at step {step}");
                let after = looks(&image.fs, &node).unwrap();
                assert_eq!(image.debris(), 0, "{about}");
                if !reached {
                    outcome.unwrap();
                    assert_ne!(before, after, "{about}");
                    break;
                }
                let failure = outcome.expect_err(&about);
                assert_eq!(failure.errno(), error, "{about}");
                assert_eq!(before, after, "{about}");
                let reopened = image.reopened();
                let again = looks(&reopened, &find(&reopened, path)).unwrap();
                assert_eq!(before, again, "{about}, after a remount");
            }
        }
    }
}
