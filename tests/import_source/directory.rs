//! A directory of this host.

use std::fs::{self, File};
use std::io::{Seek, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicBool, Ordering};

use foldfs::archive::{Purpose, StagedImport, import_directory, stage_directory};
use foldfs::progress::Silent;
use foldfs::store::digest::Digest;
use foldfs::store::{Access, Store};

use crate::describe;
use crate::fixture::{Fixture, Mount, fill, fill_deep};

#[test]
fn everything_is_as_in_the_source() {
    let fixture = Fixture::new();
    fill(&fixture.source);
    let atime = fs::metadata(fixture.source.join("plain")).unwrap().atime();
    let import = fixture.import().unwrap();
    let after = fs::metadata(fixture.source.join("plain")).unwrap().atime();
    assert_eq!(after, atime);
    let source = describe::directory(&fixture.source);
    describe::assert_equal(&describe::import(&import), &source);
    assert!(import.warnings().is_empty(), "{:?}", import.warnings());

    let statistics = import.statistics();
    let again = {
        let mut new = 0;
        import
            .for_each_new(|_, size| {
                new += size;
                Ok(())
            })
            .unwrap();
        new
    };
    assert_eq!(statistics.new_bytes, again);
    assert_eq!(statistics.known_bytes, 0);
    let sparse = Digest::of(&fs::read(fixture.source.join("sparse")).unwrap());
    let staged = File::from(import.open_content(&sparse).unwrap());
    assert!(staged.metadata().unwrap().blocks() < 1000, "holes are kept");
    assert_eq!(staged.metadata().unwrap().mode() & 0o7777, 0o400);
}

#[test]
fn known_contents_are_not_stored_again() {
    let fixture = Fixture::new();
    fill(&fixture.source);
    let first = fixture.import().unwrap();
    fixture.adopt(&first);
    let second = fixture.import().unwrap();
    let statistics = second.statistics();
    assert_eq!((statistics.new_objects, statistics.new_bytes), (0, 0));
    assert_eq!(statistics.known_bytes, statistics.logical_bytes);
    describe::assert_equal(&describe::import(&first), &describe::import(&second));
    assert_eq!(
        fs::read_dir(
            fixture
                .store
                .path()
                .join("staging")
                .join(second.name())
                .join("objects")
        )
        .unwrap()
        .count(),
        0
    );
}

#[test]
fn another_process_opens_it_by_name_and_dropping_it_leaves_nothing() {
    let fixture = Fixture::new();
    fs::write(fixture.source.join("file"), b"x").unwrap();
    let import = fixture.import().unwrap();
    let name = import.name().to_owned();
    let other = StagedImport::open(&fixture.store, &name).unwrap();
    describe::assert_equal(&describe::import(&import), &describe::import(&other));
    assert_eq!(other.statistics(), import.statistics());
    drop(other);
    assert!(fixture.store.path().join("staging").join(&name).exists());
    drop(import);
    fixture.assert_no_trace();
    assert!(StagedImport::open(&fixture.store, &name).is_err());
}

#[test]
fn an_import_works_beside_a_process_that_holds_the_lock() {
    let fixture = Fixture::new();
    fs::write(fixture.source.join("file"), b"x").unwrap();
    let beside = Store::open(fixture.store.path(), Access::Read).unwrap();
    let import = import_directory(&beside, &fixture.source, &Silent).unwrap();
    let next = fixture.store.numbers().next().unwrap();
    import
        .for_each_inode(|inode| {
            assert!(inode.number.get() >= 16 && inode.number < next);
            Ok(())
        })
        .unwrap();
}

#[test]
fn trees_deeper_than_any_path() {
    let fixture = Fixture::new();
    fill_deep(&fixture.source, 1000, &"d".repeat(200));
    fill_deep(&fixture.source, 600, "e");
    let import = fixture.import().unwrap();
    assert_eq!(import.statistics().directories, 1601);
    assert_eq!(import.statistics().inodes, 1601 + 10 + 6);
    let mut directory = import.root();
    for _ in 0..1000 {
        let inner = import
            .lookup(directory, "d".repeat(200).as_bytes())
            .unwrap();
        directory = inner.unwrap().number;
    }
    let bottom = import.lookup(directory, b"file").unwrap().unwrap();
    assert_eq!(bottom.content.size(), 3);
}

