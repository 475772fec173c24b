//! What other file systems of this sort get wrong, one by one.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::thread;

use foldfs::sys::handle::FileHandle;

use super::common::at;
use super::common::device::{Device, Kind};
use super::common::directory::drop_caches;
use super::common::mapping::Mapped;
use super::common::{can_run, needs_fuse};
use super::*;

#[test]
fn a_descriptor_from_before_promotion_sees_later_writes() {
    let Some(store) = twins("a_descriptor_from_before_promotion") else {
        return;
    };
    store.configure("coherent = ['/']");
    let (first, second) = (store.mount("first"), store.mount("second"));
    let path = first.join("usr/bin/other");
    let mut early = File::open(&path).unwrap();
    let length = early.metadata().unwrap().len() as usize;
    let mapped = Mapped::new(early.as_fd(), length, false).unwrap();
    let ino = early.metadata().unwrap().ino();
    assert_eq!(mapped.load(), fs::read(&path).unwrap());

    let writer = OpenOptions::new().write(true).open(&path).unwrap();
    writer.write_all_at(b"promoted", 20).unwrap();
    let mut content = Vec::new();
    early.read_to_end(&mut content).unwrap();
    assert_eq!(&content[20..28], b"promoted", "the descriptor");
    assert_eq!(&mapped.load()[20..28], b"promoted", "the mapping");
    assert_eq!(early.metadata().unwrap().ino(), ino);
    assert_eq!(fs::metadata(&path).unwrap().ino(), ino);
    writer.set_len(10).unwrap();
    assert_eq!(early.metadata().unwrap().len(), 10);
    second.assert_shows(&store.sample(0));
    drop((early, writer, mapped));
    finish(&store, [first, second]);
}

#[test]
fn hard_links_survive_promotion_and_remount() {
    let Some(store) = twins("hard_links_survive_promotion") else {
        return;
    };
    let first = store.mount("first");
    let names = ["usr/bin/tool", "usr/bin/tool2", "etc/tool"];
    fs::write(first.join(names[1]), "promoted by one name").unwrap();
    let look = |first: &Mounted, links: u64| {
        let inodes: Vec<u64> = names
            .iter()
            .map(|name| {
                let meta = fs::metadata(first.join(name)).unwrap();
                assert_eq!(meta.nlink(), links, "{name}");
                assert_eq!(fs::read(first.join(name)).unwrap(), b"promoted by one name");
                meta.ino()
            })
            .collect();
        assert!(inodes.iter().all(|ino| *ino == inodes[0]), "{inodes:?}");
        inodes[0]
    };
    let ino = look(&first, 3);
    fs::hard_link(first.join(names[0]), first.join("var/fourth")).unwrap();
    first.unmount();
    let first = store.mount("first");
    assert_eq!(look(&first, 4), ino);
    fs::remove_file(first.join("var/fourth")).unwrap();
    look(&first, 3);
    store.ok(&["fold"]);
    assert_eq!(look(&first, 3), ino);
    for name in names {
        fs::remove_file(first.join(name)).unwrap();
    }
    finish(&store, [first]);
    let first = store.mount("first");
    assert!(names.iter().all(|name| !first.join(name).exists()));
    finish(&store, [first]);
}

#[test]
fn opaque_directories_stay_empty() {
    let Some(store) = twins("opaque_directories_stay_empty") else {
        return;
    };
    let first = store.mount("first");
    fs::remove_dir_all(first.join("usr")).unwrap();
    fs::create_dir(first.join("usr")).unwrap();
    fs::rename(first.join("etc"), first.join("usr/etc")).unwrap();
    fs::create_dir(first.join("etc")).unwrap();
    let look = |first: &Mounted| {
        assert_eq!(fs::read_dir(first.join("etc")).unwrap().count(), 0);
        assert_eq!(fs::read_dir(first.join("usr")).unwrap().count(), 1);
        assert_eq!(
            fs::read(first.join("usr/etc/conf.d/a.conf")).unwrap(),
            b"a = 1\n"
        );
    };
    look(&first);
    drop_caches();
    look(&first);
    let shown = first.snapshot();
    first.unmount();
    let first = store.mount("first");
    look(&first);
    shown.assert_same(&first.snapshot(), Fields::ALL, "a remount shows");
    finish(&store, [first]);
}

