//! `foldfs boot`: with Debian's own initramfs.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::common::guest;
use super::common::snapshot::{Fields, Snapshot};
use super::common::store::{Mounted, Ran, run, run_within};
use super::world::World;

/// A boot of the whole of Debian, emulated, on a busy host.
const PATIENCE: Duration = Duration::from_secs(500);

/// What runs instead of systemd.
const INIT: &str = "#!/bin/bash
grep '^rootfs / virtiofs ' /proc/mounts
echo \"memory: $(awk '$1 == \"MemTotal:\" { print int($2 / 1024 / 128) * 128 }' /proc/meminfo)\"
grep -o 'words of mine' /proc/cmdline
echo written >/srv/written
sync
exec /bin/busybox poweroff -f
";

/// Where guests of the command have their places.
const PLACE: &str = "/run/foldfs/boot";

fn world(test: &str, name: &str) -> Option<World> {
    let world = World::open_with(test, |tree| {
        let init = tree.join("opt/guest/once");
        fs::write(&init, INIT).unwrap();
        fs::set_permissions(init, Permissions::from_mode(0o755)).unwrap();
    })?;
    // The name of an image is that of a place.
    world.store.ok(&["rename", "one", name]);
    Some(world)
}

fn boot(world: &World, arguments: &[&str]) -> Command {
    let mut command = world.store.command(&["boot"]);
    command.args(arguments).env("PATH", guest::tools_first());
    command
}

#[track_caller]
fn refused(world: &World, image: &str, words: &[&str]) -> Ran {
    let ran = run(&mut boot(world, &[image]), b"").exits(1).says(words);
    assert!(!Path::new(PLACE).join(image).exists());
    ran
}

#[test]
fn a_command_boots_an_image() {
    let test = "a_command_boots_an_image";
    let Some(world) = world(test, "booted") else {
        return;
    };
    // What is printed is what would be run.
    let place = Path::new(PLACE).join("booted");
    let root = place.join("root");
    let printed = run(&mut boot(&world, &["booted", "--print"]), b"")
        .exits(0)
        .text();
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines.len(), 6, "{printed}");
    let (store, here) = (world.store.path.display(), place.display());
    let (first, root) = (format!("foldfs --store {store}"), root.display());
    assert_eq!(
        lines[..3],
        [
            format!("mkdir -p -m 0700 {here} {root}"),
            format!("{first} mount booted {root} -o suid,dev,allow_other"),
            format!("{first} boot booted --copy-kernel {here}"),
        ]
    );
    assert!(lines[3].contains("--inode-file-handles=mandatory") && lines[3].ends_with(" &"));
    for (option, file) in [("-kernel", "kernel"), ("-initrd", "initramfs")] {
        let words = format!("{option} {here}/{file} ");
        assert!(lines[4].contains(&words), "{printed}");
    }
    assert_eq!(lines[5], format!("{first} unmount {root}"));
    assert!(!place.exists());
    world.store.wait_for_daemons();

    let words = "quiet init=/opt/guest/once words of mine";
    let arguments = ["booted", "--memory", "512", "--append", words];
    let ran = run_within(PATIENCE, &mut boot(&world, &arguments), b"").exits(0);
    let text = ran.text().replace('\r', "");
    assert!(text.contains("rootfs / virtiofs "), "{text}");
    assert!(text.contains("memory: 384\nwords of mine\n"), "{text}");
    assert!(!place.exists());

    let mounted = world.mount("booted");
    assert_eq!(
        fs::read_to_string(mounted.join("srv/written")).unwrap(),
        "written\n"
    );
    what_keeps_it_from_booting(&world, &mounted);
    world.close(vec![mounted]);
}

