//! What a guest of one image must never alter: another image, the objects, the host's own files.

use std::fs;
use std::path::PathBuf;

use crate::common::device::{Device, Kind};
use crate::common::sample;
use crate::common::snapshot::{Fields, Snapshot};
use crate::common::store::TestStore;

/// A store with the images `first`, which the guest has, and `second`, on a file system of its own:
/// the guest may fill it.
pub struct Bystanders {
    /// The store.
    pub store: TestStore,
    second: Snapshot,
    around: Vec<(PathBuf, Snapshot)>,
    _device: Device,
}

impl Bystanders {
    /// Makes all of it on an ext4 of this many mebibytes.
    pub fn new(mebibytes: u64) -> Bystanders {
        Bystanders::with(mebibytes, 20_000)
    }

    /// Likewise, with this many inodes.
    pub fn with(mebibytes: u64, inodes: u64) -> Bystanders {
        let inodes = inodes.to_string();
        let device = Device::with(Kind::Ext4, mebibytes, &["-b", "4096", "-N", &inodes]);
        let store = TestStore::at(&device.path);
        // Later there may be no room for it.
        fs::create_dir(store.place.join("mnt-first")).unwrap();
        let tree = store.sample(0);
        store.import("first", &tree, "family");
        store.import("second", &store.sample(1), "family");
        // Something private is there to be found, and stubs.
        let second = store.mount("second");
        fs::write(second.join("etc/hosts"), "second's alone").unwrap();
        fs::rename(second.join("usr"), second.join("var/usr")).unwrap();
        fs::hard_link(second.join("etc/hosts"), second.join("etc/alone")).unwrap();
        let shown = second.snapshot();
        second.unmount();
        store.wait_for_daemons();
        sample::copy(&tree, &store.place.join("host"));

        let images = fs::read_dir(store.path.join("images")).unwrap();
        let mut images: Vec<_> = images.map(|image| image.unwrap().path()).collect();
        images.sort();
        let number = |path: &PathBuf| -> u32 {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.parse().unwrap()
        };
        images.sort_by_key(number);
        // The family's base, then the first image, which is the guest's.
        images.remove(1);
        let around = images.into_iter().chain([
            store.path.join("objects"),
            store.path.join("changes"),
            store.path.join("foldfs.toml"),
            store.place.join("host"),
            store.place.join("sample0"),
        ]);
        let around = around.filter(|path| path.is_dir());
        let around = around.map(|path| (path.clone(), Snapshot::of(&path)));
        Bystanders {
            second: shown,
            around: around.collect(),
            store,
            _device: device,
        }
    }

    /// Expects that nothing of it has changed. Nothing may be mounted.
    pub fn assert_unchanged(&self) {
        for (path, before) in &self.around {
            let now = Snapshot::of(path);
            before.assert_same(&now, Fields::ALL, &path.display().to_string());
        }
        self.store.assert_sound();
        let second = self.store.mount("second");
        self.second
            .assert_same(&second.snapshot(), Fields::ALL, "the neighbour");
        second.unmount();
        self.store.wait_for_daemons();
    }

    /// Expects that the guest's image leaves no debris once it was closed and opened again, and that
    /// all of it can be looked at and removed.
    pub fn assert_clean(&self) {
        let first = self.store.mount("first");
        for part in ["work", "orphans"] {
            for image in fs::read_dir(self.store.path.join("images")).unwrap() {
                let path = image.unwrap().path().join(part);
                let left = fs::read_dir(&path).unwrap().count();
                assert_eq!(left, 0, "{}", path.display());
            }
        }
        let root = crate::common::at::open_root(&first.path);
        let depth = crate::common::snapshot::Depth::Attributes;
        Snapshot::take(std::os::fd::AsFd::as_fd(&root), depth);
        drop(root);
        first.unmount();
        self.store.wait_for_daemons();
        self.store.assert_sound();
    }
}
