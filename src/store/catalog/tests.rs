//! Tests of the catalog as a whole.

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

fn contents() -> Vec<Content> {
    vec![
        Content::Directory,
        Content::Regular {
            size: 0,
            digest: None,
        },
        Content::Regular {
            size: 1 << 62,
            digest: Some(Digest::of(b"x")),
        },
        Content::Symlink {
            target: b"\xff/..".as_slice().into(),
        },
        Content::CharDevice { rdev: 0x1_0005 },
        Content::BlockDevice {
            rdev: u64::MAX >> 1,
        },
        Content::Fifo,
        Content::Socket,
    ]
}

#[test]
fn inodes_of_every_type_come_back_as_they_were() {
    let fixture = Fixture::new();
    let catalog = fixture.open();
    let (family, _) = found(&catalog);
    let transaction = catalog.transaction().unwrap();
    let mut all = Vec::new();
    for (index, content) in contents().into_iter().enumerate() {
        let inode = inode(100 + index as u64, content);
        transaction.insert_inode(family, &inode).unwrap();
        let name = [200 + index as u8];
        transaction
            .insert_entry(Number::FIRST, &name, inode.number)
            .unwrap();
        assert_eq!(
            transaction.lookup(Number::FIRST, &name).unwrap(),
            Some(inode.clone())
        );
        all.push((Box::from(&name[..]), inode));
    }
    assert_eq!(catalog.inode(number(100)).unwrap(), None);
    transaction.commit().unwrap();
    for (_, inode) in &all {
        assert_eq!(catalog.inode(inode.number).unwrap().as_ref(), Some(inode));
    }
    assert_eq!(catalog.directory(Number::FIRST).unwrap(), all);
    assert_eq!(catalog.family_of_inode(number(100)).unwrap(), Some(family));
    let counts = catalog.family_counts(family).unwrap();
    assert_eq!((counts.inodes, counts.entries), (9, 8));
    assert_eq!(counts.logical_bytes, 1 << 62);
    let mut seen = Vec::new();
    catalog
        .for_each_inode(family, |inode| {
            seen.push(inode);
            Ok(())
        })
        .unwrap();
    assert_eq!(seen.len(), 9);
    assert_eq!(
        seen[1..],
        all.iter().map(|(_, i)| i.clone()).collect::<Vec<_>>()
    );
    let mut entries = 0;
    catalog
        .for_each_entry(family, |parent, name, number| {
            assert_eq!(parent, Number::FIRST);
            assert_eq!(name, [100 + number.get() as u8]);
            entries += 1;
            Ok(())
        })
        .unwrap();
    assert_eq!(entries, 8);
}

#[test]
fn entries_are_changed_one_by_one() {
    let fixture = Fixture::new();
    let catalog = fixture.open();
    let (family, _) = found(&catalog);
    let root = Number::FIRST;
    let transaction = catalog.transaction().unwrap();
    transaction.insert_inode(family, &file(20, b"one")).unwrap();
    transaction.insert_inode(family, &file(21, b"one")).unwrap();
    transaction.insert_inode(family, &file(22, b"")).unwrap();
    transaction.insert_entry(root, b"b", number(20)).unwrap();
    transaction.insert_entry(root, b"a", number(20)).unwrap();
    assert!(transaction.insert_entry(root, b"a", number(21)).is_err());
    for bad in [&b""[..], b".", b"..", b"a/b", b"a\0", &[b'x'; 256]] {
        assert!(transaction.insert_entry(root, bad, number(21)).is_err());
    }
    transaction
        .insert_entry(root, &[b'x'; 255], number(22))
        .unwrap();
    transaction.replace_entry(root, b"b", number(21)).unwrap();
    transaction.adjust_links(number(20), 3).unwrap();
    let metadata = Metadata {
        mode: 0o600,
        uid: 7,
        gid: 8,
        mtime: time(9),
        xattrs: Xattrs::new(),
    };
    transaction
        .set_metadata(number(20), &metadata, time(10))
        .unwrap();
    transaction.replace_inode(&file(22, b"new")).unwrap();
    transaction.commit().unwrap();

    let names = |n| catalog.names_of(number(n)).unwrap();
    assert_eq!(names(20), [(root, Box::from(&b"a"[..]))]);
    let changed = catalog.inode(number(20)).unwrap().unwrap();
    assert_eq!(
        (changed.metadata, changed.ctime, changed.links),
        (metadata, time(10), 4)
    );
    assert_eq!(catalog.inode(number(22)).unwrap(), Some(file(22, b"new")));
    let listed: Vec<_> = catalog
        .directory(root)
        .unwrap()
        .into_iter()
        .map(|(n, _)| n)
        .collect();
    assert_eq!(listed[..2], [Box::from(&b"a"[..]), Box::from(&b"b"[..])]);
    let mut digests = Vec::new();
    catalog
        .for_each_digest(|digest, size| {
            digests.push((digest, size));
            Ok(())
        })
        .unwrap();
    let mut expected = vec![(Digest::of(b"one"), 3), (Digest::of(b"new"), 3)];
    expected.sort();
    assert_eq!(digests, expected);
    assert_eq!(
        catalog.inodes_with(&Digest::of(b"one")).unwrap(),
        [number(20), number(21)]
    );

    let transaction = catalog.transaction().unwrap();
    transaction.delete_entry(root, b"a").unwrap();
    transaction.delete_inode(number(20)).unwrap();
    for error in [
        transaction.delete_entry(root, b"a").unwrap_err(),
        transaction
            .replace_entry(root, b"a", number(21))
            .unwrap_err(),
        transaction.delete_inode(number(20)).unwrap_err(),
        transaction.replace_inode(&file(20, b"")).unwrap_err(),
        transaction.adjust_links(number(20), 1).unwrap_err(),
    ] {
        assert!(error.to_string().contains("does not exist"), "{error}");
    }
    assert!(transaction.adjust_links(number(21), -2).is_err());
    transaction.commit().unwrap();
    assert_eq!(names(20), []);
    assert_eq!(catalog.integrity_check().unwrap(), [""; 0]);
}

