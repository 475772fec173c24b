//! A disk with places that cannot be read: folds and passes leave out what lies there, and say so; the
//! rest is folded, and everything else goes on.
//!
//! btrfs gives EIO for content that does not have its checksum, ext4 EBADMSG for such a directory.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::common::device::{Device, Kind};
use super::common::store::{Ran, TestStore, tool};
use super::common::{can_run, needs_fuse};

const PAGE: usize = 4096;

/// Content that nothing else has.
fn content(seed: u8) -> Vec<u8> {
    let mut state = u64::from(seed) + 1;
    let bytes = std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    });
    bytes.take(10 * PAGE + usize::from(seed)).collect()
}

/// At which pages of a device's file this content begins.
fn pages(path: &Path, content: &[u8]) -> Vec<u64> {
    let file = File::open(path).unwrap();
    let count = file.metadata().unwrap().len() / PAGE as u64;
    let mut page = [0; PAGE];
    let begins = |number: &u64| {
        file.read_exact_at(&mut page, number * PAGE as u64).unwrap();
        page == content[..PAGE]
    };
    let found = (0..count).filter(begins);
    found.map(|number| number * PAGE as u64).collect()
}

/// Where a name stands in it.
fn places(path: &Path, name: &str) -> Vec<u64> {
    let found = tool("grep", &["-obaF", name, path.to_str().unwrap()]).text();
    let places = found.lines().filter_map(|line| line.split(':').next());
    places.map(|place| place.parse().unwrap()).collect()
}

fn flip(path: &Path, place: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, place).unwrap();
    byte[0] ^= 0x10;
    file.write_all_at(&byte, place).unwrap();
}

/// The images `first` and `second` of one family, without passes, on a device.
fn on_a_device(kind: Kind, work: impl Fn(&Path, usize)) -> (Device, TestStore) {
    let device = Device::new(kind, 128);
    let store = TestStore::at(&device.path);
    let tree = store.place.join("tree");
    fs::create_dir_all(tree.join("directory")).unwrap();
    fs::write(tree.join("shared"), content(1)).unwrap();
    for image in ["first", "second"] {
        store.import(image, &tree, "family");
    }
    let config = store.place.join("never.toml");
    fs::write(&config, "interval = 'never'").unwrap();
    for (number, image) in ["first", "second"].into_iter().enumerate() {
        let mounted = store.mount_configured(image, &config);
        work(&mounted.path, number);
        mounted.unmount();
    }
    store.wait_for_daemons();
    (device, store)
}

fn is_folded(store: &TestStore, image: &str, path: &str) -> bool {
    let why = store.ok(&["why", image, path, "--json"]).json();
    why["digest"].is_string()
}

/// The fold did its work, and says what it left out.
#[track_caller]
fn says_what_it_left_out(fold: &Ran, files: u64, needed: &[&str]) -> Value {
    let report = fold.json();
    let family = &report["families"][0];
    assert_eq!(family["damaged_files"], files, "{report}");
    let said = report["left_out"].to_string();
    for needed in needed {
        assert!(said.contains(needed), "{needed}: {said}");
    }
    for pair in ["object=", "cause=", "remedy="] {
        assert!(fold.stderr.contains(pair), "{pair}: {}", fold.stderr);
    }
    report
}

#[test]
fn a_fold_leaves_out_files_that_cannot_be_read() {
    let test = "a_fold_leaves_out_files_that_cannot_be_read";
    if !can_run(test, needs_fuse().or(Device::missing(Kind::Btrfs))) {
        return;
    }
    let (device, store) = on_a_device(Kind::Btrfs, |root, _| {
        fs::write(root.join("bad"), content(2)).unwrap();
        fs::write(root.join("good"), content(3)).unwrap();
        fs::write(root.join("directory/good"), content(4)).unwrap();
    });
    device.meanwhile(|image| {
        let pages = pages(image, &content(2));
        assert_eq!(pages.len(), 2, "content does not lie there in the clear");
        flip(image, pages[0]);
    });
    let dry = store.run(&["fold", "--dry-run", "--json"]).exits(3);
    says_what_it_left_out(&dry, 1, &["bad"]);
    let fold = store.run(&["fold", "--json"]).exits(3);
    let needed = ["image", ": bad: Input/output error", "backup"];
    says_what_it_left_out(&fold, 1, &needed);
    let mut unreadable = 0;
    for image in ["first", "second"] {
        assert!(is_folded(&store, image, "good"));
        assert!(is_folded(&store, image, "directory/good"));
        assert!(!is_folded(&store, image, "bad"));
        let mounted = store.mount(image);
        assert!(fs::read(mounted.join("good")).unwrap() == content(3));
        match fs::read(mounted.join("bad")) {
            Ok(found) => assert!(found == content(2)),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EIO));
                unreadable += 1;
                // The remedy.
                fs::write(mounted.join("bad"), content(2)).unwrap();
            }
        }
        mounted.unmount();
    }
    assert_eq!(unreadable, 1);
    store.wait_for_daemons();
    store.ok(&["fold"]);
    assert!(is_folded(&store, "first", "bad") && is_folded(&store, "second", "bad"));
    store.assert_sound();
}

