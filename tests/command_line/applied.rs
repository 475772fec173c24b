//! patch apply: the base and each image become what the patch says, but for what an image has changed
//! itself; what is refused changes nothing.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::common::sample;
use super::*;

/// A family of two images, one of which has a version of its own, and a patch for it.
struct Patched {
    store: TestStore,
    old: PathBuf,
    new: PathBuf,
    /// The tree of image `second`, and what it is to be.
    own: PathBuf,
    merged: PathBuf,
    patch: PathBuf,
}

fn alter(tree: &Path, is_own: bool) {
    let text = |version: &str| format!("{version}{}", "a line of text\n".repeat(1000));
    fs::write(tree.join("etc/program"), text("new")).unwrap();
    if !is_own {
        fs::write(tree.join("etc/settings"), "new settings\n").unwrap();
    }
    fs::remove_file(tree.join("etc/gone")).unwrap();
    fs::rename(tree.join("etc/moved"), tree.join("etc/here")).unwrap();
    fs::create_dir(tree.join("added")).unwrap();
    fs::write(tree.join("added/one"), "one\n").unwrap();
    fs::hard_link(tree.join("added/one"), tree.join("added/two")).unwrap();
    symlink("one", tree.join("added/link")).unwrap();
}

impl Patched {
    fn new(test: &str) -> Option<Self> {
        let store = store(test)?;
        let old = store.sample(0);
        let text = format!("old{}", "a line of text\n".repeat(1000));
        for (name, text) in [
            ("program", text.as_str()),
            ("settings", "settings\n"),
            ("gone", "gone\n"),
            ("moved", "content that moves\n"),
        ] {
            fs::write(old.join("etc").join(name), text).unwrap();
        }
        let path = |name: &str| store.place.join(name);
        let (new, own, merged) = (path("new"), path("own"), path("merged"));
        sample::copy(&old, &new);
        alter(&new, false);
        sample::copy(&old, &own);
        fs::write(own.join("etc/settings"), "settings of its own\n").unwrap();
        // Times that are the image's own stay, all others are the patch's.
        sample::copy(&new, &merged);
        let settings = own.join("etc/settings");
        fs::copy(&settings, merged.join("etc/settings")).unwrap();
        let time = fs::metadata(&settings).unwrap().modified().unwrap();
        let file = fs::File::options()
            .write(true)
            .open(merged.join("etc/settings"));
        file.unwrap().set_modified(time).unwrap();
        store.import("first", &old, "family");
        store.import("second", &own, "family");
        let patch = path("patch");
        let patched = Self {
            store,
            old,
            new,
            own,
            merged,
            patch,
        };
        let (old, new) = (shown(&patched.old), shown(&patched.new));
        let create = ["patch", "create", old, new, "-o", shown(&patched.patch)];
        patched.store.run(&create).exits(0);
        Some(patched)
    }

    fn apply(&self, more: &[&str]) -> Ran {
        let line = ["patch", "apply", shown(&self.patch), "--family", "family"];
        self.store.run(&[&line[..], more].concat())
    }

    #[track_caller]
    fn assert_shows(&self, image: &str, tree: &Path) {
        let found = self.store.run(&["diff", image, shown(tree)]);
        assert_eq!(found.code, 0, "{image}: {}", found.text());
    }

    #[track_caller]
    fn assert_unchanged(&self) {
        self.assert_shows("family", &self.old);
        self.assert_shows("first", &self.old);
        self.assert_shows("second", &self.own);
    }
}

