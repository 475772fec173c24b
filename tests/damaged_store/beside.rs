//! One image is damaged; the others, and the commands, go on.

use std::time::{Duration, Instant};

use super::*;

/// The images of [`family_beside`], and what they are to show.
const IMAGES: [&str; 4] = ["first", "other", "alone", "alone-too"];

struct Beside {
    store: TestStore,
    /// `images/ID` of `other`.
    damaged: PathBuf,
    plain: Vec<PathBuf>,
}

/// `first` and `other` are of one family, `alone` and `alone-too` of another. In each family's
/// images lies a file that fold has not yet found to be equal to one in the other family.
fn family_beside(test: &str) -> Option<Beside> {
    let store = two_images(test)?;
    store.import("alone", &store.sample(0), "beside");
    store.import("alone-too", &store.sample(1), "beside");
    let config = configuration(&store, "");
    let mut plain = Vec::new();
    for (position, image) in IMAGES.into_iter().enumerate() {
        let tree = store.place.join(format!("plain-{image}"));
        common::sample::copy(&store.sample(position as u32 % 2), &tree);
        let mounted = store.mount_configured(image, &config);
        for root in [&tree, &mounted.path] {
            fs::write(root.join("equal"), vec![b'x'; 20_000]).unwrap();
            fs::write(root.join("etc/own"), image).unwrap();
            let moment = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000);
            for name in ["equal", "etc/own"] {
                let file = fs::File::options().write(true).open(root.join(name));
                file.unwrap().set_modified(moment).unwrap();
            }
            fs::hard_link(root.join("etc/own"), root.join("own too")).unwrap();
        }
        mounted.unmount();
        plain.push(tree);
    }
    store.wait_for_daemons();
    store.assert_sound();
    let why = store.ok(&["why", "other", "equal", "--json"]).json();
    let stored = store.path.join(why["stored"].as_str().unwrap());
    let damaged = stored.parent().unwrap().parent().unwrap().to_owned();
    assert!(damaged.join("private").is_dir());
    Some(Beside {
        store,
        damaged,
        plain,
    })
}

/// A damage, and what names it.
type Damage = (&'static str, fn(&Path), &'static str);

/// What keeps an image from being mounted.
const UNMOUNTABLE: [Damage; 7] = [
    (
        "no image",
        |image| fs::remove_dir_all(image).unwrap(),
        "backup",
    ),
    (
        "no private/",
        |image| fs::remove_dir_all(image.join("private")).unwrap(),
        "private",
    ),
    (
        "no work/",
        |image| fs::remove_dir_all(image.join("work")).unwrap(),
        "work",
    ),
    (
        "no index/",
        |image| fs::remove_dir_all(image.join("index")).unwrap(),
        "index",
    ),
    (
        "no orphans/",
        |image| fs::remove_dir_all(image.join("orphans")).unwrap(),
        "orphans",
    ),
    (
        "a foreign file in index/",
        |image| fs::write(image.join("index/foreign"), "not ours").unwrap(),
        "index/foreign",
    ),
    (
        "a file for redirects/",
        |image| {
            fs::remove_dir_all(image.join("redirects")).unwrap();
            fs::write(image.join("redirects"), "not ours").unwrap();
        },
        "redirects",
    ),
];

/// What is foreign in a private layer keeps nobody from what is beside it.
const FOREIGN: [Damage; 3] = [
    (
        "a foreign file",
        |image| fs::write(image.join("private/foreign"), "not ours").unwrap(),
        "foreign",
    ),
    (
        "a foreign directory",
        |image| {
            fs::create_dir(image.join("private/foreign")).unwrap();
            fs::write(image.join("private/foreign/equal"), vec![b'x'; 20_000]).unwrap();
        },
        "foreign",
    ),
    (
        "a directory without a mark",
        |image| rustix::fs::lremovexattr(image.join("private/etc"), "trusted.foldfs").unwrap(),
        "etc",
    ),
];

/// The other images show what they did, and can be cloned and exported.
#[track_caller]
fn others_work(beside: &Beside, what: &str) {
    let store = &beside.store;
    for (image, tree) in IMAGES.into_iter().zip(&beside.plain) {
        if image == "other" {
            continue;
        }
        let mounted = store.mount(image);
        let refused = right_or_refused(tree, &mounted.path, what);
        assert!(refused.is_empty(), "{what}: {image}: {refused:?}");
        fs::write(mounted.join("written"), what).unwrap();
        fs::remove_file(mounted.join("written")).unwrap();
        mounted.unmount();
    }
    store.wait_for_daemons();
    store.ok(&["clone", "alone", "clone"]);
    store.ok(&["remove", "clone"]);
    store.ok(&["clone", "first", "sibling"]);
    store.ok(&["remove", "sibling"]);
    let export = store.place.join("export");
    store.ok(&["export", "first", export.to_str().unwrap()]);
    fs::remove_dir_all(&export).unwrap();
    store.ok(&["list"]);
    let status = store.run(&["status"]).exits(3);
    assert!(
        status.text().contains("left out: image \"other\""),
        "{what}: {status:?}"
    );
}

