//! The smallest initramfs that can mount a root file system over virtiofs: busybox, seven modules, and a script.

use std::fs;
use std::path::{Path, PathBuf};

/// In the order in which they are loaded.
const MODULES: [&str; 7] = [
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci",
    "fs/fuse/fuse",
    "fs/fuse/virtiofs",
];

const INIT: &str = "#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
for module in /modules/*; do /bin/busybox insmod $module; done
/bin/busybox mount -t virtiofs rootfs /root || exec /bin/busybox poweroff -f
/bin/busybox mount --move /dev /root/dev
/bin/busybox mount --move /proc /root/proc
exec /bin/busybox switch_root /root /opt/guest/init
";

/// Makes it of what a Debian tree has.
pub fn make(tree: &Path, target: &Path) {
    let mut archive = Archive::default();
    for directory in ["bin", "dev", "modules", "proc", "root"] {
        archive.add(directory, 0o040_755, b"");
    }
    let busybox = fs::read(tree.join("bin/busybox")).unwrap();
    archive.add("bin/busybox", 0o100_755, &busybox);
    archive.add("init", 0o100_755, INIT.as_bytes());
    let modules = modules(tree);
    for (place, module) in MODULES.iter().enumerate() {
        let content = fs::read(modules.join(format!("kernel/{module}.ko"))).unwrap();
        archive.add(&format!("modules/{place}"), 0o100_644, &content);
    }
    archive.add("TRAILER!!!", 0, b"");
    fs::write(target, archive.bytes).unwrap();
}

/// The modules of the tree's only kernel.
fn modules(tree: &Path) -> PathBuf {
    let mut kernels = fs::read_dir(tree.join("lib/modules")).unwrap();
    let kernel = kernels.next().unwrap().unwrap().path();
    assert!(kernels.next().is_none(), "several kernels");
    kernel
}

/// cpio's "newc" format (Documentation/driver-api/early-userspace/buffer-format.rst).
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    count: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.count += 1;
        let size = u32::try_from(content.len()).unwrap();
        let length = u32::try_from(name.len()).unwrap() + 1;
        let fields = [self.count, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, length, 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        let length = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(length, 0);
    }
}
