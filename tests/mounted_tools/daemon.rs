//! Mounts as a whole: several at once, busy ones, and the end of their daemon.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use super::common::store::{LET_GO, is_mounted, mounts_below, tool};
use super::*;

#[test]
fn all_images_at_once() {
    let Some(store) = twins("all_images_at_once") else {
        return;
    };
    let all = store.place.join("all");
    fs::create_dir(&all).unwrap();
    store.ok(&["mount", all.to_str().unwrap(), "-o", "dev"]);
    let mounts = mounts_below(&all);
    assert_eq!(mounts.len(), 2, "no guest runs on the base: {mounts:?}");
    assert_eq!(store.daemons().len(), 1, "one daemon serves them all");
    let tree = Snapshot::of(&store.sample(0));
    for image in ["first", "second"] {
        tree.assert_same(&Snapshot::of(&all.join(image)), Fields::COPY, image);
    }
    fs::write(all.join("first/etc/hosts"), "first's").unwrap();
    tree.assert_same(&Snapshot::of(&all.join("second")), Fields::COPY, "second");
    store.ok(&["unmount", all.to_str().unwrap()]);
    assert_eq!(mounts_below(&all).len(), 0);
    store.wait_for_daemons();
    store.assert_sound();
}

#[test]
fn a_busy_mount_stays() {
    let Some(store) = twins("a_busy_mount_stays") else {
        return;
    };
    let first = store.mount("first");
    let held = File::open(first.join("etc/hosts")).unwrap();
    let path = first.path.to_str().unwrap();
    store.run(&["unmount", path]).exits(4).says(&[path]);
    assert!(is_mounted(&first.path));
    first.assert_shows(&store.sample(0));
    drop(held);
    finish(&store, [first]);
}

/// A namespace that somebody made while the image was mounted keeps it mounted.
#[test]
fn an_unmount_does_not_wait_for_other_namespaces() {
    let Some(store) = twins("an_unmount_does_not_wait_for_other_namespaces") else {
        return;
    };
    let first = store.mount("first");
    let script = format!("{LET_GO} echo there; exec sleep 1000");
    let mut other = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", &script])
        .arg("sh")
        .arg(&first.path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let stdout = other.stdout.take().unwrap();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    let path = first.path.to_str().unwrap();
    for _ in 0..2 {
        let ran = store.run(&["unmount", path]);
        ran.exits(4).says(&[path, "mount namespace"]);
        assert!(!is_mounted(&first.path));
    }
    other.kill().unwrap();
    other.wait().unwrap();
    store.wait_for_daemons();
    let first = store.mount("first");
    first.assert_shows(&store.sample(0));
    finish(&store, [first]);
}

#[test]
fn a_terminated_daemon_leaves_no_mount() {
    for signal in ["TERM", "INT"] {
        for busy in [false, true] {
            let Some(store) = twins("a_terminated_daemon_leaves_no_mount") else {
                return;
            };
            let (first, second) = (store.mount("first"), store.mount("second"));
            let mut held = File::create(first.join("etc/new")).unwrap();
            held.write_all(b"written").unwrap();
            let held = busy.then_some(held);
            let daemons = store.daemons();
            assert_eq!(daemons.len(), 1);
            run(
                Command::new("kill").args(["-s", signal, &daemons[0].to_string()]),
                b"",
            )
            .exits(0);
            eventually("the daemon ends", || store.daemons().is_empty());
            assert_eq!(
                mounts_below(&store.place),
                Vec::<PathBuf>::new(),
                "busy: {busy}"
            );
            drop((held, first, second));
            let first = store.mount("first");
            assert_eq!(fs::read(first.join("etc/new")).unwrap(), b"written");
            finish(&store, [first]);
        }
    }
}

#[test]
fn a_killed_daemon_loses_nothing_that_was_synced() {
    let Some(store) = twins("a_killed_daemon_loses_nothing") else {
        return;
    };
    let first = store.mount("first");
    fs::rename(first.join("usr/lib"), first.join("lib")).unwrap();
    let mut file = File::create(first.join("lib/new")).unwrap();
    file.write_all(b"synced").unwrap();
    file.sync_all().unwrap();
    drop(file);
    fs::write(first.join("usr/bin/tool"), "promoted").unwrap();
    let shown = first.snapshot();
    for pid in store.keepers_and_daemons() {
        tool("kill", &["-9", &pid.to_string()]);
    }
    eventually("the daemon ends", || store.daemons().is_empty());
    let path = first.path.to_str().unwrap();
    let ran = store.run(&["unmount", path]);
    if ran.code != 0 {
        // Nobody serves the store; mount clears away what a killed daemon left.
        assert!(
            ran.stderr.contains(path) || ran.stderr.contains("no daemon"),
            "{}",
            ran.stderr
        );
    }
    store.assert_sound();
    drop(first);
    let first = store.mount("first");
    shown.assert_same(&first.snapshot(), Fields::ALL, "after a kill");
    finish(&store, [first]);
}

#[test]
fn a_mount_in_the_foreground_ends_with_its_unmount() {
    let Some(store) = twins("a_mount_in_the_foreground") else {
        return;
    };
    let path = store.place.join("mnt-first");
    fs::create_dir(&path).unwrap();
    let mut command = store.command(&["mount", "first", path.to_str().unwrap(), "-f"]);
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    eventually("it is mounted", || is_mounted(&path));
    fs::write(path.join("new"), "there").unwrap();
    let second = store.mount("second");
    assert_eq!(
        store.daemons().len(),
        1,
        "the one in the foreground serves both"
    );
    store.ok(&["unmount", path.to_str().unwrap()]);
    second.unmount();
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if start.elapsed() > Duration::from_secs(20) {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("it goes on without a mount");
        }
        thread::sleep(Duration::from_millis(10));
    };
    assert!(status.success(), "{status}");
    let first = store.mount("first");
    assert_eq!(fs::read(first.join("new")).unwrap(), b"there");
    finish(&store, [first]);
}

