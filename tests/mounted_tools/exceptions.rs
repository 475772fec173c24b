//! The exceptions of docs/semantics.md, each by a command that works in a plain directory and does
//! not in an image. One that works in both is no exception any more and has to leave the table.

use std::fs;

use super::*;

/// What stands in the table's first column, and the command.
const EXCEPTIONS: [(&str, &str); 7] = [
    (
        "FALLOC_FL_COLLAPSE_RANGE",
        "fallocate -c -o 4096 -l 4096 usr/bin/tool",
    ),
    (
        "FALLOC_FL_INSERT_RANGE",
        "fallocate -i -o 4096 -l 4096 usr/bin/tool",
    ),
    ("chattr", "lsattr -d etc"),
    (
        "O_TMPFILE",
        "perl -e 'sysopen(F, \"var\", 020200002, 0600) or die $!'",
    ),
    ("_PC_LINK_MAX", "test \"$(getconf LINK_MAX .)\" != 127"),
    // Here success is what differs.
    (
        "chown(file, -1, -1)",
        "! setpriv --reuid 1000 --clear-groups perl -e 'chown -1, -1, \"usr/bin/tool\" or die $!'",
    ),
    ("birth time", "test \"$(stat -c %W etc/hosts)\" != 0"),
];

#[test]
fn each_exception_still_shows() {
    let Some(store) = twins("each_exception_still_shows") else {
        return;
    };
    let plain = store.place.join("plain");
    sample::copy(&store.sample(0), &plain);
    let first = store.mount_with("first", "dev,suid,allow_other");
    for (name, text) in EXCEPTIONS {
        script(&plain, text).exits(0);
        assert_ne!(
            script(&first.path, text).code,
            0,
            "{name} works: take it out of docs/semantics.md"
        );
    }
    finish(&store, [first]);
}

#[test]
fn each_exception_is_documented() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/semantics.md");
    let text = fs::read_to_string(path).unwrap();
    for (name, _) in EXCEPTIONS {
        assert!(text.contains(name), "{name} is not in docs/semantics.md");
    }
}
