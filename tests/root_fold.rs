//! Needs root. Fold: nothing that any image shows changes, and equal content is kept once.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on should panic"
)]

mod family;

use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use family::live::{ROOT, WRITE, node, put, read};
use family::{Fixture, assert_same, write};
use foldfs::filesystem::data::SetId;
use foldfs::filesystem::open::OpenFlags;
use foldfs::filesystem::rename::Entry;
use foldfs::filesystem::set_attributes::{Changes, NewTime};
use foldfs::filesystem::xattrs::SetXattr;
use foldfs::ops::fold;
use foldfs::ops::report::FamilyFold;
use foldfs::progress::{Progress, Silent};
use foldfs::store::metadata::Time;

/// Two images of a family, and the family's base.
fn fixture() -> Fixture {
    let fixture = Fixture::new();
    let source = fixture.source("source");
    write(&source, "etc/passwd", "root:x:0:0");
    write(&source, "usr/bin/sh", "a shell");
    write(&source, "usr/lib/deep/er/library", "a library");
    std::fs::hard_link(source.join("usr/bin/sh"), source.join("usr/bin/bash")).unwrap();
    for name in ["one", "two"] {
        fixture.import_as(name, &source, Some("family"), Default::default());
    }
    fixture
}

fn run(fixture: &Fixture) -> FamilyFold {
    let options = fold::Options { family: None };
    let plan = fold::plan(&fixture.context, &options, &Silent).unwrap();
    let mut report = fold::apply(&fixture.context, &plan, &Silent).unwrap();
    assert_eq!(report.families.len(), 1);
    report.families.remove(0)
}

fn objects(fixture: &Fixture) -> usize {
    let mut count = 0;
    let objects = fixture.context.store.objects();
    objects
        .for_each(|found| {
            if let foldfs::store::objects::Found::Object(digest, stat) = found {
                assert_eq!(
                    (stat.st_mode & 0o7777, stat.st_nlink, stat.st_uid),
                    (0o400, 1, 0)
                );
                assert!(objects.verify(&digest).unwrap());
                count += 1;
            }
            Ok(())
        })
        .unwrap();
    count
}

/// Equal files in both images, one of them with everything that a file can have.
fn equal_files(fixture: &Fixture) {
    for name in ["one", "two"] {
        let fs = fixture.filesystem(name);
        put(&fs, "etc/new", b"installed in both");
        put(&fs, "usr/lib/deep/er/other", b"installed in both");
        put(&fs, "etc/passwd", b"root:y:0:0");
        put(&fs, "usr/bin/sh", b"a better shell");
        put(&fs, "etc/own", format!("only in {name}").as_bytes());
    }
    let fs = fixture.filesystem("one");
    let new = node(&fs, "etc/new");
    let changes = Changes {
        mode: Some(0o4711),
        uid: Some(12),
        gid: Some(34),
        mtime: Some(NewTime::At(Time {
            seconds: -5,
            nanoseconds: 999_999_999,
        })),
        atime: Some(NewTime::At(Time {
            seconds: 1,
            nanoseconds: 2,
        })),
        ..Changes::default()
    };
    fs.set_attributes(&new, &changes).unwrap();
    for (name, value) in [
        (&b"user.note"[..], &b"kept"[..]),
        (b"trusted.foldfs", b"the guest's own"),
        (b"trusted.large", &[7; 900]),
    ] {
        fs.set_xattr(&new, name, value, SetXattr::Any, &ROOT)
            .unwrap();
    }
}

