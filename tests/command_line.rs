//! Needs root (a store does), and for some tests FUSE. The command line as a user types it, wrong
//! turns included: exit codes, messages that name object, cause and remedy, --json, --dry-run.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on should panic"
)]

mod common;

#[path = "command_line/applied.rs"]
mod applied;
#[path = "command_line/damage.rs"]
mod damage;
#[path = "command_line/diffs.rs"]
mod diffs;
#[path = "command_line/holds.rs"]
mod holds;
#[path = "command_line/images.rs"]
mod images;
#[path = "command_line/layers.rs"]
mod layers;
#[path = "command_line/log.rs"]
mod log;
#[path = "command_line/patches.rs"]
mod patches;

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use common::snapshot::{Fields, Snapshot};
use common::store::{Ran, TestStore, program, run, tool};
use tempfile::TempDir;

/// An empty store, unless the test cannot run.
fn store(test: &str) -> Option<TestStore> {
    common::can_run(test, common::needs_root()).then(TestStore::new)
}

/// A store with the family `family` and its image `first`.
fn with_image(test: &str) -> Option<TestStore> {
    let store = store(test)?;
    store.import("first", &store.sample(0), "family");
    Some(store)
}

fn place() -> TempDir {
    common::fix_umask();
    common::scratch()
}

/// foldfs without a store of ours.
fn foldfs(arguments: &[&str]) -> Ran {
    let mut command = Command::new(program());
    command.env_remove("FOLDFS_STORE").args(arguments);
    run(&mut command, b"")
}

/// foldfs on the store at a path.
fn on(path: &Path, arguments: &[&str]) -> Ran {
    foldfs(&[&["--store", path.to_str().unwrap()], arguments].concat())
}

/// Everything in a store but what merely opening it makes.
fn listing(store: &TestStore) -> Snapshot {
    let mut snapshot = Snapshot::of(&store.path);
    snapshot.entries.retain(|path, _| {
        let opened = [
            &b"catalog.db-wal"[..],
            b"catalog.db-shm",
            b"run",
            b"run/lock",
        ];
        !path.is_empty() && !opened.contains(&&path[..])
    });
    snapshot
}

const COMMANDS: [&str; 22] = [
    "init",
    "import",
    "clone",
    "rename",
    "remove",
    "list",
    "status",
    "mount",
    "unmount",
    "fold",
    "hold",
    "release",
    "log",
    "metrics",
    "why",
    "check",
    "collect",
    "diff",
    "export",
    "daemon",
    "completions",
    "man",
];

#[test]
fn help_and_version() {
    foldfs(&["--help"]).exits(0);
    foldfs(&["--version"]).exits(0);
    for command in COMMANDS {
        let help = foldfs(&[command, "--help"]).exits(0);
        assert!(help.text().contains("Usage:"), "{command}");
    }
}

#[test]
fn wrong_usage_exits_with_2() {
    let wrong: [&[&str]; 13] = [
        &[],
        &["fly"],
        &["import"],
        &["import", "a"],
        &["clone", "a"],
        &["remove"],
        &["mount"],
        &["list", "--dry-run"],
        &["list", "extra"],
        &["export", "a", "b", "--format", "papyrus"],
        &["import", "a", "/etc", "--share", "some"],
        &["mount", "a", "/mnt", "-o", "nonsense"],
        &["completions", "csh-of-old"],
    ];
    for arguments in wrong {
        let ran = foldfs(arguments).exits(2);
        assert!(!ran.stderr.is_empty(), "{arguments:?} says nothing");
    }
}

#[test]
fn completions_and_manual_pages() {
    for shell in ["bash", "zsh", "fish"] {
        let ran = foldfs(&["completions", shell]).exits(0);
        assert!(ran.text().contains("foldfs"), "{shell}");
    }
    let place = place();
    foldfs(&["man", place.path().to_str().unwrap()]).exits(0);
    let pages = fs::read_dir(place.path()).unwrap().count();
    assert!(pages >= COMMANDS.len(), "{pages} pages");
}

