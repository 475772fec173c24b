//! foldfs's own keeper, under which `foldfs mount` starts a daemon.

use std::fs;
use std::io::Write;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use super::common::snapshot::Fields;
use super::common::store::{TestStore, is_mounted, run, tool};
use super::image;

/// The keeper of the store's one daemon, and that daemon.
pub fn processes(store: &TestStore) -> [i32; 2] {
    store.keepers_and_daemons().try_into().unwrap()
}

pub fn send(signal: Signal, pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

#[track_caller]
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        let patient = start.elapsed() < Duration::from_secs(60);
        assert!(patient, "{what}: in vain");
        thread::sleep(Duration::from_millis(5));
    }
}

fn parent(pid: i32) -> i32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    line.unwrap().trim().parse().unwrap()
}

/// What a process has open, by the paths that /proc shows.
fn descriptors(pid: i32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let paths = entries.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    let mut paths: Vec<String> = paths.map(|path| path.display().to_string()).collect();
    paths.sort();
    paths
}

#[test]
fn it_begins_and_ends_with_its_daemon() {
    let Some(store) = image("it_begins_and_ends_with_its_daemon") else {
        return;
    };
    let mounted = store.mount("one");
    let [keeper, daemon] = processes(&store);
    assert_eq!(parent(daemon), keeper);
    for pid in [keeper, daemon] {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
        assert_eq!(name, "foldfs\n");
        assert_eq!(
            fs::read_link(format!("/proc/{pid}/cwd")).unwrap().to_str(),
            Some("/")
        );
    }
    let threads = fs::read_dir(format!("/proc/{keeper}/task")).unwrap();
    assert_eq!(threads.count(), 1);
    let score = |pid: i32| fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
    // As far as it may.
    let spared = run(
        Command::new("sh").args(["-c", "echo -900 >/proc/self/oom_score_adj"]),
        b"",
    );
    if spared.code == 0 {
        assert_eq!(score(keeper), "-900\n");
    }
    assert_eq!(
        score(daemon),
        fs::read_to_string("/proc/self/oom_score_adj").unwrap()
    );
    let has = |words: &[&str]| {
        let open = descriptors(keeper);
        words
            .iter()
            .all(|word| open.iter().any(|path| path.ends_with(word)))
    };
    eventually("it keeps the lock", || has(&["run/lock"]).then_some(()));
    // Nothing else of the store, or of its own.
    let names = fs::read_dir(store.path.join("run")).unwrap();
    let names: Vec<_> = names.map(|name| name.unwrap().file_name()).collect();
    assert!(
        names
            .iter()
            .all(|name| !name.to_str().unwrap().contains("keeper")),
        "{names:?}"
    );
    mounted.unmount();
    store.wait_for_daemons();
    store.ok(&["clone", "one", "two"]);
    let log = fs::read_to_string(store.path.join("run/daemon.log")).unwrap();
    assert!(!log.contains("WARN"), "{log}");
}

#[test]
fn a_signal_to_end_is_passed_on() {
    for signal in [Signal::TERM, Signal::INT] {
        let Some(store) = image("a_signal_to_end_is_passed_on") else {
            return;
        };
        let mounted = store.mount("one");
        let held = fs::File::create(mounted.join("etc/new")).unwrap();
        send(signal, processes(&store)[0]);
        store.wait_for_daemons();
        assert!(!is_mounted(&mounted.path));
        drop(held);
        store.ok(&["clone", "one", "two"]);
    }
}