#[test]
fn nothing_visible_changes_and_content_is_kept_once() {
    let fixture = fixture();
    equal_files(&fixture);
    let one = fixture.filesystem("one");
    let (file, shell) = (node(&one, "etc/new"), node(&one, "usr/bin/bash"));
    let handle = one.open(&file, OpenFlags::default()).unwrap();
    let before: Vec<_> = ["one", "two"].map(|name| fixture.snapshot(name)).into();
    let attributes = one.attributes(&file).unwrap();
    let objects_before = objects(&fixture);

    let report = run(&fixture);
    // In each image: new and other, passwd, sh.
    assert_eq!(
        (report.folded_files, report.busy_files),
        (8, 0),
        "{report:?}"
    );
    assert_eq!(report.examined, 10);
    assert_eq!(objects(&fixture), objects_before + 3);
    for (name, before) in ["one", "two"].iter().zip(&before) {
        assert_same(before, &fixture.snapshot(name), name);
    }
    let after = one.attributes(&file).unwrap();
    assert_eq!(after.atime, attributes.atime);
    assert_eq!(read(&one, handle), b"installed in both");
    assert_eq!(one.attributes(&shell).unwrap().links, 2);
    one.release(handle);

    // The next one has nothing to do, and a later process sees the same.
    let report = run(&fixture);
    assert_eq!(report.folded_files, 0, "{report:?}");
    drop((one, file, shell));
    let fixture = fixture.reopen();
    for (name, before) in ["one", "two"].iter().zip(&before) {
        assert_same(before, &fixture.snapshot(name), name);
    }
}

#[test]
fn a_file_that_is_written_to_afterwards_is_its_own_again() {
    let fixture = fixture();
    equal_files(&fixture);
    let (one, two) = (fixture.filesystem("one"), fixture.filesystem("two"));
    let file = node(&one, "etc/new");
    let number = file.number;
    let reading = one.open(&file, OpenFlags::default()).unwrap();
    run(&fixture);
    let before = fixture.snapshot("two");
    put(&one, "etc/new", b"ALTERED");
    assert_eq!(read(&one, reading), b"ALTEREDed in both");
    assert_eq!(node(&one, "etc/new").number, number);
    let theirs = node(&two, "etc/new");
    let handle = two.open(&theirs, OpenFlags::default()).unwrap();
    assert_eq!(read(&two, handle), b"installed in both");
    assert_same(&before, &fixture.snapshot("two"), "two");
    objects(&fixture);
}

#[test]
fn what_is_open_for_writing_stays() {
    let fixture = fixture();
    equal_files(&fixture);
    let one = fixture.filesystem("one");
    let file = node(&one, "etc/own");
    put(&one, "etc/own", b"only in two");
    let handle = one.open(&file, WRITE).unwrap();
    let report = run(&fixture);
    assert_eq!(
        (report.folded_files, report.busy_files),
        (8, 1),
        "{report:?}"
    );
    one.write(handle, 0, b"ONLY", SetId::Keep).unwrap();
    one.release(handle);
    let handle = one.open(&file, OpenFlags::default()).unwrap();
    assert_eq!(read(&one, handle), b"ONLY in two");
    one.release(handle);
    let report = run(&fixture);
    assert_eq!(
        (report.folded_files, report.busy_files),
        (0, 0),
        "{report:?}"
    );
    put(&one, "etc/own", b"only in two");
    let report = run(&fixture);
    assert_eq!(
        (report.folded_files, report.busy_files),
        (2, 0),
        "{report:?}"
    );
}

#[test]
fn what_changes_between_plan_and_apply_is_not_lost() {
    let fixture = fixture();
    equal_files(&fixture);
    let (one, two) = (fixture.filesystem("one"), fixture.filesystem("two"));
    let options = fold::Options { family: None };
    let plan = fold::plan(&fixture.context, &options, &Silent).unwrap();
    put(&one, "etc/new", b"something else");
    two.unlink(&node(&two, "etc"), b"passwd").unwrap();
    one.rename(
        Entry {
            parent: &node(&one, "usr/lib"),
            name: b"deep",
        },
        Entry {
            parent: &node(&one, "etc"),
            name: b"moved",
        },
        rustix::fs::RenameFlags::empty(),
        ROOT,
    )
    .unwrap();
    let writing = two.open(&node(&two, "usr/bin/sh"), WRITE).unwrap();
    let before: Vec<_> = ["one", "two"].map(|name| fixture.snapshot(name)).into();
    fold::apply(&fixture.context, &plan, &Silent).unwrap();
    for (name, before) in ["one", "two"].iter().zip(&before) {
        assert_same(before, &fixture.snapshot(name), name);
    }
    two.write(writing, 0, b"A", SetId::Keep).unwrap();
    two.release(writing);
    run(&fixture);
    drop((one, two));
    let before: Vec<_> = ["one", "two"].map(|name| fixture.snapshot(name)).into();
    let fixture = fixture.reopen();
    for (name, before) in ["one", "two"].iter().zip(&before) {
        assert_same(before, &fixture.snapshot(name), name);
    }
}