#[test]
fn init_makes_a_store_once() {
    if !common::can_run("init_makes_a_store_once", common::needs_root()) {
        return;
    }
    let place = place();
    let path = place.path().join("store");
    on(&path, &["init", "--dry-run"]).exits(0);
    assert!(!path.exists(), "a dry run made it");
    on(&path, &["init"]).exits(0);
    assert_eq!(
        path.metadata().unwrap().permissions().mode() & 0o7777,
        0o700
    );
    on(&path, &["init"])
        .exits(1)
        .says(&[path.to_str().unwrap()]);
    on(&path, &["check"]).exits(0);
    let full = place.path().join("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("file"), "mine").unwrap();
    on(&full, &["init"])
        .exits(1)
        .says(&[full.to_str().unwrap()]);
    assert_eq!(
        fs::read_dir(&full).unwrap().count(),
        1,
        "init left something"
    );
    on(&place.path().join("a/b/c"), &["init"]).exits(1);
}

#[test]
fn store_comes_from_the_environment_and_from_the_configuration() {
    let Some(store) = store("store_comes_from_the_environment") else {
        return;
    };
    let mut command = Command::new(program());
    run(
        command.args(["check"]).env("FOLDFS_STORE", &store.path),
        b"",
    )
    .exits(0);
    let file = store.place.join("config.toml");
    fs::write(&file, format!("store = {:?}\n", store.path)).unwrap();
    let config = file.to_str().unwrap();
    foldfs(&["--config", config, "check"]).exits(0);
    fs::write(&file, "store = 5\n").unwrap();
    foldfs(&["--config", config, "check"])
        .exits(2)
        .says(&[config]);
    fs::write(&file, "no_such_key = true\n").unwrap();
    foldfs(&["--config", config, "check"])
        .exits(2)
        .says(&[config, "no_such_key"]);
    foldfs(&["--config", "/nowhere/config.toml", "check"])
        .exits(2)
        .says(&["/nowhere"]);
}

/// Every command says what is wrong with the place it was pointed to.
#[test]
fn what_is_no_store_is_refused() {
    if !common::can_run("what_is_no_store_is_refused", common::needs_root()) {
        return;
    }
    let place = place();
    let directory = place.path().join("directory");
    fs::create_dir(&directory).unwrap();
    fs::write(place.path().join("file"), "").unwrap();
    symlink("directory", place.path().join("link")).unwrap();
    let source = place.path().join("source");
    fs::create_dir(&source).unwrap();
    let (source, mount) = (source.to_str().unwrap(), directory.to_str().unwrap());
    let commands: [&[&str]; 11] = [
        &["list"],
        &["status"],
        &["check"],
        &["collect"],
        &["fold"],
        &["remove", "a"],
        &["clone", "a", "b"],
        &["rename", "a", "b"],
        &["why", "a", "/etc"],
        &["import", "a", source],
        &["mount", "a", mount],
    ];
    for name in ["nowhere", "directory", "file"] {
        let path = place.path().join(name);
        for command in commands {
            let ran = on(&path, command).exits(1);
            assert!(
                ran.stderr.contains(path.to_str().unwrap()),
                "{name} {command:?}: {ran:?}"
            );
            assert!(
                ran.stderr.contains("; "),
                "{name} {command:?} gives no remedy: {ran:?}"
            );
        }
    }
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
}

#[test]
fn a_store_that_others_can_read_is_refused() {
    let Some(store) = store("a_store_that_others_can_read_is_refused") else {
        return;
    };
    fs::set_permissions(&store.path, Permissions::from_mode(0o755)).unwrap();
    store.run(&["list"]).exits(1).says(&["755", "chmod"]);
    fs::set_permissions(&store.path, Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::chown(&store.path, Some(1000), None).unwrap();
    store.run(&["list"]).exits(1).says(&["chown"]);
    std::os::unix::fs::chown(&store.path, Some(0), None).unwrap();
    store.ok(&["list"]);
}

#[test]
fn a_newer_store_is_refused() {
    let Some(store) = store("a_newer_store_is_refused") else {
        return;
    };
    let file = store.path.join("foldfs.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("format = 1", "format = 999")).unwrap();
    for command in [&["list"][..], &["fold"], &["check"]] {
        store.run(command).exits(1).says(&["999", "newer"]);
    }
    fs::write(&file, "format = \"a\"").unwrap();
    store.run(&["list"]).exits(1).says(&["foldfs.toml"]);
    fs::write(&file, text).unwrap();
    sql(&store, "PRAGMA user_version = 999");
    for command in [&["list"][..], &["fold"], &["check"]] {
        store.run(command).exits(1).says(&["999", "newer"]);
    }
}

#[test]
fn a_store_in_use_is_busy() {
    let Some(store) = with_image("a_store_in_use_is_busy") else {
        return;
    };
    let lock = fs::File::options()
        .write(true)
        .open(store.path.join("run/lock"))
        .unwrap();
    let exclusive = rustix::fs::FlockOperation::NonBlockingLockExclusive;
    rustix::fs::flock(&lock, exclusive).unwrap();
    store
        .run(&["fold"])
        .exits(4)
        .says(&[store.path.to_str().unwrap()]);
    store.ok(&["list"]);
    store.ok(&["fold", "--dry-run"]);
}

/// A statement on the catalog, past all of foldfs.
fn sql(store: &TestStore, statement: &str) {
    let catalog = rusqlite::Connection::open(store.path.join("catalog.db")).unwrap();
    catalog.execute_batch(statement).unwrap();
}
