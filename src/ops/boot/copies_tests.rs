//! Copies for QEMU, of trees that try to lead it astray.

use std::os::unix::fs::{MetadataExt, symlink};

use tempfile::TempDir;

use super::*;
use crate::ops::boot::find;

/// A tree with this kernel, and a place for copies.
fn tree(kernel: &[u8]) -> TempDir {
    let tree = TempDir::new().unwrap();
    fs::create_dir_all(tree.path().join("image/boot")).unwrap();
    fs::write(tree.path().join("image/boot/vmlinuz-1"), kernel).unwrap();
    fs::write(tree.path().join("image/boot/initrd.img-1"), "initramfs").unwrap();
    tree
}

fn kernel() -> Vec<u8> {
    let mut kernel = vec![0; 0x400];
    kernel[0x202..0x206].copy_from_slice(MAGIC);
    kernel
}

#[test]
fn names_in_the_image_are_not_given_on() {
    let tree = tree(&kernel());
    let (image, place) = (tree.path().join("image"), tree.path().join("place"));
    // In the image it is a file; QEMU would take the host's path of it for two.
    fs::create_dir_all(image.join("x,/etc")).unwrap();
    fs::write(image.join("x,/etc/shadow"), "the guest's").unwrap();
    fs::remove_file(image.join("boot/initrd.img-1")).unwrap();
    symlink("/x,/etc/shadow", image.join("boot/initrd.img-1")).unwrap();
    let copies = Copies::make(&find(&image).unwrap(), &place).unwrap();
    assert_eq!(copies.kernel, place.join("kernel"));
    assert_eq!(fs::read(&copies.kernel).unwrap(), kernel());
    let initramfs = copies.initramfs.unwrap();
    assert_eq!(initramfs, place.join("initramfs"));
    assert_eq!(fs::read(&initramfs).unwrap(), b"the guest's");
    assert_eq!(fs::metadata(&initramfs).unwrap().mode(), 0o100_400);
}

#[test]
fn what_was_found_is_what_is_copied() {
    let tree = tree(&kernel());
    let (image, place) = (tree.path().join("image"), tree.path().join("place"));
    let found = find(&image).unwrap();
    let outside = tree.path().join("shadow");
    fs::write(&outside, "the host's").unwrap();
    for name in ["boot/vmlinuz-1", "boot/initrd.img-1"] {
        fs::remove_file(image.join(name)).unwrap();
        symlink(&outside, image.join(name)).unwrap();
    }
    let copies = Copies::make(&found, &place).unwrap();
    assert_eq!(fs::read(copies.kernel).unwrap(), kernel());
    assert_eq!(fs::read(copies.initramfs.unwrap()).unwrap(), b"initramfs");
}

#[test]
fn a_kernel_for_multiboot_is_refused() {
    for magic in [0x1BAD_B002_u32, 0xE852_50D6] {
        let tree = tree(&[&magic.to_le_bytes()[..], &[0; 0x400]].concat());
        let place = tree.path().join("place");
        let found = find(&tree.path().join("image")).unwrap();
        let error = Copies::make(&found, &place).unwrap_err().to_string();
        assert!(error.contains("no Linux kernel"), "{error}");
        assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
    }
}

#[test]
fn what_is_too_large_does_not_fill_the_host() {
    let tree = tree(&kernel());
    let (image, place) = (tree.path().join("image"), tree.path().join("place"));
    let file = File::create(image.join("boot/initrd.img-1")).unwrap();
    file.set_len(SIZE_MAX + 1).unwrap();
    let error = Copies::make(&find(&image).unwrap(), &place).unwrap_err();
    assert!(error.to_string().contains("512 MiB"), "{error}");
    assert!(!place.join("initramfs").exists() && !place.join("initramfs.new").exists());
}

#[test]
fn earlier_copies_are_replaced_and_no_link_is_followed() {
    let tree = tree(&kernel());
    let (image, place) = (tree.path().join("image"), tree.path().join("place"));
    fs::create_dir(&place).unwrap();
    let other = tree.path().join("other");
    fs::write(&other, "kept").unwrap();
    symlink(&other, place.join("kernel")).unwrap();
    symlink(&other, place.join("kernel.new")).unwrap();
    fs::write(place.join("initramfs"), "of another kernel").unwrap();
    fs::remove_file(image.join("boot/initrd.img-1")).unwrap();
    let modules = image.join("lib/modules/1");
    fs::create_dir_all(&modules).unwrap();
    fs::write(
        modules.join("modules.builtin"),
        "kernel/fs/fuse/virtiofs.ko\n",
    )
    .unwrap();
    let copies = Copies::make(&find(&image).unwrap(), &place).unwrap();
    assert_eq!(copies.initramfs, None);
    assert!(!place.join("initramfs").exists());
    assert!(fs::symlink_metadata(&copies.kernel).unwrap().is_file());
    assert_eq!(fs::read(&other).unwrap(), b"kept");
    Copies::remove(&place).unwrap();
    assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
}
