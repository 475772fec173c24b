//! A change is made of a patch, of another one taken back, of a working tree, and fails, or the process ends, at
//! each of its steps: each image is as before the change or as after it, all of them alike, when the store is
//! opened again. Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on should panic"
)]

mod family;
mod patch_model;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use family::fault;
use family::guest::Guest;
use family::{Fixture, Snapshot, live, settle_at, write};
use foldfs::error::Result;
use foldfs::filesystem::open::OpenFlags;
use foldfs::ops::patch::{self, ApplyOptions, CreateOptions, OnConflict, Source, Worked};
use foldfs::ops::request::{Call, Request};
use foldfs::ops::{self, check, clone, collect, working};
use foldfs::progress::Silent;
use foldfs::store::catalog::Share;
use foldfs::sys::durable::{self, Step};
use patch_model::{assert_equal, merge, options, source};
use rustix::io::Errno;

const IMAGES: [&str; 3] = ["f", "one", "two"];

fn tree(root: &Path) {
    write(root, "etc/os-release", "ID=debian\nVERSION_ID=\"13\"\n");
    write(root, "etc/hosts", "hosts\n");
    write(root, "etc/own", "own\n");
    write(root, "usr/a", "a");
    std::fs::hard_link(root.join("usr/a"), root.join("usr/b")).unwrap();
    write(root, "srv/gone/g", "g");
    settle_at(root, 1_100_000_000);
}

/// A family with images that have changed something, and a patch for it.
fn fixture() -> (Fixture, PathBuf) {
    let fixture = Fixture::new();
    for name in ["one", "two"] {
        let source = fixture.source(name);
        tree(&source);
        fixture.import_as(name, &source, Some("f"), Share::Majority);
    }
    let guest = |name: &str| Guest(fixture.filesystem(name));
    let options = clone::Options {
        from: "f".into(),
        to: "new".into(),
        frozen: false,
        reset: None,
    };
    let plan = clone::plan(&fixture.context, &options).unwrap();
    clone::apply(&fixture.context, &plan, &Silent).unwrap();
    let new = guest("new");
    new.write("etc/hosts", b"patched\n").unwrap();
    new.write("etc/own", b"patched\n").unwrap();
    new.write("usr/a", b"patched\n").unwrap();
    new.chmod("etc", 0o700).unwrap();
    new.unlink("srv/gone/g").unwrap();
    new.rmdir("srv/gone").unwrap();
    new.mkdir("opt").unwrap();
    new.create("opt/new").unwrap();
    new.link("opt/new", "opt/second").unwrap();
    new.symlink("opt/new", "srv/link").unwrap();
    drop(new);
    let file = fixture.source("patches").join("p");
    let options = CreateOptions {
        old: "f".into(),
        new: "new".into(),
        file: file.clone(),
        signer: None,
    };
    patch::create(Some(&fixture.context), &options, &Silent).unwrap();
    let one = guest("one");
    one.write("etc/own", b"my own\n").unwrap();
    one.chmod("usr/b", 0o600).unwrap();
    one.rename("srv", "moved").unwrap();
    (fixture, file)
}

fn apply(fixture: &Fixture, source: &Source) -> Result<()> {
    apply_with(fixture, source, OnConflict::Keep)
}

fn apply_with(fixture: &Fixture, source: &Source, on_conflict: OnConflict) -> Result<()> {
    let options = ApplyOptions {
        on_conflict,
        ..options(source.clone())
    };
    let plan = patch::plan(&fixture.context, &options, &Silent)?;
    patch::apply(&fixture.context, plan, &Silent).map(|_| ())
}

fn snapshots(fixture: &Fixture) -> Vec<Snapshot> {
    IMAGES.map(|name| fixture.snapshot(name)).into()
}

/// A family to try it on, and what its base shows at first.
struct Whole {
    fixture: Fixture,
    source: Source,
    on_conflict: OnConflict,
    old: Snapshot,
    new: Snapshot,
    /// What the images show afterwards, where a merge of the two does not tell.
    expected: Option<Vec<Snapshot>>,
}

impl Whole {
    /// That each image shows what it should after the change.
    #[track_caller]
    fn assert_made(&self, before: &[Snapshot], after: &[Snapshot], what: &str) {
        for (place, (name, after)) in IMAGES.iter().zip(after).enumerate() {
            let what = format!("{name}, {what}");
            match &self.expected {
                Some(expected) => assert_equal(&expected[place], after, &what),
                None => merge(&self.old, &self.new, &before[place]).assert_shown(after, &what),
            }
        }
    }

