//! Needs root. What becomes of a machine's identity in a clone, and that nothing else does; trees that were made to
//! mislead.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on should panic"
)]

mod family;

#[path = "root_identity/strange.rs"]
mod strange;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use family::live::{ROOT, node, permissions, put};
use family::{Fixture, Seen, Snapshot, write};
use foldfs::error::Error;
use foldfs::ops::report::{CloneReport, ResetKind};
use foldfs::ops::{Context, clone, fold, hold, identity};
use foldfs::progress::Silent;
use foldfs::store::Store;
use foldfs::store::catalog::Reads;
use foldfs::store::metadata::Time;
use foldfs::store::open::Access;
use rustix::fs::{XattrFlags, lsetxattr};

/// Of the machine's identity, with what becomes of each.
const IDENTITY: [(&str, Becomes); 12] = [
    ("etc/machine-id", Becomes::Content("")),
    ("etc/hostname", Becomes::Content("copy\n")),
    (
        "etc/hosts",
        Becomes::Content("127.0.0.1 localhost\n127.0.1.1 copy.lan copy\n10.0.0.1 web\n"),
    ),
    ("var/lib/dbus/machine-id", Becomes::Nothing),
    ("etc/ssh/ssh_host_rsa_key", Becomes::Nothing),
    ("etc/ssh/ssh_host_rsa_key.pub", Becomes::Nothing),
    ("etc/ssh/ssh_host_ed25519_key", Becomes::Nothing),
    ("etc/ssh/ssh_host_ed25519_key.pub", Becomes::Nothing),
    ("var/lib/systemd/random-seed", Becomes::Nothing),
    ("var/lib/dhcp/dhclient.eth0.leases", Becomes::Nothing),
    ("var/lib/NetworkManager/secret_key", Becomes::Nothing),
    ("var/lib/dhcpcd/duid", Becomes::Nothing),
];

