//! Two guests at work while the daemon is killed again and again: they do what a guest in a plain directory does.

use super::common::assert_same_text;
use super::common::killer::{finish, while_killing};
use super::machine::Guest;
use super::patched::is_full;
use super::work::{LOOK_AROUND, VARYING, hold, release};
use super::world::{World, at_once};

/// Reads many files that nobody alters, through the guest's cache and past it.
const READ: &str = "echo 3 >/proc/sys/vm/drop_caches; find /usr/share/perl5 /usr/lib/python3.11/email -type f | sort | \
    xargs sha256sum | sha256sum";

/// With FOLDFS_TEST_SUITES=full (`make soak`), because it takes minutes.
#[test]
fn two_guests_do_not_notice_that_the_daemon_is_killed() {
    let test = "two_guests_do_not_notice_that_the_daemon_is_killed";
    let Some(world) = is_full().then(|| World::open(test)).flatten() else {
        return;
    };
    let images = [world.mount("one"), world.mount("two")];
    let guests = world.boot_beside_plain(&images);
    let done = while_killing(test, &world.store, |killer| {
        at_once(guests, |mut guest: Guest| {
            hold(&mut guest);
            let mut said = guest.run("python3 /opt/guest/operations.py 2>&1");
            said += &release(&mut guest);
            said += &guest.run(LOOK_AROUND);
            let read = guest.run(READ);
            while !killer.is_enough() {
                assert_eq!(read, guest.run(READ));
            }
            (guest, said + &read)
        })
    });
    let (_, expected) = &done[0];
    assert!(!expected.contains("failed"), "{expected}");
    for (_, said) in &done {
        assert_same_text(expected, said, "what was done");
    }
    at_once(done, |(guest, _)| guest.power_off());
    world.assert_alike(&images, &VARYING);
    finish(&world.store, images);
}
