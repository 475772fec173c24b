//! An upgrade of a Debian base with real packages, and what becomes of the images that were made of it.

use std::fs;
use std::path::Path;
use std::process::{Child, Command};

use crate::common::snapshot::{Fields, Snapshot};
use crate::common::store::{TestStore, run, run_within};
use crate::workshop::{PATIENCE, debian_tree, mount, run_chroot};

/// Later versions of what the tree consists of, in the tree itself.
const REPOSITORY: &str = "srv/repository";

const UPGRADE: &str = "export DEBIAN_FRONTEND=noninteractive LC_ALL=C
    apt-get -qq -o APT::Sandbox::User=root update
    apt-get -qq -y -o Dpkg::Use-Pty=0 -o APT::Sandbox::User=root dist-upgrade";

/// What dpkg says of the packages, and of their files.
const VERIFY: &str =
    "dpkg-query -W -f '${Package} ${Version} ${Status}\\n' | grep -c workshop1 || true
    dpkg --audit; dpkg --verify";

/// A program that ends with the test, however that ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _ended = self.0.wait();
    }
}

fn says(root: &Path, script: &str) -> String {
    run_chroot(root, None, script).exits(0).text()
}

#[test]
fn an_upgrade_of_the_base_reaches_images_that_run_it() {
    let test = "an_upgrade_of_the_base_reaches_images_that_run_it";
    let Some(packages) = debian_tree(test, "workshop") else {
        return;
    };
    let Some(minbase) = debian_tree(test, "minbase") else {
        return;
    };
    let store = TestStore::new();
    let tree = store.place.join("tree");
    crate::common::sample::copy(&minbase, &tree);
    let made = store.place.join("made");
    let mut build = Command::new("bash");
    build.args(["-euo", "pipefail", "-c", include_str!("repository.sh")]);
    build.args(["bash".as_ref(), packages.parent().unwrap()]);
    run(build.arg(&made), b"").exits(0);
    fs::rename(made.join("new"), tree.join(REPOSITORY)).unwrap();
    fs::remove_dir_all(made).unwrap();
    let sources = format!("deb [trusted=yes] copy:/{REPOSITORY} ./\n");
    fs::write(tree.join("etc/apt/sources.list"), sources).unwrap();
    let _none = fs::remove_dir_all(tree.join("etc/apt/sources.list.d"));
    store.import("web", &tree, "debian");
    store.import("db", &tree, "debian");
    let (web, db) = (mount(&store, "web"), mount(&store, "db"));
    let conffile = web.join("etc/login.defs");
    let own = fs::read_to_string(&conffile).unwrap() + "# of the administrator\n";
    fs::write(&conffile, &own).unwrap();
    let before = [web.snapshot(), db.snapshot()];
    let old = says(&db.path, VERIFY);
    assert!(old.starts_with("0\n"), "{old}");
    // It runs while its program is replaced.
    let mut running = Command::new("chroot");
    running
        .arg(&db.path)
        .args(["/bin/bash", "-c", "while :; do sleep 0.1; done"]);
    let mut running = Running(running.spawn().unwrap());

    let arguments = ["upgrade", "debian", "--json", "--", "sh", "-euc", UPGRADE];
    let ran = run_within(PATIENCE, &mut store.command(&arguments), b"").exits(3);
    let report = ran.json();
    for image in report["images"].as_array().unwrap() {
        let kept = image["conflicts"].as_array().unwrap();
        match image["image"].as_str().unwrap() {
            "web" => {
                assert_eq!(kept.len(), 1, "{kept:?}");
                assert_eq!(kept[0]["path"], "/etc/login.defs");
            }
            _ => assert!(kept.is_empty(), "{image}"),
        }
        assert!(image["changed"].as_u64().unwrap() > 100, "{image}");
        // The new packages have the very programs of the old ones.
        assert_eq!(image["processes"].as_array().unwrap().len(), 0, "{image}");
    }
    let new = says(&db.path, VERIFY);
    assert!(
        new.lines().next().unwrap().parse::<u32>().unwrap() >= 11,
        "{new}"
    );
    let verified = |said: &str| said.lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(verified(&new), verified(&old));
    let of_web = verified(&says(&web.path, VERIFY));
    assert_eq!(of_web.len(), verified(&old).len() + 1, "{of_web:?}");
    assert!(
        of_web
            .iter()
            .any(|line| line.ends_with(" c /etc/login.defs")),
        "{of_web:?}"
    );
    assert_eq!(fs::read_to_string(&conffile).unwrap(), own);
    assert_eq!(
        says(
            &web.path,
            "bash -c 'echo runs'; cat /usr/share/doc/bash/NEWS.workshop | wc -l"
        ),
        "runs\n1\n"
    );
    assert!(
        running.0.try_wait().unwrap().is_none(),
        "what ran has ended"
    );
    drop(running);
    // What was shared is shared still: the images have next to nothing of their own.
    store.ok(&["fold"]);
    let status = store.ok(&["status", "--json"]).json();
    for image in status["images"].as_array().unwrap() {
        let private = image["private_bytes"].as_u64().unwrap();
        assert!(private < 1 << 20, "{image}");
    }

    let log = store.ok(&["log", "debian", "--json"]).json();
    let change = &log["changes"][0];
    assert_eq!(change["kind"], "upgrade");
    store
        .run(&["revert", &change["change"].to_string()])
        .exits(0);
    for (before, image) in before.iter().zip([&web, &db]) {
        assert_back(before, &image.snapshot());
    }
    assert_eq!(says(&db.path, VERIFY), old);
    web.unmount();
    db.unmount();
    store.wait_for_daemons();
    store.assert_sound();
}

/// That all is as it was but for times that come with taking something back.
fn assert_back(before: &Snapshot, now: &Snapshot) {
    before.assert_same(now, Fields::COPY, "the upgrade was taken back");
}
