//! Needs root and FUSE; one test systemd's tools. What an administrator's programs start: mount(8) with `mount.foldfs`, in a
//! mount namespace where it is installed; fstab(5); and the units of mount-helpers/, as `make install` leaves them.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on should panic"
)]

mod common;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::store::{LET_GO, Ran, TestStore, program, run, tool};
use common::{can_run, installed, needs_fuse};

/// Has mount.foldfs in the directory in which mount(8) looks for it. $1: all below it is the test's.
const INSTALL: &str = r#"
    cd "$1"
    mkdir -p sbin mnt
    ln -sf "$2" sbin/mount.foldfs
    mount -t overlay overlay -o lowerdir="$1/sbin:$(realpath /sbin)" "$(realpath /sbin)"
    store=$1/store
"#;

/// Runs a script where mount.foldfs is installed. A daemon that it starts works in the same namespace, and has
/// ended afterwards.
#[track_caller]
fn administer(store: &TestStore, text: &str) -> Ran {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private"]);
    let text = format!("{LET_GO}{INSTALL}{text}");
    command.args(["bash", "-euc", &text, "bash"]);
    command.arg(&store.place).arg(program());
    let ran = run(&mut command, b"");
    store.wait_for_daemons();
    ran
}

fn image() -> TestStore {
    let store = TestStore::new();
    store.import("one", &store.sample(0), "f");
    store.ok(&["clone", "one", "two"]);
    store
}

#[test]
fn mount_8_mounts_and_umount_8_unmounts() {
    if !can_run("mount_8_mounts_and_umount_8_unmounts", needs_fuse()) {
        return;
    }
    let store = image();
    let ran = administer(
        &store,
        r#"
        mount -t foldfs "$store#one" mnt -o nosuid,allow_other
        cat mnt/etc/hosts
        findmnt --noheadings --output SOURCE,FSTYPE,OPTIONS mnt
        df --output=source,fstype mnt | tail -n 1
        echo written >mnt/etc/written
        umount mnt
        ls mnt | wc -l
        mount -t foldfs -o ro,nodev "$store#one" mnt
        cat mnt/etc/written
        findmnt --noheadings --output OPTIONS mnt
        ! touch mnt/etc/written
        umount mnt
        "#,
    );
    let ran = ran.exits(0).says(&["Read-only file system"]);
    let text = ran.text();
    let source = format!("{}#one", store.path.display());
    let lines: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(lines[0], ["127.0.0.1", "localhost"]);
    assert_eq!(lines[1][..2], [&*source, "fuse.foldfs"]);
    let options: Vec<&str> = lines[1][2].split(',').collect();
    for (option, there) in [
        ("rw", true),
        ("nosuid", true),
        ("nodev", false),
        ("allow_other", true),
    ] {
        assert_eq!(options.contains(&option), there, "{option}: {text}");
    }
    assert_eq!(lines[2], [&*source, "fuse.foldfs"]);
    assert_eq!(lines[3..5], [["0"], ["written"]]);
    let options: Vec<&str> = lines[5][0].split(',').collect();
    for (option, there) in [
        ("ro", true),
        ("nosuid", false),
        ("nodev", true),
        ("allow_other", false),
    ] {
        assert_eq!(options.contains(&option), there, "{option}: {text}");
    }
    store.assert_sound();
}

#[test]
fn what_was_unmounted_can_be_mounted_again_at_once() {
    let test = "what_was_unmounted_can_be_mounted_again_at_once";
    if !can_run(test, needs_fuse()) {
        return;
    }
    let store = image();
    let ran = administer(
        &store,
        r#"
        mkdir second
        mount -t foldfs "$store#two" second
        for round in $(seq 20); do
            mount -t foldfs "$store#one" mnt
            echo $round >>mnt/etc/rounds
            umount mnt
        done
        mount -t foldfs "$store#one" mnt
        tail -n 1 mnt/etc/rounds
        umount mnt second
        "#,
    );
    assert_eq!(ran.exits(0).text(), "20\n");
}

