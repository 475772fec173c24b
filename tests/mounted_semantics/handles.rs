//! File handles (name_to_handle_at(2)): what an NFS server or virtiofsd keeps instead of
//! descriptors.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

use foldfs::sys::handle::FileHandle;
use rustix::io::Errno;

use super::common::at;
use super::common::directory::drop_caches;
use super::places::{Files, PLACES, Places, Probe};

/// The handle of a file and what it must lead to.
struct Handled {
    place: &'static str,
    handle: FileHandle,
    number: u64,
    content: Vec<u8>,
}

fn handle(root: &OwnedFd, path: &str) -> FileHandle {
    let (directory, name) = at::parent(root.as_fd(), path.as_bytes()).unwrap();
    FileHandle::of(directory.as_fd(), name).unwrap()
}

fn handles(root: &Path, name: &str) -> Vec<Handled> {
    let opened = at::open_root(root);
    let of = |place: &'static str| {
        let path = root.join(place).join(name);
        let number = path.metadata().unwrap().ino();
        let content = match path.is_dir() {
            true => Vec::new(),
            false => fs::read(&path).unwrap(),
        };
        let path = format!("{place}/{name}");
        let handle = handle(&opened, path.trim_end_matches('/'));
        Handled {
            place,
            handle,
            number,
            content,
        }
    };
    PLACES.map(of).into_iter().collect()
}

/// Expects that each handle leads to its file.
#[track_caller]
fn assert_lead(root: &Path, handles: &[Handled], when: &str) {
    let root = at::open_root(root);
    for Handled {
        place,
        handle,
        number,
        content,
    } in handles
    {
        let opened = handle.open(root.as_fd(), libc::O_RDONLY);
        let opened = opened.unwrap_or_else(|error| panic!("{place} {when}: {error}"));
        let mut file = File::from(opened);
        let meta = file.metadata().unwrap();
        assert_eq!(meta.ino(), *number, "{place} {when}");
        if meta.is_file() {
            let mut found = Vec::new();
            file.read_to_end(&mut found).unwrap();
            assert!(&found == content, "{place} {when}");
        }
    }
}

#[track_caller]
fn assert_stale(root: &Path, handles: &[Handled], when: &str) {
    let root = at::open_root(root);
    for Handled { place, handle, .. } in handles {
        for flags in [libc::O_RDONLY, libc::O_PATH] {
            let opened = handle.open(root.as_fd(), flags).map(drop);
            assert_eq!(opened, Err(Errno::STALE), "{place} {when}");
        }
    }
}

#[test]
fn handles_lead_to_their_files_wherever_they_go() {
    let test = "handles_lead_to_their_files_wherever_they_go";
    let names = ["file", "promoted later", "moves", "deleted", "replaced"];
    let files = Files {
        names: names.map(String::from).to_vec(),
        furnish: &|place| fs::create_dir_all(place.join("directory/inner")).unwrap(),
        ..Files::default()
    };
    let Some(mut places) = Places::new(test, &files) else {
        return;
    };
    let root = places.first.path.clone();
    let mut kept: Vec<Handled> = Vec::new();
    for name in ["file", "moves", "directory", "directory/inner", ""] {
        kept.extend(handles(&root, name));
    }
    let mut promoted = handles(&root, "promoted later");
    let mut gone = handles(&root, "deleted");
    gone.extend(handles(&root, "replaced"));
    assert_lead(&root, &kept, "at once");
    assert_lead(&root, &promoted, "at once");
    assert_lead(&root, &gone, "at once");
    drop_caches();
    assert_lead(&root, &kept, "after drop_caches");
    assert_lead(&root, &promoted, "after drop_caches");

    for root in [&places.plain, &root] {
        for place in PLACES {
            let place = root.join(place);
            let file = OpenOptions::new()
                .write(true)
                .open(place.join("promoted later"));
            file.unwrap().write_all_at(b"promoted", 70).unwrap();
            fs::remove_file(place.join("deleted")).unwrap();
            fs::write(place.join("new"), "new").unwrap();
            fs::rename(place.join("new"), place.join("replaced")).unwrap();
            fs::create_dir(place.join("elsewhere")).unwrap();
            fs::rename(place.join("moves"), place.join("elsewhere/moved")).unwrap();
            fs::rename(place.join("directory"), place.join("elsewhere/directory")).unwrap();
        }
    }
    promoted
        .iter_mut()
        .for_each(|handled| handled.content[70..78].copy_from_slice(b"promoted"));
    // Shared files with two names have lost one only, `linked`'s others are still there.
    let is_linked = |handled: &Handled| handled.place == "linked";
    let (linked, gone): (Vec<_>, Vec<_>) = gone.into_iter().partition(is_linked);
    let live = |when: &str, root: &Path| {
        assert_lead(root, &kept, when);
        assert_lead(root, &promoted, when);
        assert_lead(root, &linked, when);
        assert_stale(root, &gone, when);
    };
    live("after changes", &root);
    drop_caches();
    live("after changes and drop_caches", &root);
    places.store.ok(&["fold"]);
    drop_caches();
    live("after a fold", &root);
    // Were numbers given out again, some of these would have a deleted one's.
    for round in 0..3_000 {
        fs::write(root.join("crowd"), round.to_string()).unwrap();
        fs::remove_file(root.join("crowd")).unwrap();
    }
    fs::write(places.plain.join("crowd"), "").unwrap();
    fs::remove_file(places.plain.join("crowd")).unwrap();
    live("after thousands of files", &root);
    places.first.unmount();
    places.first = places.store.mount_with("first", "dev,suid,allow_other");
    live("after a remount", &root);
    places.finish();
}

/// What has no name any more but is open can be reached by its handle, or not, as elsewhere.
#[test]
fn handles_of_open_files_without_a_name() {
    let test = "handles_of_open_files_without_a_name";
    let Some(places) = Places::new(test, &Files::default()) else {
        return;
    };
    let probe: Probe = |path| {
        let root = at::open_root(Path::new("."));
        let handle = handle(&root, path.to_str().unwrap());
        let held = OpenOptions::new().read(true).write(true).open(path)?;
        fs::remove_file(path)?;
        let again = File::from(handle.open(root.as_fd(), libc::O_RDWR)?);
        again.write_all_at(b"by its handle", 0)?;
        let mut seen = [0; 13];
        held.read_exact_at(&mut seen, 0)?;
        let links = again.metadata()?.nlink();
        drop((held, again));
        // A FUSE file is closed a moment after close(2).
        let start = Instant::now();
        let mut gone = Ok(());
        while links == 0 && gone.is_ok() && start.elapsed() < Duration::from_secs(20) {
            gone = handle.open(root.as_fd(), libc::O_RDONLY).map(drop);
        }
        Ok(format!("{} {links} {gone:?}", seen.escape_ascii()))
    };
    places.assert_same(&[("file", probe)]);
    places.finish();
}
