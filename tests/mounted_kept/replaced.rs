//! `foldfs daemon --upgrade`: another program takes the daemon's place, in the same process.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use serde_json::{Value, json};

use super::common::snapshot::{Fields, Snapshot};
use super::common::store::{TestStore, program, run};
use super::image;
use super::keeper::{eventually, processes};

/// The program under test once more, elsewhere.
fn copy(store: &TestStore) -> PathBuf {
    let directory = store.place.join("new");
    fs::create_dir_all(&directory).unwrap();
    let path = directory.join("foldfs");
    fs::copy(program(), &path).unwrap();
    path
}

fn upgrade(store: &TestStore, program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_remove("FOLDFS_STORE");
    command.arg("--store").arg(&store.path);
    command.args(["daemon", "--upgrade", "--json"]);
    command
}

/// Which program a process is.
fn program_of(pid: i32) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/exe")).unwrap()
}

/// What the daemon answers to a call, and what it says first.
fn call(store: &TestStore, call: &Value) -> [Value; 2] {
    let stream = UnixStream::connect(store.path.join("run/control.sock")).unwrap();
    let mut reader = BufReader::new(&stream);
    let mut read = || {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    };
    let hello = read();
    (&stream).write_all(format!("{call}\n").as_bytes()).unwrap();
    [hello, read()]
}

#[test]
fn another_program_takes_over_in_the_same_process() {
    let Some(store) = image("another_program_takes_over_in_the_same_process") else {
        return;
    };
    let mounted = store.mount("one");
    let [keeper, daemon] = processes(&store);
    let mut open = fs::File::create(mounted.join("etc/open")).unwrap();
    let new = copy(&store);
    for round in 0..2 {
        let report = run(&mut upgrade(&store, &new), b"").exits(0).json();
        assert_eq!(report["pid"], daemon);
        assert_eq!(report["old_pid"], daemon);
        assert_eq!(report["program"].as_str(), new.to_str());
        assert_eq!(processes(&store), [keeper, daemon], "round {round}");
        assert_eq!(program_of(daemon), new);
        assert_eq!(program_of(keeper), program().canonicalize().unwrap());
        let name = fs::read_to_string(format!("/proc/{daemon}/comm")).unwrap();
        assert_eq!(name, "foldfs\n");
        writeln!(open, "round {round}").unwrap();
    }
    drop(open);
    let written = fs::read_to_string(mounted.join("etc/open")).unwrap();
    assert_eq!(written, "round 0\nround 1\n");
    store.ok(&["clone", "one", "two"]);
    let second = store.mount("two");
    assert_eq!(processes(&store), [keeper, daemon]);
    // The keeper knows which program served last.
    super::keeper::send(rustix::process::Signal::KILL, daemon);
    let next = eventually("the next daemon", || {
        store.daemons().into_iter().find(|&pid| pid != daemon)
    });
    second.assert_shows(&mounted.path);
    assert_eq!(program_of(next), new);
    second.unmount();
    mounted.unmount();
    store.wait_for_daemons();
    store.assert_sound();
}

#[test]
fn a_program_that_cannot_take_over_is_refused() {
    let Some(store) = image("a_program_that_cannot_take_over_is_refused") else {
        return;
    };
    let mounted = store.mount("one");
    let before = processes(&store);
    let shown = mounted.snapshot();
    let place = store.place.join("programs");
    fs::create_dir_all(place.join("directory")).unwrap();
    fs::write(place.join("script"), "#!/bin/sh\nexit 1\n").unwrap();
    fs::write(place.join("no-program"), "text").unwrap();
    fs::write(place.join("damaged"), &fs::read(program()).unwrap()[..5000]).unwrap();
    fs::copy("/bin/true", place.join("other")).unwrap();
    for name in ["script", "no-program", "damaged"] {
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(place.join(name), executable).unwrap();
    }
    let within = mounted.join("etc/foldfs");
    fs::copy(program(), &within).unwrap();
    std::os::unix::fs::symlink(&within, place.join("within")).unwrap();
    for (name, cause) in [
        ("within", "FUSE file system"),
        ("missing", "No such file"),
        ("directory", "no program"),
        ("script", "does not run"),
        ("no-program", "does not run"),
        ("damaged", "does not run"),
        ("other", "does not say"),
    ] {
        let request = json!({ "command": "replace-daemon", "program": place.join(name) });
        let [hello, answer] = call(&store, &json!({ "request": request }));
        assert_eq!(hello["pid"], before[1]);
        assert_eq!(answer["event"], "failed", "{name}: {answer}");
        let error = answer["error"].to_string();
        assert!(
            error.contains(cause) && error.contains("goes on"),
            "{name}: {error}"
        );
        let path = place.join(name);
        assert!(error.contains(path.to_str().unwrap()), "{error}");
    }
    assert_eq!(processes(&store), before);
    assert_eq!(program_of(before[1]), program().canonicalize().unwrap());
    fs::remove_file(&within).unwrap();
    // Nobody was disturbed.
    shown.assert_same(&mounted.snapshot(), Fields::INO, "nothing has changed");
    mounted.unmount();
    store.wait_for_daemons();
}

