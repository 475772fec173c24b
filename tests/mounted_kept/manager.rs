//! A service manager as systemd is one: it keeps what a daemon gives it (sd_notify(3)), and starts the next with that
//! (sd_listen_fds(3)).

use std::collections::BTreeSet;
use std::fs;
use std::io::{IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{Pid, Signal, kill_process};

use super::common::snapshot::Fields;
use super::common::store::{Mounted, TestStore, is_mounted, program};
use super::image;

/// Descriptors beside one message at most (SCM_MAX_FD).
const MOST: usize = 253;

/// It wants to hear from a daemon so often.
pub const WATCHDOG: Duration = Duration::from_secs(4);

pub struct Manager<'a> {
    store: &'a TestStore,
    socket: UnixDatagram,
    kept: Vec<(String, OwnedFd)>,
}

impl<'a> Manager<'a> {
    pub fn new(store: &'a TestStore) -> Self {
        let socket = UnixDatagram::bind(store.place.join("notify")).unwrap();
        let patience = Some(Duration::from_secs(60));
        socket.set_read_timeout(patience).unwrap();
        Self {
            store,
            socket,
            kept: Vec::new(),
        }
    }

    /// The next message, after what it says of descriptors has been done.
    fn hear(&mut self) -> String {
        self.try_hear().unwrap()
    }

    fn try_hear(&mut self) -> Option<String> {
        let mut text = vec![0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut text)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let got = recvmsg(&self.socket, &mut parts, &mut beside, flags).ok()?;
        text.truncate(got.bytes);
        let text = String::from_utf8(text).unwrap();
        let name = text.lines().find_map(|line| line.strip_prefix("FDNAME="));
        let name = name.unwrap_or("stored").to_owned();
        for message in beside.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                assert!(text.lines().any(|line| line == "FDSTORE=1"), "{text}");
                self.kept
                    .extend(descriptors.map(|descriptor| (name.clone(), descriptor)));
            }
        }
        if text.lines().any(|line| line == "FDSTOREREMOVE=1") {
            self.kept.retain(|(kept, _)| *kept != name);
        }
        Some(text)
    }

    /// Does all that it has been told.
    pub fn hear_all(&mut self) {
        self.socket.set_nonblocking(true).unwrap();
        while let Some(_message) = self.try_hear() {}
        self.socket.set_nonblocking(false).unwrap();
    }

    /// Does what it is told until a state is told.
    pub fn wait_for(&mut self, state: &str) {
        while self.hear() != state {}
    }

    /// The names under which something is kept.
    pub fn names(&self) -> Vec<&str> {
        self.kept.iter().map(|(name, _)| name.as_str()).collect()
    }

    /// Starts a daemon with what is kept.
    fn start(&self) -> Child {
        self.start_with(&[])
    }

    /// Starts a daemon with what is kept, and these options.
    pub fn start_with(&self, options: &[&str]) -> Child {
        let mut script = String::new();
        // First to numbers that none of them has.
        for (place, (_, descriptor)) in self.kept.iter().enumerate() {
            fcntl_setfd(descriptor, FdFlags::empty()).unwrap();
            script += &format!("exec {}<&{}-; ", 500 + place, descriptor.as_raw_fd());
        }
        for place in 0..self.kept.len() {
            script += &format!("exec {}<&{}-; ", 3 + place, 500 + place);
        }
        script += "export LISTEN_PID=$$; exec \"$@\"";
        let mut command = Command::new("bash");
        command.args(["-euc", &script, "bash"]);
        command.arg(program()).arg("--store").arg(&self.store.path);
        command.arg("daemon").args(options);
        command.env_remove("FOLDFS_STORE");
        command
            .env("NOTIFY_SOCKET", self.store.place.join("notify"))
            .env("FDSTORE", "1000")
            .env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string())
            .env("LISTEN_FDS", self.kept.len().to_string())
            .env("LISTEN_FDNAMES", self.names().join(":"));
        command.stderr(Stdio::null()).spawn().unwrap()
    }
}

/// Kills a daemon and waits until it is gone.
pub fn kill(mut daemon: Child) {
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}

/// Tells a daemon to end, and waits until it has.
pub fn end(manager: &mut Manager<'_>, mut daemon: Child) {
    let pid = Pid::from_child(&daemon);
    kill_process(pid, Signal::TERM).unwrap();
    manager.wait_for("STOPPING=1");
    assert!(daemon.wait().unwrap().success());
}

