//! Needs root: marks are trusted xattrs.

use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::RenameFlags;

use super::check;
use super::collect;
use super::context::Context;
use super::perform;
use super::report::{Finding, Report};
use super::request::{Call, Request};
use crate::progress::{Progress, Silent};
use crate::store::catalog::{ImageRole, NewFamily, NewImage, Reads, Share};
use crate::store::digest::Digest;
use crate::store::draft::write_mark;
use crate::store::layout;
use crate::store::mark::{Mark, Role};
use crate::store::metadata::{Content, Metadata, SharedInode, Time};
use crate::store::number::{ImageId, Number};
use crate::store::open::{Access, Store};
use crate::store::pins::Pins;
use crate::sys::{copy, durable};

struct Fixture {
    temporary: tempfile::TempDir,
    context: Context,
}

impl Fixture {
    fn new() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let store = Store::init(&temporary.path().join("store")).unwrap();
        let context = Context::new(Arc::new(store), 0);
        Self { temporary, context }
    }

    fn object(&self, content: &str) -> Digest {
        let digest = Digest::of(content.as_bytes());
        let store = &self.context.store;
        let staged = store.stage("test").unwrap();
        let file = durable::create(staged.directory(), b"new", 0o400).unwrap();
        copy::write_all_at(&file, content.as_bytes(), 0).unwrap();
        let published = store.objects().publish(staged.directory(), b"new", &digest);
        published.unwrap();
        digest
    }

    /// A family of one base, whose shared layer holds a file with this content.
    fn family(&self, shared: Digest) -> ImageId {
        let store = &self.context.store;
        let staged = store.create_image_dirs().unwrap();
        let base = store.catalog().reserve_image_id().unwrap();
        store.publish_image(staged, base).unwrap();
        let metadata = Metadata {
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: Time::default(),
            xattrs: Default::default(),
        };
        let inode = |content| SharedInode {
            number: store.numbers().next().unwrap(),
            content,
            metadata: metadata.clone(),
            ctime: Time::default(),
            links: 2,
        };
        let root = inode(Content::Directory);
        let file = inode(Content::Regular {
            size: 1,
            digest: Some(shared),
        });
        let transaction = store.catalog().transaction().unwrap();
        let family = NewFamily {
            name: "debian",
            root: root.number,
            base,
            os: "",
            os_version: "",
            architecture: "",
            share: Share::Majority,
            created: 0,
            source: "",
        };
        let family = transaction.create_family(&family).unwrap();
        transaction.insert_inode(family, &root).unwrap();
        transaction.insert_inode(family, &file).unwrap();
        let insert = transaction.insert_entry(root.number, b"file", file.number);
        insert.unwrap();
        let guest = store.create_image_dirs().unwrap();
        let id = ImageId(base.0 + 1);
        transaction
            .create_image(&NewImage {
                id,
                family,
                name: "web",
                role: ImageRole::Guest,
                created: 0,
                source: "",
            })
            .unwrap();
        transaction.commit().unwrap();
        store.publish_image(guest, id).unwrap();
        id
    }

    /// An entry of an image's private layer; `path` is below `images/ID`.
    fn stub(&self, image: ImageId, path: &str, digest: Digest) {
        let directories = self.context.store.image_dirs(image).unwrap();
        let (directory, name) = path.rsplit_once('/').unwrap();
        let host = self.temporary.path().join("store/images");
        std::fs::create_dir_all(host.join(image.to_string()).join(directory)).unwrap();
        let work = directories.work.as_fd();
        durable::create(work, b"new", 0o600).unwrap();
        let mark = Mark::new(Number::FIRST, Role::Stub { digest });
        write_mark(work, b"new", &mark).unwrap();
        let root = directories.root.as_fd();
        let flags = RenameFlags::empty();
        durable::rename(
            work,
            b"new",
            root,
            format!("{directory}/{name}").as_bytes(),
            flags,
        )
        .unwrap();
    }

    fn collect(&self, dry_run: bool) -> Vec<String> {
        let call = Call {
            request: Request::Collect { keep_changes: 10 },
            dry_run,
        };
        match perform(&self.context, &call, &Silent).unwrap() {
            Report::Collect(report) => report.removed.into_iter().map(|o| o.digest).collect(),
            other => panic!("{other:?}"),
        }
    }

    fn has(&self, digest: &Digest) -> bool {
        self.context.store.objects().exists(digest).unwrap()
    }
}

