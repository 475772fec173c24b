//! What check --repair mends, and what it leaves and says.

use std::os::unix::fs::PermissionsExt;

use rustix::fs::XattrFlags;

use super::*;

const SHARED: &str = "usr/lib/deep/deeper/data";

/// `first` and `other`, and what they are to show: `other` has private files of every kind.
fn with_private_files(test: &str) -> Option<(TestStore, PathBuf)> {
    let store = two_images(test)?;
    let plain = store.place.join("plain");
    common::sample::copy(&store.sample(1), &plain);
    let config = configuration(&store, "");
    let mounted = store.mount_configured("other", &config);
    for root in [&plain, &mounted.path] {
        fs::copy(store.sample(0).join(SHARED), root.join("copy")).unwrap();
        fs::write(root.join("etc/own"), "a private file").unwrap();
        fs::hard_link(root.join("etc/own"), root.join("own too")).unwrap();
        fs::rename(root.join("usr/lib"), root.join("renamed")).unwrap();
    }
    mounted.unmount();
    store.wait_for_daemons();
    store.assert_sound();
    Some((store, plain))
}

/// Every file of both images is as it was, or gives EIO; those that do.
#[track_caller]
fn refused(store: &TestStore, plain: &Path, what: &str) -> Vec<PathBuf> {
    let mut refused = Vec::new();
    for (image, tree) in [("first", store.sample(0)), ("other", plain.to_owned())] {
        let mounted = store.mount(image);
        refused.extend(right_or_refused(&tree, &mounted.path, what));
        mounted.unmount();
    }
    store.wait_for_daemons();
    refused
}

/// What lies in the quarantine, by where it was.
fn quarantined(store: &TestStore) -> Vec<(String, PathBuf)> {
    let directory = store.path.join("quarantine");
    let list = fs::read_to_string(directory.join("list")).unwrap_or_default();
    let entry = |line: &str| {
        let mut fields = line.split('\t');
        let number = fields.next().unwrap();
        (fields.next().unwrap().to_owned(), directory.join(number))
    };
    list.lines().map(entry).collect()
}

/// Where the private layer of `other` is.
fn layer(store: &TestStore) -> PathBuf {
    let why = store.ok(&["why", "other", "etc/own", "--json"]).json();
    let stored = store.path.join(why["stored"].as_str().unwrap());
    let image = stored.parent().unwrap().parent().unwrap();
    assert!(image.join("private").is_dir(), "{}", stored.display());
    image.to_owned()
}

type Damage = fn(&Path);

const DAMAGES: [(&str, Damage); 6] = [
    ("flipped", |object| flip(object, 100)),
    ("truncated", |object| truncate(object, 10)),
    ("longer", |object| truncate(object, 5000)),
    ("missing", |object| fs::remove_file(object).unwrap()),
    ("a directory", |object| {
        fs::remove_file(object).unwrap();
        fs::create_dir(object).unwrap();
        fs::write(object.join("inside"), "x").unwrap();
    }),
    ("a symlink", |object| {
        fs::remove_file(object).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", object).unwrap();
    }),
];

#[test]
fn an_object_is_mended_from_a_private_file() {
    let Some((store, plain)) = with_private_files("an_object_is_mended_from_a_private_file") else {
        return;
    };
    let object = object_of(&store, "first", SHARED);
    for (what, damage) in DAMAGES {
        damage(&object);
        store.run(&["check", "--content"]).exits(3);
        let before = Snapshot::of(&store.path.join("objects"));
        let planned = store.run(&["check", "--repair", "--content", "--dry-run", "--json"]);
        let planned = planned.exits(3).json();
        assert!(!planned["repairs"].as_array().unwrap().is_empty());
        let after = Snapshot::of(&store.path.join("objects"));
        assert!(before == after, "{what}: a dry run did something");
        let done = store
            .ok(&["check", "--repair", "--content", "--json"])
            .json();
        assert!(
            !done["repairs"].as_array().unwrap().is_empty(),
            "{what}: {done}"
        );
        store.assert_sound();
        assert_eq!(
            fs::read(&object).unwrap(),
            fs::read(plain.join("copy")).unwrap(),
            "{what}"
        );
        assert_eq!(
            object.metadata().unwrap().permissions().mode() & 0o7777,
            0o400
        );
    }
    assert!(refused(&store, &plain, "mended").is_empty());
}