/// Folds; what was left out says so.
#[track_caller]
fn folds_the_others(beside: &Beside, what: &str, names: &str) {
    let store = &beside.store;
    let fold = store.run(&["fold"]).exits(3);
    let said = fold.text();
    for needed in ["left out: ", "image \"other\"", "foldfs check", names] {
        let is_lost = needed == "foldfs check" && said.contains("backup of the store");
        assert!(said.contains(needed) || is_lost, "{what}: {needed}: {said}");
    }
    for image in ["first", "alone", "alone-too"] {
        let why = store.ok(&["why", image, "equal", "--json"]).json();
        assert!(why["digest"].is_string(), "{what}: {image}: {why}");
    }
    // Both images of the sound family have it: it was placed, too.
    let why = store.ok(&["why", "alone", "equal", "--json"]).json();
    assert_eq!(why["layer"], "shared", "{what}");
    let why = store.ok(&["why", "first", "equal", "--json"]).json();
    assert_eq!(why["layer"], "private", "{what}");
}

#[track_caller]
fn refused_with_name_and_remedy(beside: &Beside, what: &str) {
    let store = &beside.store;
    let export = store.place.join("no export");
    let place = store.place.join("no mount");
    fs::create_dir_all(&place).unwrap();
    for command in [
        &["export", "other", export.to_str().unwrap()][..],
        &["clone", "other", "no-clone"],
        &["mount", "other", place.to_str().unwrap()],
    ] {
        let ran = store.run(command).exits(1);
        let remedied = ran.stderr.contains("foldfs check") || ran.stderr.contains("backup");
        assert!(
            ran.stderr.contains("image \"other\"") && remedied,
            "{what}: {ran:?}"
        );
    }
    store.wait_for_daemons();
    assert!(!export.exists(), "{what}");
}

/// Each damage is done to a copy of the same store.
fn each(test: &str, damages: &[Damage], run: impl Fn(&Beside, &str, &str)) {
    let Some(beside) = family_beside(test) else {
        return;
    };
    let kept = beside.store.place.join("kept");
    common::sample::copy(&beside.store.path, &kept);
    for (what, damage, names) in damages {
        damage(&beside.damaged);
        run(&beside, what, names);
        fs::remove_dir_all(&beside.store.path).unwrap();
        common::sample::copy(&kept, &beside.store.path);
    }
}

#[test]
fn an_image_that_cannot_be_mounted_stops_no_other() {
    each(
        "an_image_that_cannot_be_mounted",
        &UNMOUNTABLE,
        |beside, what, names| {
            folds_the_others(beside, what, names);
            refused_with_name_and_remedy(beside, what);
            others_work(beside, what);
            // Whose content is needed nobody knows.
            let collect = beside.store.run(&["collect"]);
            if what.starts_with("a foreign") {
                collect.exits(0);
            } else {
                collect.exits(1).says(&["image \"other\""]);
            }
        },
    );
}

#[test]
fn foreign_things_in_one_image_stop_no_other() {
    each(
        "foreign_things_in_one_image",
        &FOREIGN,
        |beside, what, names| {
            folds_the_others(beside, what, names);
            others_work(beside, what);
            let mounted = beside.store.mount("other");
            let refused = right_or_refused(&beside.plain[1], &mounted.path, what);
            let below = |path: &PathBuf| path.starts_with("etc");
            assert!(refused.iter().all(below), "{what}: {refused:?}");
            mounted.unmount();
            beside.store.wait_for_daemons();
        },
    );
}

#[test]
fn the_damaged_image_can_be_removed_and_the_rest_is_sound() {
    each(
        "the_damaged_image_can_be_removed",
        &UNMOUNTABLE,
        |beside, what, _| {
            let store = &beside.store;
            store.ok(&["remove", "other"]);
            store.ok(&["fold"]);
            store.assert_sound();
            let why = store.ok(&["why", "first", "equal", "--json"]).json();
            assert!(why["digest"].is_string(), "{what}: {why}");
        },
    );
}

#[test]
fn passes_go_on_beside_a_damaged_image() {
    let Some(beside) = family_beside("passes_go_on_beside_a_damaged_image") else {
        return;
    };
    let store = &beside.store;
    fs::write(beside.damaged.join("index/foreign"), "not ours").unwrap();
    let config = store.place.join("passes.toml");
    fs::write(&config, "interval = \"1s\"\nquiet = \"0s\"\n").unwrap();
    let mounted = store.mount_configured("alone", &config);
    let is_folded = |image: &str| {
        let why = store.ok(&["why", image, "equal", "--json"]).json();
        why["digest"].is_string()
    };
    let begun = Instant::now();
    while !["first", "alone", "alone-too"].into_iter().all(is_folded) {
        let waited = begun.elapsed() < Duration::from_secs(60);
        assert!(waited, "{}", store.run(&["status"]).text());
        std::thread::sleep(Duration::from_millis(20));
    }
    let log = store.ok(&["log", "--json"]).json();
    let entries = log["entries"].as_array().unwrap();
    let says = |entry: &&serde_json::Value| entry["left_out"].is_array();
    let said: Vec<_> = entries.iter().filter(says).collect();
    assert!(!said.is_empty(), "{log}");
    let sentence = said[0]["left_out"][0].as_str().unwrap();
    for needed in ["image \"other\"", "index/foreign", "foldfs check --repair"] {
        assert!(sentence.contains(needed), "{sentence}");
    }
    mounted.unmount();
    store.wait_for_daemons();
    store.ok(&["check", "--repair"]);
    store.ok(&["fold"]);
    store.assert_sound();
    let why = store.ok(&["why", "other", "equal", "--json"]).json();
    assert!(why["digest"].is_string(), "{why}");
}
