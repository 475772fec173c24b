//! Needs root and FUSE. A patch is applied to a family whose images are mounted and at work: each sees all
//! of it at once, what is open stays as it was, and no byte that a guest has written is lost.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on should panic"
)]

mod common;

#[path = "mounted_patch/guest.rs"]
mod guest;
#[path = "mounted_patch/world.rs"]
mod world;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use common::mapping::Mapped;
use common::store::tool;
use common::{can_run, needs_fuse};
use guest::{PATHS, Worker};
use serde_json::Value;
use world::{World, kept, kill, tree, write};

/// A program that ends with its guard.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _ended = self.0.wait();
    }
}

/// The end of what others do, also when a test fails.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A shell that works in a directory and does what it is told, a line at a time.
struct Shell(Program);

impl Shell {
    fn new(directory: &Path) -> Self {
        let shell = Command::new("sh")
            .current_dir(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        Self(Program(shell.unwrap()))
    }

    /// Runs a command; what it says.
    fn run(&mut self, command: &str) -> String {
        let stdin = self.0.0.stdin.as_mut().unwrap();
        writeln!(stdin, "{command}; echo .").unwrap();
        let (mut said, mut byte) = (String::new(), [0]);
        while !said.ends_with(".\n") {
            self.0
                .0
                .stdout
                .as_mut()
                .unwrap()
                .read_exact(&mut byte)
                .unwrap();
            said.push(byte[0].into());
        }
        said.truncate(said.len() - 2);
        said
    }
}

/// The processes that go on with old files of an image, as a report tells them.
fn running(report: &Value, image: &str) -> BTreeSet<(u64, String)> {
    let images = report["images"].as_array().unwrap();
    let found = images.iter().find(|found| found["image"] == image).unwrap();
    let processes = found["processes"].as_array().unwrap().iter();
    processes
        .map(|process| {
            assert!(!process["command"].as_str().unwrap().is_empty());
            let path = process["path"].as_str().unwrap().to_owned();
            (process["pid"].as_u64().unwrap(), path)
        })
        .collect()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

/// What somebody who looks around would have the kernel keep.
fn look_around(root: &Path) {
    for path in [
        "etc",
        "etc/dir",
        "lib",
        "share",
        "gone",
        "gone/below",
        "bin",
        "",
    ] {
        for name in names(&root.join(path)) {
            fs::symlink_metadata(root.join(path).join(name)).unwrap();
        }
    }
    for path in ["etc/added", "opt", "opt/new", "opt/new/file"] {
        for _ in 0..2 {
            fs::metadata(root.join(path)).unwrap_err();
        }
    }
}

#[test]
fn mounted_images_see_a_patch_at_once_and_what_is_open_stays() {
    let name = "mounted_images_see_a_patch_at_once_and_what_is_open_stays";
    if !can_run(name, needs_fuse()) {
        return;
    }
    let world = World::new(|root| tree(root, false));
    let new = world.tree("new", |root| tree(root, true));
    let patch = world.patch(&world.store.place.join("first"), &new);
    let (one, two) = (world.mount("one"), world.mount("two"));
    fs::write(two.join("etc/own"), "two's own").unwrap();
    let mut written = File::options()
        .read(true)
        .write(true)
        .open(two.join("lib/written"))
        .unwrap();

    look_around(&one.path);
    look_around(&two.path);
    let number = |path: &str| fs::symlink_metadata(one.join(path)).unwrap().ino();
    let replaced = ["etc/conf", "lib/data", "share/a", "link", "bin/tool"];
    let stays = ["etc", "etc/dir", "etc/same", "mounted", ""];
    let before = [replaced.map(number).to_vec(), stays.map(number).to_vec()];
    let conf = File::open(one.join("etc/conf")).unwrap();
    let mut data = File::open(one.join("lib/data")).unwrap();
    let linked = File::open(one.join("share/b")).unwrap();
    let gone = File::open(one.join("gone/file")).unwrap();
    let mapped = Mapped::new(data.as_fd(), 4096, false).unwrap();
    let program = Command::new(one.join("bin/tool")).arg("300").spawn();
    let mut program = Program(program.unwrap());
    let mut inside = Shell::new(&one.join("etc/dir"));
    let mut lost = Shell::new(&one.join("gone/below"));
    let held = File::open(one.join("etc/dir")).unwrap();
    let on = one.join("mounted/on");
    tool(
        "mount",
        &[
            "-t".as_ref(),
            "tmpfs".as_ref(),
            "none".as_ref(),
            on.as_os_str(),
        ],
    );
    write(&on, "kept", "kept");

    let report = world.apply(&patch).exits(3).json();
    let written_to = [("/lib/written".to_owned(), "written".to_owned())];
    let own = ("/etc/own".to_owned(), "differs".to_owned());
    assert_eq!(kept(&report, "two"), [&[own], &written_to[..]].concat());
    assert_eq!(kept(&report, "one"), []);
    assert_eq!(kept(&report, "f"), []);
    // Who goes on with what was replaced: a program, and whoever has mapped a file, as this test.
    let expected = [
        (u64::from(std::process::id()), "/lib/data".to_owned()),
        (u64::from(program.0.id()), "/bin/tool".to_owned()),
    ];
    assert_eq!(running(&report, "one"), BTreeSet::from(expected));
    assert_eq!(running(&report, "two"), BTreeSet::new());

    // What is mounted on the image stays; it is taken away to see the rest.
    assert_eq!(fs::read(on.join("kept")).unwrap(), b"kept");
    tool("umount", &[&on]);
    one.assert_shows(&new);
    assert_eq!(names(&one.join("etc")), names(&new.join("etc")));
    assert_eq!(names(&one.path), names(&new));
    for (path, number_before) in replaced.iter().zip(&before[0]) {
        assert_ne!(number(path), *number_before, "{path} is another file");
    }
    assert_eq!(stays.map(number).to_vec(), before[1]);

    let mut bytes = String::new();
    (&conf).read_to_string(&mut bytes).unwrap();
    assert_eq!(bytes, "old");
    assert_eq!(conf.metadata().unwrap().nlink(), 0);
    bytes.clear();
    data.seek(SeekFrom::Start(0)).unwrap();
    data.read_to_string(&mut bytes).unwrap();
    assert!(
        bytes == "old".repeat(100_000),
        "an open file has other bytes"
    );
    assert!(mapped.load().starts_with(b"oldoldold"));
    for file in [&linked, &gone] {
        let mut start = [0; 3];
        file.read_exact_at(&mut start, 0).unwrap();
        assert!(matches!(&start, b"old" | b"gon"));
    }
    assert_eq!(program.0.try_wait().unwrap(), None, "it runs on");
    assert_eq!(inside.run("cat inside; stat -c %a ."), "new700\n");
    assert!(inside.run("/bin/pwd").ends_with("/mnt-one/etc/dir\n"));
    assert_eq!(
        inside.run("echo x > y; cat y; rm y; touch -d @1100000000 ."),
        "x\n"
    );
    assert_eq!(held.metadata().unwrap().mode() & 0o777, 0o700);
    assert_eq!(lost.run("ls; echo x > y || echo refused"), "refused\n");

    // Two goes on writing to what it has open.
    written.write_all(b"mine").unwrap();
    drop(written);
    assert_eq!(fs::read(two.join("lib/written")).unwrap(), b"mine");
    assert_eq!(fs::read(two.join("etc/own")).unwrap(), b"two's own");
    assert_eq!(fs::read(two.join("etc/conf")).unwrap(), b"new");
    fs::metadata(two.join("gone")).unwrap_err();
    world.store.assert_sound();

    drop((
        program, conf, data, linked, gone, mapped, inside, lost, held,
    ));
    one.unmount();
    two.unmount();
    let one = world.mount("one");
    one.assert_shows(&new);
    let report = world.apply(&patch).exits(3).json();
    assert_eq!(
        report["change"],
        serde_json::Value::Null,
        "it has all of it"
    );
    one.unmount();
    world.store.wait_for_daemons();
    world.store.assert_sound();
}

/// How many files tell of one version.
const FILES: usize = 12;

/// A tree of which each part tells the version.
fn version(root: &Path, version: usize) {
    write(root, "etc/os-release", "ID=debian\nVERSION_ID=\"13\"\n");
    write(root, "same", "same");
    for number in 0..FILES {
        write(
            root,
            &format!("d{}/f{number}", number % 3),
            format!("{version} "),
        );
    }
    // A direct one, and what appears.
    write(root, "direct", format!("{version} ").repeat(50_000));
    for number in 0..=version {
        write(root, &format!("is/{number}"), "");
    }
    let target = version.to_string();
    std::os::unix::fs::symlink(target, root.join("link")).unwrap();
    let mode = fs::Permissions::from_mode(0o700 + version as u32);
    fs::set_permissions(root.join("d0"), mode).unwrap();
}

/// Which version a part of an image tells of.
fn version_at(root: &Path, part: usize, newest: usize) -> usize {
    let number = |text: &[u8]| -> usize {
        let text = std::str::from_utf8(text).unwrap();
        let first = text.split(' ').next().unwrap();
        assert!(
            text.split(' ').all(|word| word.is_empty() || word == first),
            "mixed"
        );
        first.parse().unwrap()
    };
    match part {
        0 => number(&fs::read(root.join("direct")).unwrap()),
        1 => {
            let link = fs::read_link(root.join("link")).unwrap();
            link.to_str().unwrap().parse().unwrap()
        }
        2 => (fs::metadata(root.join("d0")).unwrap().mode() & 0o77) as usize,
        3 => {
            // The kernel has been told that the next one is not there.
            let is_there = |number: usize| root.join(format!("is/{number}")).exists();
            assert!(is_there(newest), "{newest} is not there");
            newest + usize::from(is_there(newest + 1))
        }
        part => {
            let part = part % FILES;
            number(&fs::read(root.join(format!("d{}/f{part}", part % 3))).unwrap())
        }
    }
}

#[test]
fn who_has_seen_a_part_of_a_patch_sees_all_of_it() {
    if !can_run(
        "who_has_seen_a_part_of_a_patch_sees_all_of_it",
        needs_fuse(),
    ) {
        return;
    }
    let world = World::new(|root| version(root, 0));
    let mut trees = vec![world.store.place.join("first")];
    let mut patches = Vec::new();
    const VERSIONS: usize = 12;
    for number in 1..VERSIONS {
        let tree = world.tree(&format!("v{number}"), |root| version(root, number));
        patches.push(world.patch(trees.last().unwrap(), &tree));
        trees.push(tree);
    }
    let mounts = [world.mount("one"), world.mount("two")];
    let (ends, looks) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let readers: Vec<_> = (0..4)
            .map(|reader| {
                let root = &mounts[reader % 2].path;
                let (ends, looks) = (&ends, &looks);
                scope.spawn(move || {
                    let (mut newest, mut part) = (0, reader);
                    while !ends.load(Ordering::Relaxed) {
                        part = (part * 5 + 3) % (FILES * 2 + 1);
                        let seen = version_at(root, part, newest);
                        assert!(seen >= newest, "part {part}: {seen} after {newest}");
                        newest = seen;
                        looks.fetch_add(1, Ordering::Relaxed);
                        thread::sleep(Duration::from_micros(50));
                    }
                })
            })
            .collect();
        let end = End(&ends);
        for (number, patch) in patches.iter().enumerate() {
            world.apply(patch).exits(0);
            // Who looks after it sees it, whatever the kernel was told before.
            for mount in &mounts {
                for part in 0..FILES * 2 {
                    assert_eq!(version_at(&mount.path, part, number + 1), number + 1);
                }
            }
            assert!(readers.iter().all(|reader| !reader.is_finished()));
        }
        drop(end);
    });
    assert!(looks.into_inner() > 1000);
    for mount in &mounts {
        mount.assert_shows(trees.last().unwrap());
    }
    world.store.assert_sound();
}

