//! Trees without an identity, and trees that were made to mislead.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::family::live::{node, permissions, put};
use super::family::{self, Fixture, write};
use super::{Becomes, images, paths, reset, reset_as};

/// A fixture with one image of what `make` makes besides /usr.
fn strange(make: impl FnOnce(&Path)) -> Fixture {
    let fixture = Fixture::new();
    let source = fixture.source("source");
    write(&source, "usr/bin/sh", "a shell");
    make(&source);
    family::settle(&source);
    fixture.import_as("origin", &source, Some("family"), Default::default());
    fixture
}

#[test]
fn a_machine_id_to_be_made_stays_so() {
    for content in ["", "uninitialized\n"] {
        let fixture = strange(|root| write(root, "etc/machine-id", content));
        reset(&fixture, "origin", &[]);
    }
}

#[test]
fn an_image_without_any_has_none() {
    let fixture = strange(|_| ());
    reset(&fixture, "origin", &[]);
    let error = reset_as(&fixture, "origin", "named", Some("named")).unwrap_err();
    assert!(error.to_string().contains("/etc/hostname"), "{error}");
    // It needs no host's name, so the image's need not be one.
    reset_as(&fixture, "origin", "no_host_name", None).unwrap();
}

#[test]
fn symlinks_lead_to_what_a_program_inside_finds() {
    let fixture = strange(|root| {
        let inside = root.join("usr/inside");
        write(
            &inside,
            "etc/machine-id",
            "0123456789abcdef0123456789abcdef",
        );
        write(&inside, "etc/name", "web");
        write(&inside, "etc/ssh/ssh_host_rsa_key", "a key");
        write(root, "var/data/seeds/seed.credit", "a seed");
        // Above the root is the root.
        symlink("../../../usr/inside/./etc", root.join("etc")).unwrap();
        symlink("/etc/name", inside.join("etc/hostname")).unwrap();
        fs::create_dir_all(root.join("var/lib/dbus")).unwrap();
        symlink("../data//seeds/", root.join("var/lib/seedrng")).unwrap();
        symlink("/etc/machine-id", root.join("var/lib/dbus/machine-id")).unwrap();
        symlink("/nowhere", root.join("var/lib/dhcpcd")).unwrap();
        symlink("/var/lib/systemd", root.join("var/lib/systemd")).unwrap();
    });
    let expected = [
        ("usr/inside/etc/machine-id", Becomes::Content("")),
        ("usr/inside/etc/name", Becomes::Content("copy\n")),
        ("usr/inside/etc/ssh/ssh_host_rsa_key", Becomes::Nothing),
        ("var/data/seeds/seed.credit", Becomes::Nothing),
    ];
    reset(&fixture, "origin", &expected);
}

#[test]
fn no_symlink_leads_out_of_the_image() {
    let outside = tempfile::tempdir_in("/var/tmp").unwrap();
    let outside = outside.path();
    for name in ["machine-id", "ssh_host_rsa_key", "hostname", "random-seed"] {
        fs::write(outside.join(name), "of the host").unwrap();
    }
    let up = "../".repeat(30) + outside.to_str().unwrap().trim_start_matches('/');
    let fixture = strange(|root| {
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::create_dir_all(root.join("var/lib")).unwrap();
        symlink(outside.join("machine-id"), root.join("etc/machine-id")).unwrap();
        symlink(format!("{up}/hostname"), root.join("etc/hostname")).unwrap();
        symlink(outside, root.join("etc/ssh")).unwrap();
        symlink(&up, root.join("var/lib/systemd")).unwrap();
    });
    reset(&fixture, "origin", &[]);
    for entry in fs::read_dir(outside).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(fs::read(&path).unwrap(), b"of the host", "{path:?}");
    }
}

#[test]
fn what_has_the_place_of_a_file_goes_as_itself() {
    let mode = Mode::from_raw_mode(0o600);
    let fixture = strange(|root| {
        write(root, "etc/passwd", "root");
        let ssh = root.join("etc/ssh");
        // A directory is no key, and what is in it none either.
        write(&ssh, "ssh_host_dsa_key/ssh_host_rsa_key", "in a directory");
        symlink("../passwd", ssh.join("ssh_host_rsa_key")).unwrap();
        symlink("ssh_host_rsa_key", ssh.join("ssh_host_rsa_key.pub")).unwrap();
        for (name, kind) in [
            ("ssh_host_fifo_key", FileType::Fifo),
            ("ssh_host_socket_key", FileType::Socket),
            ("ssh_host_device_key", FileType::CharacterDevice),
        ] {
            mknodat(CWD, ssh.join(name), kind, mode, 0x103).unwrap();
        }
        mknodat(CWD, root.join("etc/machine-id"), FileType::Fifo, mode, 0).unwrap();
        fs::create_dir(root.join("etc/hostname")).unwrap();
        fs::create_dir_all(root.join("var/lib/dbus/machine-id")).unwrap();
        fs::create_dir_all(root.join("var/lib/dhcpcd/dir")).unwrap();
        // Neither is anything below a file.
        write(root, "var/lib/systemd", "a file");
    });
    let gone = [
        "etc/ssh/ssh_host_device_key",
        "etc/ssh/ssh_host_fifo_key",
        "etc/ssh/ssh_host_rsa_key",
        "etc/ssh/ssh_host_rsa_key.pub",
        "etc/ssh/ssh_host_socket_key",
    ];
    reset(
        &fixture,
        "origin",
        &gone.map(|path| (path, Becomes::Nothing)),
    );
}

