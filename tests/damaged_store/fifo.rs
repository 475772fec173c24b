//! Fifos and directories in the place of the store's files.

use std::os::unix::fs::FileTypeExt;

use super::*;

fn fifo(path: &Path) {
    fs::remove_file(path).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    let kind = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).unwrap();
}

/// SQLite waits for somebody to write into a fifo.
#[test]
fn regression_a_fifo_in_the_place_of_the_catalog_does_not_hang() {
    let Some(store) = two_images("a_fifo_in_the_place_of_the_catalog") else {
        return;
    };
    let catalog = store.path.join("catalog.db");
    fifo(&catalog);
    for command in ["list", "check", "fold"] {
        let ran = store.run(&[command]);
        assert!([1, 3].contains(&ran.code), "{ran:?}");
        let said = format!("{}{}", ran.text(), ran.stderr);
        assert!(
            said.contains("no regular file") && said.contains("check --repair"),
            "{said}"
        );
    }
    store.ok(&["check", "--repair"]);
    assert!(catalog.metadata().unwrap().is_file());
    store.assert_sound();
    let mounted = store.mount("other");
    mounted.assert_shows(&store.sample(1));
}

#[test]
fn regression_a_fifo_in_the_place_of_the_hash_cache_is_replaced() {
    let Some(store) = two_images("a_fifo_in_the_place_of_the_hash_cache") else {
        return;
    };
    let mounted = store.mount_configured("other", &configuration(&store, ""));
    for name in ["equal", "too"] {
        fs::write(mounted.join(name), "equal").unwrap();
    }
    mounted.unmount();
    store.wait_for_daemons();
    let cache = store.path.join("cache.db");
    if !cache.exists() {
        fs::write(&cache, "").unwrap();
    }
    fifo(&cache);
    store.ok(&["fold"]);
    assert!(!cache.symlink_metadata().unwrap().file_type().is_fifo());
    store.assert_sound();
}
