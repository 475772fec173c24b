//! A patch and a fold, while guests run.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, fadvise};

use super::common::directory::drop_caches;
use super::common::mapping::cached_pages;
use super::common::store::{Mounted, tool};
use super::common::without_passthrough;
use super::machine::Guest;
use super::world::{World, at_once};

/// What is patched is a copy of it.
const PROGRAM: &str = "usr/bin/perl";

/// What both guests read.
const LARGE: &str = "usr/share/large";

fn large_size() -> usize {
    (if is_full() { 200 } else { 32 }) << 20
}

pub fn is_full() -> bool {
    std::env::var("FOLDFS_TEST_SUITES").is_ok_and(|form| form == "full")
}

/// A program that waits until it is asked, and then says that it goes on. It is read again then: nothing of it is cached.
const RUN_OLD: &str = "mkfifo /run/ask; /opt/patched/tool -e 'open F, \"<\", \"/run/ask\"; <F>; require Text::ParseWords; \
    open O, \">\", \"/run/answer\"; print O \"goes on\"' & PID=$!";

/// What a guest makes for folds to find, in each image the same.
const MAKE_ALIKE: &str = "mkdir /srv/alike && cp -a /usr/lib/python3.11/email /usr/bin/sed /srv/alike && \
    for n in $(seq 100); do seq $n 2000 >/srv/alike/$n; done && sync";

#[test]
fn running_guests_see_a_patch_and_no_fold() {
    let test = "running_guests_see_a_patch_and_no_fold";
    let Some(world) = World::open_with(test, |tree| {
        furnish(tree, "old", &tree.join(PROGRAM));
        fs::write(tree.join(LARGE), vec![b'.'; large_size()]).unwrap();
    }) else {
        return;
    };
    let patch = patch(&world);
    let images = [world.mount("one"), world.mount("two")];
    let caches = [("one", &images[0], "auto"), ("two", &images[1], "never")];
    let mut guests = at_once(caches.to_vec(), |(name, image, cache)| {
        let mut guest = world.boot(name, &image.path, cache);
        guest.run(RUN_OLD);
        let seen = guest.run("cd /opt/patched; cat gone data; ls -1A . directory; stat -c %a directory; ls added 2>&1 || true");
        assert_eq!(
            seen,
            "goes\nold\n.:\ndata\ndirectory\ngone\ntool\n\ndirectory:\ninside\n755\n\
             ls: cannot access 'added': No such file or directory\n"
        );
        guest
    });
    have_one_copy(&world, &images, &mut guests);
    let before = size(&mut guests[0]);
    world
        .store
        .ok(&["patch", "apply", "--family", "f", patch.to_str().unwrap()]);
    let guests = at_once(guests, |mut guest| {
        // Each by itself: how soon one is seen says nothing about the others.
        guest.until("cat data", |text| text == "new\n");
        guest.until("cat added", |text| text == "added\n");
        guest.until("cat gone", |text| text.contains("No such file"));
        guest.until("ls -1A directory", |text| text == "below\ninside\n");
        guest.until("stat -c %a directory", |text| text == "700\n");
        guest.until("ls -1A", |text| text == "added\ndata\ndirectory\ntool\n");
        guest.until("stat -c %s tool", |text| {
            text.trim() == (before + 4).to_string()
        });
        assert_eq!(guest.run("./tool -e 'print 6 * 7'"), "42");
        goes_on(&mut guest);
        guest
    });

    let hash = hash_command();
    let guests = at_once(guests, |mut guest| {
        guest.run(MAKE_ALIKE);
        let before = guest.run(&hash);
        (guest, before)
    });
    let report = world.store.ok(&["fold", "--json"]).json();
    let families = report["families"].as_array().unwrap();
    let folded: u64 = families
        .iter()
        .map(|family| family["folded_files"].as_u64().unwrap())
        .sum();
    eprintln!("folded {folded} files under two guests");
    assert!(folded >= 200, "{report}");
    drop_caches();
    at_once(guests, |(mut guest, before)| {
        guest.run("echo 3 >/proc/sys/vm/drop_caches");
        assert!(before.lines().count() > 500, "{before}");
        assert_eq!(before, guest.run(&hash));
        guest.power_off();
    });
    world.close(images.into());
}

