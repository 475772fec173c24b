//! Full file systems, and those that share blocks.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::process::Command;

use foldfs::store::digest::Digest;

use crate::describe;
use crate::fixture::{Fixture, Mount, fill, skip};

#[test]
fn a_full_disk_is_a_clear_error_and_leaves_nothing() {
    let mounted = tempfile::tempdir().unwrap();
    let _mount = Mount::new(&["-t", "tmpfs", "-o", "size=8m", "none"], mounted.path());
    let other = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::below(mounted.path());
    for n in 0..40 {
        let content = format!("{n}").repeat(100_000);
        fs::write(other.path().join(n.to_string()), content).unwrap();
    }
    fs::write(other.path().join("large"), vec![1; 20 << 20]).unwrap();
    fixture.source = other.path().to_owned();
    let error = fixture.import().map(|_| ()).unwrap_err();
    assert_eq!(error.errno, Some(libc::ENOSPC), "{error}");
    assert!(error.to_string().contains("free space"), "{error}");
    fixture.assert_no_trace();
}

/// An image file with an xfs that has reflinks, mounted; `None` where that cannot be had.
fn xfs(directory: &std::path::Path) -> Option<Mount> {
    let image = directory.join("image");
    File::create(&image).unwrap().set_len(400 << 20).unwrap();
    let made = Command::new("mkfs.xfs")
        .args(["-q", "-m", "reflink=1"])
        .arg(&image)
        .status();
    if !made.is_ok_and(|status| status.success()) {
        skip("mkfs.xfs is missing");
        return None;
    }
    let point = directory.join("mounted");
    fs::create_dir(&point).unwrap();
    let tried = Command::new("mount")
        .args(["-o", "loop"])
        .args([&image, &point])
        .status();
    if !tried.unwrap().success() {
        skip("no xfs can be mounted");
        return None;
    }
    Some(Mount::taken(&point))
}

#[test]
fn large_files_share_their_blocks_where_the_host_can() {
    let directory = tempfile::tempdir().unwrap();
    let Some(_mount) = xfs(directory.path()) else {
        return;
    };
    let fixture = Fixture::below(&directory.path().join("mounted"));
    fill(&fixture.source);
    let content = vec![5; 100 << 20];
    fs::write(fixture.source.join("huge"), &content).unwrap();
    File::open(&fixture.source).unwrap().sync_all().unwrap();
    let free = || {
        rustix::fs::syncfs(fixture.store.root()).unwrap();
        rustix::fs::fstatvfs(fixture.store.root()).unwrap().f_bfree * 4096
    };
    let before = free();
    let import = fixture.import().unwrap();
    assert!(
        before - free() < 20 << 20,
        "{} bytes were written",
        before - free()
    );
    let source = describe::directory(&fixture.source);
    describe::assert_equal(&describe::import(&import), &source);
    let digest = Digest::of(&content);
    let staged = import.open_content(&digest).unwrap();
    assert_eq!(
        rustix::fs::fstat(staged.as_fd()).unwrap().st_size,
        100 << 20
    );
}
