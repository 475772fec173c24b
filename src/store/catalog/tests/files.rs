//! Tests of the database as a file: several openers, copies, damage.

use super::*;

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
fn a_reader_that_stands_still_reads_one_moment_and_who_writes_does_not() {
    let fixture = Fixture::new();
    let (writer, reader) = (fixture.open(), fixture.open_for_reading());
    let families = |catalog: &Catalog| catalog.families().unwrap().len();
    let still = (reader.stand_still().unwrap(), writer.stand_still().unwrap());
    found(&writer);
    assert_eq!((families(&reader), families(&writer)), (0, 1));
    // A read inside of another one.
    let nested = reader.with(|_| Ok(families(&reader)));
    assert_eq!(nested.unwrap(), 0);
    drop(still);
    assert_eq!(families(&reader), 1);
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
fn a_reader_sees_what_a_crashed_writer_committed() {
    let fixture = Fixture::new();
    let catalog = fixture.open();
    let (family, _) = found(&catalog);
    // What a power loss leaves: the database and its log.
    let crashed = Fixture(tempfile::tempdir().unwrap());
    for name in ["catalog.db", "catalog.db-wal"] {
        std::fs::copy(fixture.0.path().join(name), crashed.0.path().join(name)).unwrap();
    }
    let reader = Catalog::open(&crashed.path(), CatalogMode::Read).unwrap();
    assert!(reader.family(family).unwrap().is_some());
    drop(reader);
    assert!(crashed.open().family(family).unwrap().is_some());
}

#[test]
fn threads_write_and_read_side_by_side() {
    let fixture = Fixture::new();
    let catalog = fixture.open();
    let (family, _) = found(&catalog);
    std::thread::scope(|scope| {
        for writer in 0..4u64 {
            let catalog = &catalog;
            scope.spawn(move || {
                for n in 0..20 {
                    let transaction = catalog.transaction().unwrap();
                    let inode = file(100 + writer * 100 + n, b"x");
                    transaction.insert_inode(family, &inode).unwrap();
                    transaction.commit().unwrap();
                    assert_eq!(catalog.inode(inode.number).unwrap(), Some(inode));
                }
            });
        }
    });
    assert_eq!(catalog.family_counts(family).unwrap().inodes, 81);
}

#[test]
fn closing_empties_the_log_even_beside_a_reader() {
    let fixture = Fixture::new();
    let log = fixture.path().with_extension("db-wal");
    let catalog = fixture.open();
    let (family, _) = found(&catalog);
    assert!(catalog.family(family).unwrap().is_some());
    drop(catalog);
    assert!(!log.exists());
    let catalog = fixture.open();
    let reader = Catalog::open(&fixture.path(), CatalogMode::Read).unwrap();
    assert!(reader.family(family).unwrap().is_some());
    catalog.reserve_numbers(1).unwrap();
    drop(catalog);
    assert_eq!(log.metadata().unwrap().len(), 0);
    assert!(reader.family(family).unwrap().is_some());
}
