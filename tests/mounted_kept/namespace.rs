//! Processes outside of a daemon's pid namespace, as in a container: their ids are 0 to it (pid_namespaces(7)).

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use super::common::store::program;
use super::image;

/// In a pid namespace with a /proc of its own, where the first process is in a session that began outside.
const INSIDE: &str = r#"
    "$FOLDFS" mount one "$MOUNT" || exit 1
    for process in /proc/[0-9]*; do
        # The keeper is a child of the first process, the daemon one of the keeper.
        if grep -q '^Name:.foldfs$' "$process/status" && ! grep -q '^PPid:.1$' "$process/status"; then
            kill -9 "${process#/proc/}" || exit 4
            killed=yes
        fi
    done
    [ "$killed" ] || exit 5
    ls "$MOUNT/etc" >/dev/null || exit 2
    echo mounted
    read -r line
    "$FOLDFS" unmount "$MOUNT" || exit 3
"#;

#[test]
fn a_daemon_serves_in_a_pid_namespace_and_who_calls_from_outside_of_it() {
    let Some(store) = image("a_daemon_serves_in_a_pid_namespace_and_who_calls_from_outside_of_it")
    else {
        return;
    };
    let mount = store.place.join("mnt");
    std::fs::create_dir(&mount).unwrap();
    let mut inside = Command::new("unshare")
        .args([
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "sh",
            "-c",
            INSIDE,
        ])
        .env("FOLDFS", program())
        .env("FOLDFS_STORE", &store.path)
        .env("MOUNT", &mount)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(inside.stdout.take().unwrap());
    let mut said = said.lines().map_while(Result::ok);
    let mounted = said.find(|line| line == "mounted");
    assert!(mounted.is_some(), "{:?}", inside.wait());
    let status = store.ok(&["status", "--json"]).text();
    assert!(status.contains("\"one\""), "{status}");
    drop(inside.stdin.take());
    let ended = inside.wait().unwrap();
    assert!(ended.success(), "{ended}");
}
