//! A whole image copied out, and a whole tree copied into an image, by three programs.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::installed;
use crate::common::snapshot::{Fields, Snapshot};
use crate::common::store::run;
use crate::workshop::Workshop;

/// Copies everything below `$1` to below `$2` by a command, both ways.
#[track_caller]
fn copy_both_ways(test: &str, command: &str) {
    let Some(workshop) = Workshop::open(test, "minbase") else {
        return;
    };
    let copy = |from: &Path, to: &Path| {
        fs::create_dir(to).unwrap();
        let mut shell = Command::new("bash");
        shell.args(["-euo", "pipefail", "-c", command, "bash"]);
        run(shell.arg(from).arg(to), b"").exits(0);
    };
    let source = Snapshot::of(&workshop.tree);
    let out = workshop.store.place.join("out");
    copy(&workshop.first.path, &out);
    source.assert_same(&Snapshot::of(&out), Fields::COPY, "copied out of the image");

    let into = workshop.first.join("srv/copy");
    workshop.while_folding(|| copy(&workshop.tree, &into));
    let found = Snapshot::of(&into);
    source.assert_same(&found, Fields::COPY, "copied into the image");
    let folded = workshop.fold();
    eprintln!("folded {folded} files after it");
    found.assert_same(&Snapshot::of(&into), Fields::ALL, "a fold shows");
    copy(&workshop.tree, &workshop.plain.join("srv/copy"));
    let shown = workshop.assert_alike(&[]);
    workshop.finish(
        &shown,
        "dpkg --admindir=/srv/copy/var/lib/dpkg --audit; find /srv/copy | wc -l",
    );
}

#[test]
fn images_copied_by_tar() {
    copy_both_ways(
        "images_copied_by_tar",
        r#"tar -C "$1" --xattrs --xattrs-include='*' --acls --numeric-owner -cf - . |
            tar -C "$2" --xattrs --xattrs-include='*' --acls --numeric-owner -xpf -"#,
    );
}

#[test]
fn images_copied_by_rsync() {
    let there = installed("rsync");
    if crate::common::can_run(
        "images_copied_by_rsync",
        (!there).then_some("it needs rsync"),
    ) {
        copy_both_ways(
            "images_copied_by_rsync",
            r#"rsync -aHAX --numeric-ids "$1/" "$2/"; test -z "$(rsync -aHAXnic --numeric-ids --delete "$1/" "$2/")""#,
        );
    }
}

#[test]
fn images_copied_by_cp() {
    copy_both_ways("images_copied_by_cp", r#"cp -aT "$1" "$2""#);
}