    /// Applies it with step `at` failing, and all after it if it `dies`. Whether there was such a step,
    /// and whether the change was made.
    fn run(&self, at: usize, dies: bool) -> (bool, bool) {
        let fixture = self.fixture.copy_in_memory();
        let before = snapshots(&fixture);
        // What is open leaves the shared layer with its last name.
        let reader = fixture.filesystem("f");
        let hosts = live::node(&reader, "etc/hosts");
        let handle = reader.open(&hosts, OpenFlags::default()).unwrap();
        let read = || live::read(&reader, handle);
        let open = read();
        let step = Arc::new(AtomicUsize::new(0));
        let count = step.clone();
        durable::set_hook(Some(Arc::new(move |_, _| {
            let now = count.fetch_add(1, Ordering::Relaxed);
            match now == at || dies && now > at {
                true => Err(Errno::IO),
                false => Ok(()),
            }
        })));
        let outcome = apply_with(&fixture, &self.source, self.on_conflict);
        let reached = step.load(Ordering::Relaxed) > at;
        assert_eq!(read(), open, "step {at}: what is open");
        reader.release(handle);
        drop((hosts, reader));
        let fixture = match dies {
            // What it would still do must fail, too.
            true => fixture.reopen_after(|| durable::set_hook(None)),
            false => {
                durable::set_hook(None);
                fixture.reopen()
            }
        };
        let after = snapshots(&fixture);
        let made = after[0] != before[0];
        let what = format!("step {at}{}, {outcome:?}", if dies { ", dead" } else { "" });
        assert!(made || outcome.is_err(), "{what}: it says that it is made");
        match made {
            true => self.assert_made(&before, &after, &what),
            false => {
                for (before, after) in before.iter().zip(&after) {
                    family::assert_same(before, after, &what);
                }
            }
        }
        let options = check::Options { content: true };
        let report = check::run(&fixture.context, options, &Silent).unwrap();
        assert!(report.findings.is_empty(), "{what}: {:?}", report.findings);
        // It can be applied now, or there is nothing left to do.
        apply_with(&fixture, &self.source, self.on_conflict).unwrap();
        let last = snapshots(&fixture.reopen());
        self.assert_made(&before, &last, &format!("{what}, applied again"));
        (reached, made)
    }
}

/// One step of so many in each run, other ones each time; FOLDFS_TEST_STEPS=all tries all.
const EVERY: usize = 10;

#[test]
fn what_failed_in_an_image_is_done_by_the_next_command_of_the_same_process() {
    let _alone = fault::alone();
    let (fixture, patch) = fixture();
    let (old, new) = (fixture.snapshot("f"), fixture.snapshot("new"));
    let (mut tried, mut whole) = (0, 0);
    for at in (0..).step_by(7) {
        let fixture = fixture.copy_in_memory();
        let before = snapshots(&fixture);
        let count = AtomicUsize::new(0);
        // The disk is full from this step on.
        durable::set_hook(Some(Arc::new(move |step, _| {
            let now = count.fetch_add(1, Ordering::Relaxed);
            let fails = now >= at && matches!(step, Step::Create | Step::Write);
            if fails { Err(Errno::NOSPC) } else { Ok(()) }
        })));
        let used = fixture.filesystem("one");
        let outcome = apply(&fixture, &source(&patch));
        durable::set_hook(None);
        if outcome.is_ok() {
            break;
        }
        // Whoever uses it sees none of the change, or no name at all.
        match used.lookup(used.root(), b"etc") {
            Err(failure) => assert_eq!(failure.errno(), Errno::IO),
            Ok(etc) => {
                let etc = used.node(etc.number).unwrap();
                let mode = used.attributes(&etc).unwrap().mode;
                let is_new = used.lookup(&etc, b"hosts").unwrap().size == 8;
                assert_eq!(is_new, mode == 0o700, "{at}");
                whole += 1;
            }
        }
        let context = &fixture.context;
        let left = context.store.unfinished_changes().unwrap();
        if left.is_empty() {
            continue;
        }
        tried += 1;
        let error = outcome.unwrap_err();
        assert!(error.to_string().contains("is made, but"), "{at}: {error}");
        let options = check::Options { content: true };
        let findings = check::run(context, options, &Silent).unwrap().findings;
        for (change, image) in &left {
            let object = format!("changes/{change}-{image}");
            let found = findings
                .iter()
                .find(|found| found.object.to_string() == object);
            assert!(found.expect(&object).cause.contains("not carried out"));
            let error = context.images.filesystem(*image).err().unwrap();
            assert_eq!(error.kind.exit_code(), 4, "{error}");
        }
        let error = collect::plan(context, 10, &Silent).unwrap_err();
        assert_eq!(error.kind.exit_code(), 4, "{error}");
        let request = Request::Fold { family: None };
        let dry_run = false;
        ops::perform(context, &Call { request, dry_run }, &Silent).unwrap();
        assert!(context.store.unfinished_changes().unwrap().is_empty());
        used.lookup(used.root(), b"etc").unwrap();
        drop(used);
        let after = snapshots(&fixture);
        for ((name, before), after) in IMAGES.iter().zip(&before).zip(&after) {
            let merged = merge(&old, &new, before);
            merged.assert_shown(after, &format!("{name}, step {at}"));
        }
        fixture.assert_sound(&format!("step {at}"));
    }
    assert!(
        tried > 3 && whole > 3,
        "{tried} after the commit, {whole} whole"
    );
}