/// While nobody serves the store nobody alters it, and who uses its mounts waits.
#[test]
fn a_daemon_that_is_killed_is_started_again() {
    let Some(store) = image("a_daemon_that_is_killed_is_started_again") else {
        return;
    };
    let mounted = store.mount("one");
    let shown = mounted.snapshot();
    let [keeper, mut daemon] = processes(&store);
    let mut open = fs::File::create(mounted.join("etc/open")).unwrap();
    let kept = descriptors(keeper);
    let locked = fs::File::open(store.path.join("run/lock")).unwrap();
    for round in 0..4 {
        send(Signal::KILL, daemon);
        let next = eventually("the next daemon", || {
            let unlocked = flock(&locked, FlockOperation::NonBlockingLockExclusive);
            assert_eq!(unlocked, Err(Errno::WOULDBLOCK), "round {round}");
            let next = store.daemons().into_iter().find(|&pid| pid != daemon);
            next.filter(|_| UnixStream::connect(store.path.join("run/control.sock")).is_ok())
        });
        assert_eq!(parent(next), keeper);
        daemon = next;
        // Through what was opened before, and anew.
        writeln!(open, "round {round}").unwrap();
        let text = fs::read_to_string(mounted.join("etc/open")).unwrap();
        assert_eq!(text.lines().count(), round + 1);
        store.ok(&["list"]);
        // None more with each daemon.
        eventually("as much is kept", || {
            (descriptors(keeper) == kept).then_some(())
        });
    }
    drop((open, locked));
    fs::remove_file(mounted.join("etc/open")).unwrap();
    shown.assert_same(&mounted.snapshot(), Fields::INO, "after four kills");
    let log = fs::read_to_string(store.path.join("run/daemon.log")).unwrap();
    assert_eq!(
        log.matches("was killed by signal 9; it is started again")
            .count(),
        4,
        "{log}"
    );
    assert_eq!(log.matches("daemon began").count(), 5, "{log}");
    mounted.unmount();
    store.wait_for_daemons();
    store.ok(&["clone", "one", "two"]);
    store.assert_sound();
}

/// What says who has the store lies elsewhere there.
#[test]
fn a_store_that_cannot_be_written_to_has_a_keeper_too() {
    let Some(store) = image("a_store_that_cannot_be_written_to_has_a_keeper_too") else {
        return;
    };
    let medium = store.place.join("medium");
    fs::create_dir(&medium).unwrap();
    let bind = [
        "--bind".as_ref(),
        store.path.as_os_str(),
        medium.as_os_str(),
    ];
    tool("mount", &bind);
    tool(
        "mount",
        &[
            "-o".as_ref(),
            "remount,bind,ro".as_ref(),
            medium.as_os_str(),
        ],
    );
    let read_only = TestStore::on_medium(&store.place, medium.clone());
    let mounted = read_only.mount_with("one", "ro");
    let [keeper, daemon] = processes(&read_only);
    send(Signal::KILL, daemon);
    let next = eventually("the next daemon", || {
        read_only.daemons().into_iter().find(|&pid| pid != daemon)
    });
    mounted.assert_shows(&store.sample(0));
    assert_eq!(processes(&read_only), [keeper, next]);
    mounted.unmount();
    read_only.wait_for_daemons();
    tool("umount", &[&medium]);
}

/// A command in between waits for the next daemon.
#[test]
fn a_command_waits_for_the_next_daemon() {
    let Some(store) = image("a_command_waits_for_the_next_daemon") else {
        return;
    };
    let mounted = store.mount("one");
    for name in ["two", "three", "four"] {
        send(Signal::KILL, processes(&store)[1]);
        store.ok(&["clone", "one", name]);
        let mounted = store.mount(name);
        send(Signal::KILL, processes(&store)[1]);
        mounted.unmount();
    }
    mounted.assert_shows(&store.sample(0));
    mounted.unmount();
    store.wait_for_daemons();
    store.assert_sound();
}

/// umount(8) while nobody serves: nothing waits for the next daemon any more.
#[test]
fn no_daemon_is_started_for_a_mount_that_is_gone() {
    let Some(store) = image("no_daemon_is_started_for_a_mount_that_is_gone") else {
        return;
    };
    let mounted = store.mount("one");
    let [keeper, daemon] = processes(&store);
    // The keeper does not see to anything before the mount is gone.
    send(Signal::STOP, keeper);
    send(Signal::KILL, daemon);
    tool("umount", &["-l".as_ref(), mounted.path.as_os_str()]);
    send(Signal::CONT, keeper);
    store.wait_for_daemons();
    let log = fs::read_to_string(store.path.join("run/daemon.log")).unwrap();
    assert_eq!(log.matches("daemon began").count(), 1, "{log}");
    store.ok(&["clone", "one", "two"]);
    store.assert_sound();
}

