//! What was opened before it came to be locked, and guests at work while something is locked.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::common::mapping::Mapped;
use super::*;

/// Content that no image had before makes the file the image's own.
fn with_own_file(store: &TestStore) -> Mounted {
    let image = store.mount("first");
    fs::write(image.join("top/dir/file"), "own content").unwrap();
    image
}

fn refused_as_busy(store: &TestStore) {
    let refused = store.run(&words("lock family /top/dir --adopt")).exits(4);
    refused.says(&["first:/top/dir/file", "open for writing"]);
    let listed = store.ok(&words("lock family --json")).json();
    assert!(
        listed["patterns"].as_array().unwrap().is_empty(),
        "{listed}"
    );
}

fn descriptors_and_mappings(test: &str, configuration: &str) {
    let Some(store) = world(test, &["first", "second"]) else {
        return;
    };
    store.configure(configuration);
    let image = store.mount("first");
    let path = image.join("top/dir/file");
    let open = || File::options().read(true).write(true).open(&path).unwrap();

    // It is shared still.
    let writer = open();
    refused_as_busy(&store);
    writer.write_all_at(b"written", 3).unwrap();
    refused_as_busy(&store);
    drop(writer);
    // It is the image's own.
    let writer = open();
    refused_as_busy(&store);
    let mapped = Mapped::new(writer.as_fd(), 100, true).unwrap();
    drop(writer);
    refused_as_busy(&store);
    mapped.store(5, b"by the mapping").unwrap();
    drop(mapped);

    // Who reads is in nobody's way, nor in need of anything.
    let reader = File::open(&path).unwrap();
    let mapped = Mapped::new(reader.as_fd(), 100, false).unwrap();
    store.run(&words("lock family /top/dir --adopt")).exits(3);
    let mut read = [0; 100];
    reader.read_exact_at(&mut read, 0).unwrap();
    assert_eq!(&read[5..19], b"by the mapping");
    assert!(mapped.load() == read);
    let refused = Mapped::new(reader.as_fd(), 100, true).unwrap_err();
    assert_eq!(refused, Errno::ACCESS, "it is open for reading");
    assert_locked(&image);
    drop((mapped, reader));
    finish(&store, [image]);
}

#[test]
fn who_can_write_already_keeps_it_from_being_locked() {
    let test = "who_can_write_already_keeps_it_from_being_locked";
    descriptors_and_mappings(test, "");
}

#[test]
fn who_can_write_already_keeps_it_from_being_locked_without_passthrough() {
    let test = "who_can_write_already_keeps_it_from_being_locked_without_passthrough";
    descriptors_and_mappings(test, "passthrough = false\n");
}

#[test]
fn a_name_elsewhere_that_is_open_for_writing_counts() {
    let test = "a_name_elsewhere_that_is_open_for_writing_counts";
    let Some(store) = world(test, &["first"]) else {
        return;
    };
    let image = store.mount("first");
    let writer = File::options()
        .write(true)
        .open(image.join("top/alias"))
        .unwrap();
    store.run(&words("lock family /top/dir")).exits(4);
    drop(writer);
    lock(&store, "/top/dir");
    // What has no name any more is nobody's.
    lock(&store, "/top/other");
    finish(&store, [image]);
}

#[test]
fn who_truncated_a_file_to_read_it_is_in_nobodys_way() {
    use rustix::fs::{OFlags, openat};
    let test = "who_truncated_a_file_to_read_it_is_in_nobodys_way";
    let Some(store) = world(test, &["first"]) else {
        return;
    };
    let image = store.mount("first");
    let flags = OFlags::RDONLY | OFlags::TRUNC | OFlags::CLOEXEC;
    let file = openat(CWD, image.join("top/dir/file"), flags, Mode::empty()).unwrap();
    store.run(&words("lock family /top/dir --adopt")).exits(3);
    assert_eq!(rustix::io::read(&file, &mut [0; 8]), Ok(0));
    drop(file);
    finish(&store, [image]);
}

#[test]
fn what_has_no_name_any_more_is_not_locked() {
    let test = "what_has_no_name_any_more_is_not_locked";
    let Some(store) = world(test, &["first"]) else {
        return;
    };
    let image = with_own_file(&store);
    let path = image.join("top/dir/file");
    let writer = File::options().read(true).write(true).open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    store.run(&words("lock family /top/dir --adopt")).exits(3);
    writer.write_all_at(b"still", 0).unwrap();
    writer.set_len(4).unwrap();
    assert_eq!(File::create(&path).unwrap_err().raw_os_error(), Some(1));
    drop(writer);
    finish(&store, [image]);
}

#[test]
fn guests_at_work_do_not_get_past_a_lock() {
    let test = "guests_at_work_do_not_get_past_a_lock";
    let Some(store) = world(test, &["first", "second"]) else {
        return;
    };
    let images = [store.mount("first"), store.mount("second")];
    let ended = AtomicBool::new(false);
    let denied = AtomicBool::new(false);
    thread::scope(|scope| {
        struct End<'a>(&'a AtomicBool);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _end = End(&ended);
        for image in &images {
            let dir = image.join("top/dir");
            let (ended, denied) = (&ended, &denied);
            let at_work = move |work: fn(&Path, u64) -> std::io::Result<()>| {
                for round in 0.. {
                    if ended.load(Ordering::Relaxed) {
                        break;
                    }
                    if let Err(error) = work(&dir, round)
                        && error.raw_os_error() == Some(libc::EPERM)
                    {
                        denied.store(true, Ordering::Relaxed);
                    }
                }
            };
            let at_work_too = at_work.clone();
            scope.spawn(move || {
                at_work(|dir, round| {
                    let file = File::options().write(true).open(dir.join("file"))?;
                    file.write_all_at(&round.to_ne_bytes(), 0)
                });
            });
            scope.spawn(move || {
                at_work_too(|dir, round| {
                    fs::write(dir.join("new"), round.to_string())?;
                    fs::rename(dir.join("new"), dir.join("sub/new"))?;
                    fs::remove_file(dir.join("sub/new"))
                });
            });
        }
        let locked = loop {
            let ran = store.run(&words("lock family /top/dir --adopt"));
            if ran.code != 4 {
                break ran;
            }
        };
        assert!(matches!(locked.code, 0 | 3), "{}", locked.stderr);
        let before = images
            .each_ref()
            .map(|image| Snapshot::of(&image.join("top/dir")));
        denied.store(false, Ordering::Relaxed);
        while !denied.load(Ordering::Relaxed) {
            thread::yield_now();
        }
        for _ in 0..20 {
            for (before, image) in before.iter().zip(&images) {
                let now = Snapshot::of(&image.join("top/dir"));
                before.assert_same(&now, Fields::ALL, "somebody got past the lock");
            }
        }
    });
    finish(&store, images);
}