#[test]
fn the_store_stays_locked_between_two_daemons() {
    let Some(store) = image("the_store_stays_locked_between_two_daemons") else {
        return;
    };
    let mut manager = Manager::new(&store);
    let first = manager.start();
    manager.wait_for("READY=1");
    assert_eq!(manager.names(), ["lock"]);
    kill(first);
    let refused = store.run(&["clone", "one", "two"]).exits(4);
    refused.says(&["has died", "next one"]);
    let nowhere = store.place.to_str().unwrap();
    let refused = store.run(&["unmount", nowhere]).exits(4);
    refused.says(&["has died", "next one"]);

    let second = manager.start();
    manager.wait_for("READY=1");
    store.ok(&["clone", "one", "two"]);
    // Given once, kept until it is let go of.
    assert_eq!(manager.names(), ["lock"]);
    kill(second);
    store.run(&["clone", "one", "three"]).exits(4);

    let third = manager.start();
    manager.wait_for("READY=1");
    let kept = manager.kept[0].1.try_clone().unwrap();
    end(&mut manager, third);
    // Whoever has the descriptor still: it is unlocked.
    store.ok(&["clone", "one", "three"]);
    assert_eq!(manager.hear(), "FDSTOREREMOVE=1\nFDNAME=lock");
    assert_eq!(manager.names(), [""; 0]);
    drop(kept);
}

#[test]
fn mounts_go_on_with_what_a_service_manager_has_kept() {
    let Some(store) = image("mounts_go_on_with_what_a_service_manager_has_kept") else {
        return;
    };
    store.ok(&["clone", "one", "two"]);
    let mut manager = Manager::new(&store);
    let mut daemon = manager.start();
    manager.wait_for("READY=1");
    let mounts = ["one", "two"].map(|image| store.mount(image));
    let shown = mounts.each_ref().map(Mounted::snapshot);
    manager.hear_all();
    let kept = manager.names().join(" ");
    let mut open = fs::File::create(mounts[0].join("etc/open")).unwrap();
    for round in 0..3 {
        kill(daemon);
        manager.hear_all();
        assert_eq!(manager.names().join(" "), kept, "round {round}");
        daemon = thread::scope(|scope| {
            // It waits for the next daemon.
            let written = scope.spawn(|| writeln!(open, "round {round}"));
            let next = manager.start();
            manager.wait_for("READY=1");
            written.join().unwrap().unwrap();
            next
        });
    }
    drop(open);
    let text = fs::read_to_string(mounts[0].join("etc/open")).unwrap();
    assert_eq!(text, "round 0\nround 1\nround 2\n");
    fs::remove_file(mounts[0].join("etc/open")).unwrap();
    for (before, mounted) in shown.iter().zip(&mounts) {
        let after = mounted.snapshot();
        before.assert_same(&after, Fields::INO, "after three kills");
    }
    let [one, two] = mounts;
    one.unmount();
    manager.hear_all();
    let names: BTreeSet<&str> = manager.names().into_iter().collect();
    assert_eq!(names.len(), 2, "the lock, and one mount: {names:?}");
    // The other one is unmounted by the daemon as it ends.
    end(&mut manager, daemon);
    manager.hear_all();
    assert_eq!(manager.names(), [""; 0]);
    assert!(!is_mounted(&two.path));
    store.assert_sound();
}

#[test]
fn a_lock_is_free_when_its_keeper_is_gone_too() {
    let Some(store) = image("a_lock_is_free_when_its_keeper_is_gone_too") else {
        return;
    };
    let mut manager = Manager::new(&store);
    let daemon = manager.start();
    manager.wait_for("READY=1");
    kill(daemon);
    drop(manager);
    store.ok(&["clone", "one", "two"]);
    store.assert_sound();
}

/// Such as that of a store that has been restored in the same place.
#[test]
fn the_lock_of_another_store_locks_nothing() {
    let Some(store) = image("the_lock_of_another_store_locks_nothing") else {
        return;
    };
    let mut manager = Manager::new(&store);
    let daemon = manager.start();
    manager.wait_for("READY=1");
    kill(daemon);
    fs::remove_file(store.path.join("run/lock")).unwrap();
    let daemon = manager.start();
    manager.wait_for("READY=1");
    assert_eq!(manager.names(), ["lock"]);
    kill(daemon);
    store.run(&["clone", "one", "two"]).exits(4);
    drop(manager);
    store.ok(&["clone", "one", "two"]);
}