#[test]
fn a_fold_leaves_alone_what_equals_an_object_that_cannot_be_read() {
    let test = "a_fold_leaves_alone_what_equals_an_object";
    if !can_run(test, needs_fuse().or(Device::missing(Kind::Btrfs))) {
        return;
    }
    let (device, store) = on_a_device(Kind::Btrfs, |root, number| {
        fs::write(root.join("good"), content(3)).unwrap();
        if number == 0 {
            fs::write(root.join("copy"), content(1)).unwrap();
        }
    });
    // One of them is the private file, the other the object; which one a digest does not tell.
    let mut found = Vec::new();
    device.meanwhile(|image| found = pages(image, &content(1)));
    let object_is_bad = || {
        let mounted = store.mount("second");
        let is_bad = fs::read(mounted.join("shared")).is_err();
        mounted.unmount();
        store.wait_for_daemons();
        is_bad
    };
    for &place in &found {
        device.meanwhile(|image| flip(image, place));
        if object_is_bad() {
            break;
        }
        device.meanwhile(|image| flip(image, place));
    }
    assert!(object_is_bad(), "{found:?}");
    let fold = store.run(&["fold", "--json"]).exits(3);
    let needed = ["copy", "object ", "check --content"];
    says_what_it_left_out(&fold, 1, &needed);
    assert!(is_folded(&store, "first", "good") && !is_folded(&store, "first", "copy"));
    let mounted = store.mount("first");
    assert!(fs::read(mounted.join("copy")).unwrap() == content(1));
    mounted.unmount();
    store.wait_for_daemons();
    // The copy mends it.
    store.ok(&["check", "--repair", "--content"]);
    store.ok(&["fold"]);
    assert!(is_folded(&store, "first", "copy"));
    store.assert_sound();
}

#[test]
fn a_fold_leaves_out_a_directory_that_cannot_be_listed() {
    let test = "a_fold_leaves_out_a_directory_that_cannot_be_listed";
    if !can_run(test, needs_fuse().or(Device::missing(Kind::Ext4))) {
        return;
    }
    let (device, store) = on_a_device(Kind::Ext4, |root, number| {
        fs::write(root.join("good"), content(3)).unwrap();
        let name = format!("directory/name that stands nowhere else {number}");
        fs::write(root.join(name), content(4)).unwrap();
    });
    device.meanwhile(|image| {
        for place in places(image, "name that stands nowhere else 0") {
            flip(image, place);
        }
    });
    let fold = store.run(&["fold", "--json"]).exits(3);
    says_what_it_left_out(&fold, 1, &["image \\\"first\\\"", "directory"]);
    assert!(is_folded(&store, "first", "good") && is_folded(&store, "second", "good"));
}

#[test]
fn passes_leave_out_what_cannot_be_read_and_do_not_try_it_again_and_again() {
    let test = "passes_leave_out_what_cannot_be_read";
    if !can_run(test, needs_fuse().or(Device::missing(Kind::Btrfs))) {
        return;
    }
    let (device, store) = on_a_device(Kind::Btrfs, |root, _| {
        fs::write(root.join("bad"), content(2)).unwrap();
        fs::write(root.join("good"), content(3)).unwrap();
    });
    device.meanwhile(|image| flip(image, pages(image, &content(2))[0]));
    let config = store.place.join("passes.toml");
    fs::write(&config, "interval = '1s'\nquiet = '0s'").unwrap();
    let mounted = store.mount_configured("first", &config);
    let folding = || store.ok(&["status", "--json"]).json()["folding"].clone();
    let begun = Instant::now();
    while folding()["passes_with_nothing_new"].as_u64() < Some(2) {
        assert!(begun.elapsed() < Duration::from_secs(60), "{}", folding());
        std::thread::sleep(Duration::from_millis(20));
    }
    let folding = folding();
    assert_eq!(folding["last_error"], Value::Null, "{folding}");
    assert_eq!(folding["last"]["damaged_files"], 1, "{folding}");
    assert_eq!(folding["folded_files"], 2, "{folding}");
    let said = folding["last"]["left_out"].to_string();
    assert!(said.contains(": bad: Input/output error"), "{said}");
    let metrics = store.ok(&["metrics"]).text();
    let line = r#"foldfs_left_files_total{by="pass",why="damaged"} "#;
    let line = metrics.lines().find_map(|found| found.strip_prefix(line));
    assert_eq!(line, Some("1"), "{metrics}");
    mounted.unmount();
    store.wait_for_daemons();
}
