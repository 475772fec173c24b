//! Needs root and FUSE. Files that the kernel reads and writes past the daemon: what that must not
//! change, and the little that it does.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on should panic"
)]

mod common;

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use common::mapping::{Mapped, cached_pages, truncate_path};
use common::snapshot::Fields;
use common::store::{Mounted, TestStore};
use common::user::{SOMEBODY, within};

const MIB: usize = 1 << 20;

/// Two images that share `usr/data` (3 MiB), `usr/tool` (a few bytes, with a second name) and
/// `etc/settings`; the first is mounted.
struct Twins {
    store: TestStore,
    first: Mounted,
    second: Mounted,
}

fn data() -> Vec<u8> {
    (0..3 * MIB as u32 / 4).flat_map(u32::to_le_bytes).collect()
}

/// `None` where it cannot run. Without passthrough there is nothing to be tried.
fn twins(test: &str) -> Option<Twins> {
    if !common::can_run(test, common::needs_fuse()) || common::without_passthrough() {
        return None;
    }
    let store = TestStore::new();
    let tree = store.place.join("tree");
    for directory in ["usr", "etc"] {
        fs::create_dir_all(tree.join(directory)).unwrap();
    }
    fs::write(tree.join("usr/data"), data()).unwrap();
    fs::write(tree.join("usr/tool"), "old content").unwrap();
    fs::hard_link(tree.join("usr/tool"), tree.join("usr/other")).unwrap();
    fs::write(tree.join("etc/settings"), "old settings").unwrap();
    let [first, second] = ["first", "second"].map(|image| {
        store.import(image, &tree, "family");
        store.mount_with(image, "dev,suid,allow_other")
    });
    Some(Twins {
        store,
        first,
        second,
    })
}

/// How many bytes the store's daemon has read and written, in whatever way.
fn moved(store: &TestStore) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/io", store.daemons()[0])).unwrap();
    let count = |line: &str| -> u64 { line.split(' ').nth(1).unwrap().parse().unwrap() };
    let chars = |line: &&str| line.starts_with("rchar") || line.starts_with("wchar");
    text.lines().filter(chars).map(count).sum()
}

