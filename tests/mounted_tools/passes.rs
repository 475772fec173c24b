//! What the daemon folds without being told to.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use serde_json::Value;

use super::common::mapping::Mapped;
use super::*;

/// A daemon with this configuration; both images mounted by it.
pub fn twins_with(test: &str, config: &str) -> Option<(TestStore, [Mounted; 2])> {
    let store = twins(test)?;
    let file = store.place.join("config.toml");
    fs::write(&file, config).unwrap();
    let mounts = ["first", "second"].map(|image| store.mount_configured(image, &file));
    Some((store, mounts))
}

pub fn folding(store: &TestStore) -> Value {
    let status = store.ok(&["status", "--json"]).json();
    status["folding"].clone()
}

fn role(store: &TestStore, image: &str, path: &str) -> String {
    let why = store.ok(&["why", image, path, "--json"]).json();
    why["role"].as_str().unwrap().to_owned()
}

#[test]
fn what_has_become_equal_is_folded_by_itself() {
    let test = "what_has_become_equal_is_folded_by_itself";
    let Some((store, images)) = twins_with(test, "interval = '1s'\nquiet = '1s'") else {
        return;
    };
    let content: Vec<u8> = (0..200_000u32).flat_map(|i| i.to_le_bytes()).collect();
    for image in &images {
        fs::write(image.join("etc/installed"), &content).unwrap();
        fs::write(image.join("etc/log"), "equal so far").unwrap();
    }
    let mut log = File::options()
        .append(true)
        .open(images[0].join("etc/log"))
        .unwrap();
    let held = File::open(images[0].join("etc/installed")).unwrap();
    let mapped = Mapped::new(held.as_fd(), content.len(), false).unwrap();
    let before = images.each_ref().map(Mounted::snapshot);

    eventually("it is folded", || {
        let names = ["first", "second"];
        names
            .iter()
            .all(|image| role(&store, image, "/etc/installed") == "stub")
    });
    for (before, image) in before.iter().zip(&images) {
        before.assert_same(&image.snapshot(), Fields::ALL, "a pass shows");
    }
    assert!(mapped.load() == content, "the mapping changed");
    let mut again = vec![0; content.len()];
    held.read_exact_at(&mut again, 0).unwrap();
    assert!(again == content, "the descriptor reads something else");

    assert_eq!(
        role(&store, "first", "/etc/log"),
        "file",
        "it is open for writing"
    );
    log.write_all(b"; ").unwrap();
    let mut other = File::options()
        .append(true)
        .open(images[1].join("etc/log"))
        .unwrap();
    other.write_all(b"; ").unwrap();
    drop((log, other));
    eventually("what was closed is folded, too", || {
        role(&store, "first", "/etc/log") == "stub" && role(&store, "second", "/etc/log") == "stub"
    });
    assert_eq!(
        fs::read(images[1].join("etc/log")).unwrap(),
        b"equal so far; "
    );
    // It is counted when the pass has ended.
    eventually("all of them are counted", || {
        folding(&store)["folded_files"].as_u64().unwrap() >= 4
    });

    // What costs nothing when there is nothing to do.
    let idle = || folding(&store)["passes_with_nothing_new"].as_u64().unwrap();
    eventually("a pass finds nothing new", || idle() > 0);
    let looked_at = folding(&store)["last"].clone();
    let passes = idle();
    eventually("so does the next", || idle() > passes);
    assert_eq!(folding(&store)["last"], looked_at);
    drop((held, mapped));
    finish(&store, images);
}

#[test]
fn a_pass_leaves_alone_what_was_altered_a_moment_ago() {
    let test = "a_pass_leaves_alone_what_was_altered";
    let Some((store, images)) = twins_with(test, "interval = '1s'\nquiet = '1h'") else {
        return;
    };
    for image in &images {
        fs::write(image.join("etc/installed"), "equal").unwrap();
        // A guest's clock is no excuse.
        script(&image.path, "touch -d 2001-01-01 etc/installed").exits(0);
    }
    eventually("a pass has seen it", || {
        folding(&store)["last"]["recent_files"] == 2
    });
    assert_eq!(folding(&store)["folded_files"], 0);
    for image in ["first", "second"] {
        assert_eq!(role(&store, image, "/etc/installed"), "file");
    }
    let report = store.ok(&["fold", "--json"]).json();
    assert_eq!(
        report["families"][0]["folded_files"], 2,
        "who asks for it gets it"
    );
    finish(&store, images);
}

/// What the passes so far have in common: the last one that did something did not look at whole images.
fn assert_only_what_was_altered(store: &TestStore, what: &str) {
    let last = &folding(store)["last"];
    assert_eq!(last["whole_images"], 0, "{what}: {last}");
    assert!(last["examined"].as_u64().unwrap() <= 2, "{what}: {last}");
}

