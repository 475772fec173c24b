//! What check says of stores that something else has damaged.

use std::fs;
use std::path::PathBuf;

use super::*;

/// An image with private entries of each kind, and what is left of them.
fn sound(test: &str) -> Option<TestStore> {
    let store = with_image(test)?;
    store.import("other", &store.sample(1), "family");
    store.assert_sound();
    Some(store)
}

/// check finds something, says where, and goes on working after it.
#[track_caller]
fn finds(store: &TestStore, arguments: &[&str], words: &[&str]) {
    let ran = store.run(&[&["check"], arguments].concat()).exits(3);
    let text = ran.text();
    for word in words {
        assert!(
            text.contains(word),
            "check says nothing of {word}:\n{text}\n{}",
            ran.stderr
        );
    }
    let json = store
        .run(&[&["check", "--json"], arguments].concat())
        .exits(3)
        .json();
    let findings = json["findings"].as_array().unwrap();
    assert!(!findings.is_empty());
    for finding in findings {
        for key in ["object", "cause"] {
            assert!(
                finding[key].as_str().is_some_and(|text| !text.is_empty()),
                "{key}: {finding}"
            );
        }
    }
}

/// The objects' files, the largest first.
fn objects(store: &TestStore) -> Vec<PathBuf> {
    let snapshot = Snapshot::of(&store.path.join("objects"));
    let mut files: Vec<_> = snapshot
        .entries
        .iter()
        .filter(|(_, entry)| entry.digest.is_some())
        .collect();
    files.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.size));
    let path = |path: &Vec<u8>| {
        store
            .path
            .join("objects")
            .join(String::from_utf8(path.clone()).unwrap())
    };
    files.into_iter().map(|(name, _)| path(name)).collect()
}

/// The private layer of the image that has one.
fn private(store: &TestStore) -> PathBuf {
    let images = fs::read_dir(store.path.join("images")).unwrap();
    let layers = images.map(|image| image.unwrap().path().join("private"));
    layers
        .max_by_key(|layer| Snapshot::of(layer).entries.len())
        .unwrap()
}

/// The name of an object as check writes it.
fn shown(object: &Path) -> String {
    let name = object.file_name().unwrap().to_str().unwrap();
    name[..12].to_owned()
}

#[test]
fn truncated_object() {
    let Some(store) = sound("truncated_object") else {
        return;
    };
    let object = &objects(&store)[0];
    fs::File::options()
        .write(true)
        .open(object)
        .unwrap()
        .set_len(10)
        .unwrap();
    finds(&store, &[], &[&shown(object)]);
}

#[test]
fn missing_object() {
    let Some(store) = sound("missing_object") else {
        return;
    };
    let object = &objects(&store)[0];
    fs::remove_file(object).unwrap();
    finds(&store, &[], &[&shown(object)]);
}

#[test]
fn flipped_object() {
    let Some(store) = sound("flipped_object") else {
        return;
    };
    let object = &objects(&store)[0];
    let mut bytes = fs::read(object).unwrap();
    bytes[100] ^= 1;
    fs::write(object, bytes).unwrap();
    finds(&store, &["--content"], &[&shown(object)]);
}

#[test]
fn writable_or_linked_object() {
    let Some(store) = sound("writable_or_linked_object") else {
        return;
    };
    let object = &objects(&store)[0];
    fs::set_permissions(object, Permissions::from_mode(0o666)).unwrap();
    finds(&store, &[], &[&shown(object)]);
    fs::set_permissions(object, Permissions::from_mode(0o400)).unwrap();
    store.assert_sound();
    fs::hard_link(object, store.place.join("another name")).unwrap();
    finds(&store, &[], &[&shown(object), "link"]);
}

#[test]
fn foreign_files() {
    let Some(store) = sound("foreign_files") else {
        return;
    };
    let layer = private(&store);
    for place in [
        layer.join("foreign"),
        layer.join("etc/foreign"),
        layer.join("../index/foreign"),
        store.path.join("objects/foreign"),
        store.path.join("objects/ab"),
    ] {
        fs::write(&place, "not ours").unwrap();
        let name = place.file_name().unwrap().to_str().unwrap();
        finds(&store, &[], &[name]);
        fs::remove_file(&place).unwrap();
        store.assert_sound();
    }
    fs::create_dir(layer.join("foreign")).unwrap();
    finds(&store, &[], &["foreign"]);
}

