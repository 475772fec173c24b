//! Needs root, FUSE, mmdebstrap, a Debian archive and ssh-keygen. `foldfs clone --reset-identity` of a Debian image
//! that is at work gives what an administrator would make of a copy by hand.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on should panic"
)]

mod common;

#[path = "real_software/workshop.rs"]
#[allow(dead_code, reason = "of the workshop its trees are used")]
mod workshop;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use common::snapshot::{Fields, Snapshot};
use common::store::{Ran, TestStore, run};
use common::{installed, sample};
use serde_json::Value;
use workshop::debian_tree;

/// What makes a tree a machine that has been in use.
const MACHINE: &str = r#"
    mkdir -p etc/ssh root/.ssh var/lib/{dbus,systemd,dhcp,dhcpcd,NetworkManager,misc} etc/udev/rules.d
    ssh-keygen -q -A -f .
    ssh-keygen -q -t ed25519 -N '' -f root/.ssh/id_ed25519
    cp etc/ssh/ssh_host_rsa_key.pub etc/ssh/ssh_known_hosts
    echo 'PermitRootLogin no' >etc/ssh/sshd_config
    echo 0123456789abcdef0123456789abcdef >etc/machine-id
    chmod 444 etc/machine-id
    ln -s /etc/machine-id var/lib/dbus/machine-id
    echo web >etc/hostname
    setfattr -n user.note -v kept etc/hostname
    setfacl -m u:7:r etc/hostname
    printf '%s\n' '127.0.0.1 localhost' '127.0.1.1 web.example.com web' '10.0.0.1 web' >etc/hosts
    for seed in systemd/random-seed systemd/credential.secret misc/random-seed; do
        head -c 512 /dev/urandom >var/lib/$seed
        chmod 600 var/lib/$seed
    done
    echo 'lease {}' | tee var/lib/dhcp/dhclient.eth0.leases >var/lib/dhcp/dhcpd.leases
    echo 00:01:00:01 >var/lib/dhcpcd/duid
    echo 'lease' >var/lib/dhcpcd/eth0.lease
    echo key >var/lib/NetworkManager/secret_key
    echo state >var/lib/NetworkManager/NetworkManager.state
    echo 'ATTR{address}=="52:54:00:12:34:56", NAME="eth0"' >etc/udev/rules.d/70-persistent-net.rules
    ln -s ssh_host_rsa_key etc/ssh/ssh_host_old_key
    mkfifo etc/ssh/ssh_host_fifo_key
"#;

/// What the guest has done since.
const WORK: &str = r#"
    rm etc/ssh/ssh_host_ecdsa_key etc/ssh/ssh_host_ecdsa_key.pub
    ssh-keygen -q -A -f .
    head -c 512 /dev/urandom >var/lib/systemd/random-seed
    mv var/lib/misc var/lib/moved
    mkdir var/lib/misc
    mv var/lib/moved/random-seed var/lib/misc
    ln etc/ssh/ssh_host_rsa_key root/kept
    echo 'lease {}' >var/lib/dhcp/dhclient.eth1.leases
    apt-get --version >root/notes
"#;

/// The same by hand.
const BY_HAND: &str = r#"
    : >etc/machine-id
    rm etc/ssh/ssh_host_*_key etc/ssh/ssh_host_*_key.pub
    rm var/lib/systemd/{random-seed,credential.secret} var/lib/misc/random-seed
    rm var/lib/dhcp/dhclient*.leases var/lib/dhcpcd/{duid,eth0.lease} var/lib/NetworkManager/secret_key
    rm etc/udev/rules.d/70-persistent-net.rules
    echo web2 >etc/hostname
    sed -i 's/^127.0.1.1 .*/127.0.1.1 web2.example.com web2/' etc/hosts
"#;

/// What is written to all the time.
const AT_WORK: &[u8] = b"var/log/at-work";

fn script(directory: &Path, text: &str) {
    let mut bash = Command::new("bash");
    run(
        bash.args(["-euo", "pipefail", "-c", text])
            .current_dir(directory),
        b"",
    )
    .exits(0);
}

