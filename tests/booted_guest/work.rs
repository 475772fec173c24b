//! Two guests at work at the same time, and a third one in a plain directory, which does the same.

use std::fs;

use super::common::assert_same_text;
use super::common::directory::drop_caches;
use super::common::snapshot::{Fields, Snapshot};
use super::common::store::Mounted;
use super::machine::Guest;
use super::world::{World, at_once};

/// What says when something was done.
pub const VARYING: [&str; 2] = ["var/log/dpkg.log", "var/log/wtmp"];

/// virtiofsd works with handles: it has open what the guest has open, and little else.
const DESCRIPTORS: usize = 150;

/// Looks at so many inodes that descriptors for each of them would show.
pub const LOOK_AROUND: &str = "find /usr/share -printf '%y %m %U:%G %p\\n' | wc -l";

#[test]
fn two_guests_do_what_a_guest_in_a_plain_directory_does() {
    let test = "two_guests_do_what_a_guest_in_a_plain_directory_does";
    let Some(world) = World::open(test) else {
        return;
    };
    let images = [world.mount("one"), world.mount("two")];
    let guests = world.boot_beside_plain(&images);
    let guests = at_once(guests, |mut guest| {
        hold(&mut guest);
        guest
    });
    // Whatever nobody has open is forgotten, by the host and by the guest.
    drop_caches();
    let done = at_once(guests, |mut guest| {
        guest.run("echo 2 >/proc/sys/vm/drop_caches");
        let held = format!("{}{}", release(&mut guest), guest.run(LOOK_AROUND));
        let descriptors = guest.descriptors();
        drop_caches();
        let said = guest.run("python3 /opt/guest/operations.py 2>&1");
        (guest, held, descriptors, said)
    });
    let (_, held, _, expected) = &done[0];
    assert!(!expected.contains("failed"), "{expected}");
    for (guest, found, descriptors, said) in &done {
        assert_same_text(held, found, "what was held");
        assert_same_text(expected, said, "what was done");
        eprintln!("{descriptors} descriptors");
        assert!(*descriptors < DESCRIPTORS, "{descriptors} in {guest:?}");
    }
    eprintln!("{expected}");
    at_once(done, |(guest, ..)| guest.power_off());
    let shown = world.assert_alike(&images, &VARYING);
    world.store.ok(&["fold"]);
    assert_unchanged(&images, &shown, "a fold shows");

    // Each of them begins anew from what it left.
    for image in images {
        image.unmount();
    }
    world.store.wait_for_daemons();
    world.store.assert_sound();
    let images = [world.mount("one"), world.mount("two")];
    assert_unchanged(&images, &shown, "a remount shows");
    let guests = at_once(images.iter().collect(), |image| {
        let name = image.path.file_name().unwrap().to_str().unwrap();
        world.boot(name, &image.path, "auto")
    });
    let again = at_once(guests, |mut guest| {
        let said = guest.run(
            "sample; dpkg --audit; cd /srv/work && sha256sum linked mapped allocated sparse copied",
        );
        guest.power_off();
        said
    });
    assert_eq!(again[0], again[1]);
    let content = fs::read(world.plain.join("srv/work/mapped")).unwrap();
    assert!(again[0].contains(&hex(&content)), "{}", again[0]);
    world.close(images.into());
}

fn assert_unchanged(images: &[Mounted], shown: &[Snapshot], what: &str) {
    for (image, shown) in images.iter().zip(shown) {
        shown.assert_same(&image.snapshot(), Fields::ALL, what);
    }
}

/// Has a guest hold files of all sorts.
pub fn hold(guest: &mut Guest) {
    guest.run("python3 /opt/guest/holder.py >/dev/null 2>/run/held 2>&1 &");
    guest.until("cat /srv/held/holding; cat /run/held", |text| text == "yes");
}

/// Lets go of what is held, and returns what was in it.
pub fn release(guest: &mut Guest) -> String {
    guest.run("echo go >/srv/held/go");
    guest.until("ls /srv/held/found; cat /run/held", |text| {
        text == "/srv/held/found\n"
    });
    guest.run("cat /srv/held/found; cat /srv/held/written | cat -v")
}

fn hex(content: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(content);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