/// What is missing is told, with the package that has it.
fn what_keeps_it_from_booting(world: &World, image: &Mounted) {
    let mut none = boot(world, &["booted", "--print"]);
    none.env("PATH", world.store.place.join("none"));
    run(&mut none, b"")
        .exits(1)
        .says(&["qemu-system-x86_64", "Debian's qemu-system-x86"]);
    let only = world.store.place.join("only");
    fs::create_dir(&only).unwrap();
    std::os::unix::fs::symlink(&world.parts.qemu, only.join("qemu-system-x86_64")).unwrap();
    if !Path::new("/usr/libexec/virtiofsd").exists() {
        let mut none = boot(world, &["booted", "--print"]);
        run(none.env("PATH", &only), b"")
            .exits(1)
            .says(&["virtiofsd", "cargo install"]);
    }
    refused(world, "none", &["image \"none\"", "foldfs list"]);
    refused(world, "../none", &["there is no such image"]);

    let dep = fs::read_dir(image.join("lib/modules"))
        .unwrap()
        .next()
        .unwrap();
    let dep = dep.unwrap().path().join("modules.dep");
    let list = fs::read_to_string(&dep).unwrap();
    fs::write(&dep, list.replace("virtiofs.ko", "other.ko")).unwrap();
    refused(
        world,
        "booted",
        &["it has no virtiofs", "linux-image-cloud-amd64"],
    );
    fs::write(&dep, list).unwrap();
    for name in names(&image.join("boot"), "initrd") {
        fs::remove_file(name).unwrap();
    }
    refused(world, "booted", &["no initramfs", "update-initramfs"]);
    for name in names(&image.join("boot"), "vmlinuz") {
        fs::remove_file(name).unwrap();
    }
    refused(world, "booted", &["it has no kernel"]);
}

fn names(directory: &Path, prefix: &str) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    let entries = entries.filter(|entry| entry.file_name().to_str().unwrap().starts_with(prefix));
    entries.map(|entry| entry.path()).collect()
}

/// With FOLDFS_TEST_SUITES=full (`make soak`), because it takes minutes: systemd, in two guests at the same time.
#[test]
fn two_whole_debians_boot_at_the_same_time() {
    if !std::env::var("FOLDFS_TEST_SUITES").is_ok_and(|form| form == "full") {
        return;
    }
    let test = "two_whole_debians_boot_at_the_same_time";
    let Some(world) = World::open_with(test, |tree| {
        let unit = "[Unit]\nAfter=multi-user.target getty.target\nWants=multi-user.target\n[Service]\nType=oneshot\n\
                    ExecStart=/bin/sh -c 'systemctl is-system-running >/srv/state; \
                    systemctl --failed --no-legend >/srv/failed; systemctl poweroff'\n";
        fs::write(tree.join("etc/systemd/system/reached.service"), unit).unwrap();
    }) else {
        return;
    };
    for (old, new) in [("one", "whole-one"), ("two", "whole-two")] {
        world.store.ok(&["rename", old, new]);
    }
    for round in 0..2 {
        let images = vec!["whole-one", "whole-two"];
        super::world::at_once(images, |image| {
            let arguments = [image, "--append", "quiet systemd.unit=reached.service"];
            run_within(PATIENCE, &mut boot(&world, &arguments), b"").exits(0);
        });
        world.store.wait_for_daemons();
        world.store.assert_sound();
        let images = [world.mount("whole-one"), world.mount("whole-two")];
        let shown = images.each_ref().map(|image| image.snapshot());
        world.store.ok(&["fold"]);
        for (image, shown) in images.iter().zip(&shown) {
            let what = format!("round {round}: a fold shows");
            shown.assert_same(&Snapshot::of(&image.path), Fields::ALL, &what);
            let failed = fs::read_to_string(image.join("srv/failed")).unwrap();
            assert_eq!(failed, "", "round {round}");
            fs::remove_file(image.join("srv/failed")).unwrap();
        }
        for image in images {
            image.unmount();
        }
        world.store.wait_for_daemons();
    }
    is_another_machine(&world, "whole-one");
    world.close(Vec::new());
}

/// A clone whose identity was reset comes to have one of its own when it boots.
fn is_another_machine(world: &World, origin: &str) {
    let clone = ["clone", origin, "whole-three", "--reset-identity"];
    world.store.ok(&clone);
    let reset = world.mount("whole-three");
    assert_eq!(fs::read(reset.join("etc/machine-id")).unwrap(), b"");
    reset.unmount();
    world.store.wait_for_daemons();
    let arguments = [
        "whole-three",
        "--append",
        "quiet systemd.unit=reached.service",
    ];
    run_within(PATIENCE, &mut boot(world, &arguments), b"").exits(0);
    world.store.wait_for_daemons();
    let images = [world.mount(origin), world.mount("whole-three")];
    let [old, new] = images.each_ref().map(|image| {
        let id = fs::read_to_string(image.join("etc/machine-id")).unwrap();
        assert!(id.len() == 33 && id != "uninitialized\n", "{id:?}");
        id
    });
    assert_ne!(old, new);
    let name = fs::read_to_string(images[1].join("etc/hostname")).unwrap();
    assert_eq!(name, "whole-three\n");
    for image in images {
        image.unmount();
    }
    world.store.wait_for_daemons();
}
