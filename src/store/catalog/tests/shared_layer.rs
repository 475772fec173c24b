//! Tests of shared inodes and entries, and of transactions.

use super::*;

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