#[test]
fn whatever_step_fails_it_is_made_or_not() {
    let _alone = fault::alone();
    let (fixture, patch) = fixture();
    whatever_step_fails(&Whole {
        old: fixture.snapshot("f"),
        new: fixture.snapshot("new"),
        source: source(&patch),
        on_conflict: OnConflict::Keep,
        fixture,
        expected: None,
    });
}

#[test]
fn whatever_step_fails_it_is_taken_back_or_not() {
    let _alone = fault::alone();
    let (fixture, patch) = fixture();
    let before = snapshots(&fixture);
    apply(&fixture, &source(&patch)).unwrap();
    whatever_step_fails(&Whole {
        old: fixture.snapshot("f"),
        new: fixture.snapshot("f"),
        source: Source::Change { change: 1 },
        on_conflict: OnConflict::Keep,
        fixture,
        expected: Some(before),
    });
}

#[test]
fn whatever_step_fails_what_is_given_up_is_replaced_or_not() {
    let _alone = fault::alone();
    let (fixture, patch) = fixture();
    let replaced = fixture.copy_in_memory();
    apply_with(&replaced, &source(&patch), OnConflict::Replace).unwrap();
    let expected = snapshots(&replaced);
    assert_eq!(expected[1]["etc/own"].content, b"patched\n");
    whatever_step_fails(&Whole {
        old: fixture.snapshot("f"),
        new: fixture.snapshot("new"),
        source: source(&patch),
        on_conflict: OnConflict::Replace,
        fixture,
        expected: Some(expected),
    });
}

#[test]
fn whatever_step_fails_it_is_committed_or_not() {
    let _alone = fault::alone();
    let (fixture, _) = fixture();
    let plan = working::plan(&fixture.context, "f", true).unwrap();
    working::apply(&fixture.context, &plan, &Silent).unwrap();
    let work = Guest(fixture.filesystem("f.work"));
    work.write("etc/hosts", b"worked on\n").unwrap();
    work.write("etc/own", b"worked on\n").unwrap();
    work.write("usr/a", b"worked on\n").unwrap();
    work.chmod("etc", 0o700).unwrap();
    work.rename("srv", "renamed").unwrap();
    work.create("renamed/new").unwrap();
    drop(work);
    whatever_step_fails(&Whole {
        old: fixture.snapshot("f"),
        new: fixture.snapshot("f.work"),
        source: Source::Working {
            family: "f".into(),
            worked: Worked::ByHand,
        },
        on_conflict: OnConflict::Keep,
        fixture,
        expected: None,
    });
}

fn whatever_step_fails(whole: &Whole) {
    let all = std::env::var_os("FOLDFS_TEST_STEPS").is_some_and(|steps| steps == "all");
    let every = if all { 1 } else { EVERY };
    for dies in [false, true] {
        let (mut made, mut tried) = (0, 0);
        let mut at = std::process::id() as usize % every;
        loop {
            let (reached, is_made) = whole.run(at, dies);
            if !reached {
                break;
            }
            at += every;
            tried += 1;
            made += usize::from(is_made);
        }
        eprintln!("{tried} of {at} steps, {made} after the commit");
        assert!(at > 100 && made > 5 && made < tried, "{made} of {tried}");
    }
}