fn writer(path: &Path) -> File {
    let file = OpenOptions::new().read(true).write(true).open(path);
    file.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn start_of(file: &File) -> String {
    let mut bytes = [0; 11];
    file.read_exact_at(&mut bytes, 0).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn content_does_not_pass_the_daemon() {
    let Some(twins) = twins("content_does_not_pass_the_daemon") else {
        return;
    };
    let before = moved(&twins.store);
    for image in [&twins.first, &twins.second] {
        assert!(fs::read(image.join("usr/data")).unwrap() == data());
        fs::write(image.join("usr/new"), data()).unwrap();
        assert!(fs::read(image.join("usr/new")).unwrap() == data());
        let file = writer(&image.join("usr/new"));
        let mapped = Mapped::new(file.as_fd(), 3 * MIB, true).unwrap();
        mapped.store(2 * MIB, b"mapped").unwrap();
        let mut read = [0; 6];
        file.read_exact_at(&mut read, 2 * MIB as u64).unwrap();
        assert_eq!(&read, b"mapped");
    }
    let passed = moved(&twins.store) - before;
    assert!(
        passed < MIB as u64,
        "{passed} bytes went through the daemon"
    );
}

#[test]
fn images_share_the_page_cache_of_a_shared_file() {
    let Some(twins) = twins("images_share_the_page_cache_of_a_shared_file") else {
        return;
    };
    let mounts = [&twins.first, &twins.second];
    let files = mounts.map(|image| File::open(image.join("usr/data")).unwrap());
    let mapped: Vec<Mapped> = files
        .iter()
        .map(|file| Mapped::new(file.as_fd(), 3 * MIB, false).unwrap())
        .collect();
    for mapped in &mapped {
        assert!(mapped.load() == data());
    }
    for file in &files {
        let mut content = Vec::new();
        (&*file).read_to_end(&mut content).unwrap();
        assert!(content == data());
        assert_eq!(cached_pages(file.as_fd()).unwrap(), 0, "a copy of its own");
    }
    let object = object_of(&twins.store, "first", "/usr/data");
    let pages = cached_pages(File::open(object).unwrap().as_fd()).unwrap();
    assert_eq!(pages, 3 * MIB as u64 / 4096);
}

/// The object behind a shared file or stub.
fn object_of(store: &TestStore, image: &str, path: &str) -> PathBuf {
    let why = store.ok(&["why", image, path, "--json"]).json();
    let digest = why["digest"].as_str().unwrap();
    let (start, rest) = digest.split_at(2);
    store.path.join("objects").join(start).join(rest)
}

#[test]
fn an_object_stays_open_until_its_image_has_content_of_its_own_or_is_unmounted() {
    let Some(twins) = twins("an_object_stays_open_until_its_image_has_content_of_its_own") else {
        return;
    };
    let object = object_of(&twins.store, "first", "usr/data");
    let daemon = twins.store.daemons()[0];
    let descriptors = || {
        let all = fs::read_dir(format!("/proc/{daemon}/fd")).unwrap();
        let targets = all.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
        targets.filter(|target| *target == object).count()
    };
    for _ in 0..3 {
        for mounted in [&twins.first, &twins.second] {
            assert_eq!(fs::read(mounted.join("usr/data")).unwrap(), data());
        }
    }
    assert_eq!(descriptors(), 2);
    writer(&twins.first.join("usr/data"))
        .write_all_at(b"mine", 0)
        .unwrap();
    let mut expected = data();
    expected[..4].copy_from_slice(b"mine");
    assert_eq!(fs::read(twins.first.join("usr/data")).unwrap(), expected);
    assert_eq!(descriptors(), 1);
    assert_eq!(fs::read(twins.second.join("usr/data")).unwrap(), data());
    twins.second.unmount();
    assert_eq!(descriptors(), 0);
    assert_eq!(fs::read(twins.first.join("usr/data")).unwrap(), expected);
}

#[test]
fn who_reads_a_shared_file_directly_goes_on_reading_it() {
    let Some(twins) = twins("who_reads_a_shared_file_directly_goes_on_reading_it") else {
        return;
    };
    let (path, other) = (twins.first.join("usr/tool"), twins.first.join("usr/other"));
    let number = fs::metadata(&path).unwrap().ino();
    let early = File::open(&path).unwrap();
    let mapped = Mapped::new(early.as_fd(), 11, false).unwrap();
    let same = File::open(&other).unwrap();

    let file = writer(&path);
    assert_eq!(start_of(&file), "old content");
    file.write_all_at(b"NEW", 0).unwrap();

    // Who had it open: the old content, of the same inode as ever.
    assert_eq!(start_of(&early), "old content");
    assert_eq!(start_of(&same), "old content");
    assert_eq!(mapped.load(), b"old content");
    // Who opens it, under whatever name: the new.
    for name in [&path, &other] {
        assert_eq!(start_of(&File::open(name).unwrap()), "NEW content");
        assert_eq!(fs::metadata(name).unwrap().ino(), number);
    }
    let changed = fs::metadata(&path).unwrap();
    for file in [&early, &same, &file] {
        let seen = file.metadata().unwrap();
        assert_eq!((seen.ino(), seen.mtime()), (number, changed.mtime()));
        assert_eq!(seen.mtime_nsec(), changed.mtime_nsec());
    }
    let listed = fs::read_dir(twins.first.join("usr")).unwrap();
    for entry in listed.map(Result::unwrap) {
        if entry.file_name() != "data" {
            assert_eq!(
                std::os::unix::fs::DirEntryExt::ino(&entry),
                number,
                "{entry:?}"
            );
        }
    }
    // An opening through the old descriptor finds no such inode any more.
    let again = File::open(format!("/proc/self/fd/{}", early.as_raw_fd()));
    assert_eq!(again.unwrap_err().raw_os_error(), Some(libc::ESTALE));

    assert_eq!(
        fs::read_to_string(twins.second.join("usr/tool")).unwrap(),
        "old content"
    );
    drop((early, same, file, mapped));
    let shown = twins.first.snapshot();
    twins.store.ok(&["fold"]);
    shown.assert_same(&twins.first.snapshot(), Fields::ALL, "a fold shows");
    twins.store.assert_sound();
}

#[test]
fn below_coherent_paths_everybody_sees_what_is_written() {
    let Some(twins) = twins("below_coherent_paths_everybody_sees_what_is_written") else {
        return;
    };
    let path = twins.first.join("etc/settings");
    let early = File::open(&path).unwrap();
    let mapped = Mapped::new(early.as_fd(), 12, false).unwrap();
    writer(&path).write_all_at(b"NEW", 0).unwrap();
    assert_eq!(start_of(&early), "NEW setting");
    assert_eq!(mapped.load(), b"NEW settings");
}

#[test]
fn every_way_of_changing_a_file_that_is_read_directly() {
    let Some(twins) = twins("every_way_of_changing_a_file_that_is_read_directly") else {
        return;
    };
    type Way = fn(&Path);
    let ways: [(&str, Way, &str); 5] = [
        ("truncate", |path| truncate_path(path, 3).unwrap(), "old"),
        ("empty", |path| drop(File::create(path).unwrap()), ""),
        (
            "append",
            |path| append(path, " and more"),
            "old content and more",
        ),
        (
            "write",
            |path| fs::write(path, "all of it").unwrap(),
            "all of it",
        ),
        (
            "grow",
            |path| truncate_path(path, 13).unwrap(),
            "old content\0\0",
        ),
    ];
    for (name, ..) in ways {
        for image in [&twins.first, &twins.second] {
            fs::write(image.join("usr").join(name), "old content").unwrap();
        }
    }
    twins.store.ok(&["fold"]);
    for (name, change, expected) in ways {
        let path = twins.first.join("usr").join(name);
        let early = File::open(&path).unwrap();
        change(&path);
        assert_eq!(fs::read_to_string(&path).unwrap(), expected, "{name}");
        assert_eq!(
            fs::metadata(&path).unwrap().len(),
            expected.len() as u64,
            "{name}"
        );
        assert_eq!(start_of(&early), "old content", "{name}");
        let twin = fs::read_to_string(twins.second.join("usr").join(name)).unwrap();
        assert_eq!(twin, "old content", "{name}");
    }
    twins.store.assert_sound();
}

fn append(path: &Path, text: &str) {
    let mut file = OpenOptions::new().append(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

#[test]
fn a_fold_under_direct_readers_does_not_show() {
    let Some(twins) = twins("a_fold_under_direct_readers_does_not_show") else {
        return;
    };
    let mounts = [&twins.first, &twins.second];
    for image in mounts {
        fs::write(image.join("usr/new"), "new content").unwrap();
        fs::write(image.join("etc/new"), "new settings").unwrap();
    }
    let path = twins.first.join("usr/new");
    let readers = mounts.map(|image| File::open(image.join("usr/new")).unwrap());
    let mapped = Mapped::new(readers[0].as_fd(), 11, false).unwrap();
    let before = mounts.map(Mounted::snapshot);
    twins.store.ok(&["fold"]);
    for (before, image) in before.iter().zip(mounts) {
        before.assert_same(&image.snapshot(), Fields::ALL, "the fold shows");
    }
    let object = object_of(&twins.store, "first", "/usr/new");
    let more = File::open(&path).unwrap();

    let file = writer(&path);
    file.write_all_at(b"NEW", 0).unwrap();
    assert_eq!(fs::read_to_string(&object).unwrap(), "new content");
    for reader in readers.iter().chain([&more]) {
        assert_eq!(start_of(reader), "new content");
    }
    assert_eq!(mapped.load(), b"new content");
    assert_eq!(fs::read_to_string(&path).unwrap(), "NEW content");
    assert_eq!(
        fs::read_to_string(twins.second.join("usr/new")).unwrap(),
        "new content"
    );
    twins.store.assert_sound();
}

#[test]
fn a_mapping_that_outlives_its_descriptor_keeps_a_fold_away() {
    let Some(twins) = twins("a_mapping_that_outlives_its_descriptor_keeps_a_fold_away") else {
        return;
    };
    for image in [&twins.first, &twins.second] {
        fs::write(image.join("usr/new"), "new content").unwrap();
    }
    let path = twins.first.join("usr/new");
    let mapped = Mapped::new(writer(&path).as_fd(), 11, true).unwrap();
    twins.store.ok(&["fold"]);
    mapped.store(0, b"NEW").unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "NEW content");
    assert_eq!(
        fs::read_to_string(twins.second.join("usr/new")).unwrap(),
        "new content"
    );
    drop(mapped);
    twins.store.ok(&["fold"]);
    assert_eq!(fs::read_to_string(&path).unwrap(), "NEW content");
    twins.store.assert_sound();
}

#[test]
fn what_is_written_through_a_mapping_sets_times_at_once() {
    let Some(twins) = twins("what_is_written_through_a_mapping_sets_times_at_once") else {
        return;
    };
    let path = twins.first.join("usr/new");
    fs::write(&path, data()).unwrap();
    let old = std::time::SystemTime::now() - Duration::from_secs(3600);
    File::open(&path).unwrap().set_modified(old).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), old);
    let mapped = Mapped::new(writer(&path).as_fd(), 3 * MIB, true).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), old);
    mapped.store(MIB, b"x").unwrap();
    let modified = || fs::metadata(&path).unwrap().modified().unwrap();
    assert!(modified() > old + Duration::from_secs(1800));
    // Once it is gone, and until the next.
    drop(mapped);
    File::open(&path).unwrap().set_modified(old).unwrap();
    assert_eq!((modified(), modified()), (old, old));
    let mapped = Mapped::new(writer(&path).as_fd(), 3 * MIB, true).unwrap();
    assert_eq!(modified(), old);
    mapped.store(MIB, b"y").unwrap();
    assert!(modified() > old + Duration::from_secs(1800));
}

