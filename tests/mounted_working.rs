//! Needs root and FUSE. The working tree of a family: guests see nothing of it until it is committed, and
//! then all of it; and upgrades, by a command that runs in one.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on should panic"
)]

mod common;

#[path = "mounted_patch/world.rs"]
#[allow(
    dead_code,
    reason = "of that world its trees and its deadline are used"
)]
mod world;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use common::snapshot::Fields;
use common::store::{Mounted, Ran, run, tool};
use common::{can_run, needs_fuse};
use world::{World, kept, tree, write};

/// Panics unless standard output has all the words.
#[track_caller]
fn tells(ran: &Ran, words: &[&str]) {
    for word in words {
        let text = ran.text();
        assert!(
            text.contains(word),
            "{} tells nothing of {word:?}:\n{text}",
            ran.line
        );
    }
}

fn mount_shared(world: &World) -> Mounted {
    world.store.mount_given("f", &["--shared".as_ref()])
}

/// The objects and private files of a store, with their inodes.
fn files(store: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    let mut pending = vec![store.join("objects"), store.join("images")];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            found.push((entry.path(), entry.metadata().unwrap().ino()));
            if entry.file_type().unwrap().is_dir() {
                pending.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

fn roles(world: &World) -> Vec<(String, String)> {
    let list = world.store.ok(&["list", "--json"]).json();
    let images = list["images"].as_array().unwrap().iter();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    images
        .map(|image| (text(&image["name"]), text(&image["role"])))
        .filter(|(_, role)| role != "base")
        .collect()
}

#[test]
fn guests_see_a_working_tree_when_it_is_committed() {
    let name = "guests_see_a_working_tree_when_it_is_committed";
    if !can_run(name, needs_fuse()) {
        return;
    }
    let world = World::new(|root| tree(root, false));
    let store = &world.store;
    let (one, two) = (world.mount("one"), world.mount("two"));
    fs::write(two.join("etc/own"), "two's own").unwrap();
    // What no image may alter can be altered where the family is.
    store.ok(&["lock", "f", "/share/"]);
    fs::remove_file(one.join("share/a")).unwrap_err();
    let before = [one.snapshot(), two.snapshot()];
    let work = mount_shared(&world);
    assert_eq!(
        roles(&world),
        [("f.work", "working"), ("one", "guest"), ("two", "guest")]
            .map(|(name, role)| (name.to_owned(), role.to_owned()))
    );
    tells(&store.run(&["commit", "f"]).exits(0), &["changes nothing"]);
    // What was committed is gone, but for what is mounted.
    let open = File::create(work.join("etc/conf")).unwrap();
    fs::write(work.join("etc/own"), "worked on").unwrap();
    fs::rename(work.join("share"), work.join("moved")).unwrap();
    fs::remove_dir_all(work.join("gone")).unwrap();
    write(&work.path, "opt/new/file", "made");
    fs::set_permissions(work.join("mounted"), fs::Permissions::from_mode(0o711)).unwrap();
    symlink("made", work.join("opt/link")).unwrap();
    let same = |what: &str| {
        before[0].assert_same(&one.snapshot(), Fields::ALL, what);
        before[1].assert_same(&two.snapshot(), Fields::ALL, what);
    };
    same("what is done in the working tree");
    store.ok(&["fold"]);
    same("a fold beside it");
    tells(
        &store.run(&["diff", "f", "f.work"]).exits(3),
        &["opt/new/file"],
    );

    store
        .run(&["commit", "f"])
        .exits(4)
        .says(&["etc/conf", "open for writing"]);
    drop(open);
    store
        .run(&["discard", "f"])
        .exits(4)
        .says(&["it is mounted on"]);
    let planned_before = files(&store.path);
    let planned = store
        .run(&["commit", "f", "--dry-run", "--json"])
        .exits(3)
        .json();
    same("a commit that is only planned");
    assert_eq!(
        files(&store.path),
        planned_before,
        "a dry run alters the store"
    );
    let ran = store
        .run(&["commit", "f", "-m", "by hand", "--json"])
        .exits(3);
    let report = ran.json();
    assert_eq!(planned["images"], report["images"]);
    let own = [(String::from("/etc/own"), String::from("differs"))];
    assert_eq!(kept(&report, "two"), own);
    assert_eq!(kept(&report, "one"), []);
    let shown = work.snapshot();
    for path in [&one.path, &two.path] {
        assert_eq!(fs::read(path.join("opt/new/file")).unwrap(), b"made");
        assert_eq!(fs::read(path.join("moved/a")).unwrap(), b"old");
        assert!(!path.join("gone").exists());
    }
    shown.assert_same(
        &one.snapshot(),
        Fields::COPY,
        "the working tree and an image",
    );
    assert_eq!(fs::read(two.join("etc/own")).unwrap(), b"two's own");

    // What is taken back is taken back there, too, and does not come back with the next commit.
    store.run(&["revert", "1"]).exits(0);
    store.run(&["commit", "f"]).exits(0);
    assert_eq!(fs::read(work.join("etc/own")).unwrap(), b"old");
    assert!(!one.join("opt").exists());
    store.run(&["revert", "2"]).exits(0);
    assert_eq!(fs::read(work.join("etc/own")).unwrap(), b"worked on");

    // Who works in it goes on.
    fs::write(work.join("etc/conf"), "again").unwrap();
    work.unmount();
    assert_eq!(roles(&world).len(), 3);
    store.run(&["commit", "f"]).exits(0);
    assert_eq!(fs::read(one.join("etc/conf")).unwrap(), b"again");
    assert_eq!(roles(&world).len(), 2);
    store
        .run(&["commit", "f"])
        .exits(1)
        .says(&["it has no working tree"]);
    let work = mount_shared(&world);
    fs::write(work.join("etc/conf"), "to be dropped").unwrap();
    work.unmount();
    store.ok(&["discard", "f"]);
    assert_eq!(roles(&world).len(), 2);
    assert_eq!(fs::read(one.join("etc/conf")).unwrap(), b"again");

    let log = store.ok(&["log", "f", "--json"]).json();
    let changes = log["changes"].as_array().unwrap();
    let told: Vec<_> = changes
        .iter()
        .map(|change| {
            (
                change["kind"].as_str().unwrap(),
                change["why"].as_str().unwrap(),
            )
        })
        .collect();
    let expected = ["commit", "revert", "revert", "commit"];
    assert_eq!(
        told.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(),
        expected
    );
    assert_eq!(told[0].1, "by hand");
    for number in ["4", "3"] {
        store.run(&["revert", number]).exits(0);
    }
    before[0].assert_same(&one.snapshot(), Fields::COPY, "all taken back");
    before[1].assert_same(&two.snapshot(), Fields::COPY, "all taken back");
    one.unmount();
    two.unmount();
    store.wait_for_daemons();
    store.assert_sound();
}

/// A program of the host with all that it loads.
fn install(root: &Path, program: &str) {
    let listed = tool("ldd", &[program]).text();
    let loaded = listed
        .split_whitespace()
        .filter(|word| word.starts_with('/'));
    for path in loaded.chain([program]) {
        let to = root.join(&path[1..]);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(path, to).unwrap();
    }
}

fn system(root: &Path) {
    tree(root, false);
    for program in ["/bin/sh", "/bin/cat", "/bin/rm", "/bin/ls"] {
        install(root, program);
    }
    for directory in ["proc", "sys", "dev", "run", "tmp"] {
        fs::create_dir(root.join(directory)).unwrap();
    }
    symlink("../run/resolver/resolv.conf", root.join("etc/resolv.conf")).unwrap();
}

fn upgrade(world: &World, more: &[&str], script: &str) -> Ran {
    let arguments = [&["upgrade", "f"], more, &["--", "sh", "-c", script]].concat();
    world.store.run(&arguments)
}

/// An upgrade that has its working tree by now.
fn begun(world: &World, script: &str) -> Child {
    let mut command = world
        .store
        .command(&["upgrade", "f", "--", "sh", "-c", script]);
    let command = command.stdin(Stdio::piped()).stdout(Stdio::null());
    let running = command.spawn().unwrap();
    while !roles(world).iter().any(|(name, _)| name == "f.work") {
        thread::sleep(Duration::from_millis(20));
    }
    running
}

/// Directories that an upgrade has not removed.
fn left() -> Vec<PathBuf> {
    let entries = fs::read_dir(std::env::temp_dir()).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let is_ours = |path: &PathBuf| {
        let name = path.file_name().and_then(OsStr::to_str);
        name.is_some_and(|name| name.starts_with("foldfs-upgrade-"))
    };
    paths.filter(is_ours).collect()
}

#[test]
fn an_upgrade_runs_in_a_clone_and_reaches_every_image() {
    let name = "an_upgrade_runs_in_a_clone_and_reaches_every_image";
    if !can_run(name, needs_fuse()) {
        return;
    }
    let world = World::new(system);
    let store = &world.store;
    let (one, two) = (world.mount("one"), world.mount("two"));
    fs::write(two.join("etc/own"), "two's own").unwrap();
    let before = [one.snapshot(), two.snapshot()];
    let same = |what: &str| {
        before[0].assert_same(&one.snapshot(), Fields::ALL, what);
        before[1].assert_same(&two.snapshot(), Fields::ALL, what);
        assert_eq!(roles(&world).len(), 2, "{what}");
    };

    let failed = upgrade(&world, &[], "echo new >/etc/conf; rm -r /gone; exit 7");
    failed
        .exits(1)
        .says(&["exit status: 7", "nothing was changed"]);
    same("a command that fails");
    upgrade(&world, &[], "kill -9 $$").exits(1);
    let arguments = ["upgrade", "f", "--", "/no/such/program"];
    store.run(&arguments).exits(1).says(&["/no/such/program"]);
    same("a program that is not there");
    upgrade(&world, &["--dry-run"], "echo new >/etc/conf").exits(0);
    same("a dry run");

    // What it finds, and what of it the host finds.
    let inside = "cat /proc/1/comm /etc/resolv.conf; echo x >/dev/null; echo x >/run/x; echo x >/tmp/x; \
                  ls /dev /sys; echo x >/sys/x || echo read-only; ls /proc/self/fd; \
                  (while :; do :; done) & echo new >/etc/conf; echo mine >/etc/own; rm -r /gone";
    let ran = upgrade(&world, &["-m", "for a test"], inside).exits(3);
    tells(&ran, &["two: ", "keeps /etc/own: it has another version"]);
    for (path, own) in [(&one, "mine\n"), (&two, "two's own")] {
        assert_eq!(fs::read_to_string(path.join("etc/conf")).unwrap(), "new\n");
        assert_eq!(fs::read_to_string(path.join("etc/own")).unwrap(), own);
        assert!(!path.join("gone").exists());
        for empty in ["run", "tmp", "dev", "proc", "sys"] {
            assert_eq!(
                fs::read_dir(path.join(empty)).unwrap().count(),
                0,
                "{empty}"
            );
        }
    }
    assert_eq!(roles(&world).len(), 2);
    let log = store.ok(&["log", "f", "--json"]).json();
    assert_eq!(log["changes"][0]["kind"], "upgrade");
    assert_eq!(log["changes"][0]["why"], "for a test");

    // What is the host's stays the host's.
    let hostile = "mknod /disk b 7 0 2>/dev/null && echo made >/etc/conf; \
                   echo 1 >/proc/sys/kernel/sysrq 2>/dev/null && echo wrote >/etc/conf; \
                   [ -z \"$SECRET\" ] || echo told >/etc/conf; [ ! -e /proc/self/fd/9 ] || echo leaked >/etc/conf; \
                   cat /proc/self/mountinfo >/etc/mounts; exit 0";
    let arguments = ["upgrade", "f", "--", "sh", "-c", hostile];
    let mut command = store.command(&arguments);
    command.env("SECRET", "secret");
    run(&mut command, b"").exits(0);
    assert_eq!(fs::read(one.join("etc/conf")).unwrap(), b"new\n");
    let mounts = fs::read_to_string(one.join("etc/mounts"))
        .unwrap()
        .lines()
        .count();
    assert!(
        (8..=14).contains(&mounts),
        "{mounts} mounts are to be seen inside"
    );
    store.import(
        "other",
        &world.tree("stranger", |root| write(root, "x", "x")),
        "g",
    );
    let arguments = ["upgrade", "f", "--from", "other"];
    store
        .run(&arguments)
        .exits(1)
        .says(&["other", "it is not of family f"]);

    // While one runs nobody commits its half.
    let mut running = begun(&world, "echo half >/etc/conf; read line");
    store
        .run(&["commit", "f"])
        .exits(4)
        .says(&["an upgrade of it is under way"]);
    store.run(&["upgrade", "f", "--finish"]).exits(4);
    store.run(&["upgrade", "f", "--", "true"]).exits(4);
    drop(running.stdin.take());
    assert!(!running.wait().unwrap().success());
    assert_eq!(fs::read(one.join("etc/conf")).unwrap(), b"new\n");

    // Who is told to end ends with all that it has begun.
    let mut running = begun(&world, "echo half >/etc/conf; while :; do :; done");
    let pid = rustix::process::Pid::from_child(&running);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(running.wait().unwrap().code(), Some(1));
    assert_eq!(roles(&world).len(), 3);
    assert_eq!(fs::read(one.join("etc/conf")).unwrap(), b"new\n");

    // Looked at first.
    let kept = upgrade(&world, &["--keep"], "echo newer >/etc/conf");
    tells(&kept.exits(0), &["f.work"]);
    upgrade(&world, &[], ":")
        .exits(1)
        .says(&["there is a working tree"]);
    tells(&store.run(&["diff", "f", "f.work"]).exits(3), &["etc/conf"]);
    assert_eq!(fs::read(one.join("etc/conf")).unwrap(), b"new\n");
    store.ok(&["upgrade", "f", "--finish"]);
    assert_eq!(fs::read(one.join("etc/conf")).unwrap(), b"newer\n");

    // What one has made becomes everybody's.
    write(&one.path, "srv/app/program", "from one");
    fs::write(one.join("etc/conf"), "of one").unwrap();
    store.ok(&["upgrade", "f", "--from", "one", "--", "/srv"]);
    assert_eq!(fs::read(two.join("srv/app/program")).unwrap(), b"from one");
    assert_eq!(fs::read(two.join("etc/conf")).unwrap(), b"newer\n");

    let log = store.ok(&["log", "f", "--json"]).json();
    for change in log["changes"].as_array().unwrap().iter().rev() {
        // The configuration of one is its own since.
        store.run(&["revert", &change["change"].to_string()]);
    }
    before[1].assert_same(&two.snapshot(), Fields::COPY, "all taken back");
    assert_eq!(left(), Vec::<PathBuf>::new());
    one.unmount();
    two.unmount();
    store.wait_for_daemons();
    store.assert_sound();
}

#[test]
fn a_hostile_tree_leads_an_upgrade_nowhere() {
    let name = "a_hostile_tree_leads_an_upgrade_nowhere";
    if !can_run(name, needs_fuse()) {
        return;
    }
    let host = tempfile::tempdir().unwrap();
    for directory in ["proc", "dev", "run"] {
        fs::create_dir(host.path().join(directory)).unwrap();
    }
    let world = World::new(|root| {
        system(root);
        for directory in ["proc", "dev", "run"] {
            fs::remove_dir(root.join(directory)).unwrap();
            symlink(host.path().join(directory), root.join(directory)).unwrap();
        }
        fs::remove_file(root.join("etc/resolv.conf")).unwrap();
        symlink(host.path().join("resolver"), root.join("etc/resolv.conf")).unwrap();
        tool(
            "mknod",
            &[
                root.join("disk").as_os_str(),
                "b".as_ref(),
                "7".as_ref(),
                "0".as_ref(),
            ],
        );
    });
    let script = "ls /proc /dev /run; cat /disk && echo disk >/etc/conf; echo done >/etc/own";
    let ran = upgrade(&world, &[], script).exits(0);
    ran.says(&[
        "the tree has no directory /proc",
        "the tree has no directory /dev",
    ]);
    for directory in ["proc", "dev", "run"] {
        let seen = fs::read_dir(host.path().join(directory)).unwrap().count();
        assert_eq!(seen, 0, "{directory} of the host");
    }
    assert!(!host.path().join("resolver").exists());
    let one = world.mount("one");
    assert_eq!(fs::read(one.join("etc/own")).unwrap(), b"done\n");
    assert_eq!(
        fs::read(one.join("etc/conf")).unwrap(),
        b"old",
        "no device works"
    );
    let disk = fs::symlink_metadata(one.join("disk")).unwrap();
    assert!(disk.file_type().is_block_device());
    one.unmount();
    world.store.wait_for_daemons();
    world.store.assert_sound();
}

/// Waits until something is so.
#[track_caller]
fn until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..1_000 {
        if is_so() {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
    panic!("in 20 s: {what}");
}

#[test]
fn what_is_done_in_a_live_tree_is_seen_file_by_file_as_they_are_closed() {
    let name = "what_is_done_in_a_live_tree_is_seen_file_by_file_as_they_are_closed";
    if !can_run(name, needs_fuse()) {
        return;
    }
    let world = World::new(|root| tree(root, false));
    let store = &world.store;
    let (one, two) = (world.mount("one"), world.mount("two"));
    fs::write(two.join("etc/own"), "two's own").unwrap();
    store
        .run(&["mount", "f", "/mnt", "--live"])
        .exits(2)
        .says(&["--shared"]);
    let work = store.mount_given("f", &["--shared".as_ref(), "--live".as_ref()]);
    let reads = |image: &Mounted, path: &str| fs::read(image.join(path)).unwrap_or_default();

    // What is open waits, and what is done beside it does not wait for it.
    let mut open = File::create(work.join("etc/conf")).unwrap();
    open.write_all(b"half of ").unwrap();
    fs::write(work.join("etc/own"), "patched").unwrap();
    write(&work.path, "opt/new/file", "made");
    fs::remove_dir_all(work.join("gone")).unwrap();
    fs::hard_link(work.join("opt/new/file"), work.join("opt/second")).unwrap();
    until(
        "a closed file, a link, and a directory that is gone",
        || {
            reads(&one, "etc/own") == b"patched"
                && reads(&one, "opt/second") == b"made"
                && !one.join("gone").exists()
        },
    );
    assert_eq!(reads(&one, "etc/conf"), b"old");
    assert_eq!(reads(&two, "etc/own"), b"two's own");
    open.write_all(b"it").unwrap();
    drop(open);
    until("what was open", || reads(&two, "etc/conf") == b"half of it");
    fs::rename(work.join("share"), work.join("moved")).unwrap();
    until("a directory that was renamed", || {
        reads(&two, "moved/a") == b"old" && !two.join("share").exists()
    });
    let shown = work.snapshot();
    shown.assert_same(&one.snapshot(), Fields::COPY, "the tree and an image");
    let log = store.ok(&["log", "f", "--json"]).json();
    let changes = log["changes"].as_array().unwrap();
    assert!(changes.len() >= 3, "{log}");
    let is_live = |change: &serde_json::Value| change["kind"] == "live";
    assert!(changes.iter().all(is_live), "{log}");

    // What was done last is committed, and the tree goes with it.
    fs::write(work.join("etc/own"), "at last").unwrap();
    work.unmount();
    until("what was done last", || {
        reads(&one, "etc/own") == b"at last" && roles(&world).len() == 2
    });
    drop((one, two));
    store.ok(&["check", "--content"]);
}

#[test]
fn a_live_tree_undoes_no_change_and_ends_with_its_mount() {
    let name = "a_live_tree_undoes_no_change_and_ends_with_its_mount";
    if !can_run(name, needs_fuse()) {
        return;
    }
    let world = World::new(|root| tree(root, false));
    let store = &world.store;
    let one = world.mount("one");
    let reads = |image: &Mounted, path: &str| fs::read(image.join(path)).unwrap_or_default();
    let live = ["--shared".as_ref(), "--live".as_ref()];
    let work = store.mount_given("f", &live);
    // A file that is renamed while it is open is committed with both names, when it is closed.
    let open = File::options()
        .append(true)
        .open(work.join("etc/own"))
        .unwrap();
    fs::rename(work.join("etc/own"), work.join("etc/rotated")).unwrap();
    fs::write(work.join("etc/conf"), "seen").unwrap();
    until("a file beside one that is open", || {
        reads(&one, "etc/conf") == b"seen"
    });
    assert_eq!(reads(&one, "etc/own"), b"old");
    assert!(!one.join("etc/rotated").exists());
    drop(open);
    until("both names", || {
        reads(&one, "etc/rotated") == b"old" && !one.join("etc/own").exists()
    });

    // What the tree keeps against another change stays in the tree.
    let mut open = File::options()
        .append(true)
        .open(work.join("etc/conf"))
        .unwrap();
    let patched = world.tree("patched", |root| tree(root, false));
    fs::write(patched.join("etc/conf"), "patched").unwrap();
    fs::rename(patched.join("etc/own"), patched.join("etc/rotated")).unwrap();
    store
        .run(&["patch", "apply", patched.to_str().unwrap(), "--family", "f"])
        .exits(3);
    assert_eq!(reads(&one, "etc/conf"), b"patched");
    open.write_all(b", still").unwrap();
    drop(open);
    fs::write(work.join("etc/later"), "later").unwrap();
    until("what was done later", || {
        reads(&one, "etc/later") == b"later"
    });
    assert_eq!(reads(&one, "etc/conf"), b"patched");
    assert_eq!(reads(&work, "etc/conf"), b"seen, still");
    store.run(&["commit", "f"]).exits(0);
    assert_eq!(reads(&one, "etc/conf"), b"seen, still");

    // The next mount is not live because this one was.
    work.unmount();
    let work = mount_shared(&world);
    fs::write(work.join("etc/conf"), "not said").unwrap();
    thread::sleep(Duration::from_millis(500));
    assert_eq!(reads(&one, "etc/conf"), b"seen, still");
    drop((work, one));
    store.ok(&["check", "--content"]);
}