#[test]
fn bad_mark() {
    let Some(store) = sound("bad_mark") else {
        return;
    };
    let layer = private(&store);
    let snapshot = Snapshot::of(&layer);
    let marked = snapshot
        .entries
        .iter()
        .find(|(_, entry)| entry.digest.is_some())
        .unwrap()
        .0;
    let path = layer.join(String::from_utf8(marked.clone()).unwrap());
    for mark in [&b"garbage"[..], b"", &[1; 56], &[255; 200]] {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::lsetxattr(&path, "trusted.foldfs", mark, flags).unwrap();
        finds(&store, &[], &[path.file_name().unwrap().to_str().unwrap()]);
    }
}

#[test]
fn deleted_rows() {
    for statement in [
        "DELETE FROM entries WHERE name = x'686f737473'",
        "DELETE FROM inodes WHERE kind = 8 AND size > 0 AND number IN (SELECT min(number) FROM inodes WHERE kind = 8 AND size > 0)",
        "DELETE FROM inodes WHERE kind = 4 AND number IN (SELECT max(number) FROM inodes WHERE kind = 4)",
        "DELETE FROM images WHERE name = 'other'",
        "DELETE FROM families",
        "UPDATE inodes SET size = size + 1 WHERE kind = 8 AND size > 0",
        "UPDATE inodes SET digest = x'0011' WHERE kind = 8 AND size > 0",
        "UPDATE inodes SET links = links + 1",
        "UPDATE inodes SET xattrs = x'ffffff'",
        "UPDATE entries SET number = 999999999",
    ] {
        let Some(store) = sound("deleted_rows") else {
            return;
        };
        sql(
            &store,
            &format!(
                "PRAGMA foreign_keys = OFF; PRAGMA ignore_check_constraints = ON; {statement}"
            ),
        );
        // A catalog that cannot even be read is a failure, not a finding.
        let ran = store.run(&["check"]);
        let known = [3, 1].contains(&ran.code) && !ran.stderr.contains("panicked");
        assert!(known, "{statement}: {ran:?}");
        assert!(
            ran.code == 3 || ran.stderr.contains("catalog"),
            "{statement}: {ran:?}"
        );
    }
}

#[test]
fn broken_catalog() {
    let Some(store) = sound("broken_catalog") else {
        return;
    };
    let catalog = store.path.join("catalog.db");
    let bytes = fs::read(&catalog).unwrap();
    for broken in [&b""[..], b"garbage", &bytes[..bytes.len() / 2]] {
        fs::write(&catalog, broken).unwrap();
        for command in [&["check"][..], &["list"], &["fold"]] {
            let ran = store.run(command);
            let known = [1, 3].contains(&ran.code) && !ran.stderr.contains("panicked");
            assert!(known, "{} bytes, {command:?}: {ran:?}", broken.len());
            let text = format!("{}{}", ran.text(), ran.stderr);
            assert!(text.contains("catalog"), "{text}");
        }
    }
}

#[test]
fn missing_directories() {
    let Some(store) = sound("missing_directories") else {
        return;
    };
    let layer = private(&store);
    let image = layer.parent().unwrap();
    for part in ["work", "orphans", "redirects", "index"] {
        let path = image.join(part);
        let aside = store.place.join("aside");
        fs::rename(&path, &aside).unwrap();
        let ran = store.run(&["check"]);
        let text = format!("{}{}", ran.text(), ran.stderr);
        assert!(
            [1, 3].contains(&ran.code) && text.contains(part),
            "{part}: {ran:?}"
        );
        fs::rename(&aside, &path).unwrap();
    }
    store.assert_sound();
    fs::rename(&layer, store.place.join("gone")).unwrap();
    let ran = store.run(&["check"]);
    assert!(
        [1, 3].contains(&ran.code) && !ran.stderr.contains("panicked"),
        "{ran:?}"
    );
}

#[test]
fn collect_leaves_what_is_used() {
    let Some(store) = sound("collect_leaves_what_is_used") else {
        return;
    };
    let before = objects(&store);
    store.ok(&["collect"]);
    assert_eq!(before, objects(&store));
    let stray = store.path.join("objects/00");
    fs::create_dir_all(&stray).unwrap();
    let stray = stray.join("0".repeat(62));
    fs::write(&stray, "nobody's").unwrap();
    fs::set_permissions(&stray, Permissions::from_mode(0o400)).unwrap();
    let report = store.ok(&["collect", "--dry-run", "--json"]).json();
    assert_eq!(report["removed"].as_array().unwrap().len(), 1, "{report}");
    assert!(stray.exists());
    store.ok(&["collect"]);
    assert!(!stray.exists());
    assert_eq!(before, objects(&store));
    store.assert_sound();
}