/// How often guests and patches meet: FOLDFS_TEST_ROUNDS.
fn rounds(usual: usize) -> usize {
    let given = std::env::var("FOLDFS_TEST_ROUNDS").ok();
    given.map_or(usual, |rounds| rounds.parse().unwrap())
}

/// A family whose patches each alter all paths; the trees, and the patches between them.
fn patched(versions: usize) -> (World, Vec<std::path::PathBuf>) {
    let world = World::new(|root| guest::version(root, 0));
    let mut before = world.store.place.join("first");
    let patches = (1..=versions).map(|number| {
        let tree = world.tree(&format!("v{number}"), |root| guest::version(root, number));
        let patch = world.patch(&before, &tree);
        before = tree;
        patch
    });
    let patches = patches.collect();
    (world, patches)
}

#[test]
fn no_byte_of_a_guest_that_works_at_the_same_paths_is_lost() {
    let name = "no_byte_of_a_guest_that_works_at_the_same_paths_is_lost";
    if !can_run(name, needs_fuse()) {
        return;
    }
    const VERSIONS: usize = 6;
    for round in 0..rounds(2) {
        let (world, patches) = patched(VERSIONS);
        let mounts = [world.mount("one"), world.mount("two")];
        let ends = AtomicBool::new(false);
        let mut workers: Vec<Worker> = thread::scope(|scope| {
            let workers: Vec<_> = (0..2)
                .map(|number| {
                    let seed = 0x9e37_79b9 + (round * 2 + number) as u64 * 7919;
                    let mut worker = Worker::new(&mounts[number].path, seed, true);
                    let ends = &ends;
                    scope.spawn(move || {
                        let mut steps = 0;
                        while !ends.load(Ordering::Relaxed) || steps < 100 {
                            worker.work().unwrap();
                            steps += 1;
                        }
                        worker
                    })
                })
                .collect();
            let end = End(&ends);
            let checks = scope.spawn(|| {
                let mut checks = 0;
                while !ends.load(Ordering::Relaxed) {
                    world.store.ok(&["check"]);
                    checks += 1;
                }
                checks
            });
            for patch in &patches {
                let ran = world.apply(patch);
                assert!(matches!(ran.code, 0 | 3), "{}", ran.stderr);
            }
            drop(end);
            assert!(checks.join().unwrap() > 0);
            let workers = workers.into_iter();
            workers.map(|worker| worker.join().unwrap()).collect()
        });
        for worker in &mut workers {
            worker.rest(VERSIONS);
            worker.look_at_all();
            assert!(worker.own().len() > 2, "{:?}", worker.own());
        }
        // Once more, with nobody at work: what is left alone follows, what is not is told.
        let (old, new) = (world.store.place.join(format!("v{VERSIONS}")), "last");
        let new = world.tree(new, |root| guest::version(root, VERSIONS + 1));
        let report = world.apply(&world.patch(&old, &new)).exits(3).json();
        for (worker, image) in workers.iter_mut().zip(["one", "two"]) {
            worker.look_at_all();
            let mut told: Vec<String> = kept(&report, image)
                .into_iter()
                .map(|(path, _)| path[1..].to_owned())
                .collect();
            told.sort();
            let mut own = worker.own();
            own.sort();
            assert_eq!(told, own, "{image}");
            let follow = worker.versions();
            assert!(
                follow.iter().all(|version| *version == VERSIONS + 1),
                "{follow:?}"
            );
            assert_eq!(follow.len() + own.len(), PATHS);
        }
        mounts.into_iter().for_each(|mount| mount.unmount());
        world.store.wait_for_daemons();
        world.store.assert_sound();
        for (worker, image) in workers.iter_mut().zip(["one", "two"]) {
            let mount = world.mount(image);
            worker.look_at_all();
            mount.unmount();
        }
    }
}