#[test]
fn renaming_a_shared_directory_copies_nothing() {
    let Some(store) = twins("renaming_a_shared_directory") else {
        return;
    };
    let first = store.mount("first");
    let before = first.snapshot();
    fs::rename(first.join("usr"), first.join("var/usr")).unwrap();
    fs::rename(first.join("var/usr/lib"), first.join("lib")).unwrap();
    let after = first.snapshot();
    let old = &before.entries[&b"usr/lib/deep/deeper/data"[..]];
    let new = &after.entries[&b"lib/deep/deeper/data"[..]];
    assert_eq!(old, new);
    first.unmount();
    store.wait_for_daemons();
    let id = store.path.join("images");
    let mut entries = 0;
    for image in fs::read_dir(id).unwrap() {
        let private = image.unwrap().path().join("private");
        entries += Snapshot::of(&private).entries.len();
    }
    // Roots, two directories, two whiteouts, and the directories that they stand in.
    assert!(entries <= 12, "{entries} private entries");
    let first = store.mount("first");
    after.assert_same(&first.snapshot(), Fields::ALL, "a remount shows");
    fs::rename(first.join("lib"), first.join("var/usr/lib")).unwrap();
    fs::rename(first.join("var/usr"), first.join("usr")).unwrap();
    first.assert_shows_but_times(&store.sample(0));
    finish(&store, [first]);
}

#[test]
fn unlinked_files_live_until_they_are_closed() {
    let Some(store) = twins("unlinked_files_live_until_closed") else {
        return;
    };
    let first = store.mount("first");
    let path = first.join("etc/hosts");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    fs::remove_file(&path).unwrap();
    drop_caches();
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "127.0.0.1 localhost\n");
    file.write_all(b"more").unwrap();
    file.set_permissions(PermissionsExt::from_mode(0o600))
        .unwrap();
    store.ok(&["fold"]);
    store.ok(&["collect"]);
    file.seek(SeekFrom::Start(0)).unwrap();
    text.clear();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "127.0.0.1 localhost\nmore");
    assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);
    drop(file);
    finish(&store, [first]);
}

/// What an NFS server or virtiofsd keeps instead of descriptors.
#[test]
fn file_handles_outlive_forget_and_remount() {
    let Some(store) = twins("file_handles_outlive_forget_and_remount") else {
        return;
    };
    let first = store.mount("first");
    fs::write(first.join("etc/private"), "private").unwrap();
    fs::write(first.join("usr/bin/tool2"), "promoted").unwrap();
    fs::rename(first.join("usr/lib"), first.join("lib")).unwrap();
    let expected = [
        ("etc/hosts", "127.0.0.1 localhost\n"),
        ("etc/private", "private"),
        ("usr/bin/tool", "promoted"),
        ("lib/a.conf", "a = 1\n"),
    ];
    let handle = |root: &OwnedFd, path: &str| {
        let (directory, name) = at::parent(root.as_fd(), path.as_bytes()).unwrap();
        FileHandle::of(directory.as_fd(), name).unwrap()
    };
    let root = at::open_root(&first.path);
    let handles = expected.map(|(path, _)| handle(&root, path));
    let directory = handle(&root, "lib/deep");
    let look = |root: &OwnedFd, when: &str| {
        for (handle, (path, content)) in handles.iter().zip(expected) {
            let file = handle.open(root.as_fd(), libc::O_RDONLY);
            let file = file.unwrap_or_else(|error| panic!("{path} {when}: {error}"));
            let mut text = String::new();
            File::from(file).read_to_string(&mut text).unwrap();
            assert_eq!(text, content, "{path} {when}");
        }
        let deep = directory
            .open(root.as_fd(), libc::O_RDONLY | libc::O_DIRECTORY)
            .unwrap();
        assert_eq!(at::list(deep.as_fd(), b"").unwrap().len(), 1, "{when}");
    };
    look(&root, "at once");
    drop_caches();
    look(&root, "after drop_caches");
    store.ok(&["fold"]);
    drop_caches();
    look(&root, "after a fold");
    drop(root);
    first.unmount();
    store.wait_for_daemons();
    let first = store.mount("first");
    let root = at::open_root(&first.path);
    look(&root, "after a remount");
    fs::remove_file(first.join("etc/private")).unwrap();
    drop_caches();
    let gone = handles[1].open(root.as_fd(), libc::O_RDONLY).unwrap_err();
    assert_eq!(gone, rustix::io::Errno::STALE);
    drop(root);
    finish(&store, [first]);
}

#[test]
fn sockets_fifos_and_locks_work() {
    let Some(store) = twins("sockets_fifos_and_locks_work") else {
        return;
    };
    let first = store.mount("first");
    let socket = first.join("var/live");
    let listener = UnixListener::bind(&socket).unwrap();
    let client = thread::spawn(move || UnixStream::connect(&socket).unwrap().write_all(b"hello"));
    let mut text = String::new();
    listener
        .accept()
        .unwrap()
        .0
        .read_to_string(&mut text)
        .unwrap();
    client.join().unwrap().unwrap();
    assert_eq!(text, "hello");
    let ran = script(&first.path, "cat etc/fifo & echo through > etc/fifo; wait");
    assert_eq!(ran.exits(0).text(), "through\n");
    let ran = script(
        &first.path,
        "exec 9>etc/hosts; flock -n 9; if flock -n etc/hosts true; then exit 5; fi; flock -u 9; flock -n etc/hosts echo free",
    );
    assert_eq!(ran.exits(0).text(), "free\n");
    drop(listener);
    finish(&store, [first]);
}

