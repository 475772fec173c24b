//! A hash cache whose rows are whole, sealed, and wrong.

use std::os::unix::fs::MetadataExt;

use foldfs::store::cache::{FileKey, HashCache};
use foldfs::store::digest::Digest;

use super::*;

const LENGTH: usize = 30_000;

/// Contents of equal size that differ in one byte, near the end.
fn content(last: u8) -> Vec<u8> {
    let mut bytes = vec![b'c'; LENGTH];
    bytes[LENGTH - 10] = last;
    bytes
}

/// Has the cache say that these files, as they are now, have such contents. What was altered a moment
/// ago it does not take, so that may take a few seconds.
fn claim(store: &TestStore, claims: &[(&Path, Digest)]) {
    let cache = HashCache::open(&store.path.join("cache.db"));
    for (path, digest) in claims {
        let begun = std::time::Instant::now();
        loop {
            let file = fs::File::open(path).unwrap();
            let key = FileKey::of(&rustix::fs::fstat(&file).unwrap());
            cache.put(&[(key, *digest)]);
            if cache.get(&[key]) == [Some(*digest)] {
                break;
            }
            assert!(begun.elapsed() < std::time::Duration::from_secs(20));
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    }
}

/// Where the bytes of a private file are.
fn stored(store: &TestStore, image: &str, path: &str) -> PathBuf {
    let why = store.ok(&["why", image, path, "--json"]).json();
    assert_eq!(why["role"], "file", "{why}");
    store.path.join(why["stored"].as_str().unwrap())
}

/// Writes files in both images and beside them, and expects them after `lie` and a fold.
fn folded(test: &str, lie: impl Fn(&TestStore, &Path, &Path)) {
    let Some(store) = two_images(test) else {
        return;
    };
    let config = configuration(&store, "");
    for (image, last) in [("first", b'1'), ("other", b'2')] {
        let mounted = store.mount_configured(image, &config);
        fs::write(mounted.join("lied about"), content(last)).unwrap();
        fs::write(mounted.join("equal"), content(b'3')).unwrap();
        mounted.unmount();
    }
    store.wait_for_daemons();
    let [first, other] = ["first", "other"].map(|image| stored(&store, image, "lied about"));
    lie(&store, &first, &other);
    // The second one meets what the first one has made.
    for round in 0..2 {
        let families = store.ok(&["fold", "--json"]).json()["families"].take();
        let families = families.as_array().unwrap().iter();
        let asked: u64 = families
            .map(|family| family["unchanged"].as_u64().unwrap())
            .sum();
        assert!(round > 0 || asked >= 2, "the lie was not asked for");
        store.assert_sound();
        for (image, last) in [("first", b'1'), ("other", b'2')] {
            let mounted = store.mount_configured(image, &config);
            assert!(fs::read(mounted.join("lied about")).unwrap() == content(last));
            assert!(fs::read(mounted.join("equal")).unwrap() == content(b'3'));
            mounted.unmount();
        }
        store.wait_for_daemons();
    }
    // It has not kept what is equal from being folded.
    let why = store.ok(&["why", "first", "equal", "--json"]).json();
    assert!(why["digest"].is_string(), "{why}");
}

#[test]
fn a_lie_about_an_object_that_exists_folds_nothing_wrong() {
    folded(
        "a_lie_about_an_object_that_exists",
        |store, first, other| {
            // What is equal becomes an object.
            store.ok(&["fold"]);
            let digest = Digest::of(&content(b'3'));
            let text = digest.to_string();
            let object = store.path.join("objects").join(&text[..2]).join(&text[2..]);
            assert_eq!(object.metadata().unwrap().size(), LENGTH as u64);
            claim(store, &[(first, digest), (other, digest)]);
        },
    );
}

#[test]
fn a_lie_about_two_private_files_folds_nothing_wrong() {
    for claimed in [b'1', b'2', b'4'] {
        folded("a_lie_about_two_private_files", |store, first, other| {
            let digest = Digest::of(&content(claimed));
            claim(store, &[(first, digest), (other, digest)]);
        });
    }
}

#[test]
fn a_lie_about_a_source_imports_nothing_wrong() {
    let Some(store) = two_images("a_lie_about_a_source") else {
        return;
    };
    // The content of an object, of another file of the source, and of none.
    let known = store.sample(0).join("usr/lib/deep/deeper/data");
    let mut altered = fs::read(&known).unwrap();
    altered[0] ^= 1;
    let tree = store.place.join("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("as an object"), &altered).unwrap();
    for last in [b'1', b'2', b'3'] {
        fs::write(tree.join(format!("file {last}")), content(last)).unwrap();
    }
    let file = |last: u8| tree.join(format!("file {last}"));
    claim(
        &store,
        &[
            (
                &tree.join("as an object"),
                Digest::of(&fs::read(&known).unwrap()),
            ),
            (&file(b'2'), Digest::of(&content(b'1'))),
            (&file(b'3'), Digest::of(b"of none")),
        ],
    );
    for image in ["lied-to", "again"] {
        store.import(image, &tree, "another");
        store.assert_sound();
        let mounted = store.mount(image);
        mounted.assert_shows(&tree);
        mounted.unmount();
        store.wait_for_daemons();
    }
}
