//! Mounts that the next daemon cannot take over at once.

use std::fs::{self, File};
use std::io::Read;
use std::path::PathBuf;
use std::thread;

use rustix::process::Signal;

use super::common::killer::finish;
use super::common::store::TestStore;
use super::image;
use super::keeper::{eventually, processes, send};

/// An image's directory, out of the daemon's reach until it is given back.
struct Withdrawn {
    place: PathBuf,
    aside: PathBuf,
}

impl Withdrawn {
    /// Of the image that has this file of its own.
    fn of(store: &TestStore, file: &str) -> Self {
        let images = fs::read_dir(store.path.join("images")).unwrap();
        let mut images = images.map(|image| image.unwrap().path());
        let place = images.find(|image| image.join("private").join(file).exists());
        let place = place.unwrap();
        let aside = store.place.join("aside");
        fs::rename(&place, &aside).unwrap();
        Self { place, aside }
    }

    fn give_back(&self) {
        fs::rename(&self.aside, &self.place).unwrap();
    }
}

fn kill_daemon(store: &TestStore) {
    let [_, daemon] = processes(store);
    send(Signal::KILL, daemon);
    eventually("the next daemon", || {
        let found = store.keepers_and_daemons();
        (found.len() == 2 && !found.contains(&daemon)).then_some(())
    });
}

#[test]
fn whoever_uses_one_waits_and_others_do_not() {
    let Some(store) = image("whoever_uses_one_waits_and_others_do_not") else {
        return;
    };
    store.ok(&["clone", "one", "two"]);
    let (one, two) = (store.mount("one"), store.mount("two"));
    let name = one.path.join("unlinked");
    fs::write(&name, "without a name").unwrap();
    let mut unlinked = File::open(&name).unwrap();
    fs::remove_file(&name).unwrap();
    fs::write(one.path.join("kept"), "by its name").unwrap();

    let withdrawn = Withdrawn::of(&store, "kept");
    kill_daemon(&store);
    fs::write(two.path.join("new"), "at once").unwrap();
    store
        .run(&["mount", "one", store.place.to_str().unwrap()])
        .exits(4)
        .says(&["one", "cannot be taken over", "unmount"]);
    let read = {
        let kept = one.path.join("kept");
        thread::spawn(move || fs::read_to_string(kept).unwrap())
    };
    // A daemon that dies while it waits leaves it to the next one.
    kill_daemon(&store);
    let log = || fs::read_to_string(store.path.join("run/daemon.log")).unwrap();
    eventually("two tries", || {
        (log().matches("not taken over").count() >= 2).then_some(())
    });
    assert!(!read.is_finished());
    withdrawn.give_back();
    assert_eq!(read.join().unwrap(), "by its name");
    let mut text = String::new();
    unlinked.read_to_string(&mut text).unwrap();
    assert_eq!(text, "without a name");
    drop(unlinked);
    // What finish() looks for is expected here.
    fs::write(store.path.join("run/daemon.log"), "").unwrap();
    finish(&store, [one, two]);
}

#[test]
fn one_that_waits_can_be_unmounted() {
    let Some(store) = image("one_that_waits_can_be_unmounted") else {
        return;
    };
    let one = store.mount("one");
    fs::write(one.path.join("kept"), "by its name").unwrap();
    let withdrawn = Withdrawn::of(&store, "kept");
    kill_daemon(&store);
    store.ok(&["unmount", one.path.to_str().unwrap()]);
    withdrawn.give_back();
    store.wait_for_daemons();
    let one = store.mount("one");
    assert_eq!(
        fs::read_to_string(one.path.join("kept")).unwrap(),
        "by its name"
    );
    one.unmount();
    store.wait_for_daemons();
    store.assert_sound();
}