#[test]
fn an_unknown_ioctl_is_enotty() {
    let Some(store) = twins("an_unknown_ioctl_is_enotty") else {
        return;
    };
    let first = store.mount("first");
    let text = r#"perl -e 'open F, "<", "etc/hosts"; my $x = "\0" x 64; ioctl(F, 0x1234, $x) or print $!+0;'"#;
    assert_eq!(script(&first.path, text).exits(0).text(), "25");
    finish(&store, [first]);
}

#[test]
fn ordinary_users_are_held_to_modes() {
    let Some(store) = twins("ordinary_users_are_held_to_modes") else {
        return;
    };
    let first = store.mount_with("first", "allow_other");
    // The temporary directory itself is root's alone.
    let user = |text: &str| {
        let inner = format!(
            "cd {}; exec setpriv --reuid=1000 --regid=1000 --clear-groups sh -c '{text}'",
            first.path.display()
        );
        run(Command::new("sh").args(["-c", &inner]), b"")
    };
    let modes = PermissionsExt::from_mode;
    fs::set_permissions(&store.place, modes(0o755)).unwrap();
    fs::set_permissions(&first.path, modes(0o755)).unwrap();
    user("cat etc/hosts >/dev/null").exits(0);
    assert_ne!(user("echo x > etc/hosts").code, 0);
    assert_ne!(user("rm etc/hosts").code, 0);
    user("touch empty/mine && rm empty/mine").exits(0);
    user("echo x >> etc/conf.d/b.conf").exits(0);
    let shown = user("getfattr -dm - etc/hosts").exits(0).text();
    assert!(
        shown.contains("user.note") && !shown.contains("trusted"),
        "{shown}"
    );
    finish(&store, [first]);
    let first = store.mount_with("first", "");
    assert_ne!(
        run(
            Command::new("setpriv")
                .args(["--reuid=1000", "--regid=1000", "--clear-groups", "ls"])
                .arg(&first.path),
            b""
        )
        .code,
        0
    );
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = table
        .lines()
        .find(|line| line.contains(first.path.to_str().unwrap()))
        .unwrap();
    assert!(line.contains("nosuid") && line.contains("nodev"), "{line}");
    finish(&store, [first]);
}

#[test]
fn a_read_only_mount_refuses_writes() {
    let Some(store) = twins("a_read_only_mount_refuses_writes") else {
        return;
    };
    let first = store.mount_with("first", "ro");
    assert_eq!(
        fs::write(first.join("new"), "").unwrap_err().raw_os_error(),
        Some(libc::EROFS)
    );
    assert_eq!(
        fs::remove_file(first.join("etc/hosts"))
            .unwrap_err()
            .raw_os_error(),
        Some(libc::EROFS)
    );
    first.assert_shows(&store.sample(0));
    finish(&store, [first]);
}

#[test]
fn the_same_file_installed_twice_is_kept_once() {
    let Some(store) = twins("the_same_file_installed_twice") else {
        return;
    };
    let (first, second) = (store.mount("first"), store.mount("second"));
    let content: Vec<u8> = (0..3_000_000u32).flat_map(|i| i.to_le_bytes()).collect();
    for image in [&first, &second] {
        fs::write(image.join("usr/bin/installed"), &content).unwrap();
    }
    let before = [first.snapshot(), second.snapshot()];
    let stored = || {
        store.ok(&["status", "--json"]).json()["stored_bytes"]
            .as_u64()
            .unwrap()
    };
    let held = File::open(first.join("usr/bin/installed")).unwrap();
    let mapped = Mapped::new(held.as_fd(), content.len(), false).unwrap();
    let unfolded = stored();
    store.ok(&["fold"]);
    let freed = unfolded - stored();
    assert!(freed > 11_000_000, "freed {freed} bytes");
    before[0].assert_same(&first.snapshot(), Fields::ALL, "a fold shows");
    before[1].assert_same(&second.snapshot(), Fields::ALL, "a fold shows");
    assert!(mapped.load() == content, "the mapping changed");
    let mut again = vec![0; content.len()];
    held.read_exact_at(&mut again, 0).unwrap();
    assert!(again == content, "the descriptor reads something else");
    fs::write(first.join("usr/bin/installed"), "mine").unwrap();
    assert!(fs::read(second.join("usr/bin/installed")).unwrap() == content);
    drop((held, mapped));
    finish(&store, [first, second]);
}

