//! A damaged catalog, and what a copy of it gives.

use common::snapshot::Fields;

use super::*;

/// `first` and `other`, both at work since, folded and placed; and what they show.
fn at_work(test: &str) -> Option<(TestStore, Vec<(String, Snapshot)>)> {
    let store = two_images(test)?;
    let config = configuration(&store, "quiet = \"0s\"");
    for image in ["first", "other"] {
        let mounted = store.mount_configured(image, &config);
        // Equal in both: they move into the shared layer.
        put(&mounted.join("etc/new"), "in both");
        fs::create_dir(mounted.join("new directory")).unwrap();
        put(&mounted.join("new directory/file"), "in both, too");
        // The shared version leaves.
        fs::remove_file(mounted.join("etc/conf.d/b.conf")).unwrap();
        fs::rename(mounted.join("usr/lib"), mounted.join("moved")).unwrap();
        mounted.unmount();
    }
    store.wait_for_daemons();
    store.ok(&["fold"]);
    let why = store.ok(&["why", "other", "etc/new", "--json"]).json();
    assert_eq!(why["layer"], "shared");
    // Work that no copy of the catalog knows.
    let mounted = store.mount_configured("other", &config);
    fs::write(mounted.join("etc/later"), "only here").unwrap();
    fs::remove_file(mounted.join("new directory/file")).unwrap();
    fs::hard_link(mounted.join("etc/new"), mounted.join("linked")).unwrap();
    mounted.unmount();
    store.wait_for_daemons();
    store.assert_sound();
    let views = views(&store, &["first", "other"]);
    Some((store, views))
}

/// Makes a file that is the same version in every image.
fn put(path: &Path, content: &str) {
    fs::write(path, content).unwrap();
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000))
        .unwrap();
}

fn views(store: &TestStore, images: &[&str]) -> Vec<(String, Snapshot)> {
    let view = |image: &&str| {
        let mounted = store.mount(image);
        let view = mounted.snapshot();
        mounted.unmount();
        ((*image).to_owned(), view)
    };
    let views = images.iter().map(view).collect();
    store.wait_for_daemons();
    views
}

#[track_caller]
fn assert_views(store: &TestStore, expected: &[(String, Snapshot)], what: &str) {
    for (image, view) in expected {
        let mounted = store.mount(image);
        view.assert_same(
            &mounted.snapshot(),
            Fields::ALL,
            &format!("{what}: {image}"),
        );
        mounted.unmount();
    }
    store.wait_for_daemons();
}

fn catalog(store: &TestStore) -> PathBuf {
    store.path.join("catalog.db")
}

fn sql(store: &TestStore, statement: &str) {
    let connection = rusqlite::Connection::open(catalog(store)).unwrap();
    connection
        .execute_batch(&format!("PRAGMA foreign_keys = OFF; {statement}"))
        .unwrap();
}

#[test]
fn a_damaged_catalog_is_restored_and_every_image_is_as_it_was() {
    let Some((store, views)) = at_work("a_damaged_catalog_is_restored") else {
        return;
    };
    let path = catalog(&store);
    let length = path.metadata().unwrap().len();
    let damages: [(&str, &dyn Fn()); 6] = [
        ("missing", &|| fs::remove_file(&path).unwrap()),
        ("empty", &|| truncate(&path, 0)),
        ("half", &|| truncate(&path, length / 2)),
        ("garbage", &|| fs::write(&path, "garbage").unwrap()),
        ("zeros", &|| {
            let file = fs::File::options().write(true).open(&path).unwrap();
            file.write_all_at(&[0; 8192], 8192).unwrap();
        }),
        ("a row", &|| {
            sql(&store, "DELETE FROM entries WHERE name = x'6e6577'")
        }),
    ];
    for (what, damage) in damages {
        damage();
        let found = store.run(&["check"]);
        assert!([1, 3].contains(&found.code), "{what}: {found:?}");
        let said = format!("{}{}", found.text(), found.stderr);
        assert!(
            said.contains("catalog") && said.contains("check --repair"),
            "{what}: {said}"
        );
        let planned = store.run(&["check", "--repair", "--dry-run"]).exits(3);
        assert!(planned.text().contains("catalog.db"), "{what}: {planned:?}");
        let done = store.ok(&["check", "--repair"]);
        assert!(
            done.text().contains("restored from catalog.bak"),
            "{what}: {}",
            done.text()
        );
        store.assert_sound();
        assert_views(&store, &views, what);
    }
    // A number that was handed out is not handed out again.
    let mounted = store.mount("other");
    fs::write(mounted.join("newest"), "x").unwrap();
    let numbers: std::collections::HashSet<_> =
        views[1].1.entries.values().map(|entry| entry.ino).collect();
    let newest = std::os::unix::fs::MetadataExt::ino(&mounted.join("newest").metadata().unwrap());
    assert!(!numbers.contains(&newest));
    drop(mounted);
    store.wait_for_daemons();
    store.assert_sound();
}