#[test]
fn lines_of_fstab_5_are_mounted() {
    if !can_run("lines_of_fstab_5_are_mounted", needs_fuse()) {
        return;
    }
    let store = image();
    let example = include_str!("../mount-helpers/fstab.example");
    let line = example.lines().find(|line| !line.starts_with('#')).unwrap();
    let mut table = String::new();
    for (image, directory) in [("one", "mnt"), ("two", "second")] {
        let directory = store.place.join(directory);
        fs::create_dir(&directory).unwrap();
        let source = format!("{}#{image}", store.path.display());
        let line = line.replace("/var/lib/foldfs#web", &source);
        table += &line.replace("/srv/guests/web", directory.to_str().unwrap());
        table += "\n";
    }
    fs::write(store.place.join("fstab"), table).unwrap();
    let ran = administer(
        &store,
        r#"
        mount --fstab fstab --all
        mount --fstab fstab --all
        findmnt --noheadings --output TARGET,OPTIONS mnt
        findmnt --noheadings --output TARGET,OPTIONS second
        grep -c foldfs /proc/self/mountinfo
        umount mnt
        mount --fstab fstab "$PWD/mnt"
        cat mnt/etc/hosts second/etc/hosts
        umount mnt second
        "#,
    );
    let text = ran.exits(0).text();
    let lines: Vec<&str> = text.lines().collect();
    for (line, directory) in lines.iter().zip(["mnt", "second"]) {
        let path = store.place.join(directory);
        assert!(line.starts_with(path.to_str().unwrap()), "{text}");
        assert!(
            !line.contains("nosuid") && !line.contains("nodev"),
            "{text}"
        );
        assert!(line.contains("allow_other"), "{text}");
    }
    assert_eq!(lines[2], "2", "{text}");
    assert_eq!(lines[3..], ["127.0.0.1 localhost"; 2], "{text}");
}