#[test]
fn what_is_not_committed_is_not_done() {
    let fixture = Fixture::new();
    let catalog = fixture.open();
    let (family, _) = found(&catalog);
    drop({
        let transaction = catalog.transaction().unwrap();
        transaction.insert_inode(family, &file(20, b"x")).unwrap();
        transaction
    });
    assert_eq!(catalog.inode(number(20)).unwrap(), None);
    // A name for an inode that does not exist.
    let transaction = catalog.transaction().unwrap();
    transaction
        .insert_entry(Number::FIRST, b"a", number(20))
        .unwrap();
    transaction.commit().unwrap_err();
    assert!(catalog.directory(Number::FIRST).unwrap().is_empty());
    // An inode that still has a name.
    let transaction = catalog.transaction().unwrap();
    transaction.insert_inode(family, &file(20, b"x")).unwrap();
    transaction
        .insert_entry(Number::FIRST, b"a", number(20))
        .unwrap();
    transaction.commit().unwrap();
    let transaction = catalog.transaction().unwrap();
    transaction.delete_inode(number(20)).unwrap();
    transaction.commit().unwrap_err();
    assert!(catalog.inode(number(20)).unwrap().is_some());
}

#[test]
fn reads_do_not_wait_for_a_transaction_and_snapshots_stand_still() {
    let fixture = Fixture::new();
    let catalog = fixture.open();
    let (family, _) = found(&catalog);
    let snapshot = catalog.snapshot().unwrap();
    let transaction = catalog.transaction().unwrap();
    transaction.insert_inode(family, &file(20, b"x")).unwrap();
    assert_eq!(catalog.family_counts(family).unwrap().inodes, 1);
    transaction.commit().unwrap();
    assert_eq!(catalog.family_counts(family).unwrap().inodes, 2);
    assert_eq!(snapshot.family_counts(family).unwrap().inodes, 1);
    drop(snapshot);
    let other = Catalog::open(&fixture.path(), CatalogMode::Read).unwrap();
    assert_eq!(other.family_counts(family).unwrap().inodes, 2);
    assert!(other.transaction().is_err());
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| assert_eq!(catalog.family_counts(family).unwrap().inodes, 2));
        }
    });
}