/// What it cannot start it goes on trying to start.
#[test]
fn a_daemon_that_cannot_start_is_tried_again() {
    let Some(store) = image("a_daemon_that_cannot_start_is_tried_again") else {
        return;
    };
    let mounted = store.mount("one");
    let [keeper, daemon] = processes(&store);
    let (there, away) = (store.path.join("foldfs.toml"), store.path.join("away"));
    fs::rename(&there, &away).unwrap();
    send(Signal::KILL, daemon);
    let log = store.path.join("run/daemon.log");
    let tries = || {
        fs::read_to_string(&log)
            .unwrap()
            .matches("failed (exit status")
            .count()
    };
    eventually("it has tried a few times", || (tries() > 2).then_some(()));
    assert_eq!(store.keepers(), [keeper]);
    fs::rename(&away, &there).unwrap();
    mounted.assert_shows(&store.sample(0));
    mounted.unmount();
    store.wait_for_daemons();
    store.assert_sound();
}

/// Somebody who has got at the socket: only what the daemon itself says counts.
#[test]
fn what_others_say_is_ignored() {
    let Some(store) = image("what_others_say_is_ignored") else {
        return;
    };
    let mounted = store.mount("one");
    let [keeper, daemon] = processes(&store);
    let environment = fs::read(format!("/proc/{daemon}/environ")).unwrap();
    let environment = String::from_utf8_lossy(&environment).into_owned();
    let socket = environment
        .split('\0')
        .find_map(|line| line.strip_prefix("NOTIFY_SOCKET="));
    let socket = socket.unwrap().replace("self", &daemon.to_string());
    let kept = || {
        descriptors(keeper)
            .iter()
            .any(|path| path.ends_with("run/lock"))
    };
    eventually("it keeps the lock", || kept().then_some(()));
    let forger = UnixDatagram::unbound().unwrap();
    let long = vec![b'x'; 10_000];
    for forged in [
        &b"FDSTOREREMOVE=1\nFDNAME=lock"[..],
        b"\xff",
        &long[..],
        b"",
        b"STOPPING=1",
    ] {
        forger.send_to(forged, &socket).unwrap();
    }
    let log = store.path.join("run/daemon.log");
    let refused = || fs::read_to_string(&log).unwrap().matches("ignored").count();
    eventually("all is refused", || (refused() == 5).then_some(()));
    assert!(kept());
    mounted.unmount();
    store.wait_for_daemons();
}

#[test]
fn a_daemon_outlives_its_keeper() {
    let Some(store) = image("a_daemon_outlives_its_keeper") else {
        return;
    };
    let mounted = store.mount("one");
    let [keeper, _] = processes(&store);
    send(Signal::KILL, keeper);
    eventually("the keeper is gone", || {
        store.keepers().is_empty().then_some(())
    });
    mounted.assert_shows(&store.sample(0));
    fs::write(mounted.join("etc/new"), "written").unwrap();
    // There is nobody who could keep what it needs.
    store.ok(&["clone", "one", "two"]);
    let second = store.mount("two");
    assert_eq!(fs::read(second.join("etc/new")).unwrap(), b"written");
    second.unmount();
    mounted.unmount();
    store.wait_for_daemons();
    store.assert_sound();
}

#[test]
fn both_killed_leave_nothing_that_is_locked() {
    let Some(store) = image("both_killed_leave_nothing_that_is_locked") else {
        return;
    };
    let mounted = store.mount("one");
    for pid in processes(&store) {
        send(Signal::KILL, pid);
    }
    store.wait_for_daemons();
    store.ok(&["clone", "one", "two"]);
    store.ok(&["unmount", mounted.path.to_str().unwrap()]);
    assert!(!is_mounted(&mounted.path));
}
