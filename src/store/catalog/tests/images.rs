//! Tests of families, images and their rows.

use super::*;

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
        assert!(create(taken).unwrap_err().to_string().contains("exists"));
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
        mtime: (shown == 902).then(|| time(4)),
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