#[test]
fn symlinks_without_an_end_lead_nowhere() {
    let long = "n".repeat(300);
    let deep = "d/../".repeat(800);
    let fixture = strange(|root| {
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::create_dir_all(root.join("var/lib/d")).unwrap();
        write(root, "var/lib/random/random-seed", "not found");
        symlink("hostname", root.join("etc/hostname")).unwrap();
        symlink("/etc/b", root.join("etc/machine-id")).unwrap();
        symlink("machine-id", root.join("etc/b")).unwrap();
        symlink(&long, root.join("etc/ssh")).unwrap();
        symlink(format!("{deep}random"), root.join("var/lib/systemd")).unwrap();
        symlink("..", root.join("var/lib/dhcp")).unwrap();
        symlink(".", root.join("var/lib/seedrng")).unwrap();
    });
    reset(&fixture, "origin", &[]);
}

#[test]
fn other_names_of_a_file_keep_its_content() {
    let fixture = strange(|root| {
        write(root, "etc/hostname", "web\n");
        write(root, "etc/ssh/ssh_host_rsa_key", "a key");
        write(root, "etc/machine-id", "0123456789abcdef0123456789abcdef");
        fs::create_dir_all(root.join("var/lib/dbus")).unwrap();
        for (old, new) in [
            ("etc/hostname", "etc/mailname"),
            ("etc/ssh/ssh_host_rsa_key", "etc/ssh/kept"),
            ("etc/machine-id", "var/lib/dbus/machine-id"),
        ] {
            fs::hard_link(root.join(old), root.join(new)).unwrap();
        }
    });
    let expected = [
        ("etc/hostname", Becomes::Content("copy\n")),
        ("etc/machine-id", Becomes::Content("")),
        ("etc/ssh/ssh_host_rsa_key", Becomes::Nothing),
        ("var/lib/dbus/machine-id", Becomes::Nothing),
    ];
    reset(&fixture, "origin", &expected);
    let copy = fixture.snapshot("copy");
    assert_eq!(copy["etc/mailname"].content, b"web\n");
    assert_eq!(copy["etc/ssh/kept"].content, b"a key");
}

#[test]
fn a_huge_directory_is_no_obstacle() {
    let entries = std::env::var("FOLDFS_TEST_ENTRIES");
    let entries = entries.map_or(20_000, |entries| entries.parse().unwrap());
    // The file system in memory has no room for more than a million of inodes.
    let entries = 300_000.min(entries);
    let fixture = strange(|root| {
        write(root, "etc/ssh/ssh_host_rsa_key", "a key");
        for number in 0..entries {
            fs::write(root.join(format!("etc/ssh/{number}")), "").unwrap();
        }
    });
    let origin = fixture.filesystem("origin");
    let ssh = node(&origin, "etc/ssh");
    for number in 0..entries {
        let name = format!("own{number}");
        let made = origin.create(&ssh, name.as_bytes(), &permissions(0o644));
        origin.forget(made.unwrap().number, 1);
    }
    put(&origin, "etc/ssh/ssh_host_dsa_key", b"another key");
    let start = std::time::Instant::now();
    let report = reset_as(&fixture, "origin", "copy", None).unwrap();
    eprintln!("{entries} names of both kinds: {:.1?}", start.elapsed());
    let expected = ["/etc/ssh/ssh_host_dsa_key", "/etc/ssh/ssh_host_rsa_key"];
    assert!(paths(&report).into_keys().eq(expected.map(String::from)));
    fixture.assert_sound("the clone");
}

#[test]
fn what_is_too_much_is_refused() {
    let fixture = strange(|root| {
        for number in 0..1001 {
            write(root, &format!("etc/ssh/ssh_host_{number}_key"), "");
        }
    });
    let error = reset_as(&fixture, "origin", "copy", None).unwrap_err();
    assert!(error.remedy.contains("without --reset-identity"), "{error}");
    let fixture = strange(|root| {
        write(root, "etc/hostname", "web");
        let hosts = fs::File::create(root.join("etc/hosts")).unwrap();
        hosts.set_len((16 << 20) + 1).unwrap();
    });
    let error = reset_as(&fixture, "origin", "copy", None).unwrap_err();
    assert!(error.to_string().contains("/etc/hosts"), "{error}");
    assert_eq!(images(&fixture), ["family", "origin"]);
    // It is not read where the host keeps its name.
    reset_as(&fixture, "origin", "copy", Some("web")).unwrap();
}