fn shown(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_patch_is_applied_to_base_and_images() {
    let Some(patched) = Patched::new("a_patch_is_applied_to_base_and_images") else {
        return;
    };
    let conflict = json!([{ "path": "/etc/settings", "reason": "differs" }]);
    let assert_told = |report: &Value| {
        assert_eq!(report["report"], "apply");
        let images = report["images"].as_array().unwrap();
        let names: Vec<&Value> = images.iter().map(|image| &image["image"]).collect();
        assert_eq!(names, ["family", "first", "second"]);
        for image in images {
            let is_own = image["image"] == "second";
            assert_eq!(
                image["conflicts"],
                if is_own { conflict.clone() } else { json!([]) }
            );
            let sum = image["changed"].as_u64().unwrap() + image["unchanged"].as_u64().unwrap();
            assert_eq!(sum + u64::from(is_own), report["paths"].as_u64().unwrap());
        }
    };
    let plan = patched.apply(&["--dry-run", "--json"]).exits(3).json();
    assert_told(&plan);
    assert_eq!(plan["change"], Value::Null);
    patched.assert_unchanged();
    let refused = patched
        .apply(&["--on-conflict", "fail", "--json"])
        .exits(3)
        .json();
    assert_eq!(
        (&refused["applied"], &refused["change"]),
        (&json!(false), &Value::Null)
    );
    patched.assert_unchanged();

    let done = patched
        .apply(&["-m", "for a test", "--json"])
        .exits(3)
        .json();
    assert_told(&done);
    assert_eq!(
        (&done["applied"], &done["change"]),
        (&json!(true), &json!(1))
    );
    patched.assert_shows("family", &patched.new);
    patched.assert_shows("first", &patched.new);
    patched.assert_shows("second", &patched.merged);
    // The change is kept, and what it was about.
    let line = ["log", "family", "--change", "1", "--json"];
    let log = patched.store.ok(&line).json();
    let [change] = &log["changes"].as_array().unwrap()[..] else {
        panic!("{log}");
    };
    let line = ["patch", "show", shown(&patched.patch), "--json"];
    let patch = patched.store.ok(&line).json();
    assert_eq!(change["kept"]["changes"], patch["changes"]);
    assert_eq!(
        change["kept"]["images"],
        json!(["family", "first", "second"])
    );
    assert_eq!(
        [&change["kind"], &change["why"], &change["source"]],
        ["apply", "for a test", shown(&patched.patch)]
    );
    let text = patched
        .store
        .ok(&["log", "family", "--change", "1", "--stat"])
        .text();
    assert!(
        text.contains("apply") && text.contains(": for a test\n"),
        "{text}"
    );
    assert_eq!(
        fs::read_dir(patched.store.path.join("changes"))
            .unwrap()
            .count(),
        1
    );
    patched.store.ok(&["collect"]);
    patched.store.assert_sound();

    let again = patched.apply(&[]).exits(3).text();
    assert!(again.contains("changes nothing"), "{again}");
    assert!(
        again.contains("keeps /etc/settings: it has another version"),
        "{again}"
    );
    patched.assert_shows("second", &patched.merged);

    let dry = patched.store.ok(&["revert", "1", "--dry-run"]).text();
    assert!(
        dry.contains("change 1, ") && dry.contains("would be applied"),
        "{dry}"
    );
    patched.assert_shows("first", &patched.new);
    patched.store.ok(&["revert", "1", "-m", "a mistake"]);
    patched.assert_unchanged();
    patched.store.run(&["revert", "7"]).exits(1).says(&[
        "change 7",
        "there is no such change",
        "foldfs log",
    ]);
    patched
        .store
        .run(&["log", "nobody"])
        .exits(1)
        .says(&["there is no such family"]);
    let forgotten = patched
        .store
        .ok(&["collect", "--keep-changes", "1", "--json"])
        .json();
    assert_eq!(forgotten["forgotten_changes"], json!([1]));
    patched
        .store
        .run(&["revert", "1"])
        .exits(1)
        .says(&["not kept any more", "keep_changes"]);
    patched.store.ok(&["revert", "2"]);
    patched.assert_shows("first", &patched.new);
    patched.store.assert_sound();
}

#[test]
fn what_may_not_be_applied_changes_nothing() {
    let Some(patched) = Patched::new("what_may_not_be_applied_changes_nothing") else {
        return;
    };
    let whole = fs::read(&patched.patch).unwrap();
    for bytes in [
        &whole[..whole.len() - 1],
        b"no patch",
        &[&whole[..], b"x"].concat(),
    ] {
        fs::write(&patched.patch, bytes).unwrap();
        patched.apply(&[]).exits(1).says(&["patch", "; "]);
    }
    fs::write(&patched.patch, &whole).unwrap();
    let config = patched.store.place.join("c.toml");
    let key = "MCowBQYDK2VwAyEAGPMALt1j6dRusM+Sn0U8QtYZsosgmEOOH/6THgLQrUI=";
    fs::write(&config, format!("patch_keys = ['{key}']\n")).unwrap();
    let unsigned = patched.apply(&["--config", shown(&config)]);
    unsigned.exits(1).says(&["it is not signed", "--sign"]);
    let line = ["patch", "apply", shown(&patched.patch), "--family", "first"];
    patched
        .store
        .run(&line)
        .exits(1)
        .says(&["\"first\"", "no such family", "foldfs list"]);
    patched.store.run(&line[..3]).exits(2);
    patched.assert_unchanged();
    assert!(!patched.store.path.join("changes").exists());
}

/// What the base is to become may be a directory of the host.
#[test]
fn a_directory_is_applied_as_its_patch_is() {
    let Some(patched) = Patched::new("a_directory_is_applied_as_its_patch_is") else {
        return;
    };
    let line = ["patch", "apply", shown(&patched.new), "--family", "family"];
    let temporary = patched.store.place.join("temporary");
    fs::create_dir(&temporary).unwrap();
    let apply = |more: &[&str]| {
        let mut command = patched.store.command(&[&line[..], more].concat());
        run(command.env("TMPDIR", &temporary), b"")
    };
    apply(&["--dry-run"]).exits(3);
    patched.assert_unchanged();
    // It comes from nobody else: no signature is demanded.
    let config = patched.store.place.join("c.toml");
    let key = "MCowBQYDK2VwAyEAGPMALt1j6dRusM+Sn0U8QtYZsosgmEOOH/6THgLQrUI=";
    fs::write(&config, format!("patch_keys = ['{key}']\n")).unwrap();
    apply(&["--config", shown(&config)]).exits(3);
    patched.assert_shows("family", &patched.new);
    patched.assert_shows("first", &patched.new);
    patched.assert_shows("second", &patched.merged);
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0);
    patched.store.assert_sound();
    let line = ["patch", "apply", shown(&patched.new), "--family", "nosuch"];
    patched
        .store
        .run(&line)
        .exits(1)
        .says(&["nosuch", "foldfs list"]);
}