#[test]
fn what_cannot_be_mounted_is_told() {
    if !can_run("what_cannot_be_mounted_is_told", needs_fuse()) {
        return;
    }
    let store = image();
    for (arguments, code, words) in [
        (
            r#""$store.none#one" mnt"#,
            32,
            &["store.none", "no such"][..],
        ),
        (
            r#""$store#none" mnt"#,
            32,
            &["image \"none\"", "foldfs list"],
        ),
        (r#""$store#one" none"#, 32, &["none"]),
        (r#""$store" mnt"#, 1, &["it names no image", "STORE#IMAGE"]),
        (r#""$store#one" mnt -o fly"#, 1, &["\"fly\"", "allow_other"]),
        (r#""$store#one" mnt -o noexec"#, 1, &["\"noexec\""]),
        (r#""$store#one" mnt -o config=/none"#, 1, &["/none"]),
    ] {
        let ran = administer(&store, &format!("exec mount -t foldfs {arguments}"));
        ran.exits(code).says(words);
    }
    let busy = administer(
        &store,
        r#"mkdir -p other; mount -t foldfs "$store#one" mnt; code=0
        mount -t foldfs "$store#one" other || code=$?; umount mnt; exit $code"#,
    );
    busy.exits(32).says(&["mounted on", "already"]);
    // What -s and -f are for (mount(8)).
    administer(
        &store,
        r#"mount -s -t foldfs "$store#one" mnt -o fly; umount mnt"#,
    )
    .exits(0);
    administer(
        &store,
        r#"mount -f -t foldfs "$store#one" mnt; ! mountpoint -q mnt"#,
    )
    .exits(0);
}

#[test]
fn a_service_manager_is_told_that_the_daemon_serves_lives_and_ends() {
    let test = "a_service_manager_is_told_that_the_daemon_serves_lives_and_ends";
    if !can_run(test, needs_fuse()) {
        return;
    }
    let store = image();
    let socket = store.place.join("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    // But for what it shall keep, which tests/mounted_kept is about.
    let told = || {
        loop {
            let mut buffer = [0; 100];
            let length = manager.recv(&mut buffer).unwrap();
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if !text.starts_with("FDSTORE") {
                break text;
            }
        }
    };
    let mut command = store.command(&["daemon"]);
    command
        .env("NOTIFY_SOCKET", &socket)
        .env("WATCHDOG_USEC", "1000");
    let mut daemon = command.stderr(Stdio::null()).spawn().unwrap();
    assert_eq!(told(), "READY=1");
    let mounted = store.mount("one");
    assert_eq!(told(), "WATCHDOG=1");
    assert_eq!(told(), "WATCHDOG=1");
    tool("kill", &[daemon.id().to_string()]);
    while told() != "STOPPING=1" {}
    assert!(daemon.wait().unwrap().success());
    assert!(!common::store::is_mounted(&mounted.path));
}

#[test]
fn what_is_installed_is_whole() {
    let test = "what_is_installed_is_whole";
    let there = ["make", "systemd-analyze", "python3"]
        .into_iter()
        .all(installed);
    if !can_run(
        test,
        (!there).then_some("it needs make, systemd-analyze and python3"),
    ) {
        return;
    }
    let place = common::scratch();
    let root = place.path();
    let set = |name: &str, value: &Path| format!("{name}={}", value.display());
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let install = [
        set("PROGRAM", &program()),
        set("PREFIX", &root.join("usr")),
        set("SBINDIR", &root.join("sbin")),
        // Any program: only that there is one is verified.
        set("VIRTIOFSD", &program()),
        "install".to_owned(),
    ];
    let mut make = Command::new("make");
    run(make.current_dir(project).args(&install), b"").exits(0);
    tool(
        root.join("usr/bin/foldfs").to_str().unwrap(),
        &["--version"],
    );
    let helper = root.join("sbin/mount.foldfs");
    let help = tool(helper.to_str().unwrap(), &["--help"]).text();
    assert!(help.contains("STORE#IMAGE"), "{help}");
    assert!(root.join("usr/share/man/man1/foldfs-mount.1").exists());

    let units = root.join("usr/lib/systemd/system");
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no", "--recursive-errors=no"]);
    verify.env("SYSTEMD_UNIT_PATH", format!("{}:", units.display()));
    for unit in [
        "foldfs@var-lib-foldfs",
        "foldfs-image@web",
        "foldfs-virtiofsd@web",
    ] {
        let template = format!("{}@.service", unit.split('@').next().unwrap());
        assert!(units.join(template).exists(), "{unit}");
        verify.arg(format!("{unit}.service"));
    }
    let examples = root.join("usr/share/doc/foldfs/examples");
    verify.arg(examples.join("srv-guests-web.mount"));
    let verified = run(&mut verify, b"").exits(0);
    assert_eq!(verified.stderr, "", "{}", verified.line);

    // Below DESTDIR, nothing else is written to.
    let staged = root.join("staged");
    let mut make = Command::new("make");
    make.current_dir(project)
        .arg("install")
        .arg(set("DESTDIR", &staged));
    run(make.arg(set("PROGRAM", &program())), b"").exits(0);
    for path in [
        "usr/local/bin/foldfs",
        "usr/local/lib/tmpfiles.d/foldfs.conf",
    ] {
        assert!(staged.join(path).exists(), "{path}");
    }
    let link = fs::read_link(staged.join("usr/sbin/mount.foldfs")).unwrap();
    assert_eq!(link, Path::new("/usr/local/bin/foldfs"));
    let unit = staged.join("usr/local/lib/systemd/system/foldfs@.service");
    assert!(!fs::read_to_string(unit).unwrap().contains("@BINDIR@"));
    let parse = "import sys, xml.etree.ElementTree as e; e.parse(sys.argv[1])";
    let domain = examples.join("libvirt-domain.xml");
    // libvirt opens these on the host: no path through an image, whose guest could lead it elsewhere.
    let text = fs::read_to_string(&domain).unwrap();
    for tag in ["<kernel>", "<initrd>"] {
        let (_, path) = text.split_once(tag).unwrap();
        assert!(path.starts_with("/var/lib/libvirt/boot/"), "{tag}{path}");
    }
    tool(
        "python3",
        &["-c".as_ref(), OsStr::new(parse), domain.as_os_str()],
    );
}