#[test]
fn a_file_that_changes_whenever_it_is_read_is_named() {
    let fixture = Fixture::new();
    let path = fixture.source.join("busy.log");
    let mut file = File::create(&path).unwrap();
    file.write_all(&vec![1; 64 << 20]).unwrap();
    let stop = AtomicBool::new(false);
    let error = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut value = 0_u8;
            while !stop.load(Ordering::Relaxed) {
                value = value.wrapping_add(1);
                file.write_all_at(&[value], 1000).unwrap();
            }
        });
        let error = fixture.import().map(|_| ()).unwrap_err();
        stop.store(true, Ordering::Relaxed);
        error
    });
    assert!(error.to_string().contains("busy.log"), "{error}");
    assert!(error.to_string().contains("changes"), "{error}");
    fixture.assert_no_trace();
    file.rewind().unwrap();
    fixture.import().unwrap();
}

#[test]
fn a_source_that_overlaps_with_the_store_is_refused() {
    let fixture = Fixture::new();
    let refuse = |path: &std::path::Path, why: &str| {
        let error = import_directory(&fixture.store, path, &Silent)
            .map(|_| ())
            .unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    };
    let store = fixture.store.path();
    refuse(store, "inside the store");
    refuse(&store.join("images"), "inside the store");
    refuse(store.parent().unwrap(), "the store is inside");
    let link = fixture.path("link");
    std::os::unix::fs::symlink(store.join("images"), &link).unwrap();
    refuse(&link, "inside the store");
    let bound = fixture.source.join("bound");
    fs::create_dir(&bound).unwrap();
    let _mount = Mount::new(&["--bind", store.to_str().unwrap()], &bound);
    refuse(&fixture.source, "is the store itself");
    fixture.assert_no_trace();
}

#[test]
fn mount_points_of_other_file_systems_are_left_empty() {
    let fixture = Fixture::new();
    for name in ["proc", "tmp"] {
        fs::create_dir(fixture.source.join(name)).unwrap();
    }
    fs::write(fixture.source.join("resolv.conf"), b"below").unwrap();
    let other = fixture.source.join("tmp");
    let _tmpfs = Mount::new(&["-t", "tmpfs", "none"], &other);
    fs::write(other.join("hidden"), b"x").unwrap();
    let file = other.join("hidden").to_str().unwrap().to_owned();
    let _file = Mount::new(&["--bind", &file], &fixture.source.join("resolv.conf"));
    let import = fixture.import().unwrap();
    assert_eq!(import.statistics().inodes, 4);
    assert_eq!(import.statistics().logical_bytes, 0);
    let mut warnings = import.warnings().to_vec();
    warnings.sort();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].contains("resolv.conf") && warnings[1].contains("tmp"));
}

#[test]
fn missing_and_strange_sources() {
    let fixture = Fixture::new();
    for path in ["missing", "elsewhere"] {
        fs::write(fixture.path("elsewhere"), b"").unwrap();
        let error = import_directory(&fixture.store, &fixture.path(path), &Silent);
        let error = error.map(|_| ()).unwrap_err();
        assert!(error.to_string().contains(path), "{error}");
    }
    fixture.assert_no_trace();
    assert_eq!(fixture.import().unwrap().statistics().inodes, 1);
}

#[test]
fn identity_follows_symlinks_within_the_tree() {
    let fixture = Fixture::new();
    for name in ["etc", "usr/lib", "usr/bin", "bin"] {
        fs::create_dir_all(fixture.source.join(name)).unwrap();
    }
    let link = |target: &str, name: &str| {
        std::os::unix::fs::symlink(target, fixture.source.join(name)).unwrap();
    };
    fs::write(
        fixture.source.join("usr/lib/os-release"),
        "ID=tree\nVERSION_ID=\"7\"\n",
    )
    .unwrap();
    link("../usr/lib/os-release", "etc/os-release");
    let mut elf = [0; 64];
    elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
    elf[18] = 183;
    fs::write(fixture.source.join("usr/bin/dash"), elf).unwrap();
    link("/usr/bin/../../../usr/bin/dash", "bin/sh");
    let dry = stage_directory(&fixture.store, &fixture.source, Purpose::DryRun, &Silent);
    for import in [dry, fixture.import()] {
        let identity = import.unwrap().identity().unwrap();
        let found = [identity.os, identity.os_version, identity.architecture];
        assert_eq!(found, ["tree", "7", "arm64"]);
    }
}