/// What is near it, and stays.
const OTHERS: [&str; 8] = [
    "etc/ssh/sshd_config",
    "etc/ssh/ssh_known_hosts",
    "root/.ssh/id_ed25519",
    "var/lib/dhcp/dhcpd.leases",
    "var/log/syslog",
    "etc/krb5.keytab",
    "usr/bin/sh",
    "var/lib/systemd/timers/stamp",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Becomes {
    Nothing,
    Content(&'static str),
}

/// A tree with all of it.
fn tree(root: &Path) {
    for (path, _) in IDENTITY {
        write(root, path, &format!("identity in {path}"));
    }
    for path in OTHERS {
        write(root, path, &format!("content of {path}"));
    }
    write(root, "etc/machine-id", "0123456789abcdef0123456789abcdef\n");
    write(root, "etc/hostname", "web\n");
    write(
        root,
        "etc/hosts",
        "127.0.0.1 localhost\n127.0.1.1 web.lan web\n10.0.0.1 web\n",
    );
    let label = "security.selinux";
    let flags = XattrFlags::empty();
    lsetxattr(root.join("etc/hostname"), label, b"hostname_t", flags).unwrap();
    family::settle(root);
}

/// A family with two images of such a tree.
fn fixture() -> Fixture {
    let fixture = Fixture::new();
    let source = fixture.source("source");
    tree(&source);
    for name in ["origin", "other"] {
        fixture.import_as(name, &source, Some("family"), Default::default());
    }
    fixture
}

fn options(from: &str, to: &str, hostname: Option<&str>) -> clone::Options {
    clone::Options {
        from: from.into(),
        to: to.into(),
        frozen: false,
        reset: Some(identity::Options {
            hostname: hostname.map(str::to_owned),
        }),
    }
}

fn reset_as(
    fixture: &Fixture,
    from: &str,
    to: &str,
    hostname: Option<&str>,
) -> Result<CloneReport, Error> {
    let plan = clone::plan(&fixture.context, &options(from, to, hostname))?;
    clone::apply(&fixture.context, &plan, &Silent)
}

/// The paths that were reset.
fn paths(report: &CloneReport) -> BTreeMap<String, ResetKind> {
    let paths = report.identity.as_ref().unwrap().paths.iter();
    paths
        .map(|reset| (reset.path.to_string(), reset.kind))
        .collect()
}

/// Clones an image as "copy", and expects nothing else than its identity to be another one: what is reported.
#[track_caller]
fn reset(fixture: &Fixture, from: &str, expected: &[(&str, Becomes)]) -> CloneReport {
    let before = fixture.snapshot(from);
    let planned = clone::plan(&fixture.context, &options(from, "copy", None)).unwrap();
    let report = clone::apply(&fixture.context, &planned, &Silent).unwrap();
    assert_eq!(planned.report().identity, report.identity);
    family::assert_same(&before, &fixture.snapshot(from), "the origin");
    assert_becomes(&before, &fixture.snapshot("copy"), expected);
    let kinds = expected.iter().map(|(path, becomes)| {
        let kind = match becomes {
            Becomes::Nothing => ResetKind::Removed,
            Becomes::Content("") => ResetKind::Emptied,
            Becomes::Content(_) => ResetKind::Rewritten,
        };
        (format!("/{path}"), kind)
    });
    assert_eq!(paths(&report), kinds.collect());
    fixture.assert_sound("the clone");
    report
}

/// What a path shows that does not tell when it was altered, or under which number.
fn lasting(snapshot: &Snapshot) -> Snapshot {
    let mut snapshot = snapshot.clone();
    for seen in snapshot.values_mut() {
        (seen.number, seen.mtime, seen.ctime) = (0, Time::default(), Time::default());
    }
    snapshot
}

#[track_caller]
fn assert_becomes(before: &Snapshot, after: &Snapshot, expected: &[(&str, Becomes)]) {
    let mut model = before.clone();
    for (path, becomes) in expected {
        let was: Seen = model.remove(*path).expect(path);
        for seen in model.values_mut().filter(|seen| seen.number == was.number) {
            seen.links -= 1;
        }
        if let Becomes::Content(text) = becomes {
            let now = after.get(*path).expect(path);
            assert!(now.mtime > was.mtime, "{path}");
            assert!(now.number != was.number, "{path}");
            let (content, size) = (text.as_bytes().to_vec(), text.len() as u64);
            model.insert(
                (*path).to_owned(),
                Seen {
                    content,
                    size,
                    links: 1,
                    number: u64::MAX,
                    ..was
                },
            );
        }
    }
    family::assert_same(&lasting(&model), &lasting(after), "the clone");
    let altered = |path: &str| {
        let in_it = |of: &str| of.rsplit_once('/').map_or("", |(above, _)| above) == path;
        expected.iter().any(|(of, _)| *of == path || in_it(of))
    };
    for (path, seen) in after.iter().filter(|(path, _)| !altered(path)) {
        assert_eq!(seen.mtime, before[path].mtime, "{path}");
        assert_eq!(seen.number, before[path].number, "{path}");
    }
}

#[test]
fn the_identity_goes_and_nothing_else() {
    let fixture = fixture();
    let shared = fixture.shared("origin");
    let report = reset(&fixture, "origin", &IDENTITY);
    let identity = report.identity.unwrap();
    assert_eq!(identity.hostname.as_deref(), Some("copy"));
    // What was shared still is: only what was altered is the clone's own.
    assert_eq!(fixture.shared("origin"), shared);
    let own = fixture.private("copy");
    let own = own.iter().map(|entry| entry.split_once(' ').unwrap());
    let own = own.filter(|(_, role)| !["merged", "transparent"].contains(role));
    let own: BTreeMap<_, _> = own.map(|(path, role)| (&path[1..], role)).collect();
    let expected = IDENTITY.iter().map(|(path, becomes)| match becomes {
        Becomes::Nothing => (*path, "whiteout"),
        Becomes::Content(_) => (*path, "file"),
    });
    assert_eq!(own, expected.collect());
}

#[test]
fn so_does_what_is_the_image_s_own() {
    let fixture = fixture();
    let origin = fixture.filesystem("origin");
    // Private files, renamed directories, and names of one file.
    put(&origin, "etc/ssh/ssh_host_rsa_key", b"made by the guest");
    put(
        &origin,
        "etc/machine-id",
        b"fedcba9876543210fedcba9876543210\n",
    );
    put(&origin, "var/lib/systemd/random-seed", &[7; 512]);
    origin
        .link(
            &node(&origin, "var/lib/systemd/random-seed"),
            &node(&origin, "root"),
            b"seed",
        )
        .unwrap();
    origin
        .link(
            &node(&origin, "etc/hostname"),
            &node(&origin, "root"),
            b"name",
        )
        .unwrap();
    origin
        .make_directory(&node(&origin, "etc"), b"ssh2", &permissions(0o755))
        .unwrap();
    origin
        .unlink(&node(&origin, "var/lib/dbus"), b"machine-id")
        .unwrap();
    let from = foldfs::filesystem::rename::Entry {
        parent: &node(&origin, "var/lib"),
        name: b"dhcp",
    };
    let to = foldfs::filesystem::rename::Entry {
        parent: &node(&origin, "var/lib"),
        name: b"dhclient",
    };
    origin
        .rename(from, to, rustix::fs::RenameFlags::empty(), ROOT)
        .unwrap();
    let mut expected = IDENTITY.to_vec();
    expected.retain(|(path, _)| *path != "var/lib/dbus/machine-id");
    for (path, _) in &mut expected {
        if *path == "var/lib/dhcp/dhclient.eth0.leases" {
            *path = "var/lib/dhclient/dhclient.eth0.leases";
        }
    }
    // dhcpd's are those of clients, where dhclient has only its own.
    expected.push(("var/lib/dhclient/dhcpd.leases", Becomes::Nothing));
    reset(&fixture, "origin", &expected);
    let copy = fixture.snapshot("copy");
    assert_eq!(copy["root/seed"].content, [7; 512]);
    assert_eq!(copy["root/name"].content, b"web\n");
    assert_eq!(copy["root/name"].links, 1);
    drop(origin);
    let fixture = fixture.reopen();
    family::assert_same(&copy, &fixture.snapshot("copy"), "opened again");
    let plan = fold::plan(&fixture.context, &fold::Options { family: None }, &Silent).unwrap();
    fold::apply(&fixture.context, &plan, &Silent).unwrap();
    family::assert_same(&copy, &fixture.snapshot("copy"), "folded");
    fixture.assert_sound("folded");
}

#[test]
fn clones_of_clones_and_of_bases_have_their_own() {
    let fixture = fixture();
    reset_as(&fixture, "family", "first", None).unwrap();
    let report = reset_as(&fixture, "first", "second", Some("db.example.com")).unwrap();
    // All else is gone already.
    let expected = ["/etc/hostname", "/etc/hosts"].map(String::from);
    assert!(paths(&report).into_keys().eq(expected));
    let second = fixture.snapshot("second");
    assert_eq!(second["etc/hostname"].content, b"db.example.com\n");
    let hosts = "127.0.0.1 localhost\n127.0.1.1 db.lan db.example.com\n10.0.0.1 web\n";
    assert_eq!(second["etc/hosts"].content, hosts.as_bytes());
    assert_eq!(second["etc/machine-id"].content, b"");
    let report = reset_as(&fixture, "second", "third", Some("db.example.com")).unwrap();
    assert_eq!(paths(&report), BTreeMap::new());
    assert_eq!(report.identity.unwrap().hostname, None);
    assert_eq!(fixture.snapshot("family")["etc/hostname"].content, b"web\n");
    fixture.assert_sound("all");
}

#[test]
fn a_host_name_is_one() {
    let fixture = fixture();
    for (to, hostname) in [
        ("not_one", None),
        ("copy", Some("")),
        ("copy", Some("-a")),
        ("copy", Some("two\nlines")),
        ("copy", Some("a/b")),
    ] {
        let error = reset_as(&fixture, "origin", to, hostname).unwrap_err();
        assert_eq!(error.kind.exit_code(), 2, "{error}");
        assert!(error.remedy.contains("--hostname"), "{error}");
    }
    assert_eq!(images(&fixture), ["family", "origin", "other"]);
    reset_as(&fixture, "origin", "not_one", Some("one")).unwrap();
}

fn images(fixture: &Fixture) -> Vec<String> {
    let images = fixture.context.store.catalog().images().unwrap();
    let mut names: Vec<_> = images.into_iter().map(|image| image.name).collect();
    names.sort();
    names
}

fn lock(fixture: &Fixture, patterns: &[&str]) {
    let options = foldfs::ops::lock::Options {
        family: "family".into(),
        patterns: patterns
            .iter()
            .map(|pattern| (*pattern).to_owned())
            .collect(),
        adopt: true,
    };
    let plan = foldfs::ops::lock::plan(&fixture.context, &options, &Silent).unwrap();
    foldfs::ops::lock::apply(&fixture.context, plan, &Silent).unwrap();
}

#[test]
fn what_is_locked_is_refused_by_its_path() {
    let source = fixture();
    {
        let family = source.filesystem("family");
        let name = node(&family, "etc/hostname");
        family.link(&name, &node(&family, "root"), b"name").unwrap();
    }
    for (pattern, path) in [
        ("/etc/machine-id", "/etc/machine-id"),
        ("/etc/ssh/", "/etc/ssh/ssh_host_ed25519_key"),
        ("*.pub", "/etc/ssh/ssh_host_ed25519_key.pub"),
        ("/root/name", "/etc/hostname"),
    ] {
        let fixture = source.copy();
        lock(&fixture, &[pattern]);
        let before = objects(&fixture);
        let error = clone::plan(&fixture.context, &options("family", "copy", None)).unwrap_err();
        assert_eq!(error.object, path, "{pattern}: {error}");
        assert!(error.cause.contains(pattern), "{pattern}: {error}");
        assert!(error.remedy.contains("unlock"), "{pattern}: {error}");
        assert_eq!(objects(&fixture), before);
        assert!(!images(&fixture).contains(&"copy".to_owned()));
    }
    // What is locked elsewhere is in nobody's way.
    lock(&source, &["/usr", "/etc/ssh/sshd_config"]);
    reset_as(&source, "family", "copy", None).unwrap();
    source.assert_sound("the clone");
}

/// What is in the store besides the catalog.
fn objects(fixture: &Fixture) -> Vec<String> {
    let mut found = Vec::new();
    for directory in ["objects", "images", "staging"] {
        let place = fixture.context.store.path().join(directory);
        for entry in fs::read_dir(place).unwrap() {
            let entry = entry.unwrap();
            found.push(format!("{:?}", entry.path()));
            let inside = fs::read_dir(entry.path()).unwrap();
            found.extend(inside.map(|entry| format!("{:?}", entry.unwrap().path())));
        }
    }
    found.sort();
    found
}

#[test]
fn a_plan_alters_nothing() {
    let fixture = fixture();
    let directory = fixture.context.store.path().to_owned();
    let before = objects(&fixture);
    let plan = clone::plan(&fixture.context, &options("origin", "copy", None)).unwrap();
    let planned = plan.report().identity.unwrap();
    assert_eq!(planned.paths.len(), IDENTITY.len());
    assert_eq!(objects(&fixture), before);
    assert_eq!(images(&fixture), ["family", "origin", "other"]);
    // So may one who can only read.
    drop(plan);
    let _opened_again = fixture.reopen_after(|| {
        let store = Store::open(&directory, Access::Read).unwrap();
        let context = Context::new(std::sync::Arc::new(store), 1);
        let plan = clone::plan(&context, &options("origin", "copy", None)).unwrap();
        assert_eq!(plan.report().identity.unwrap(), planned);
    });
}

#[test]
fn what_is_held_is_the_clone_s_own() {
    let fixture = fixture();
    let paths = ["/etc", "/var/lib/systemd"].map(|path| path.as_bytes().into());
    let plan = hold::plan(&fixture.context, "origin", &paths).unwrap();
    hold::apply(&fixture.context, &plan, &Silent).unwrap();
    reset(&fixture, "origin", &IDENTITY);
    let plan = hold::plan(&fixture.context, "copy", &[]).unwrap();
    let held = hold::survey(&fixture.context, &plan, &Silent)
        .unwrap()
        .paths;
    assert_eq!(held.len(), paths.len());
    for path in held {
        assert_eq!((path.exists, path.shared_inodes), (true, 0), "{path:?}");
    }
}