#[test]
fn a_writer_in_the_midst_calls_it_off() {
    let fixture = fixture();
    let large = vec![5; 64 << 20];
    for name in ["one", "two"] {
        put(&fixture.filesystem(name), "etc/large", &large);
    }
    let one = fixture.filesystem("one");
    let file = node(&one, "etc/large");
    std::thread::scope(|scope| {
        let folding = scope.spawn(|| {
            for _ in 0..3 {
                run(&fixture);
            }
        });
        for value in 0..200u8 {
            let handle = one.open(&file, WRITE).unwrap();
            one.write(handle, u64::from(value) << 18, &[value], SetId::Keep)
                .unwrap();
            let mut back = [0];
            one.read(handle, u64::from(value) << 18, &mut back).unwrap();
            assert_eq!(back, [value]);
            one.release(handle);
        }
        folding.join().unwrap();
    });
    run(&fixture);
    let handle = one.open(&file, OpenFlags::default()).unwrap();
    for value in 0..200u8 {
        let mut back = [0; 2];
        one.read(handle, u64::from(value) << 18, &mut back).unwrap();
        assert_eq!(back, [value, 5]);
    }
    let two = fixture.filesystem("two");
    let theirs = two
        .open(&node(&two, "etc/large"), OpenFlags::default())
        .unwrap();
    let mut back = vec![0; large.len() + 1];
    assert_eq!(two.read(theirs, 0, &mut back).unwrap(), large.len());
    assert!(back[..large.len()] == large);
    objects(&fixture);
}

/// Takes files away when a fold has listed them and is about to read them.
struct Replaces<'a>(&'a Fixture);

impl Progress for Replaces<'_> {
    fn total(&self, bytes: u64) {
        let guest = family::guest::Guest(self.0.filesystem("one"));
        if bytes > 1 && guest.unlink("etc/passwd").is_ok() {
            // A whiteout is in its place now, a link and a directory in others'.
            guest.unlink("etc/new").unwrap();
            guest.symlink("/dev/zero", "etc/new").unwrap();
            guest.unlink("etc/own").unwrap();
            guest.mkdir("etc/own").unwrap();
        }
    }
    fn advance(&self, _bytes: u64) {}
    fn message(&self, _text: &str) {}
}

#[test]
fn regression_what_a_guest_replaces_meanwhile_does_not_end_a_fold() {
    let fixture = fixture();
    equal_files(&fixture);
    let same = "of the same size";
    put(&fixture.filesystem("one"), "etc/own", same.as_bytes());
    put(&fixture.filesystem("two"), "etc/same", same.as_bytes());
    let options = fold::Options { family: None };
    let plan = fold::plan(&fixture.context, &options, &Replaces(&fixture)).unwrap();
    fold::apply(&fixture.context, &plan, &Silent).unwrap();
    let shown = fixture.snapshot("one");
    assert!(!shown.contains_key("etc/passwd"));
    assert_eq!(shown["etc/new"].file_type, "Symlink");
    assert_eq!(shown["etc/own"].file_type, "Directory");
    let two = fixture.snapshot("two");
    assert_eq!(two["etc/passwd"].content, b"root:y:0:0");
    objects(&fixture);
}