#[test]
fn commands_work_beside_the_daemon() {
    let Some(store) = twins("commands_work_beside_the_daemon") else {
        return;
    };
    let first = store.mount("first");
    fs::write(first.join("etc/hosts"), "changed").unwrap();
    store.ok(&["clone", "first", "third"]);
    let third = store.mount("third");
    first
        .snapshot()
        .assert_same(&third.snapshot(), Fields::ALL, "a clone differs");
    fs::write(third.join("etc/hosts"), "third's").unwrap();
    assert_eq!(fs::read(first.join("etc/hosts")).unwrap(), b"changed");
    store.import("fourth", &store.sample(2), "family");
    store.ok(&["rename", "second", "renamed"]);
    store.ok(&["status"]);
    store.ok(&["check"]);
    store.ok(&["why", "first", "/etc/hosts"]);
    store.ok(&["remove", "renamed"]);
    let out = store.place.join("out");
    store.ok(&["export", "first", out.to_str().unwrap()]);
    Snapshot::of(&out).assert_same(
        &first.snapshot(),
        Fields::COPY,
        "an export of a mounted image",
    );
    finish(&store, [first, third]);
}

#[test]
fn a_frozen_clone_refuses_an_open_file() {
    let Some(store) = twins("a_frozen_clone_refuses") else {
        return;
    };
    let first = store.mount("first");
    let file = File::create(first.join("etc/hosts")).unwrap();
    store
        .run(&["clone", "first", "third", "--frozen"])
        .exits(4)
        .says(&["etc/hosts"]);
    store.ok(&["clone", "first", "open"]);
    drop(file);
    store.ok(&["clone", "first", "third", "--frozen"]);
    finish(&store, [first]);
}