#[test]
fn only_what_nothing_refers_to_goes() {
    let fixture = Fixture::new();
    let shared = fixture.object("shared");
    let image = fixture.family(shared);
    let kept: Vec<Digest> = [
        "private/a",
        "private/deep/er/b",
        "index/77",
        "orphans/78",
        "work/w3",
    ]
    .iter()
    .map(|path| {
        let digest = fixture.object(path);
        fixture.stub(image, path, digest);
        digest
    })
    .collect();
    let becoming = fixture.object("becoming");
    let directories = fixture.context.store.image_dirs(image).unwrap();
    let name = layout::work_name(&becoming);
    durable::create(&directories.work, name.as_bytes(), 0o600).unwrap();
    let import = fixture.context.store.stage("import").unwrap();
    let pins = Pins::create(import.directory()).unwrap();
    let pinned = fixture.object("pinned");
    pins.add(&pinned).unwrap();
    let garbage = fixture.object("garbage");

    let expected = vec![garbage.to_string()];
    assert_eq!(fixture.collect(true), expected);
    assert!(fixture.has(&garbage), "a dry run removes nothing");
    assert_eq!(fixture.collect(false), expected);
    assert!(!fixture.has(&garbage));
    for digest in kept.iter().chain([&shared, &becoming, &pinned]) {
        assert!(fixture.has(digest), "{digest}");
    }
    drop(import);
    assert_eq!(fixture.collect(false), [pinned.to_string()]);
    assert_eq!(fixture.collect(false), [""; 0]);
}

#[test]
fn an_import_that_pins_meanwhile_keeps_its_object() {
    let fixture = Fixture::new();
    let (first, second) = (fixture.object("first"), fixture.object("second"));
    let plan = collect::plan(&fixture.context, 10, &Silent).unwrap();
    assert_eq!(plan.report().removed.len(), 2);
    let import = fixture.context.store.stage("import").unwrap();
    Pins::create(import.directory())
        .unwrap()
        .add(&first)
        .unwrap();
    // Published after the list was made: not even looked at.
    let third = fixture.object("third");
    let report = collect::apply(&fixture.context, &plan).unwrap();
    assert_eq!(report.removed.len(), 1);
    assert_eq!(report.removed[0].digest, second.to_string());
    assert!(fixture.has(&first) && !fixture.has(&second) && fixture.has(&third));
}

/// Collects when a check has seen which objects there are.
struct Meanwhile<'a>(&'a Fixture);

impl Progress for Meanwhile<'_> {
    fn total(&self, _bytes: u64) {
        assert_eq!(self.0.collect(false).len(), 1);
    }
    fn advance(&self, _bytes: u64) {}
    fn message(&self, _text: &str) {}
}

#[test]
fn a_check_does_not_miss_what_is_collected_meanwhile() {
    let fixture = Fixture::new();
    fixture.family(fixture.object("shared"));
    let garbage = fixture.object("garbage");
    let options = check::Options { content: true };
    let report = check::run(&fixture.context, options, &Meanwhile(&fixture)).unwrap();
    assert!(!fixture.has(&garbage));
    let object = layout::object_name(&garbage);
    let missed = |finding: &Finding| finding.object.to_string().contains(&object);
    assert!(!report.findings.iter().any(missed), "{report:?}");
}

/// Removes an image when a check is about to look at it.
struct Removing<'a>(&'a Fixture);

impl Progress for Removing<'_> {
    fn total(&self, _bytes: u64) {}
    fn advance(&self, _bytes: u64) {}
    fn message(&self, text: &str) {
        if text == "image web" {
            let request = Request::Remove {
                name: String::from("web"),
            };
            let dry_run = false;
            perform(&self.0.context, &Call { request, dry_run }, &Silent).unwrap();
        }
    }
}

#[test]
fn an_image_that_is_removed_while_it_is_checked_is_not_damaged() {
    let fixture = Fixture::new();
    let image = fixture.family(fixture.object("shared"));
    let options = check::Options { content: false };
    let report = check::run(&fixture.context, options, &Removing(&fixture)).unwrap();
    let catalog = fixture.context.store.catalog();
    assert!(catalog.image(image).unwrap().is_none());
    let directory = format!("images/{image}");
    let missed = |finding: &Finding| finding.object.to_string().contains(&directory);
    assert!(!report.findings.iter().any(missed), "{report:?}");
}

#[test]
fn what_a_crash_left_withdrawn_comes_back() {
    let fixture = Fixture::new();
    let digest = fixture.object("object");
    let store = fixture.context.store.clone();
    let withdrawn = store.stage(layout::WITHDRAWN).unwrap();
    assert!(
        store
            .objects()
            .withdraw(&digest, withdrawn.directory())
            .unwrap()
    );
    withdrawn.leave();
    assert!(!fixture.has(&digest));
    let Fixture { temporary, context } = fixture;
    drop((context, store));
    let store = Store::open(&temporary.path().join("store"), Access::Write).unwrap();
    assert!(store.objects().verify(&digest).unwrap());
    assert_eq!(
        std::fs::read_dir(temporary.path().join("store/staging"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn a_damaged_mark_stops_it() {
    let fixture = Fixture::new();
    let image = fixture.family(fixture.object("shared"));
    let garbage = fixture.object("garbage");
    let stub = fixture.object("stub");
    fixture.stub(image, "private/stub", stub);
    let private = fixture.context.store.image_dirs(image).unwrap().private;
    let flags = rustix::fs::XattrFlags::empty();
    let name = crate::store::mark::NAME.as_bytes();
    durable::set_xattr(private.as_fd(), b"stub", name, b"nonsense", flags).unwrap();
    let error = collect::plan(&fixture.context, 10, &Silent).unwrap_err();
    assert!(error.to_string().contains("damaged"), "{error}");
    assert!(fixture.has(&garbage) && fixture.has(&stub));
}
