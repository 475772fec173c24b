//! systemd-tmpfiles, which looks closely at what it changes.

use crate::workshop::Workshop;

#[test]
fn systemd_tmpfiles_makes_what_it_should() {
    let test = "systemd_tmpfiles_makes_what_it_should";
    let Some(workshop) = Workshop::open(test, "workshop") else {
        return;
    };
    workshop.both(include_str!("tmpfiles.sh"));
    let shown = workshop.assert_alike(&[]);
    workshop.finish(
        &shown,
        "systemd-tmpfiles --create 2>&1 || echo $?; find /srv -printf '%P %M %u:%g %n %l\\n' | LC_ALL=C sort",
    );
}