#[test]
fn families_and_images_share_their_names() {
    let fixture = Fixture::new();
    let catalog = fixture.open();
    let (family, base) = found(&catalog);
    let stored = catalog.family(family).unwrap().unwrap();
    assert_eq!(
        (stored.base, stored.root, stored.share),
        (base, FAMILY.root, FAMILY.share)
    );
    assert_eq!(
        catalog.family_by_name("debian").unwrap(),
        Some(stored.clone())
    );
    assert_eq!(catalog.families().unwrap(), [stored]);
    assert_eq!(
        catalog.image_by_name("debian").unwrap().unwrap().role,
        ImageRole::Base
    );

    let web = catalog.reserve_image_id().unwrap();
    assert!(web > base);
    assert_eq!(catalog.last_image_id().unwrap(), web);
    let transaction = catalog.transaction().unwrap();
    let create = |name| transaction.create_image(&guest(family, web, name));
    create("web").unwrap();
    for taken in ["web", "debian"] {
        assert!(create(taken).unwrap_err().to_string().contains("taken"));
    }
    assert_eq!(create("..").unwrap_err().kind, ErrorKind::Usage);
    let second_base = NewImage {
        role: ImageRole::Base,
        ..guest(family, web, "b")
    };
    assert!(transaction.create_image(&second_base).is_err());
    assert!(
        transaction
            .create_family(&NewFamily {
                name: "web",
                ..FAMILY
            })
            .is_err()
    );
    assert!(transaction.rename_image(base, "x").is_err());
    assert!(transaction.rename_image(web, "debian").is_err());
    transaction.rename_image(web, "web").unwrap();
    transaction.rename_image(web, "www").unwrap();
    transaction.rename_family(family, "trixie").unwrap();
    transaction.set_share(family, Share::All).unwrap();
    transaction.commit().unwrap();
    let names: Vec<_> = catalog
        .images()
        .unwrap()
        .into_iter()
        .map(|i| i.name)
        .collect();
    assert_eq!(names, ["trixie", "www"]);
    assert_eq!(
        catalog.family_by_name("trixie").unwrap().unwrap().share,
        Share::All
    );

    let transaction = catalog.transaction().unwrap();
    assert!(transaction.set_base(family, web).is_err());
    transaction.delete_image(base).unwrap();
    transaction.set_base(family, web).unwrap();
    transaction.commit().unwrap();
    let image = catalog.image(web).unwrap().unwrap();
    assert_eq!(
        (image.name.as_str(), image.role),
        ("trixie", ImageRole::Base)
    );

    // A base does not go alone; ids are not used again.
    let transaction = catalog.transaction().unwrap();
    transaction.delete_image(web).unwrap();
    transaction.commit().unwrap_err();
    let transaction = catalog.transaction().unwrap();
    transaction.delete_family(family).unwrap();
    transaction.commit().unwrap();
    assert!(catalog.images().unwrap().is_empty() && catalog.families().unwrap().is_empty());
    assert_eq!(catalog.inode(Number::FIRST).unwrap(), None);
    let (again, image) = found(&catalog);
    assert!(again > family && image > web);
}

