//! A store whose process stops at any durable step of making it, of adding and of removing images.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::catalog::Reads;
use super::open::{Access, Store};
use super::open_tests::{add_family, add_image};
use crate::sys::durable;

const PATH: &str = "FOLDFS_TEST_CRASH_STORE";
const STEP: &str = "FOLDFS_TEST_CRASH_STEP";
const STOPPED: i32 = 77;

/// What the child process does until it is stopped.
fn work(path: &Path) {
    let store = Store::init(path).unwrap();
    let (family, _) = add_family(&store);
    let image = add_image(&store, family, "web");
    add_image(&store, family, "app");
    store.back_up_catalog().unwrap();
    let transaction = store.catalog().transaction().unwrap();
    transaction.delete_image(image).unwrap();
    transaction.commit().unwrap();
    store.retire_image(image).unwrap();
    store.back_up_catalog().unwrap();
}

fn child(path: PathBuf, stop: usize) {
    let count = AtomicUsize::new(0);
    durable::set_hook(Some(Arc::new(move |_, _| {
        if count.fetch_add(1, Ordering::Relaxed) == stop {
            std::process::exit(STOPPED);
        }
        Ok(())
    })));
    work(&path);
    durable::set_hook(None);
}

/// A store opens without repair, or was not made and can be.
fn check(path: &Path) -> Store {
    let store = Store::open(path, Access::Write).or_else(|error| {
        let error = error.to_string();
        let unmade = ["no such directory", "empty directory", "half-made"];
        assert!(unmade.iter().any(|cause| error.contains(cause)), "{error}");
        Store::init(path)
    });
    let store = store.unwrap();
    assert!(store.catalog().integrity_check().unwrap().is_empty());
    let count = |name: &str| std::fs::read_dir(path.join(name)).unwrap().count();
    let images = store.catalog().images().unwrap();
    assert_eq!(count("images"), images.len());
    for image in images {
        store.image_dirs(image.id).unwrap();
    }
    assert_eq!(count("staging"), 0);
    store
}

#[test]
fn a_stop_at_any_step_leaves_a_store_that_opens() {
    if let (Some(path), Some(stop)) = (std::env::var_os(PATH), std::env::var(STEP).ok()) {
        return child(PathBuf::from(path), stop.parse().unwrap());
    }
    for stop in 0.. {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("store");
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "store::crash_tests::a_stop_at_any_step_leaves_a_store_that_opens",
            ])
            .env(PATH, &path)
            .env(STEP, stop.to_string())
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap();
        let store = check(&path);
        store.back_up_catalog().unwrap();
        if status.success() {
            assert_eq!(store.catalog().images().unwrap().len(), 2);
            assert!(
                stop > 50,
                "{stop} steps only: does every step pass sys::durable?"
            );
            return;
        }
        assert_eq!(status.code(), Some(STOPPED), "step {stop}");
    }
}
