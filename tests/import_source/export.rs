//! Exports: a plain directory, and archives that make the same tree again.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use foldfs::archive::{export_directory, export_tar};
use foldfs::progress::Silent;

use crate::archive::import as import_archive;
use crate::describe;
use crate::fixture::{Fixture, Mount, fill, fill_deep};

#[test]
fn a_directory_is_an_exact_copy() {
    let fixture = Fixture::new();
    fill(&fixture.source);
    let import = fixture.import().unwrap();
    let destination = fixture.path("out");
    export_directory(&import, &fixture.store, &destination, &Silent).unwrap();
    let source = describe::directory(&fixture.source);
    describe::assert_equal(&describe::directory(&destination), &source);
    let blocks = fs::metadata(destination.join("sparse")).unwrap().blocks();
    assert!(blocks < 1000, "holes are kept: {blocks}");

    let empty = fixture.path("empty");
    fs::create_dir(&empty).unwrap();
    export_directory(&import, &fixture.store, &empty, &Silent).unwrap();
    describe::assert_equal(&describe::directory(&empty), &source);
    assert_eq!(temporaries(&fixture), 0);
}

fn temporaries(fixture: &Fixture) -> usize {
    let names = fs::read_dir(fixture.path("")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name());
    names
        .filter(|name| name.to_string_lossy().contains("foldfs-"))
        .count()
}

#[test]
fn an_archive_makes_the_same_tree_again() {
    let fixture = Fixture::new();
    fill(&fixture.source);
    let many = fs::File::create(fixture.source.join("holes")).unwrap();
    for n in 0..100_u64 {
        rustix::io::pwrite(&many, b"x", n * 70_000).unwrap();
    }
    many.set_len(200 * 70_000).unwrap();
    let import = fixture.import().unwrap();
    let archive = fixture.path("out.tar");
    export_tar(&import, &fixture.store, &archive, &Silent).unwrap();
    assert!(
        fs::metadata(&archive).unwrap().len() < 20 << 20,
        "holes are left out"
    );
    let again = import_archive(&fixture, &archive).unwrap();
    describe::assert_equal(&describe::import(&again), &describe::import(&import));
    assert_eq!(temporaries(&fixture), 0);
    let error = export_tar(&import, &fixture.store, &archive, &Silent).unwrap_err();
    assert!(error.to_string().contains("exists already"), "{error}");
}

#[test]
fn gnu_tar_reads_the_archive() {
    let fixture = Fixture::new();
    fill(&fixture.source);
    fs::remove_file(fixture.source.join("socket")).unwrap();
    let import = fixture.import().unwrap();
    let archive = fixture.path("out.tar");
    export_tar(&import, &fixture.store, &archive, &Silent).unwrap();
    let out = fixture.path("out");
    fs::create_dir(&out).unwrap();
    let done = Command::new("tar")
        .args([
            "--numeric-owner",
            "--xattrs",
            "--xattrs-include=*",
            "--acls",
            "-xpf",
        ])
        .arg(&archive)
        .arg("-C")
        .arg(&out)
        .output()
        .unwrap();
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    let mut source = describe::import(&import);
    let mut found = describe::directory(&out);
    // GNU tar sets no xattrs of symlinks.
    for description in [&mut source, &mut found] {
        for name in ["link", "links/link"] {
            let line = description.get_mut(name).unwrap();
            *line = line.split(" [").next().unwrap().to_owned();
        }
    }
    describe::assert_equal(&found, &source);
}

#[test]
fn trees_deeper_than_any_path() {
    let fixture = Fixture::new();
    fill_deep(&fixture.source, 400, &"d".repeat(100));
    let import = fixture.import().unwrap();
    let out = fixture.path("out");
    fs::create_dir(&out).unwrap();
    let inner = out.join("tree");
    export_directory(&import, &fixture.store, &inner, &Silent).unwrap();
    let again = foldfs::archive::import_directory(&fixture.store, &inner, &Silent).unwrap();
    assert_eq!(again.statistics(), import.statistics());
    let archive = fixture.path("deep.tar");
    export_tar(&import, &fixture.store, &archive, &Silent).unwrap();
    let again = import_archive(&fixture, &archive).unwrap();
    assert_eq!(again.statistics(), import.statistics());
    let parent = fs::File::open(&out).unwrap();
    foldfs::store::tree::remove(std::os::fd::AsFd::as_fd(&parent), b"tree", "tree").unwrap();
}

#[test]
fn what_is_in_the_way_is_refused() {
    let fixture = Fixture::new();
    fs::write(fixture.source.join("file"), b"x").unwrap();
    let import = fixture.import().unwrap();
    let refused = |path: &Path, why: &str| {
        let error = export_directory(&import, &fixture.store, path, &Silent).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    };
    refused(&fixture.source, "not empty");
    refused(&fixture.source.join("file"), "no directory");
    refused(&fixture.path("missing/out"), "missing");
    refused(&fixture.store.path().join("out"), "inside the store");
    refused(
        &fixture.store.path().join("objects/out"),
        "inside the store",
    );
    refused(Path::new("/"), "cannot be made");
    let point = fixture.path("point");
    fs::create_dir(&point).unwrap();
    let _mount = Mount::new(&["-t", "tmpfs", "none"], &point);
    refused(&point, "mount point");
    assert_eq!(temporaries(&fixture), 0);
}

#[test]
fn a_full_disk_leaves_nothing() {
    let fixture = Fixture::new();
    fs::create_dir(fixture.source.join("inner")).unwrap();
    fs::write(fixture.source.join("a"), b"x").unwrap();
    fs::write(fixture.source.join("inner/large"), vec![1; 4 << 20]).unwrap();
    let import = fixture.import().unwrap();
    let point = fixture.path("point");
    fs::create_dir(&point).unwrap();
    let _mount = Mount::new(&["-t", "tmpfs", "-o", "size=1m", "none"], &point);
    let error = export_directory(&import, &fixture.store, &point.join("out"), &Silent).unwrap_err();
    assert_eq!(error.errno, Some(libc::ENOSPC), "{error}");
    assert!(error.to_string().contains("large"), "{error}");
    let error = export_tar(&import, &fixture.store, &point.join("tar"), &Silent).unwrap_err();
    assert_eq!(error.errno, Some(libc::ENOSPC), "{error}");
    assert_eq!(fs::read_dir(&point).unwrap().count(), 0);
}

#[test]
fn standard_output() {
    let fixture = Fixture::new();
    fs::write(fixture.source.join("file"), b"x").unwrap();
    let this = std::env::current_exe().unwrap();
    let done = Command::new(this)
        .args([
            "--exact",
            "export::child_writes_standard_output",
            "--ignored",
            "--nocapture",
        ])
        .env("FOLDFS_TEST_STORE", fixture.path("child"))
        .env("FOLDFS_TEST_SOURCE", &fixture.source)
        .stdout(Stdio::piped())
        .output()
        .unwrap();
    assert!(done.status.success());
    // The test harness writes to it, too.
    assert!(done.stdout.len() > 10240);
}

#[test]
#[ignore = "run by standard_output"]
fn child_writes_standard_output() {
    let path = |name: &str| std::path::PathBuf::from(std::env::var_os(name).unwrap());
    let store = foldfs::store::Store::init(&path("FOLDFS_TEST_STORE")).unwrap();
    let source = path("FOLDFS_TEST_SOURCE");
    let import = foldfs::archive::import_directory(&store, &source, &Silent).unwrap();
    export_tar(&import, &store, Path::new("-"), &Silent).unwrap();
}