#[test]
fn what_no_copy_mends_is_kept_aside_and_said() {
    let Some((store, plain)) = with_private_files("what_no_copy_mends") else {
        return;
    };
    const LOST: &str = "etc/conf.d/b.conf";
    let object = object_of(&store, "first", LOST);
    let digest = digest_of(&object);
    flip(&object, 2);
    let flipped = fs::read(&object).unwrap();
    let ran = store.run(&["check", "--repair", "--content"]).exits(3);
    assert!(ran.text().contains(&digest[2..]), "{}", ran.text());
    assert!(ran.text().contains("it is missing"), "{}", ran.text());
    let kept = quarantined(&store);
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert_eq!(fs::read(&kept[0].1).unwrap(), flipped);
    assert_eq!(
        refused(&store, &plain, "lost"),
        [Path::new(LOST), Path::new(LOST)]
    );
    // A backup has it; and what was lost is found there, whatever its name is.
    let backup = store.place.join("backup");
    fs::create_dir_all(backup.join("a/b")).unwrap();
    fs::copy(plain.join(LOST), backup.join("a/b/c")).unwrap();
    let from = backup.to_str().unwrap();
    store.ok(&["check", "--repair", "--from", from]);
    store.assert_sound();
    assert!(refused(&store, &plain, "found").is_empty());
}

#[test]
fn foreign_things_are_moved_aside_with_their_names() {
    let Some((store, plain)) = with_private_files("foreign_things_are_moved_aside") else {
        return;
    };
    let image = layer(&store);
    let root = store.path.clone();
    let places = [
        image.join("private/etc/foreign"),
        image.join("index/foreign"),
        image.join("redirects/foreign"),
        root.join("objects/foreign"),
        root.join("objects/ab"),
        root.join("images/foreign"),
    ];
    fs::create_dir_all(image.join("private/a directory/deep")).unwrap();
    fs::write(image.join("private/a directory/deep/file"), "not ours").unwrap();
    for place in places.iter().filter(|place| !place.exists()) {
        fs::write(place, "not ours").unwrap();
    }
    let ran = store.run(&["check"]).exits(3);
    assert!(ran.text().contains("foreign"));
    store.ok(&["check", "--repair"]);
    store.assert_sound();
    let kept = quarantined(&store);
    for place in places.iter().filter(|place| !place.ends_with("ab")) {
        let name = place.strip_prefix(&root).unwrap().to_str().unwrap();
        let found = kept.iter().find(|(was, _)| was == name);
        let (_, at) = found.unwrap_or_else(|| panic!("{name} is not in {kept:?}"));
        assert_eq!(fs::read(at).unwrap(), b"not ours");
    }
    let tree = kept
        .iter()
        .find(|(was, _)| was.ends_with("a directory"))
        .unwrap();
    assert_eq!(fs::read(tree.1.join("deep/file")).unwrap(), b"not ours");
    assert!(refused(&store, &plain, "foreign").is_empty());
}

#[test]
fn a_shared_version_does_not_show_where_something_foreign_was() {
    let Some((store, _)) = with_private_files("a_shared_version_does_not_show") else {
        return;
    };
    let image = layer(&store);
    // The image shows what the shared layer has there; now something else stands in its place.
    let private = image.join("private");
    let names = Snapshot::of(&store.sample(1)).entries.into_keys();
    let names = names.map(|name| OsStr::from_bytes(&name).to_owned());
    let is_shared = |name: &std::ffi::OsString| {
        let place = private.join(name);
        !name.is_empty()
            && place.parent().unwrap().is_dir()
            && place.symlink_metadata().is_err()
            && name.to_str().is_some_and(|name| {
                let why = store.run(&["why", "other", name, "--json"]);
                why.code == 0 && why.json()["layer"] == "shared"
            })
    };
    let name = names.into_iter().find(is_shared).unwrap();
    fs::write(private.join(&name), "not ours").unwrap();
    store.ok(&["check", "--repair"]);
    store.assert_sound();
    let mounted = store.mount("other");
    let gone = mounted.join(&name).symlink_metadata().unwrap_err();
    assert_eq!(gone.kind(), std::io::ErrorKind::NotFound);
    assert_eq!(
        fs::read(mounted.join("etc/own")).unwrap(),
        b"a private file"
    );
}