#[test]
fn rows_of_an_image() {
    let fixture = Fixture::new();
    let catalog = fixture.open();
    let (family, base) = found(&catalog);
    let image = catalog.reserve_image_id().unwrap();
    let transaction = catalog.transaction().unwrap();
    transaction
        .create_image(&guest(family, image, "web"))
        .unwrap();
    let alias = |shared, shown| Alias {
        shared: number(shared),
        number: number(shown),
        ctime: time(3),
    };
    for n in [20, 21] {
        transaction.insert_inode(family, &file(n, b"x")).unwrap();
    }
    transaction.put_alias(image, &alias(20, 900)).unwrap();
    transaction.put_alias(image, &alias(20, 901)).unwrap();
    assert!(transaction.put_alias(image, &alias(21, 901)).is_err());
    transaction.put_alias(image, &alias(21, 902)).unwrap();
    let step = |name: &[u8], action| NewUncover {
        directory: Number::ROOT,
        name: name.into(),
        number: number(20),
        action,
    };
    let steps = [
        step(b"z", UncoverAction::Remove),
        step(b"a", UncoverAction::Merge),
        step(b"", UncoverAction::Withdraw),
    ];
    let ids: Vec<_> = steps
        .iter()
        .map(|step| transaction.add_uncover(image, step).unwrap())
        .collect();
    assert!(transaction.add_hold(image, b"etc/\xff").unwrap());
    assert!(!transaction.add_hold(image, b"etc/\xff").unwrap());
    transaction.commit().unwrap();

    assert_eq!(
        catalog.aliases(image).unwrap(),
        [alias(20, 901), alias(21, 902)]
    );
    assert_eq!(
        catalog.alias_of(image, number(20)).unwrap(),
        Some(alias(20, 901))
    );
    assert_eq!(
        catalog.alias_by_number(image, number(902)).unwrap(),
        Some(alias(21, 902))
    );
    assert_eq!(catalog.alias_of(base, number(20)).unwrap(), None);
    let uncovers = catalog.uncovers(image).unwrap();
    assert_eq!(uncovers.iter().map(|u| u.id).collect::<Vec<_>>(), ids);
    assert!(uncovers.iter().map(|u| &u.step).eq(&steps));
    assert_eq!(catalog.holds(image).unwrap(), [Box::from(&b"etc/\xff"[..])]);

    let clone = catalog.reserve_image_id().unwrap();
    let transaction = catalog.transaction().unwrap();
    transaction
        .create_image(&guest(family, clone, "clone"))
        .unwrap();
    transaction.copy_image_rows(image, clone).unwrap();
    assert!(transaction.delete_alias(image, number(20)).unwrap());
    assert!(!transaction.delete_alias(image, number(20)).unwrap());
    assert_eq!(transaction.delete_aliases_to(number(21)).unwrap(), 2);
    transaction.delete_uncover(ids[1]).unwrap();
    assert!(transaction.delete_uncover(ids[1]).is_err());
    assert!(transaction.delete_hold(image, b"etc/\xff").unwrap());
    transaction.commit().unwrap();
    assert_eq!(catalog.aliases(clone).unwrap(), [alias(20, 901)]);
    assert_eq!(catalog.uncovers(image).unwrap().len(), 2);
    assert_eq!(catalog.uncovers(clone).unwrap().len(), 3);
    assert!(catalog.holds(image).unwrap().is_empty());

    let transaction = catalog.transaction().unwrap();
    transaction.delete_image(image).unwrap();
    transaction.commit().unwrap();
    assert_eq!(catalog.images_of(family).unwrap().len(), 2);
    assert_eq!(catalog.integrity_check().unwrap(), [""; 0]);
}

#[test]
fn damaged_rows_are_named() {
    let fixture = Fixture::new();
    let catalog = fixture.open();
    let (family, base) = found(&catalog);
    let transaction = catalog.transaction().unwrap();
    transaction.insert_inode(family, &file(20, b"x")).unwrap();
    transaction
        .insert_entry(Number::FIRST, b"a", number(20))
        .unwrap();
    let step = NewUncover {
        directory: Number::ROOT,
        name: b"a".as_slice().into(),
        number: Number::ROOT,
        action: UncoverAction::Merge,
    };
    transaction.add_uncover(base, &step).unwrap();
    transaction.commit().unwrap();
    let raw = fixture.raw();
    for damage in [
        "kind = 3",
        "kind = 4294967295",
        "digest = x'00'",
        "digest = NULL",
        "size = 0",
        "size = -1",
        "kind = 10",
        "mode = 65535",
        "uid = -1",
        "mtime_ns = 1000000000",
        "xattrs = x'ffff'",
        "links = 4294967296",
    ] {
        raw.execute_batch(&format!("UPDATE inodes SET {damage} WHERE number = 20"))
            .unwrap();
        for error in [
            catalog.inode(number(20)).unwrap_err(),
            catalog.lookup(Number::FIRST, b"a").unwrap_err(),
            catalog.directory(Number::FIRST).unwrap_err(),
        ] {
            let message = error.to_string();
            assert!(
                message.contains("table inodes, row 20"),
                "{damage}: {message}"
            );
        }
        let transaction = catalog.transaction().unwrap();
        transaction.replace_inode(&file(20, b"x")).unwrap();
        transaction.commit().unwrap();
        catalog.inode(number(20)).unwrap();
    }
    raw.execute_batch("UPDATE images SET role = 'x'; UPDATE families SET share = 'x', root = -1; UPDATE uncovers SET action = 7")
        .unwrap();
    let message = |error: Error| error.to_string();
    assert!(message(catalog.images().unwrap_err()).contains("table images, row 1"));
    assert!(message(catalog.families().unwrap_err()).contains("table families, row -1"));
    assert!(message(catalog.uncovers(base).unwrap_err()).contains("table uncovers, row 1"));
    let findings = catalog.integrity_check().unwrap();
    assert!(
        findings.iter().any(|f| f.contains("families")),
        "{findings:?}"
    );
    raw.execute_batch("DELETE FROM counter").unwrap();
    assert!(message(catalog.reserve_numbers(1).unwrap_err()).contains("counter"));
}

