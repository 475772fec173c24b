//! Kernels in trees of several distributions, and in trees that lead astray.

use std::fs;
use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;

struct Tree(TempDir);

impl Tree {
    fn new(files: &[&str]) -> Self {
        let tree = Self(TempDir::new().unwrap());
        for file in files {
            tree.write(file, "");
        }
        tree
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn find(&self) -> Result<Kernel> {
        find(self.0.path())
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().canonicalize().unwrap().join(path)
    }
}

#[test]
fn the_newest_kernel_boots_unless_a_link_says_otherwise() {
    let tree = Tree::new(&[
        "boot/vmlinuz-6.1.0-9-amd64",
        "boot/vmlinuz-6.1.0-50-amd64",
        "boot/vmlinuz-5.10.0-100-amd64",
        "boot/vmlinuz-0-rescue-1",
        "boot/initrd.img-6.1.0-9-amd64",
        "boot/initrd.img-6.1.0-50-amd64",
    ]);
    let kernel = tree.find().unwrap();
    assert_eq!(kernel.version, "6.1.0-50-amd64");
    assert_eq!(kernel.file.path, tree.path("boot/vmlinuz-6.1.0-50-amd64"));
    let initramfs = tree.path("boot/initrd.img-6.1.0-50-amd64");
    assert_eq!(kernel.initramfs.unwrap().path, initramfs);
    symlink("/boot/vmlinuz-6.1.0-9-amd64", tree.path("vmlinuz")).unwrap();
    assert_eq!(tree.find().unwrap().version, "6.1.0-9-amd64");
}

#[test]
fn other_names_of_initramfs_are_known() {
    for (kernel, initramfs) in [
        ("boot/vmlinuz-6.9-fc40", "boot/initramfs-6.9-fc40.img"),
        ("boot/vmlinuz-linux", "boot/initramfs-linux.img"),
        ("boot/vmlinuz-6.4-default", "boot/initrd-6.4-default"),
    ] {
        let tree = Tree::new(&[kernel, initramfs]);
        let found = tree.find().unwrap();
        assert_eq!(found.file.path, tree.path(kernel));
        assert_eq!(found.initramfs.unwrap().path, tree.path(initramfs));
    }
}

#[test]
fn nothing_leads_out_of_the_image() {
    let outside = Tree::new(&["vmlinuz-9"]);
    let tree = Tree::new(&["boot/vmlinuz-1", "boot/initrd.img-1"]);
    symlink(outside.path("vmlinuz-9"), tree.path("vmlinuz")).unwrap();
    symlink("../../../../../../bin/sh", tree.path("boot/vmlinuz")).unwrap();
    symlink("loop", tree.path("loop")).unwrap();
    assert_eq!(tree.find().unwrap().file.path, tree.path("boot/vmlinuz-1"));
}

#[test]
fn what_is_missing_is_told() {
    let says = |tree: &Tree, word: &str| {
        let error = tree.find().unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    };
    let tree = Tree::new(&["etc/hosts"]);
    says(&tree, "linux-image-cloud-amd64");
    tree.write("boot/vmlinuz-1", "");
    says(&tree, "update-initramfs -c");
    tree.write("boot/initrd.img-1", "");
    assert_eq!(tree.find().unwrap().doubt, None);
    tree.write("lib/modules/1/modules.dep", "kernel/fs/fuse/fuse.ko:\n");
    says(&tree, "it has no virtiofs");
    let module = "kernel/fs/fuse/virtiofs.ko.xz: kernel/fs/fuse/fuse.ko.xz\n";
    tree.write("lib/modules/1/modules.dep", module);
    tree.write("etc/initramfs-tools/modules", "# virtiofs\n");
    let doubt = tree.find().unwrap().doubt.unwrap();
    assert!(doubt.contains("update-initramfs -u"), "{doubt}");
    tree.write("etc/initramfs-tools/modules", "virtiofs\n");
    assert_eq!(tree.find().unwrap().doubt, None);
    // What is built in needs no initramfs.
    fs::remove_file(tree.path("boot/initrd.img-1")).unwrap();
    tree.write(
        "lib/modules/1/modules.builtin",
        "kernel/fs/fuse/virtiofs.ko\n",
    );
    assert!(tree.find().unwrap().initramfs.is_none());
}
