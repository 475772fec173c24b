//! Needs root, FUSE, mmdebstrap, a Debian archive, and overlayfs, control groups and namespaces. The units of
//! mount-helpers/ as `make install` leaves them, in a host that systemd runs.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on should panic"
)]

mod common;

#[path = "service_units/host.rs"]
mod host;

use common::guest;
use common::store::TestStore;
use host::Host;

const DAEMON: &str = "foldfs@var-lib-foldfs.service";
const IMAGE: &str = "foldfs-image@one.service";
const VIRTIOFSD: &str = "foldfs-virtiofsd@one.service";

/// What begins whenever one of its units is started.
const INVOCATION: &str = "InvocationID";

/// A host with images `one` and `two`.
fn host(test: &str, fstab: &str) -> Option<(TestStore, Host)> {
    let tree = guest::tree(test, &["virtiofsd", "make", "nsenter"])?;
    let store = TestStore::new();
    store.import("one", &store.sample(0), "family");
    store.ok(&["clone", "one", "two"]);
    let host = Host::boot(&store, &tree, fstab);
    Some((store, host))
}

/// What must go on: the units that guests depend on.
fn invocations(host: &Host) -> Vec<String> {
    let all = [DAEMON, IMAGE, VIRTIOFSD].map(|unit| host.property(unit, INVOCATION));
    assert!(all.iter().all(|id| !id.is_empty()), "{all:?}");
    all.into()
}

/// Has somebody write to a file that stays open.
fn hold(host: &Host, path: &str) {
    host.run(&format!(
        "(exec 7>{path}; while [ ! -e /run/end ]; do echo held >&7; sleep 0.05; done; touch /run/ended) \
         >/dev/null 2>&1 &"
    ));
}

/// The same ends, and has written all of it.
fn let_go(host: &Host, path: &str) {
    host.run("touch /run/end; until [ -e /run/ended ]; do sleep 0.05; done");
    assert_eq!(host.run(&format!("sort -u {path}")), "held\n");
}

#[test]
fn what_needs_a_mount_goes_on_when_the_daemon_dies() {
    let test = "what_needs_a_mount_goes_on_when_the_daemon_dies";
    let Some((store, mut host)) = host(test, "") else {
        return;
    };
    host.run(&format!("systemctl start {VIRTIOFSD}"));
    host.run("test -S /run/foldfs/virtiofs/one.sock");
    let before = invocations(&host);
    let group = host.property(DAEMON, "ControlGroup");
    hold(&host, "/run/foldfs/images/one/etc/held");
    // It has been started last.
    let daemon = |host: &Host| {
        let newest = host.run(&format!(
            "sort -n /sys/fs/cgroup{group}/cgroup.procs | tail -n 1"
        ));
        newest.trim().to_owned()
    };
    for _ in 0..3 {
        let first = daemon(&host);
        host.run(&format!("kill -KILL {first}"));
        let hosts = host.run("cat /run/foldfs/images/one/etc/hosts");
        assert_eq!(hosts, "127.0.0.1 localhost\n");
        host.until("another daemon", |host| {
            let next = daemon(host);
            let serves = host.attempt("foldfs status").code == 0;
            (!next.is_empty() && next != first && serves).then_some(())
        });
    }
    let first = daemon(&host);
    host.run(&format!("systemctl reload {DAEMON}"));
    assert_eq!(daemon(&host), first, "another program, the same process");
    assert_eq!(invocations(&host), before);
    assert_eq!(host.property(DAEMON, "NRestarts"), "0");
    // Nor does systemd end the unit when the kernel ends one of its processes for want of memory.
    assert_eq!(host.property(DAEMON, "OOMPolicy"), "continue");
    let_go(&host, "/run/foldfs/images/one/etc/held");

    // What needs it ends first, and in order.
    host.run(&format!("systemctl stop {DAEMON}"));
    for unit in [DAEMON, IMAGE] {
        assert_eq!(host.property(unit, "ActiveState"), "inactive", "{unit}");
    }
    assert_ne!(host.property(VIRTIOFSD, "ActiveState"), "active");
    assert_eq!(host.run("grep -c fuse.foldfs /proc/mounts || true"), "0\n");
    host.power_off();
    store.assert_sound();
}

#[test]
fn mounts_outlive_the_keeper_too() {
    let Some((store, mut host)) = host("mounts_outlive_the_keeper_too", "") else {
        return;
    };
    host.run(&format!("systemctl start {DAEMON}"));
    host.run("foldfs mount two /srv/two");
    let process = host.property(DAEMON, "MainPID");
    hold(&host, "/srv/two/etc/held");
    host.run(&format!("kill -KILL {process}"));
    assert_eq!(host.run("cat /srv/two/etc/hosts"), "127.0.0.1 localhost\n");
    host.until("systemd starts it again", |host| {
        let is_active = host.property(DAEMON, "ActiveState") == "active";
        (is_active && host.property(DAEMON, "MainPID") != process).then_some(())
    });
    assert_eq!(host.property(DAEMON, "NRestarts"), "1");
    let_go(&host, "/srv/two/etc/held");
    host.run("foldfs unmount /srv/two");
    host.power_off();
    store.assert_sound();
}

#[test]
fn a_host_boots_with_an_image_in_its_fstab() {
    let test = "a_host_boots_with_an_image_in_its_fstab";
    let line = "/var/lib/foldfs#two /srv/two foldfs \
                defaults,_netdev,x-systemd.requires=foldfs@var-lib-foldfs.service 0 0";
    let Some((store, host)) = host(test, line) else {
        return;
    };
    let shown = host.run("findmnt --noheadings --output FSTYPE,SOURCE /srv/two");
    let shown: Vec<&str> = shown.split_whitespace().collect();
    assert_eq!(shown, ["fuse.foldfs", "/var/lib/foldfs#two"]);
    assert_eq!(host.property(DAEMON, "ActiveState"), "active");
    host.run("echo booted >/srv/two/etc/booted");
    host.power_off();
    store.assert_sound();
    let mounted = store.mount("two");
    let text = std::fs::read_to_string(mounted.join("etc/booted")).unwrap();
    assert_eq!(text, "booted\n");
}
