//! Needs root and FUSE. `foldfs boot` with programs in place of QEMU and virtiofsd that note what they are given: what
//! a hostile image can make of it, and what is left when it ends. That real ones boot: `booted_guest.rs`.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on should panic"
)]

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::store::{Ran, TestStore, is_mounted, mounts_below, program, run, tool};
use common::{can_run, needs_fuse};

/// It listens, and ends with its guest.
const VIRTIOFSD: &str = r#"#!/bin/bash
for word; do case $word in --socket-path=*) touch "${word#*=}" ;; esac; done
while [ ! -e "${0%/*}/ended" ]; do sleep 0.02; done
"#;

/// It opens names when it starts, as QEMU does; no KVM.
const QEMU: &str = r#"#!/bin/bash
here=${0%/*}
while [ $# -gt 0 ]; do
    case $1 in
    -S) exit 1 ;;
    -kernel) echo "$2" >>"$here/names"; cp "$2" "$here/kernel" ;;
    -initrd) echo "$2" >>"$here/names"; cp "$2" "$here/initramfs" ;;
    esac
    shift
done
trap 'echo >"$here/ended"; exit' TERM
echo >"$here/started"
while [ -e "$here/wait" ]; do sleep 0.02; done
echo >"$here/ended"
"#;

struct World {
    store: TestStore,
    programs: PathBuf,
}

/// How a bzImage begins.
fn bz_image() -> Vec<u8> {
    let mut kernel = vec![0; 0x1000];
    kernel[0x202..0x206].copy_from_slice(b"HdrS");
    kernel
}

impl World {
    /// An image of this name, whose initramfs is called so that QEMU would take it for two files.
    fn new(test: &str, image: &str, kernel: &[u8]) -> Option<World> {
        if !can_run(test, needs_fuse()) {
            return None;
        }
        let store = TestStore::new();
        let tree = store.place.join("tree");
        for directory in ["boot", "x,/etc", "lib/modules/1"] {
            fs::create_dir_all(tree.join(directory)).unwrap();
        }
        fs::write(tree.join("boot/vmlinuz-1"), kernel).unwrap();
        fs::write(tree.join("x,/etc/shadow"), "the guest's").unwrap();
        symlink("/x,/etc/shadow", tree.join("boot/initrd.img-1")).unwrap();
        // A list that takes a while to read.
        let mut list = "kernel/fs/other.ko:\n".repeat(500_000);
        list.push_str("kernel/fs/fuse/virtiofs.ko:\n");
        fs::write(tree.join("lib/modules/1/modules.dep"), list).unwrap();
        store.import(image, &tree, "f");
        let programs = store.place.join("programs");
        fs::create_dir(&programs).unwrap();
        for (name, text) in [("virtiofsd", VIRTIOFSD), ("qemu-system-x86_64", QEMU)] {
            fs::write(programs.join(name), text).unwrap();
            fs::set_permissions(programs.join(name), Permissions::from_mode(0o755)).unwrap();
        }
        symlink(program(), programs.join("foldfs")).unwrap();
        Some(World { store, programs })
    }

    fn with_programs(&self, mut command: Command) -> Command {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let places = [self.programs.clone()];
        let places = places.into_iter().chain(std::env::split_paths(&path));
        command.env("PATH", std::env::join_paths(places).unwrap());
        command
    }

    fn boot(&self, arguments: &[&str]) -> Command {
        let command = self.store.command(&[&["boot"], arguments].concat());
        self.with_programs(command)
    }

    fn booted(&self, arguments: &[&str]) -> Ran {
        run(&mut self.boot(arguments), b"")
    }

    /// What QEMU was given.
    #[track_caller]
    fn assert_given(&self, place: &Path) {
        let names = fs::read_to_string(self.programs.join("names")).unwrap();
        let kernel = place.join("kernel").display().to_string();
        let initramfs = place.join("initramfs").display().to_string();
        assert_eq!(names, format!("{kernel}\n{initramfs}\n"));
        let given = |name: &str| fs::read(self.programs.join(name)).unwrap();
        assert_eq!(given("kernel"), bz_image());
        assert_eq!(given("initramfs"), b"the guest's");
        for name in ["names", "kernel", "initramfs", "started", "ended"] {
            fs::remove_file(self.programs.join(name)).unwrap();
        }
    }

    fn close(self) {
        self.store.wait_for_daemons();
        self.store.assert_sound();
    }
}

fn place_of(image: &str) -> PathBuf {
    Path::new("/run/foldfs/boot").join(image)
}

#[test]
fn qemu_opens_no_name_that_a_guest_chose() {
    let image = "test-names";
    let test = "qemu_opens_no_name_that_a_guest_chose";
    let Some(world) = World::new(test, image, &bz_image()) else {
        return;
    };
    let place = place_of(image);
    world.booted(&[image]).exits(0);
    world.assert_given(&place);
    assert!(!place.exists() && mounts_below(&place).is_empty());
    world.store.wait_for_daemons();

    // What is printed does the same in a shell.
    let printed = world.booted(&[image, "--print"]).exits(0).text();
    assert!(!place.exists());
    world.store.wait_for_daemons();
    let mut shell = Command::new("bash");
    shell.args(["-euc", &format!("{printed}wait")]);
    run(&mut world.with_programs(shell), b"").exits(0);
    world.assert_given(&place);
    assert!(mounts_below(&place).is_empty());

    // The next guest clears away what they have left.
    world.store.wait_for_daemons();
    world.booted(&[image]).exits(0);
    world.assert_given(&place);
    assert!(!place.exists());
    world.close();
}

#[test]
fn a_kernel_that_qemu_takes_for_more_is_refused() {
    let image = "test-multiboot";
    let kernel = [&0x1BAD_B002_u32.to_le_bytes()[..], &[0; 0x1000]].concat();
    let test = "a_kernel_that_qemu_takes_for_more_is_refused";
    let Some(world) = World::new(test, image, &kernel) else {
        return;
    };
    let directory = world.store.place.join("copies");
    for arguments in [
        &[image][..],
        &[image, "--copy-kernel", directory.to_str().unwrap()],
    ] {
        let ran = world.booted(arguments).exits(1);
        ran.says(&["boot/vmlinuz-1", "bzImage"]);
        assert!(!world.programs.join("started").exists());
        assert!(!place_of(image).exists());
    }
    assert_eq!(fs::read_dir(directory).unwrap().count(), 0);
    world.close();
}

#[test]
fn a_kernel_is_copied_for_libvirt() {
    let image = "test-copied";
    let Some(world) = World::new("a_kernel_is_copied_for_libvirt", image, &bz_image()) else {
        return;
    };
    let directory = world.store.place.join("copies");
    let copy = [image, "--copy-kernel", directory.to_str().unwrap()];
    let (kernel, initramfs) = (directory.join("kernel"), directory.join("initramfs"));
    for _ in 0..2 {
        let said = world.booted(&copy).exits(0).text();
        assert_eq!(
            said,
            format!("{}\n{}\n", kernel.display(), initramfs.display())
        );
        assert_eq!(fs::read(&kernel).unwrap(), bz_image());
        assert_eq!(fs::read(&initramfs).unwrap(), b"the guest's");
        let mode = fs::metadata(&initramfs).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o400);
    }
    let said = world.booted(&[&copy[..], &["--json"]].concat()).exits(0);
    assert_eq!(said.json()["initramfs"], initramfs.to_str().unwrap());
    assert!(!Path::new("/run/foldfs/kernels").join(image).exists());
    world.close();
}

#[test]
fn a_signal_at_any_time_leaves_nothing() {
    let image = "test-signal";
    let test = "a_signal_at_any_time_leaves_nothing";
    let Some(world) = World::new(test, image, &bz_image()) else {
        return;
    };
    let root = place_of(image).join("root");
    // What a run of this test that was killed has left is no sign of one that begins.
    for left in [&root, &place_of(image)] {
        if left.exists() {
            fs::remove_dir(left).unwrap();
        }
    }
    fs::write(world.programs.join("wait"), "").unwrap();
    let started = world.programs.join("started");
    // As soon as there is something to clear away; when it is mounted; when the guest runs.
    let moments: [&dyn Fn() -> bool; 3] = [&|| root.exists(), &|| is_mounted(&root), &|| {
        started.exists()
    }];
    for moment in moments {
        let mut command = world.boot(&[image]);
        let command = command.stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = command.spawn().unwrap();
        let begun = Instant::now();
        while !moment() {
            assert_eq!(child.try_wait().unwrap(), None);
            assert!(begun.elapsed() < Duration::from_secs(60));
            thread::yield_now();
        }
        if started.exists() {
            // Two guests at the same time would write over each other's files.
            let ran = world.booted(&[image]).exits(4);
            ran.says(&[image, "power it off"]);
        }
        tool("kill", &[child.id().to_string()]);
        let status = child.wait().unwrap();
        assert_ne!(status.code(), None, "{status}: the signal has killed it");
        assert!(mounts_below(&root).is_empty(), "{status}");
        assert!(!place_of(image).exists());
        world.store.wait_for_daemons();
    }
    world.close();
}

#[test]
fn a_mount_that_is_no_guests_is_told() {
    let image = "test-mounted";
    let Some(world) = World::new("a_mount_that_is_no_guests_is_told", image, &bz_image()) else {
        return;
    };
    for (options, words) in [
        ("suid,dev,allow_other", &[][..]),
        ("allow_other", &[]),
        ("suid,dev", &["without allow_other"]),
        ("ro", &["without allow_other", "mounted read-only"]),
    ] {
        let mounted = world.store.mount_with(image, options);
        let ran = world.booted(&[image]).exits(0).says(words);
        for warning in ["without allow_other", "mounted read-only"] {
            let is_said = ran.stderr.contains(warning);
            assert_eq!(
                is_said,
                words.contains(&warning),
                "{options}: {}",
                ran.stderr
            );
        }
        world.assert_given(&place_of(image));
        assert!(is_mounted(&mounted.path));
        mounted.unmount();
    }
    world.close();
}