#[test]
fn set_id_bits_go_under_direct_readers_and_writers() {
    let Some(twins) = twins("set_id_bits_go_under_direct_readers_and_writers") else {
        return;
    };
    let path = twins.first.join("usr/new");
    for reader in [false, true] {
        fs::write(&path, "new content").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
        // Direct handles that are open when the file becomes a privileged one.
        let early = reader.then(|| File::open(&path).unwrap());
        let also = reader.then(|| writer(&path));
        fs::set_permissions(&path, Permissions::from_mode(0o6777)).unwrap();
        let theirs = within(&twins.first.path, SOMEBODY, 0o022, || {
            let theirs = writer(Path::new("usr/new"));
            theirs.write_all_at(b"NEW", 0).unwrap();
            theirs
        });
        assert_eq!(
            fs::metadata(&path).unwrap().mode() & 0o7777,
            0o777,
            "{reader}"
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), "NEW content");
        for file in early.iter().chain(&also) {
            assert_eq!(start_of(file), "NEW content");
        }
        if let Some(also) = also {
            // All of them are one file to who writes.
            let mapped = Mapped::new(theirs.as_fd(), 11, true).unwrap();
            also.write_all_at(b"OURS", 4).unwrap();
            assert_eq!(start_of(&theirs), "NEW OURSent");
            mapped.store(8, b"two").unwrap();
            assert_eq!(start_of(&also), "NEW OURStwo");
            also.set_len(12).unwrap();
            assert_eq!(theirs.metadata().unwrap().len(), 12);
            // The one that was open before: what a mapping does in a plain directory, too.
            fs::set_permissions(&path, Permissions::from_mode(0o4777)).unwrap();
            within(&twins.first.path, SOMEBODY, 0o022, || {
                also.write_all_at(b"X", 0).unwrap()
            });
            let mode = fs::metadata(&path).unwrap().mode() & 0o7777;
            assert_eq!(mode, 0o4777, "take the row out of docs/semantics.md");
        }
    }
}

