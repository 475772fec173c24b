//! Tests of the catalog as a whole; what they have in common.

mod files;
mod images;
mod shared_layer;

use super::*;
use crate::error::ErrorKind;
use crate::store::digest::Digest;
use crate::store::metadata::{Content, Metadata, SharedInode, Time, Xattrs};
use crate::store::number::{FamilyId, ImageId, Number};

/// A directory with a catalog in it.
pub(super) struct Fixture(tempfile::TempDir);

impl Fixture {
    pub(super) fn new() -> Self {
        let fixture = Self(tempfile::tempdir().unwrap());
        Catalog::create(&fixture.path()).unwrap();
        fixture
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("catalog.db")
    }

    pub(super) fn open(&self) -> Catalog {
        Catalog::open(&self.path(), CatalogMode::Write).unwrap()
    }

    pub(super) fn open_for_reading(&self) -> Catalog {
        Catalog::open(&self.path(), CatalogMode::Read).unwrap()
    }

    /// SQLite without the catalog, to damage it.
    fn raw(&self) -> Connection {
        let connection = Connection::open(self.path()).unwrap();
        connection
            .execute_batch("PRAGMA ignore_check_constraints = ON; PRAGMA foreign_keys = OFF")
            .unwrap();
        connection
    }
}

fn number(value: u64) -> Number {
    Number::new(value).unwrap()
}

fn time(seconds: i64) -> Time {
    Time {
        seconds,
        nanoseconds: 999_999_999,
    }
}

fn inode(value: u64, content: Content) -> SharedInode {
    SharedInode {
        number: number(value),
        content,
        metadata: Metadata {
            mode: 0o4755,
            uid: 0,
            gid: u32::MAX,
            mtime: time(-5),
            xattrs: Xattrs::from([(Box::from(&b"user.\xff"[..]), Box::from(&b"value"[..]))]),
        },
        ctime: time(1 << 40),
        links: 1,
    }
}

fn file(value: u64, content: &[u8]) -> SharedInode {
    inode(
        value,
        Content::Regular {
            size: content.len() as u64,
            digest: (!content.is_empty()).then(|| Digest::of(content)),
        },
    )
}

const FAMILY: NewFamily<'static> = NewFamily {
    name: "debian",
    root: Number::FIRST,
    base: ImageId(0),
    os: "debian",
    os_version: "13",
    architecture: "x86_64",
    share: Share::Majority,
    created: 1_700_000_000,
    source: "/srv/debian",
};

/// Founds FAMILY with root directory 16.
fn found(catalog: &Catalog) -> (FamilyId, ImageId) {
    let base = catalog.reserve_image_id().unwrap();
    let transaction = catalog.transaction().unwrap();
    let family = transaction
        .create_family(&NewFamily { base, ..FAMILY })
        .unwrap();
    let root = inode(16, Content::Directory);
    transaction.insert_inode(family, &root).unwrap();
    transaction.commit().unwrap();
    (family, base)
}

fn guest(family: FamilyId, id: ImageId, name: &str) -> NewImage<'_> {
    NewImage {
        id,
        family,
        name,
        role: ImageRole::Guest,
        created: 5,
        source: "there",
    }
}