/// A command that the daemon let in gets an answer, if only that it ends.
#[test]
fn a_daemon_that_ends_answers_whom_it_let_in() {
    let Some(store) = twins("a_daemon_that_ends_answers") else {
        return;
    };
    let first = store.mount("first");
    let stream = UnixStream::connect(store.path.join("run/control.sock")).unwrap();
    let mut reader = BufReader::new(&stream);
    let mut hello = String::new();
    reader.read_line(&mut hello).unwrap();
    assert!(hello.contains("foldfs"), "{hello}");
    first.unmount();
    // The daemon looks every half second whether a mount is left.
    thread::sleep(Duration::from_millis(1500));
    let call = r#"{"request":{"command":"list"},"dry_run":false}"#;
    let sent = (&stream).write_all(format!("{call}\n").as_bytes());
    let mut answer = String::new();
    let read = reader.read_line(&mut answer);
    assert!(
        sent.is_ok() && read.is_ok() && !answer.is_empty(),
        "{sent:?} {read:?} {answer}"
    );
    store.wait_for_daemons();
    let first = store.mount("first");
    finish(&store, [first]);
}

/// Nobody can call a daemon whose socket has lost its name, but it must not go on for ever.
#[test]
fn a_daemon_whose_store_was_deleted_ends() {
    for signal in [None, Some("TERM")] {
        let Some(store) = twins("a_daemon_whose_store_was_deleted") else {
            return;
        };
        let first = store.mount("first");
        let daemons = store.daemons();
        assert_eq!(daemons.len(), 1);
        fs::remove_dir_all(&store.path).unwrap();
        match signal {
            Some(signal) => tool("kill", &["-s", signal, &daemons[0].to_string()]),
            None => tool("umount", &[&first.path]),
        };
        store.wait_for_daemons();
        assert!(!is_mounted(&first.path), "{signal:?}");
    }
}

/// Beside guests at work nothing that is half done may be taken for damage.
#[test]
fn a_check_beside_guests_at_work_finds_nothing() {
    let Some(store) = twins("a_check_beside_guests_at_work") else {
        return;
    };
    let images = ["first", "second"].map(|image| store.mount(image));
    thread::scope(|scope| {
        let places = images.iter().enumerate();
        let workers: Vec<_> = places
            .flat_map(|(image, mounted)| (0..2).map(move |worker| (image, worker, &mounted.path)))
            .map(|(image, worker, root)| {
                scope.spawn(move || super::behaviour::churn(root, image, worker))
            })
            .collect();
        while workers.iter().any(|worker| !worker.is_finished()) {
            store.ok(&["check"]);
            store.ok(&["fold"]);
            store.ok(&["status"]);
        }
        workers
            .into_iter()
            .for_each(|worker| worker.join().unwrap());
    });
    finish(&store, images);
}

#[test]
fn what_another_process_has_half_done_is_no_damage() {
    let Some(store) = twins("what_another_process_has_half_done") else {
        return;
    };
    let image = store.mount("first");
    let names: Vec<String> = (0..20).map(|number| format!("etc/own{number}")).collect();
    for name in &names {
        fs::write(image.join(name), name).unwrap();
    }
    let why = store.ok(&["why", "first", "/etc/own0", "--json"]).json();
    let stored = store.path.join(why["stored"].as_str().unwrap());
    let private = stored.parent().unwrap().parent().unwrap().to_owned();
    image.unmount();
    store.wait_for_daemons();

    // As a fold does: at each moment one of the files has another name.
    let other = store.place.join("other");
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for name in names.iter().cycle() {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                fs::hard_link(private.join(name), &other).unwrap();
                thread::sleep(Duration::from_millis(7));
                fs::remove_file(&other).unwrap();
            }
        });
        for _ in 0..3 {
            let ran = store.run(&["check"]);
            if ran.code != 0 {
                over.store(true, Ordering::Relaxed);
            }
            ran.exits(0);
        }
        over.store(true, Ordering::Relaxed);
    });
    fs::hard_link(private.join(&names[3]), &other).unwrap();
    let ran = store.run(&["check"]).exits(3);
    assert!(
        ran.text().contains("etc/own3: the host counts 2 links"),
        "{ran:?}"
    );
    fs::remove_file(&other).unwrap();
    store.assert_sound();
}
