//! `foldfs daemon --keep`: a service manager sees one process, whatever becomes of the daemon.

use std::fs;
use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::common::store::{TestStore, is_mounted};
use super::image;
use super::keeper::{eventually, processes, send};
use super::manager::{Manager, WATCHDOG, end, kill};

/// The daemon that the keeper has started next.
fn next(store: &TestStore, before: i32) -> i32 {
    eventually("another daemon", || {
        let now: [i32; 2] = store.keepers_and_daemons().try_into().ok()?;
        (now[1] != before).then_some(now[1])
    })
}

#[test]
fn its_manager_need_not_know_of_a_death() {
    let Some(store) = image("its_manager_need_not_know_of_a_death") else {
        return;
    };
    let mut manager = Manager::new(&store);
    let mut first = manager.start_with(&["--keep"]);
    manager.wait_for("READY=1");
    let mounted = store.mount("one");
    // What the daemon has said before it answered is passed on in its own time.
    let kept = eventually("the mount is kept", || {
        manager.hear_all();
        let kept = manager.names().join(" ");
        kept.contains("lock image-").then_some(kept)
    });
    let mut open = fs::File::create(mounted.join("etc/open")).unwrap();
    for round in 0..3 {
        let [keeper, daemon] = processes(&store);
        assert_eq!(keeper, i32::try_from(first.id()).unwrap());
        send(Signal::KILL, daemon);
        writeln!(open, "round {round}").unwrap();
        manager.wait_for("READY=1");
        assert_ne!(next(&store, daemon), daemon);
        assert_eq!(first.try_wait().unwrap(), None);
    }
    // It goes on with what the manager has kept, as no daemon is there any more.
    manager.hear_all();
    assert_eq!(manager.names().join(" "), kept);
    drop(open);
    kill(first);
    // The daemon does not outlive it: the next keeper's would serve the same mounts.
    eventually("the daemon is gone", || {
        store.keepers_and_daemons().is_empty().then_some(())
    });
    // Before the next keeper, which closes what this process has open: that is asked of a daemon.
    let written = thread::spawn({
        let path = mounted.join("etc/later");
        move || fs::write(path, "the keeper is gone\n")
    });
    let second = manager.start_with(&["--keep"]);
    manager.wait_for("READY=1");
    written.join().unwrap().unwrap();
    let text =
        ["etc/open", "etc/later"].map(|name| fs::read_to_string(mounted.join(name)).unwrap());
    let text = text.concat();
    assert_eq!(text, "round 0\nround 1\nround 2\nthe keeper is gone\n");
    assert_eq!(store.ok(&["fold"]).code, 0);
    end(&mut manager, second);
    assert!(!is_mounted(&mounted.path));
    manager.hear_all();
    assert_eq!(manager.names(), [""; 0]);
    store.assert_sound();
}

#[test]
fn one_that_is_to_end_before_it_serves_unmounts_first() {
    let Some(store) = image("one_that_is_to_end_before_it_serves_unmounts_first") else {
        return;
    };
    let mut manager = Manager::new(&store);
    // Between two daemons, while the next one takes over, or when it serves.
    for pause in [0, 1, 3, 10, 30, 100] {
        let keeper = manager.start_with(&["--keep"]);
        manager.wait_for("READY=1");
        let mounted = store.mount("one");
        fs::write(mounted.join("etc/new"), pause.to_string()).unwrap();
        let [_, daemon] = processes(&store);
        send(Signal::KILL, daemon);
        thread::sleep(Duration::from_millis(pause));
        end(&mut manager, keeper);
        assert!(!is_mounted(&mounted.path), "after {pause} ms");
        manager.hear_all();
        assert_eq!(manager.names(), [""; 0], "after {pause} ms");
    }
    store.assert_sound();
}

#[test]
fn a_daemon_that_hangs_is_followed_by_the_next() {
    let Some(store) = image("a_daemon_that_hangs_is_followed_by_the_next") else {
        return;
    };
    let mut manager = Manager::new(&store);
    let mut keeper = manager.start_with(&["--keep"]);
    manager.wait_for("READY=1");
    let mounted = store.mount("one");
    let [_, daemon] = processes(&store);
    let begun = Instant::now();
    // The keeper is alive as long as it waits: it says so as often as it is asked to.
    while begun.elapsed() < 2 * WATCHDOG {
        manager.wait_for("WATCHDOG=1");
    }
    assert_eq!(processes(&store)[1], daemon);
    send(Signal::STOP, daemon);
    // It waits for the next daemon.
    let hosts = fs::read_to_string(mounted.join("etc/hosts")).unwrap();
    assert_eq!(hosts, "127.0.0.1 localhost\n");
    next(&store, daemon);
    assert_eq!(keeper.try_wait().unwrap(), None);
    end(&mut manager, keeper);
    store.assert_sound();
}
