//! What folds and passes do with private files that equal a damaged object.

use std::time::{Duration, Instant};

use super::*;

const DATA: &str = "usr/lib/deep/deeper/data";

/// `first` and `other` with a copy each of a shared file, and a file that both have and nobody else.
fn copies(test: &str) -> Option<TestStore> {
    let store = two_images(test)?;
    let config = configuration(&store, "");
    for image in ["first", "other"] {
        let mounted = store.mount_configured(image, &config);
        fs::copy(mounted.join(DATA), mounted.join("copy")).unwrap();
        fs::write(mounted.join("equal"), vec![b'x'; 20_000]).unwrap();
        mounted.unmount();
    }
    store.wait_for_daemons();
    Some(store)
}

fn is_folded(store: &TestStore, image: &str, path: &str) -> bool {
    let why = store.ok(&["why", image, path, "--json"]).json();
    why["digest"].is_string()
}

#[test]
fn a_fold_tells_of_a_damaged_object_and_folds_the_rest() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 3] = [
        ("flipped", |object| flip(object, 4095)),
        ("shorter", |object| truncate(object, 4000)),
        ("longer", |object| truncate(object, 9000)),
    ];
    for (what, damage) in damages {
        let Some(store) = copies("a_fold_tells_of_a_damaged_object") else {
            return;
        };
        let object = object_of(&store, "first", DATA);
        let digest = digest_of(&object);
        damage(&object);
        let fold = store.run(&["fold", "--json"]).exits(3).json();
        assert_eq!(fold["families"][0]["damaged_files"], 2, "{what}: {fold}");
        let said = fold["left_out"].as_array().unwrap();
        assert_eq!(said.len(), 2, "one of each image, {what}: {fold}");
        for (said, image) in said.iter().zip(["first", "other"]) {
            for part in [image, ": copy: object ", &digest, "--repair"] {
                let said = said.as_str().unwrap();
                assert!(said.contains(part), "{what}: no {part}: {said}");
            }
        }
        let entries = store.ok(&["log", "--json"]).json()["entries"].take();
        let entry = entries.as_array().unwrap().last().unwrap();
        assert_eq!(entry["damaged_files"], 2, "{what}: {entry}");
        for image in ["first", "other"] {
            assert!(is_folded(&store, image, "equal"), "{what}");
            assert!(!is_folded(&store, image, "copy"), "{what}");
        }
        let found = store.run(&["check", "--content"]).exits(3);
        assert!(found.text().contains(&digest[2..]), "{what}: {found:?}");
        let mounted = store.mount("first");
        let right = fs::read(store.sample(0).join(DATA)).unwrap();
        assert!(fs::read(mounted.join("copy")).unwrap() == right, "{what}");
        mounted.unmount();
        store.wait_for_daemons();
        // The copies mend it.
        store.ok(&["check", "--repair", "--content"]);
        store.ok(&["fold"]);
        assert!(is_folded(&store, "first", "copy") && is_folded(&store, "other", "copy"));
        store.assert_sound();
    }
}

#[test]
fn passes_tell_of_a_damaged_object_and_do_not_try_it_again_and_again() {
    let Some(store) = copies("passes_tell_of_a_damaged_object") else {
        return;
    };
    let object = object_of(&store, "first", DATA);
    flip(&object, 100);
    let config = store.place.join("passes.toml");
    fs::write(&config, "interval = '1s'\nquiet = '0s'").unwrap();
    let mounted = store.mount_configured("first", &config);
    let folding = || store.ok(&["status", "--json"]).json()["folding"].clone();
    let begun = Instant::now();
    // Of the passes that had something to do the last is told: another one may follow that finds no damage.
    let mut last = serde_json::Value::Null;
    loop {
        let now = folding();
        if now["last"]["damaged_files"] == 2 {
            last = now["last"].clone();
        }
        if now["passes_with_nothing_new"].as_u64() >= Some(2) {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{now}");
        std::thread::sleep(Duration::from_millis(20));
    }
    let status = store.ok(&["status", "--json"]).json();
    assert_eq!(last["damaged_files"], 2, "{status}");
    assert_eq!(status["folding"]["folded_files"], 2, "{status}");
    let said = last["left_out"].to_string();
    assert!(said.contains(&digest_of(&object)), "{said}");
    // Nobody gets what is wrong from now on.
    assert_eq!(status["damaged"], serde_json::json!([digest_of(&object)]));
    let refused = fs::read(mounted.join(DATA)).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EIO));
    mounted.unmount();
    store.wait_for_daemons();
}
