//! Needs root. An export beside what else happens to its store.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on should panic"
)]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::process::Stdio;

use common::snapshot::{Fields, Snapshot};
use common::store::{TestStore, run};
use common::{op, sample};

/// An export that is stopped in its midst: placement waits for it, and nothing is missing in it.
#[test]
fn nothing_moves_while_an_export_reads() {
    let test = "nothing_moves_while_an_export_reads";
    if !common::can_run(test, common::needs_root()) {
        return;
    }
    let store = TestStore::new();
    let (old, new) = (store.sample(0), store.place.join("new"));
    sample::copy(&old, &new);
    for number in 0..50 {
        fs::write(new.join(format!("usr/lib/new{number}")), "in most images").unwrap();
    }
    // Read late, and more of it than a pipe takes before.
    fs::write(new.join("early"), op::pattern(5, 1 << 20)).unwrap();
    fs::remove_dir_all(new.join("etc/conf.d")).unwrap();
    for (image, tree) in [("first", &old), ("second", &new), ("third", &new)] {
        store.import(image, tree, "family");
    }
    let mut export = store.command(&["export", "second", "-", "--format", "tar"]);
    let pipes = export.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut export = pipes.spawn().unwrap();
    let mut output = export.stdout.take().unwrap();
    let mut archive = vec![0; 512];
    output.read_exact(&mut archive).unwrap();

    // What three of five hold would move; it stays where it is, and the image is there all the same.
    let said = store.import("fourth", &new, "family").stderr;
    assert!(said.contains("an export or a check is reading"), "{said}");
    let refused = store.run(&["fold"]).exits(4);
    refused.says(&["an export or a check is reading it", "fold again"]);
    store.assert_sound();

    output.read_to_end(&mut archive).unwrap();
    assert!(export.wait().unwrap().success());
    let moved = store.ok(&["fold", "--json"]).json();
    let family = &moved["families"][0];
    assert!(family["shared_paths"].as_u64().unwrap() >= 50, "{moved}");

    let out = store.place.join("out");
    fs::create_dir(&out).unwrap();
    let path = store.place.join("archive.tar");
    fs::File::create(&path)
        .unwrap()
        .write_all(&archive)
        .unwrap();
    let mut tar = std::process::Command::new("tar");
    tar.args(["--xattrs", "--xattrs-include=*", "--acls", "-xpf"]);
    run(tar.arg(&path).arg("-C").arg(&out), b"").exits(0);
    let [expected, found] = [&new, &out].map(|tree| {
        let mut tree = Snapshot::of(tree);
        // An archive has no sockets.
        tree.entries.remove(&b"etc/socket"[..]);
        tree
    });
    expected.assert_same(&found, Fields::COPY, "what was exported");
    store.assert_sound();
}
