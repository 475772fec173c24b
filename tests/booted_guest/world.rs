//! Two mounted images of a Debian with a kernel, the same tree in a plain directory, and what boots them.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use super::common::snapshot::{Fields, Snapshot};
use super::common::store::{Mounted, TestStore, tool};
use super::common::{guest, sample};
use super::initramfs;
use super::machine::{Guest, Parts};

pub struct World {
    pub store: TestStore,
    /// The tree that the images were made of.
    pub plain: PathBuf,
    pub parts: Parts,
    since: SystemTime,
}

impl World {
    /// A family "f" with images "one" and "two"; nothing where guests cannot be booted.
    pub fn open(test: &str) -> Option<World> {
        Self::open_with(test, |_| ())
    }

    /// The same, of a tree that something was added to.
    pub fn open_with(test: &str, add: impl FnOnce(&Path)) -> Option<World> {
        let source = guest::tree(test, &["virtiofsd", "qemu-system-x86_64"])?;
        let store = TestStore::new();
        let plain = store.place.join("plain");
        sample::copy(&source, &plain);
        furnish(&plain);
        add(&plain);
        for image in ["one", "two"] {
            store.import(image, &plain, "f");
        }
        let initramfs = store.place.join("initramfs");
        initramfs::make(&plain, &initramfs);
        let parts = Parts {
            virtiofsd: guest::find("virtiofsd").unwrap(),
            qemu: guest::find("qemu-system-x86_64").unwrap(),
            kernel: fs::canonicalize(plain.join("vmlinuz")).unwrap(),
            initramfs,
        };
        Some(World {
            since: SystemTime::now() - Duration::from_secs(1),
            store,
            plain,
            parts,
        })
    }

    /// Mounts an image as guests need it.
    #[track_caller]
    pub fn mount(&self, image: &str) -> Mounted {
        self.store.mount_with(image, "suid,dev,allow_other")
    }

    #[track_caller]
    pub fn boot(&self, name: &str, root: &Path, cache: &str) -> Guest {
        Guest::boot(&self.parts, &self.store.place, name, root, cache)
    }

    /// Boots a guest in the plain directory, and one in each of these images.
    #[track_caller]
    pub fn boot_beside_plain(&self, images: &[Mounted; 2]) -> Vec<Guest> {
        let [one, two] = images;
        let roots = [
            ("plain", &self.plain),
            ("one", &one.path),
            ("two", &two.path),
        ];
        at_once(roots.into(), |(name, root)| self.boot(name, root, "auto"))
    }

    /// Expects that images and the plain directory look alike, but for the content of these paths, and when
    /// it was changed. Returns what the images look like.
    #[track_caller]
    pub fn assert_alike(&self, images: &[Mounted], varying: &[&str]) -> Vec<Snapshot> {
        let look = |found: &Snapshot| {
            let mut found = found.clone().with_recent_alike(self.since);
            for path in varying {
                if let Some(entry) = found.entries.get_mut(path.as_bytes()) {
                    (entry.size, entry.digest) = (0, None);
                }
            }
            found
        };
        let expected = look(&Snapshot::of(&self.plain));
        let shown = images.iter().map(|image| {
            let shown = image.snapshot();
            let what = format!("the plain directory and {}", image.path.display());
            expected.assert_same(&look(&shown), Fields::COPY, &what);
            shown
        });
        shown.collect()
    }

    /// Ends what serves the store, which must be sound.
    #[track_caller]
    pub fn close(self, images: Vec<Mounted>) {
        for image in images {
            image.unmount();
        }
        self.store.wait_for_daemons();
        self.store.assert_sound();
    }
}

/// Calls something for each of several, all at the same time, and returns what came out.
pub fn at_once<T: Send, R: Send>(all: Vec<T>, call: impl Fn(T) -> R + Sync) -> Vec<R> {
    thread::scope(|scope| {
        let call = &call;
        let threads: Vec<_> = all
            .into_iter()
            .map(|one| scope.spawn(move || call(one)))
            .collect();
        let results: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
        let failed = |panic| std::panic::resume_unwind(panic);
        results
            .into_iter()
            .map(|result| result.unwrap_or_else(failed))
            .collect()
    })
}

/// Adds what guests of these tests work with.
fn furnish(tree: &Path) {
    let guest = tree.join("opt/guest");
    fs::create_dir(&guest).unwrap();
    for (name, text) in [
        ("init", include_str!("init.sh")),
        ("operations.py", include_str!("operations.py")),
        ("holder.py", include_str!("holder.py")),
    ] {
        fs::write(guest.join(name), text).unwrap();
        fs::set_permissions(guest.join(name), Permissions::from_mode(0o755)).unwrap();
    }
    let package = guest.join("sample");
    fs::create_dir_all(package.join("DEBIAN")).unwrap();
    fs::create_dir_all(package.join("usr/bin")).unwrap();
    fs::create_dir_all(package.join("etc")).unwrap();
    let control = "Package: sample\nVersion: 1\nArchitecture: all\nMaintainer: nobody <nobody@localhost>\n\
                   Description: something to install\n";
    for (path, text, mode) in [
        ("DEBIAN/control", control, 0o644),
        ("DEBIAN/conffiles", "/etc/sample.conf\n", 0o644),
        ("DEBIAN/postinst", "#!/bin/sh\necho configured\n", 0o755),
        ("etc/sample.conf", "setting\n", 0o644),
        ("usr/bin/sample", "#!/bin/sh\ncat /etc/sample.conf\n", 0o755),
    ] {
        fs::write(package.join(path), text).unwrap();
        fs::set_permissions(package.join(path), Permissions::from_mode(mode)).unwrap();
    }
    let target = guest.join("sample.deb");
    let arguments = ["--root-owner-group", "-b"].map(AsRef::as_ref);
    let rest = [package.as_os_str(), target.as_os_str()];
    tool("dpkg-deb", &[&arguments[..], &rest].concat());
    fs::remove_dir_all(package).unwrap();
}