#[test]
fn somebody_else_who_has_it_open_for_writing_keeps_it_private() {
    let fixture = fixture();
    equal_files(&fixture);
    let image = fixture.image("one").id;
    let path = fixture.context.store.path();
    let path = path.join(format!("images/{image}/private/etc/new"));
    let writer = std::fs::File::options().write(true).open(&path).unwrap();
    let inode = writer.metadata().unwrap().ino();
    let report = run(&fixture);
    assert_eq!(
        (report.folded_files, report.busy_files),
        (7, 1),
        "{report:?}"
    );
    assert_eq!(std::fs::metadata(&path).unwrap().ino(), inode);
    // Not even a mapping that outlives its descriptor is overlooked.
    drop(writer);
    let report = run(&fixture);
    assert_eq!(
        (report.folded_files, report.busy_files),
        (1, 0),
        "{report:?}"
    );
}

#[test]
fn a_dry_run_says_what_a_fold_does() {
    let fixture = fixture();
    equal_files(&fixture);
    let before: Vec<_> = ["one", "two"].map(|name| fixture.private(name)).into();
    let options = fold::Options {
        family: Some("family".into()),
    };
    let plan = fold::plan(&fixture.context, &options, &Silent).unwrap();
    let dry = plan
        .report(&fixture.context, &Silent)
        .unwrap()
        .families
        .remove(0);
    let after: Vec<_> = ["one", "two"].map(|name| fixture.private(name)).into();
    assert_eq!(before, after);
    let real = fold::apply(&fixture.context, &plan, &Silent)
        .unwrap()
        .families
        .remove(0);
    assert_eq!(
        (dry.folded_files, dry.folded_bytes, dry.freed_bytes),
        (real.folded_files, real.folded_bytes, real.freed_bytes)
    );
}

#[test]
fn an_existing_object_is_compared_before_it_is_taken() {
    let fixture = fixture();
    equal_files(&fixture);
    run(&fixture);
    // A damaged object of the right name and size.
    let digest = foldfs::store::digest::Digest::of(b"installed in both");
    let objects = fixture.context.store.objects();
    let path = fixture.context.store.path().join("objects");
    let object = path.join(foldfs::store::layout::object_name(&digest));
    assert!(
        objects
            .same_content(objects.open(&digest).unwrap().as_fd(), &digest)
            .unwrap()
    );
    std::fs::write(&object, b"installed in boTH").unwrap();
    let one = fixture.filesystem("one");
    let file = put(&one, "etc/third", b"installed in both");
    let report = run(&fixture);
    assert_eq!(report.folded_files, 0, "{report:?}");
    let handle = one.open(&file, OpenFlags::default()).unwrap();
    assert_eq!(read(&one, handle), b"installed in both");
}

/// More threads than there are images: files that become objects are all images', and each image is uncovered
/// beside the others.
#[test]
fn many_threads_fold_many_images() {
    const IMAGES: [&str; 5] = ["a", "b", "c", "d", "e"];
    let mut fixture = fixture();
    fixture.context.threads = 8;
    let source = fixture.source("source");
    for (position, name) in IMAGES.into_iter().enumerate() {
        fixture.import_as(name, &source, Some("family"), Default::default());
        let fs = fixture.filesystem(name);
        for content in 0..120 {
            let path = format!("usr/lib/deep/er/file{content}");
            put(&fs, &path, format!("content {content}").as_bytes());
        }
        put(&fs, "etc/own", format!("only {position}").as_bytes());
    }
    let before = IMAGES.map(|name| fixture.snapshot(name));
    let known = objects(&fixture);
    let report = run(&fixture);
    let folded = (report.folded_files, report.busy_files, report.damaged_files);
    assert_eq!(folded, (5 * 120, 0, 0), "{report:?}");
    assert_eq!(objects(&fixture), known + 120);
    assert_eq!(run(&fixture).folded_files, 0);
    for (name, before) in IMAGES.iter().zip(&before) {
        assert_same(before, &fixture.snapshot(name), name);
    }
    fixture.assert_sound("after it");
}