#[test]
fn what_equals_an_older_private_file_is_folded_without_a_look_at_all_of_them() {
    let test = "what_equals_an_older_private_file_is_folded";
    let Some((store, images)) = twins_with(test, "interval = '1s'\nquiet = '0s'") else {
        return;
    };
    let content = |seed: u8| vec![seed; 5000];
    for number in 0..9 {
        let name = format!("etc/lonely{number}");
        fs::write(images[1].join(name), content(number)).unwrap();
    }
    // Another size than anything else: nobody has hashed it.
    fs::write(images[1].join("etc/odd"), vec![7; 4567]).unwrap();
    let status = || folding(&store);
    let passes = |since: u64| {
        eventually("passes are made", || {
            status()["passes"].as_u64().unwrap() > since + 1
        });
    };
    passes(status()["passes"].as_u64().unwrap());
    assert_eq!(status()["folded_files"], 0);
    let both = |path: &str| {
        let of = |image| role(&store, image, path) == "stub";
        of("first") && of("second")
    };

    fs::write(images[0].join("etc/lonely3"), content(3)).unwrap();
    eventually("it is folded", || both("/etc/lonely3"));
    assert_only_what_was_altered(&store, "one of many of this size");
    fs::write(images[0].join("etc/odd"), vec![7; 4567]).unwrap();
    eventually("it is folded", || both("/etc/odd"));
    assert_only_what_was_altered(&store, "one that was never hashed");

    // Renamed and linked since, and forgotten by the kernel.
    fs::write(images[0].join("etc/new"), content(4)).unwrap();
    fs::write(images[0].join("etc/new2"), content(5)).unwrap();
    fs::rename(images[0].join("etc/new"), images[0].join("etc/lonely4")).unwrap();
    fs::hard_link(images[0].join("etc/new2"), images[0].join("etc/lonely5")).unwrap();
    let [first, second] = images;
    first.unmount();
    eventually("what an image had that is unmounted now", || {
        both("/etc/lonely4") && both("/etc/lonely5")
    });

    // What comes as an object.
    let tree = store.place.join("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("six"), content(6)).unwrap();
    store.import("third", &tree, "others");
    eventually("an import brought it", || {
        role(&store, "second", "/etc/lonely6") == "stub"
    });
    assert_eq!(role(&store, "second", "/etc/lonely7"), "file");
    // A look at everything finds nothing that the passes have missed.
    let report = store.ok(&["fold", "--json"]).json();
    for family in report["families"].as_array().unwrap() {
        assert_eq!(family["folded_files"], 0, "{family}");
    }
    finish(&store, [second]);
}

#[test]
fn a_pass_reads_no_more_than_it_may() {
    let test = "a_pass_reads_no_more_than_it_may";
    let Some((store, images)) = twins_with(test, "interval = '1s'\nquiet = '0s'\nrate = 1") else {
        return;
    };
    let content: Vec<u8> = (0..400_000u32).flat_map(|i| i.to_le_bytes()).collect();
    for image in &images {
        fs::write(image.join("etc/installed"), &content).unwrap();
    }
    eventually("it is folded", || folding(&store)["folded_files"] == 2);
    // Both were read once to be hashed, and once to become an object and its stub.
    let milliseconds = folding(&store)["last"]["milliseconds"].as_u64().unwrap();
    assert!(milliseconds >= 2900, "{milliseconds}");
    finish(&store, images);
}

#[test]
fn passes_are_as_the_configuration_says() {
    let Some(store) = twins("passes_are_as_the_configuration_says") else {
        return;
    };
    assert_eq!(folding(&store), Value::Null, "nobody is there to fold");
    let first = store.mount("first");
    assert_eq!(folding(&store)["interval_seconds"], 300);
    assert_eq!(folding(&store)["quiet_seconds"], 30);
    finish(&store, [first]);
    let Some((store, images)) = twins_with("passes_never", "interval = 'never'") else {
        return;
    };
    assert_eq!(folding(&store), Value::Null);
    finish(&store, images);
}

#[test]
fn holes_do_not_keep_a_fold_busy() {
    let Some(store) = twins("holes_do_not_keep_a_fold_busy") else {
        return;
    };
    let images = ["first", "second"].map(|image| store.mount(image));
    for image in &images {
        script(
            &image.path,
            "truncate -s 10T var/hollow; echo end >> var/hollow; \
             truncate -s 4M var/half; seq 100000 >> var/half",
        )
        .exits(0);
    }
    let report = store.ok(&["fold", "--json"]).json();
    assert_eq!(report["families"][0]["folded_files"], 2, "{report}");
    assert_eq!(role(&store, "first", "/var/half"), "stub");
    assert_eq!(role(&store, "first", "/var/hollow"), "file");
    finish(&store, images);
}
