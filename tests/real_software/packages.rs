//! apt and dpkg with real packages, and dpkg's own checks.

use std::process::Command;

use crate::common::store::run;
use crate::workshop::{Workshop, debian_tree};

/// What says when something was done, or where it lies: logs, apt's map of its lists, and the
/// inode numbers that ldconfig remembers.
const VARYING: [&str; 7] = [
    "etc/machine-id",
    "var/log/apt",
    "var/log/dpkg.log",
    "var/log/alternatives.log",
    "var/cache/apt/pkgcache.bin",
    "var/cache/apt/srcpkgcache.bin",
    "var/cache/ldconfig/aux-cache",
];

#[test]
fn apt_installs_upgrades_and_removes() {
    let test = "apt_installs_upgrades_and_removes";
    let Some(packages) = debian_tree(test, "workshop") else {
        return;
    };
    let Some(mut workshop) = Workshop::open(test, "minbase") else {
        return;
    };
    let repository = workshop.store.place.join("repository");
    let mut build = Command::new("bash");
    build.args(["-euo", "pipefail", "-c", include_str!("repository.sh")]);
    build.args(["bash".as_ref(), packages.parent().unwrap()]);
    run(build.arg(&repository), b"").exits(0);
    workshop.shared = Some(repository);
    workshop.both(include_str!("packages.sh"));
    let shown = workshop.assert_alike(&VARYING);
    workshop.finish(
        &shown,
        "dpkg --audit; dpkg --verify; apt-get -qq check; git --version || echo gone",
    );
}