#[test]
fn work_goes_on_while_folding() {
    let Some(store) = twins("work_goes_on_while_folding") else {
        return;
    };
    let (first, second) = (store.mount("first"), store.mount("second"));
    thread::scope(|scope| {
        let workers: Vec<_> = [&first, &second]
            .into_iter()
            .enumerate()
            .flat_map(|(image, mounted)| {
                (0..2).map(move |worker| (image, worker, mounted.path.clone()))
            })
            .map(|(image, worker, root)| scope.spawn(move || churn(&root, image, worker)))
            .collect();
        while workers.iter().any(|worker| !worker.is_finished()) {
            store.ok(&["fold"]);
            store.ok(&["collect"]);
        }
        workers
            .into_iter()
            .for_each(|worker| worker.join().unwrap());
    });
    let shown = [first.snapshot(), second.snapshot()];
    store.ok(&["fold"]);
    shown[0].assert_same(&first.snapshot(), Fields::ALL, "a fold shows");
    shown[1].assert_same(&second.snapshot(), Fields::ALL, "a fold shows");
    finish(&store, [first, second]);
}

/// Makes, rewrites, renames and removes files that are alike in both images, and reads all back.
pub(super) fn churn(root: &Path, image: usize, worker: usize) {
    let own = root.join(format!("usr/lib/worker-{worker}"));
    fs::create_dir(&own).unwrap();
    for round in 0..120u32 {
        let content = vec![(round % 7) as u8 + 1; 6_000 + (round as usize % 5) * 3_000];
        let path = own.join(format!("file-{}", round % 10));
        fs::write(&path, &content).unwrap();
        assert!(
            fs::read(&path).unwrap() == content,
            "image {image}: {}",
            path.display()
        );
        let ino = fs::metadata(&path).unwrap().ino();
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .open(&path)
            .unwrap();
        file.write_all(b"tail").unwrap();
        let mut back = vec![0; content.len() + 4];
        file.read_exact_at(&mut back, 0).unwrap();
        assert!(
            back.starts_with(&content) && back.ends_with(b"tail"),
            "{}",
            path.display()
        );
        assert_eq!(fs::metadata(&path).unwrap().ino(), ino);
        match round % 4 {
            0 => fs::rename(&path, own.join(format!("moved-{}", round % 3))).unwrap(),
            1 => fs::hard_link(&path, own.join(format!("link-{round}"))).unwrap(),
            2 => fs::remove_file(&path).unwrap(),
            _ => {}
        }
    }
}

#[test]
fn a_full_disk_leaves_the_file_as_it_was() {
    let test = "a_full_disk_leaves_the_file_as_it_was";
    if !can_run(test, needs_fuse().or(Device::missing(Kind::Ext4))) {
        return;
    }
    let device = Device::new(Kind::Ext4, 96);
    let store = TestStore::at(&device.path);
    let tree = device.path.join("tree");
    fs::create_dir(&tree).unwrap();
    let content: Vec<u8> = (0..6_000_000u32).flat_map(|i| i.to_le_bytes()).collect();
    fs::write(tree.join("large"), &content).unwrap();
    store.import("first", &tree, "family");
    fs::remove_dir_all(&tree).unwrap();
    let first = store.mount("first");
    let shown = first.snapshot();
    // What is left is less than the file that is to be promoted.
    let filler = File::create(device.path.join("filler")).unwrap();
    let free = rustix::fs::fstatvfs(&filler).unwrap();
    let length = free.f_bavail * free.f_frsize - (12 << 20);
    rustix::fs::fallocate(&filler, rustix::fs::FallocateFlags::empty(), 0, length).unwrap();
    let opened = OpenOptions::new().write(true).open(first.join("large"));
    let error = opened
        .and_then(|file| file.write_all_at(b"x", 100))
        .unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
    drop_caches();
    shown.assert_same(&first.snapshot(), Fields::ALL, "a failed promotion shows");
    drop(filler);
    fs::remove_file(device.path.join("filler")).unwrap();
    let file = OpenOptions::new()
        .write(true)
        .open(first.join("large"))
        .unwrap();
    file.write_all_at(b"x", 100).unwrap();
    drop(file);
    finish(&store, [first]);
}

impl Mounted {
    /// As `assert_shows`, without the times that putting things back changed.
    fn assert_shows_but_times(&self, tree: &Path) {
        let fields = Fields::COPY.without(Fields::DIRECTORY_MTIME);
        Snapshot::of(tree).assert_same(&self.snapshot(), fields, "putting everything back");
    }
}