#[test]
fn a_patch_whose_daemon_is_killed_is_made_or_not() {
    if !can_run(
        "a_patch_whose_daemon_is_killed_is_made_or_not",
        needs_fuse(),
    ) {
        return;
    }
    let times = rounds(10);
    let (world, patches) = patched(times);
    let mut workers = [1, 2].map(|number| {
        let root = world.store.place.join(["mnt-one", "mnt-two"][number - 1]);
        Worker::new(&root, 0x5851_f42d * number as u64, false)
    });
    let (mut made, mut version) = (0, 0);
    for round in 0..times {
        let mounts = [world.mount("one"), world.mount("two")];
        let daemons = world.store.keepers_and_daemons();
        let mut command = world.store.command(&["patch", "apply", "--family", "f"]);
        command.arg(&patches[version]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        thread::scope(|scope| {
            let workers = workers.iter_mut().map(|worker| {
                // Only a little: it would have everything of its own soon.
                scope.spawn(move || {
                    for _ in 0..5 {
                        if worker.work().is_err() {
                            break;
                        }
                    }
                })
            });
            let workers: Vec<_> = workers.collect();
            let mut apply = Program(command.spawn().unwrap());
            thread::sleep(Duration::from_millis(15 + 97 * round as u64 % 110));
            daemons.iter().for_each(|pid| kill(*pid));
            apply.0.wait().unwrap();
            workers
                .into_iter()
                .for_each(|worker| worker.join().unwrap());
        });
        for mount in &mounts {
            tool("umount", &["-l".as_ref(), mount.path.as_os_str()]);
        }
        drop(mounts);
        world.store.wait_for_daemons();

        let mounts = [world.mount("one"), world.mount("two")];
        let base = world.store.place.join(format!("base{round}"));
        world
            .store
            .ok(&["export".as_ref(), "f".as_ref(), base.as_os_str()]);
        let mut base = Worker::new(&base, 1, false);
        base.look_at_all();
        let mut shown = base.versions();
        let now = shown[0];
        for worker in &mut workers {
            worker.rest(now);
            worker.look_at_all();
            shown.extend(worker.versions());
        }
        assert!(
            shown.iter().all(|shown| *shown == now),
            "{shown:?} in round {round}"
        );
        assert!(
            now == version || now == version + 1,
            "{now} after {version}"
        );
        made += usize::from(now > version);
        version = now;
        mounts.into_iter().for_each(|mount| mount.unmount());
        world.store.wait_for_daemons();
        world.store.assert_sound();
    }
    eprintln!("{made} of {times} were made");
}