/// The content of a file that moved does not travel; where nobody has it, that is said.
#[test]
fn a_content_that_is_nowhere_changes_nothing() {
    let Some(store) = store("a_content_that_is_nowhere") else {
        return;
    };
    let path = |name: &str| store.place.join(name);
    let (image, old, new) = (store.sample(0), path("old"), path("new"));
    sample::copy(&image, &old);
    fs::write(old.join("etc/moved"), "content that nobody has\n").unwrap();
    sample::copy(&old, &new);
    fs::rename(new.join("etc/moved"), new.join("etc/here")).unwrap();
    store.import("first", &image, "family");
    let patch = path("p");
    let create = [
        "patch",
        "create",
        shown(&old),
        shown(&new),
        "-o",
        shown(&patch),
    ];
    store.run(&create).exits(0);
    let apply = ["patch", "apply", shown(&patch), "--family", "family"];
    store
        .run(&apply)
        .exits(1)
        .says(&["no image of the family has it", "make a patch from"]);
    store.run(&["diff", "first", shown(&image)]).exits(0);
    store.assert_sound();
}

#[test]
fn a_mount_whose_daemon_cannot_be_asked_keeps_its_family_as_it_is() {
    let test = "a_mount_whose_daemon_cannot_be_asked_keeps_its_family_as_it_is";
    if !super::common::can_run(test, super::common::needs_fuse()) {
        return;
    }
    let Some(patched) = Patched::new(test) else {
        return;
    };
    let mounted = patched.store.mount("first");
    let socket = patched.store.path.join("run/control.sock");
    let elsewhere = patched.store.place.join("socket");
    std::fs::rename(&socket, &elsewhere).unwrap();
    patched.apply(&[]).exits(4).says(&["store", "; "]);
    std::fs::rename(&elsewhere, &socket).unwrap();
    mounted.assert_shows(&patched.old);
    patched.apply(&[]).exits(3);
    mounted.assert_shows(&patched.new);
    mounted.unmount();
}