#[test]
fn what_is_missing_of_a_private_layer_is_derived_again() {
    let Some((store, plain)) = with_private_files("what_is_missing_is_derived_again") else {
        return;
    };
    let image = layer(&store);
    let names = |part: &str| {
        let mut names: Vec<_> = fs::read_dir(image.join(part))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        names
    };
    let (redirects, index) = (names("redirects"), names("index"));
    assert!(!redirects.is_empty() && index.len() > 1);
    for part in ["work", "orphans", "redirects"] {
        fs::remove_dir_all(image.join(part)).unwrap();
    }
    let is_token = |name: &OsStr| name.to_str().unwrap().ends_with(".names");
    for token in index.iter().filter(|name| is_token(name)) {
        fs::remove_file(image.join("index").join(token)).unwrap();
    }
    let own = image.join("private/copy");
    rustix::fs::lsetxattr(&own, "trusted.foldfs", b"garbage", XattrFlags::empty()).unwrap();
    store.run(&["check"]).exits(3);
    store.ok(&["check", "--repair"]);
    store.assert_sound();
    assert_eq!(names("redirects"), redirects);
    assert_eq!(names("index"), index);
    assert!(refused(&store, &plain, "derived").is_empty());
    let mounted = store.mount("other");
    assert_eq!(
        mounted.join("etc/own").metadata().unwrap().permissions(),
        plain.join("etc/own").metadata().unwrap().permissions()
    );
}

#[test]
fn an_object_that_others_could_write_gets_an_inode_of_its_own() {
    let Some((store, plain)) = with_private_files("an_inode_of_its_own") else {
        return;
    };
    let object = object_of(&store, "first", SHARED);
    fs::hard_link(&object, store.place.join("another name")).unwrap();
    fs::set_permissions(&object, fs::Permissions::from_mode(0o666)).unwrap();
    store.run(&["check"]).exits(3);
    store.ok(&["check", "--repair"]);
    store.assert_sound();
    fs::write(store.place.join("another name"), "altered").unwrap();
    store.assert_sound();
    assert!(refused(&store, &plain, "linked").is_empty());
}

/// As every command does: a daemon that has just ended may not have closed its files yet.
#[test]
fn regression_repair_waits_for_a_lock_that_is_soon_free() {
    let Some((store, _)) = with_private_files("repair_waits_for_a_lock") else {
        return;
    };
    for damage in [false, true] {
        if damage {
            fs::remove_file(store.path.join("catalog.db")).unwrap();
        }
        let lock = fs::File::open(store.path.join("run/lock")).unwrap();
        let exclusive = rustix::fs::FlockOperation::NonBlockingLockExclusive;
        rustix::fs::flock(&lock, exclusive).unwrap();
        let release = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(700));
            drop(lock);
        });
        store.ok(&["check", "--repair"]);
        release.join().unwrap();
    }
    store.assert_sound();
}

#[test]
fn repair_works_alone() {
    let Some((store, _)) = with_private_files("repair_works_alone") else {
        return;
    };
    let mounted = store.mount("other");
    for more in [&[][..], &["--dry-run"]] {
        let arguments = [&["check", "--repair"], more].concat();
        store.run(&arguments).exits(4).says(&["unmount"]);
    }
    mounted.unmount();
    store.wait_for_daemons();
    store.ok(&["check", "--repair"]);
    store.run(&["check", "--dry-run"]).exits(2);
    store.run(&["check", "--from", "/"]).exits(2);
}