#[test]
fn what_is_no_catalog_is_refused() {
    let fixture = Fixture::new();
    let refused = |mode| match Catalog::open(&fixture.path(), mode) {
        Ok(_) => panic!("opened"),
        Err(error) => error.to_string(),
    };
    assert!(Catalog::create(&fixture.path()).is_err());
    std::fs::remove_file(fixture.path()).unwrap();
    assert!(refused(CatalogMode::Write).contains("does not exist"));
    for (content, message) in [
        (&b""[..], "not a foldfs catalog"),
        (&[b'x'; 8192], "file is not a database"),
    ] {
        std::fs::write(fixture.path(), content).unwrap();
        for mode in [
            CatalogMode::Write,
            CatalogMode::Read,
            CatalogMode::ReadOnlyMedium,
        ] {
            let error = refused(mode);
            assert!(error.contains(message), "{error}");
        }
        assert_eq!(std::fs::read(fixture.path()).unwrap(), content);
    }
}

#[test]
fn a_truncated_or_scrambled_catalog_gives_errors() {
    let fixture = Fixture::new();
    {
        let catalog = fixture.open();
        let (family, _) = found(&catalog);
        let transaction = catalog.transaction().unwrap();
        for n in 20..3000 {
            transaction.insert_inode(family, &file(n, b"x")).unwrap();
        }
        transaction.commit().unwrap();
    }
    let whole = std::fs::read(fixture.path()).unwrap();
    let mut scrambled = whole.clone();
    let end = scrambled.len();
    scrambled[8192..end].fill(0x5a);
    for bytes in [&whole[..whole.len() / 2], &scrambled] {
        std::fs::write(fixture.path(), bytes).unwrap();
        let outcome = Catalog::open(&fixture.path(), CatalogMode::Read).and_then(|catalog| {
            let findings = catalog.integrity_check()?;
            assert!(!findings.is_empty());
            catalog.for_each_inode(FamilyId(1), |_| Ok(()))
        });
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains("catalog.bak"), "{error}");
    }
}

#[test]
fn immutable_only_when_closed_cleanly() {
    let fixture = Fixture::new();
    let catalog = fixture.open();
    let (family, _) = found(&catalog);
    let log = fixture.path().with_extension("db-wal");
    assert!(log.metadata().unwrap().len() > 0);
    let open = || Catalog::open(&fixture.path(), CatalogMode::ReadOnlyMedium);
    let error = open().map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("not closed cleanly"), "{error}");
    drop(catalog);
    assert!(!log.exists());
    assert!(open().unwrap().family(family).unwrap().is_some());
    std::fs::write(&log, b"").unwrap();
    assert!(open().unwrap().family(family).unwrap().is_some());
}

#[test]
fn immutable_uris_are_escaped() {
    let uri = immutable_uri(Path::new("/a b/?#%c.db"));
    assert_eq!(uri, "file:/a%20b/%3F%23%25c.db?immutable=1");
}

#[test]
fn a_copy_is_a_catalog() {
    let fixture = Fixture::new();
    let catalog = fixture.open();
    let (family, _) = found(&catalog);
    let copy = fixture.0.path().join("copy");
    let transaction = catalog.transaction().unwrap();
    transaction.insert_inode(family, &file(20, b"x")).unwrap();
    catalog.copy_to(&copy).unwrap();
    transaction.commit().unwrap();
    let copy = Catalog::open(&copy, CatalogMode::Write).unwrap();
    assert_eq!(copy.family_counts(family).unwrap().inodes, 1);
    assert_eq!(copy.integrity_check().unwrap(), [""; 0]);
}

#[test]
fn ten_thousand_rows() {
    let fixture = Fixture::new();
    let catalog = fixture.open();
    let (family, _) = found(&catalog);
    let begin = std::time::Instant::now();
    let transaction = catalog.transaction().unwrap();
    for n in 20..10_020u64 {
        transaction
            .insert_inode(family, &file(n, &n.to_le_bytes()))
            .unwrap();
        transaction
            .insert_entry(Number::FIRST, format!("file-{n}").as_bytes(), number(n))
            .unwrap();
    }
    transaction.commit().unwrap();
    println!("10,000 inodes and entries: {:?}", begin.elapsed());
    assert_eq!(catalog.directory(Number::FIRST).unwrap().len(), 10_000);
    println!("and a listing: {:?}", begin.elapsed());
}