/// Guests at work notice nothing.
#[test]
fn nothing_that_is_written_meanwhile_is_lost() {
    let Some(store) = image("nothing_that_is_written_meanwhile_is_lost") else {
        return;
    };
    let mounted = store.mount("one");
    let [_, daemon] = processes(&store);
    let new = copy(&store);
    let over = AtomicBool::new(false);
    let counts = [AtomicUsize::new(0), AtomicUsize::new(0)];
    let made = thread::scope(|scope| {
        let workers = [("a", &counts[0]), ("b", &counts[1])].map(|(name, count)| {
            let (place, over) = (mounted.join(name), &over);
            scope.spawn(move || {
                fs::create_dir(&place).unwrap();
                let mut log = fs::File::create(place.join("log")).unwrap();
                let mut made = 0;
                while !over.load(Ordering::Relaxed) {
                    let (old, new) = (place.join("new"), place.join(made.to_string()));
                    fs::write(&old, made.to_string()).unwrap();
                    fs::rename(&old, &new).unwrap();
                    assert_eq!(fs::read_to_string(&new).unwrap(), made.to_string());
                    writeln!(log, "{made}").unwrap();
                    made += 1;
                    count.store(made, Ordering::Relaxed);
                }
                made
            })
        });
        for _ in 0..5 {
            let before = counts.each_ref().map(|it| it.load(Ordering::Relaxed));
            eventually("both go on", || {
                let now = counts.each_ref().map(|it| it.load(Ordering::Relaxed));
                (now[0] > before[0] && now[1] > before[1]).then_some(())
            });
            run(&mut upgrade(&store, &new), b"").exits(0);
        }
        over.store(true, Ordering::Relaxed);
        workers.map(|worker| worker.join().unwrap())
    });
    assert_eq!(store.daemons(), [daemon]);
    for (name, made) in ["a", "b"].into_iter().zip(made) {
        let place = mounted.join(name);
        let log: String = (0..made).map(|number| format!("{number}\n")).collect();
        assert_eq!(fs::read_to_string(place.join("log")).unwrap(), log);
        for number in 0..made {
            let text = fs::read_to_string(place.join(number.to_string())).unwrap();
            assert_eq!(text, number.to_string());
        }
        assert_eq!(fs::read_dir(&place).unwrap().count(), made + 1);
    }
    mounted.unmount();
    store.wait_for_daemons();
    store.assert_sound();
}

#[test]
fn a_dry_run_replaces_nothing() {
    let Some(store) = image("a_dry_run_replaces_nothing") else {
        return;
    };
    let mounted = store.mount("one");
    let new = copy(&store);
    let request = json!({ "command": "replace-daemon", "program": new });
    let dry = json!({ "request": request, "dry_run": true });
    let [hello, answer] = call(&store, &dry);
    assert_eq!(answer["event"], "done", "{answer}");
    let [after, _] = call(&store, &dry);
    assert_eq!(hello, after);
    mounted.assert_shows(&store.sample(0));
    mounted.unmount();
}

#[test]
fn there_must_be_a_daemon() {
    let Some(store) = image("there_must_be_a_daemon") else {
        return;
    };
    let ran = run(&mut upgrade(&store, &program()), b"").exits(1);
    ran.says(&[store.path.to_str().unwrap(), "no daemon"]);
}

#[test]
fn one_in_the_foreground_is_replaced_too() {
    let Some(store) = image("one_in_the_foreground_is_replaced_too") else {
        return;
    };
    let directory = store.place.join("mnt");
    fs::create_dir(&directory).unwrap();
    let mut command = store.command(&["mount", "one", directory.to_str().unwrap(), "-f"]);
    command.stdout(Stdio::null());
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    let socket = store.path.join("run/control.sock");
    eventually("it serves", || UnixStream::connect(&socket).ok());
    let new = copy(&store);
    run(&mut upgrade(&store, &new), b"").exits(0);
    assert_eq!(program_of(pid), new);
    assert_eq!(store.daemons(), [pid]);
    // The lock has gone over, too: nobody else gets it.
    store.ok(&["clone", "one", "before"]);
    let second = store.mount("before");
    assert_eq!(store.daemons(), [pid]);
    Snapshot::of(&directory).assert_same(&second.snapshot(), Fields::COPY, "two images");
    second.unmount();
    store.ok(&["unmount", directory.to_str().unwrap()]);
    assert!(child.wait().unwrap().success());
    store.ok(&["clone", "one", "two"]);
}