#[test]
fn an_image_that_the_copy_does_not_know_is_recovered() {
    let Some((store, views)) = at_work("an_image_that_the_copy_does_not_know") else {
        return;
    };
    store.ok(&["clone", "other", "clone"]);
    let mounted = store.mount("clone");
    fs::write(mounted.join("own"), "the clone's").unwrap();
    mounted.unmount();
    store.wait_for_daemons();
    fs::remove_file(catalog(&store)).unwrap();
    let done = store.ok(&["check", "--repair"]);
    assert!(done.text().contains("recovered-"), "{}", done.text());
    store.assert_sound();
    assert_views(&store, &views, "beside a clone");
    let list = store.ok(&["list", "--json"]).json();
    let images = list["images"].as_array().unwrap().iter();
    let names: Vec<&str> = images
        .map(|image| image["name"].as_str().unwrap())
        .collect();
    let name = names.iter().find(|name| name.starts_with("recovered-"));
    let mounted = store.mount(name.unwrap());
    assert_eq!(fs::read(mounted.join("own")).unwrap(), b"the clone's");
    assert_eq!(fs::read(mounted.join("etc/later")).unwrap(), b"only here");
}

#[test]
fn an_older_copy_is_refused_unless_it_is_asked_for() {
    let Some(store) = two_images("an_older_copy_is_refused") else {
        return;
    };
    let (copy, kept) = (store.path.join("catalog.bak"), store.place.join("kept"));
    fs::copy(&copy, &kept).unwrap();
    let config = configuration(&store, "");
    for image in ["first", "other"] {
        let mounted = store.mount_configured(image, &config);
        put(&mounted.join("etc/new"), "in both");
        mounted.unmount();
    }
    store.wait_for_daemons();
    store.ok(&["fold"]);
    let why = store.ok(&["why", "other", "etc/new", "--json"]).json();
    assert_eq!(why["layer"], "shared");
    let views = views(&store, &["first", "other"]);

    // Somebody puts an old copy in place by hand.
    fs::copy(&kept, catalog(&store)).unwrap();
    store
        .run(&["fold"])
        .exits(1)
        .says(&["older copy", "check --repair"]);
    let found = store.run(&["check"]).exits(3);
    assert!(found.text().contains("older copy"), "{}", found.text());
    store.ok(&["check", "--repair"]);
    store.assert_sound();
    assert_views(&store, &views, "put in place by hand");

    // Now there is no newer one.
    for name in ["catalog.bak", "catalog.bak.1"] {
        fs::copy(&kept, store.path.join(name)).unwrap();
    }
    fs::remove_file(catalog(&store)).unwrap();
    let refused = store.run(&["check", "--repair"]).exits(1);
    let refused = refused.says(&["older", "--older-catalog", "missing in every image"]);
    assert!(!catalog(&store).exists(), "{refused:?}");
    let taken = store.ok(&["check", "--repair", "--older-catalog"]);
    assert!(taken.text().contains("quarantine/"), "{}", taken.text());
    store.assert_sound();
    let mounted = store.mount("other");
    mounted.join("etc/new").metadata().unwrap_err();
    // The content that nothing names any more is not lost.
    let kept = fs::read_dir(store.path.join("quarantine")).unwrap();
    let mut kept = kept.map(|entry| fs::read(entry.unwrap().path()).unwrap());
    assert!(kept.any(|content| content == b"in both"));
}
