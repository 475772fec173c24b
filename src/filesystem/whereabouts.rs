//! From the number of a private file to where it lies, for background work: without reading anything
//! of the host as long as somebody refers to the file, or it has several names.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Filesystem;
use super::node::{Node, Place, Source};
use crate::merge::private_directories::PrivatePath;
use crate::store::metadata::FileType;
use crate::store::number::Number;

/// Where a file lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whereabouts {
    /// It is this name of the private layer.
    At(PrivatePath),
    /// `index/NUMBER`.
    InIndex,
    /// Somebody writes to it.
    InUse,
    /// It is no private regular file with a name.
    Nowhere,
    /// Nobody refers to it: it is to be looked for.
    Unknown,
}

impl Filesystem {
    /// Where the private regular file of a number lies now.
    pub fn whereabouts(&self, number: Number) -> Whereabouts {
        let _names = self.names.read();
        let Some(node) = self.table.get(number) else {
            return match self.view.is_indexed(number) {
                true => Whereabouts::InIndex,
                false => Whereabouts::Unknown,
            };
        };
        let found = whereabouts_of(&node);
        self.done(node);
        found
    }
}

fn whereabouts_of(node: &Arc<Node>) -> Whereabouts {
    if node.file_type != FileType::Regular || node.source() != Source::Private {
        return Whereabouts::Nowhere;
    }
    if node.writers.load(Ordering::SeqCst) > 0 {
        return Whereabouts::InUse;
    }
    let mut path = PrivatePath::new();
    let mut place = node.place();
    loop {
        match place {
            Place::Entry { parent, name } => {
                path.push(name);
                place = parent.place();
            }
            Place::Root => {
                path.reverse();
                return Whereabouts::At(path);
            }
            Place::Index => return Whereabouts::InIndex,
            Place::Unlinked => return Whereabouts::Nowhere,
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::RenameFlags;

    use super::super::altered::Altered;
    use super::super::data::SetId;
    use super::super::rename::Entry;
    use super::super::test_image::{ROOT, TestImage};
    use super::*;

    fn at(names: &[&str]) -> Whereabouts {
        Whereabouts::At(names.iter().map(|name| name.as_bytes().into()).collect())
    }

    #[test]
    fn a_file_is_found_for_as_long_as_it_has_a_name() {
        let image = TestImage::new();
        let (fs, root) = (&image.fs, image.fs.root());
        let node = image.make(root, "own", b"content");
        assert_eq!(fs.whereabouts(node.number), at(&["own"]));

        let sub = image.node("sub");
        let old = Entry {
            parent: root,
            name: b"own",
        };
        let new = Entry {
            parent: &sub,
            name: b"moved",
        };
        fs.rename(old, new, RenameFlags::empty(), ROOT).unwrap();
        assert_eq!(fs.whereabouts(node.number), at(&["sub", "moved"]));

        let handle = image.writer(&node);
        assert_eq!(fs.whereabouts(node.number), Whereabouts::InUse);
        fs.release(handle);
        assert_eq!(fs.whereabouts(node.number), at(&["sub", "moved"]));

        fs.link(&node, root, b"again").unwrap();
        assert_eq!(fs.whereabouts(node.number), Whereabouts::InIndex);
        fs.unlink(root, b"again").unwrap();
        fs.unlink(&sub, b"moved").unwrap();
        assert_eq!(fs.whereabouts(node.number), Whereabouts::Nowhere);
        assert_eq!(
            fs.whereabouts(image.node("big").number),
            Whereabouts::Nowhere,
            "it is shared"
        );
        let unheard_of = Number::new(1 << 50).unwrap();
        assert_eq!(fs.whereabouts(unheard_of), Whereabouts::Unknown);
    }

    #[test]
    fn what_was_written_to_is_noted_until_it_has_no_name() {
        let image = TestImage::new();
        let (fs, root) = (&image.fs, image.fs.root());
        let noted = || fs.change.notes().altered.take();
        assert_eq!(noted(), Altered::All, "nobody knows");

        let node = image.node("big");
        let handle = image.writer(&node);
        fs.write(handle, 0, b"X", SetId::Keep).unwrap();
        assert!(noted().is_empty(), "not while it is written to");
        fs.release(handle);
        assert_eq!(noted(), Altered::Numbers(vec![node.number]));

        image.content(&node);
        assert!(noted().is_empty(), "reading alters nothing");

        let made = image.make(root, "made", b"content");
        fs.unlink(root, b"made").unwrap();
        assert!(noted().is_empty());
        let made_again = image.make(root, "made", b"content");
        let handle = image.writer(&made_again);
        fs.unlink(root, b"made").unwrap();
        fs.release(handle);
        assert!(noted().is_empty());
        assert_ne!(made.number, made_again.number);
    }
}