#[test]
fn pages_from_before_direct_writes_are_not_shown() {
    let Some(twins) = twins("pages_from_before_direct_writes_are_not_shown") else {
        return;
    };
    let path = twins.first.join("usr/new");
    let mode = |mode| fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    fs::write(&path, "new content").unwrap();
    // Who writes to a set-id file is cached, also while reading.
    mode(0o4755);
    let cached = writer(&path);
    assert_eq!(start_of(&cached), "new content");
    assert_eq!(cached_pages(cached.as_fd()).unwrap(), 1);
    drop(cached);
    mode(0o755);
    let direct = writer(&path);
    direct.write_all_at(b"NEW", 0).unwrap();
    drop(direct);
    mode(0o4755);
    assert_eq!(start_of(&writer(&path)), "NEW content");
}

#[test]
fn locks_of_readers_from_before_a_change_are_apart() {
    let Some(twins) = twins("locks_of_readers_from_before_a_change_are_apart") else {
        return;
    };
    let path = twins.first.join("usr/tool");
    let early = File::open(&path).unwrap();
    early.lock().unwrap();
    let beside = File::open(&path).unwrap();
    assert!(
        beside.try_lock().is_err(),
        "locks do not exclude each other"
    );
    let later = writer(&path);
    assert!(
        later.try_lock().is_ok(),
        "take the row out of docs/semantics.md"
    );
    assert!(File::open(&path).unwrap().try_lock().is_err());
}