/// The paths that a report says were reset.
fn reported(ran: &Ran) -> BTreeSet<String> {
    let report = ran.json();
    let paths = report["identity"]["paths"].as_array().unwrap().iter();
    paths
        .map(|reset| reset["path"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_debian_image_is_as_if_it_was_done_by_hand() {
    let test = "a_debian_image_is_as_if_it_was_done_by_hand";
    let missing = (!installed("ssh-keygen")).then_some("it needs ssh-keygen");
    if !common::can_run(test, missing) {
        return;
    }
    let Some(debian) = debian_tree(test, "minbase") else {
        return;
    };
    let store = TestStore::new();
    let tree = store.place.join("tree");
    fs::create_dir(&tree).unwrap();
    // What is below /usr is no machine's identity, and by far the most.
    for entry in fs::read_dir(&debian).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != "usr" {
            sample::copy(&entry.path(), &tree.join(entry.file_name()));
        }
    }
    script(&tree, MACHINE);
    store.import("web", &tree, "debian");
    store.ok(&["clone", "web", "twin"]);

    let web = store.mount("web");
    script(&web.path, WORK);
    let mut log = fs::File::create(web.join("var/log/at-work")).unwrap();
    log.write_all(b"before\n").unwrap();
    let plain = store.place.join("plain");
    sample::copy(&web.path, &plain);
    let mut before = web.snapshot();
    let since = SystemTime::now() - Duration::from_secs(1);
    script(&plain, BY_HAND);

    let clone = ["clone", "web", "web2", "--reset-identity", "--json"];
    let planned = store.ok(&[&clone[..], &["--dry-run"]].concat());
    assert!(!store.ok(&["list"]).text().contains("web2"));
    let report = store.ok(&clone);
    assert_eq!(reported(&planned), reported(&report));
    assert_eq!(report.json()["identity"]["hostname"], "web2");
    log.write_all(b"after\n").unwrap();
    drop(log);

    let mut expected = Snapshot::of(&plain).with_recent_alike(since);
    let web2 = store.mount("web2");
    let found = web2.snapshot().with_recent_alike(since);
    expected.assert_same(&found, Fields::COPY, "the clone and a copy reset by hand");
    let mut origin = web.snapshot();
    for snapshot in [&mut before, &mut origin] {
        snapshot.entries.remove(AT_WORK);
    }
    before.assert_same(&origin, Fields::ALL, "the origin");
    let mut differing = reported(&report);
    differing.insert("/var/log/at-work".into());
    assert_differ_in(&store, &differing);
    // A machine ID is made where it is to be.
    assert_eq!(fs::read(web2.join("etc/machine-id")).unwrap(), b"");
    assert!(!fs::exists(web2.join("etc/ssh/ssh_host_rsa_key")).unwrap());
    let fifo = fs::symlink_metadata(web.join("etc/ssh/ssh_host_fifo_key")).unwrap();
    assert!(fifo.file_type().is_fifo());
    web2.unmount();
    web.unmount();

    // Without a daemon it is the same.
    store.wait_for_daemons();
    let text = store.ok(&[
        "clone",
        "web",
        "web3",
        "--reset-identity",
        "--hostname",
        "web2",
    ]);
    let text = text.text();
    for path in reported(&report) {
        assert!(text.contains(&path), "{path}:\n{text}");
    }
    assert!(text.contains("web2"), "{text}");
    let web3 = store.mount("web3");
    let mut found = web3.snapshot().with_recent_alike(since);
    for snapshot in [&mut expected, &mut found] {
        snapshot.entries.remove(AT_WORK);
    }
    expected.assert_same(&found, Fields::COPY, "without a daemon");
    web3.unmount();
    store.wait_for_daemons();
    store.assert_sound();
}

/// Expects image and clone to differ in what was reported, and in the times of directories.
#[track_caller]
fn assert_differ_in(store: &TestStore, expected: &BTreeSet<String>) {
    let diff = store
        .run(&["diff", "web", "web2", "--json"])
        .exits(3)
        .json();
    let entries = diff["differences"].as_array().unwrap().iter();
    let is_file = |entry: &&Value| {
        let sides = [&entry["old"]["file_type"], &entry["new"]["file_type"]];
        !sides.contains(&&Value::from("d"))
    };
    // A file that has lost a name is another version at the others.
    let lost_a_name = serde_json::json!(["links"]);
    let entries = entries.filter(is_file);
    let entries = entries.filter(|entry| entry["aspects"] != lost_a_name);
    let paths = entries.map(|entry| entry["path"].as_str().unwrap());
    let paths = paths.map(|path| format!("/{}", path.trim_start_matches('/')));
    let found: BTreeSet<String> = paths.collect();
    assert_eq!(&found, expected);
}

#[test]
fn what_is_locked_keeps_the_clone_from_being_made() {
    let test = "what_is_locked_keeps_the_clone_from_being_made";
    if !common::can_run(test, common::needs_fuse()) {
        return;
    }
    let store = TestStore::new();
    let tree = store.place.join("tree");
    fs::create_dir_all(tree.join("etc/ssh")).unwrap();
    fs::write(tree.join("etc/ssh/ssh_host_rsa_key"), "a key").unwrap();
    fs::write(tree.join("etc/hostname"), "web\n").unwrap();
    store.import("web", &tree, "family");
    store.ok(&["lock", "family", "/etc/ssh"]);
    let refused = ["clone", "web", "web2", "--reset-identity"];
    let says = ["/etc/ssh/ssh_host_rsa_key", "locked", "/etc/ssh", "unlock"];
    store.run(&refused).exits(1).says(&says);
    let web = store.mount("web");
    store.run(&refused).exits(1).says(&says);
    store
        .run(&[&refused[..], &["--dry-run"]].concat())
        .exits(1)
        .says(&says);
    assert_eq!(
        store.ok(&["list", "--json"]).json()["images"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    // A plain clone alters nothing.
    store.ok(&["clone", "web", "web2"]);
    store.ok(&["unlock", "family", "/etc/ssh"]);
    store.ok(&["clone", "web2", "web3", "--reset-identity"]);
    web.unmount();
    store.wait_for_daemons();
    store.assert_sound();
}

#[test]
fn a_host_name_needs_an_identity() {
    let test = "a_host_name_needs_an_identity";
    if !common::can_run(test, common::needs_root()) {
        return;
    }
    let store = TestStore::new();
    store.import("web", &store.sample(0), "family");
    store
        .run(&["clone", "web", "web2", "--hostname", "web2"])
        .exits(2)
        .says(&["--reset-identity"]);
    store
        .run(&[
            "clone",
            "web",
            "web2",
            "--reset-identity",
            "--hostname",
            "a b",
        ])
        .exits(2)
        .says(&["a b", "--hostname"]);
}