/// A file that both read is in the host's memory once, as its object.
fn have_one_copy(world: &World, images: &[Mounted], guests: &mut [Guest]) {
    if without_passthrough() {
        return;
    }
    let why = world.store.ok(&["why", "one", LARGE, "--json"]).json();
    let (start, rest) = why["digest"].as_str().unwrap().split_at(2);
    let object = world.store.path.join("objects").join(start).join(rest);
    let object = File::open(object).unwrap();
    // What the import has left in memory is not what guests have read.
    object.sync_data().unwrap();
    fadvise(&object, 0, None, Advice::DontNeed).unwrap();
    assert_eq!(cached_pages(object.as_fd()).unwrap(), 0);
    at_once(guests.iter_mut().collect(), |guest| {
        let read = guest.run(&format!("cat /{LARGE} | wc -c"));
        assert_eq!(read.trim(), large_size().to_string());
    });
    let copies = images.iter().map(|image| {
        let file = File::open(image.join(LARGE)).unwrap();
        cached_pages(file.as_fd()).unwrap()
    });
    let copies: Vec<u64> = copies.collect();
    let pages = cached_pages(object.as_fd()).unwrap();
    eprintln!(
        "two guests have read {} MiB each: {pages} pages of the object, {copies:?} of the images",
        large_size() >> 20
    );
    assert_eq!(copies, [0, 0], "copies of their own");
    assert_eq!(pages, large_size() as u64 / 4096);
}

/// The process that runs the old program still has it, and what it has not read yet.
fn goes_on(guest: &mut Guest) {
    guest.run("echo 3 >/proc/sys/vm/drop_caches");
    guest.run("cmp /proc/$PID/exe /usr/bin/perl");
    guest.run("echo >/run/ask; wait $PID");
    assert_eq!(guest.run("cat /run/answer"), "goes on");
}

fn size(guest: &mut Guest) -> u64 {
    guest.run("stat -c %s tool").trim().parse().unwrap()
}

/// Hashes all files, in the order of their names; in the short form, of these directories.
fn hash_command() -> String {
    let places = if is_full() {
        "/"
    } else {
        "/etc /opt /srv /usr/sbin /var/lib"
    };
    format!("find {places} -xdev -type f -print0 | sort -z | xargs -0 sha256sum")
}

/// What the patch is about, as it was or as it becomes.
fn furnish(tree: &Path, state: &str, program: &Path) {
    let place = tree.join("opt/patched");
    fs::create_dir_all(place.join("directory")).unwrap();
    let mut program = fs::read(program).unwrap();
    let is_new = state == "new";
    if is_new {
        program.extend(b"new\n");
        fs::write(place.join("added"), "added\n").unwrap();
        fs::write(place.join("directory/below"), "").unwrap();
    } else {
        fs::write(place.join("gone"), "goes\n").unwrap();
    }
    fs::write(place.join("tool"), program).unwrap();
    fs::set_permissions(place.join("tool"), Permissions::from_mode(0o755)).unwrap();
    fs::write(place.join("data"), format!("{state}\n")).unwrap();
    fs::write(place.join("directory/inside"), "").unwrap();
    let mode = if is_new { 0o700 } else { 0o755 };
    fs::set_permissions(place.join("directory"), Permissions::from_mode(mode)).unwrap();
    set_times(&place);
}

/// Two trees differ in what they are made to differ in.
fn set_times(tree: &Path) {
    let time = ["-exec", "touch", "-h", "-d", "@1100000000", "{}", "+"].map(OsStr::new);
    tool("find", &[&[tree.as_os_str()], &time[..]].concat());
}

/// The patch that makes the new state of the old one.
fn patch(world: &World) -> PathBuf {
    let [old, new] = ["old", "new"].map(|state| {
        let tree = world.store.place.join(state);
        fs::create_dir(&tree).unwrap();
        furnish(&tree, state, &world.plain.join(PROGRAM));
        set_times(&tree);
        tree
    });
    let file = world.store.place.join("patch");
    let create = ["patch", "create", "-o"].map(OsStr::new);
    let places = [file.as_os_str(), old.as_os_str(), new.as_os_str()];
    world.store.ok(&[&create[..], &places].concat());
    file
}