#[test]
fn opens_of_every_kind_meet_flips_without_noticing() {
    let Some(twins) = twins("opens_of_every_kind_meet_flips_without_noticing") else {
        return;
    };
    let over = AtomicBool::new(false);
    let names = ["usr/tool", "usr/other"].map(|name| twins.first.join(name));
    thread::scope(|scope| {
        for thread in 0..4 {
            let (over, names) = (&over, &names);
            scope.spawn(move || {
                let mut round = thread;
                let mut kept = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    round += 1;
                    let path = &names[round % 2];
                    match round % 5 {
                        0 => {
                            let file = writer(path);
                            file.write_all_at(format!("{:011}", round).as_bytes(), 0)
                                .unwrap();
                        }
                        1 => kept.push(File::open(path).unwrap()),
                        2 => assert_eq!(fs::read(path).unwrap().len(), 11),
                        3 => truncate_path(path, 11).unwrap(),
                        _ => assert_eq!(fs::metadata(path).unwrap().len(), 11),
                    }
                    if kept.len() > 20 {
                        kept.clear();
                    }
                }
            });
        }
        // Folds make objects of it again, for the next writer to flip.
        for round in 0..30 {
            fs::write(twins.second.join("usr/twin"), format!("{round:011}")).unwrap();
            twins.store.ok(&["fold"]);
        }
        over.store(true, Ordering::Relaxed);
    });
    let [a, b] = names.map(|path| fs::read(path).unwrap());
    assert_eq!(a, b);
    twins.store.assert_sound();
}

#[test]
fn a_running_program_is_not_written_to() {
    let Some(twins) = twins("a_running_program_is_not_written_to") else {
        return;
    };
    for image in [&twins.first, &twins.second] {
        fs::copy("/bin/sleep", image.join("usr/sleep")).unwrap();
    }
    twins.store.ok(&["fold"]);
    let path = twins.first.join("usr/sleep");
    let mut child = std::process::Command::new(&path).arg("60").spawn().unwrap();
    let refused = OpenOptions::new().write(true).open(&path).unwrap_err();
    // What has a new nodeid must be refused as well.
    fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
    let again = OpenOptions::new().write(true).open(&path).unwrap_err();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(refused.raw_os_error(), Some(libc::ETXTBSY));
    assert_eq!(again.raw_os_error(), Some(libc::ETXTBSY));
}

#[test]
fn without_passthrough_all_content_passes_the_daemon() {
    let test = "without_passthrough_all_content_passes_the_daemon";
    if !common::can_run(test, common::needs_fuse()) {
        return;
    }
    let store = TestStore::new();
    let tree = store.place.join("tree");
    fs::create_dir_all(&tree).unwrap();
    fs::write(tree.join("data"), data()).unwrap();
    store.import("image", &tree, "family");
    let file = store.place.join("config.toml");
    fs::write(&file, "passthrough = false").unwrap();
    let image = store.mount_configured("image", &file);
    let before = moved(&store);
    let early = File::open(image.join("data")).unwrap();
    assert!(fs::read(image.join("data")).unwrap() == data());
    assert!(moved(&store) - before > 3 * MIB as u64);
    writer(&image.join("data")).write_all_at(b"NEW", 0).unwrap();
    assert!(start_of(&early).starts_with("NEW"));
}
