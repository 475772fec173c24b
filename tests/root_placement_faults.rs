//! A placement that fails, or dies, at each of its steps: every view is as it was, also when the
//! store is opened again, and the next placement brings it to an end. Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on should panic"
)]

mod family;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use family::{Fixture, Snapshot, assert_same, commands, settle_at, write};
use foldfs::fold::placement;
use foldfs::store::catalog::Share;
use foldfs::sys::durable;
use rustix::io::Errno;

const IMAGES: [&str; 5] = ["f", "one", "two", "three", "four"];

fn tree(root: &Path, newer: bool) {
    write(root, "etc/os-release", "ID=debian\nVERSION_ID=\"13\"\n");
    write(root, "etc/hosts", if newer { "new\n" } else { "old\n" });
    write(root, "usr/a", "a");
    std::fs::hard_link(root.join("usr/a"), root.join("usr/b")).unwrap();
    match newer {
        true => write(root, "opt/n/f", "f"),
        false => write(root, "srv/gone/g", "g"),
    }
    settle_at(root, 1_100_000_000 + u64::from(newer));
}

fn fixture(from: Share) -> Fixture {
    let fixture = Fixture::new();
    for (position, name) in IMAGES.iter().enumerate().skip(1) {
        let source = fixture.source(name);
        tree(&source, position > 1);
        fixture.import_as(name, &source, Some("f"), from);
    }
    let one = family::guest::Guest(fixture.filesystem("two"));
    one.unlink("usr/b").unwrap();
    let to = match from {
        Share::Majority => Share::All,
        Share::All => Share::Majority,
    };
    let family = fixture.image("f").family;
    commands::set_share(&fixture.context, family, to).unwrap();
    fixture
}

fn assert_all(fixture: &Fixture, before: &[Snapshot], what: &str) {
    for (name, before) in IMAGES.iter().zip(before) {
        assert_same(before, &fixture.snapshot(name), &format!("{name}, {what}"));
    }
}

/// Runs a placement that fails at step `at`, and at all after it if it `dies`; whether there was
/// such a step.
fn run(from: Share, at: usize, dies: bool) -> bool {
    let what = format!("{from:?}, step {at}{}", if dies { ", dead" } else { "" });
    let fixture = fixture(from);
    let before: Vec<_> = IMAGES.map(|name| fixture.snapshot(name)).into();
    let family = fixture.image("f").family;
    let step = Arc::new(AtomicUsize::new(0));
    let count = step.clone();
    durable::set_hook(Some(Arc::new(move |_, _| {
        let now = count.fetch_add(1, Ordering::Relaxed);
        match now == at || dies && now > at {
            true => Err(Errno::IO),
            false => Ok(()),
        }
    })));
    let outcome = placement::place(&fixture.context.images, family);
    let reached = step.load(Ordering::Relaxed) > at;
    if !dies {
        durable::set_hook(None);
        assert_all(&fixture, &before, &format!("{what}, {outcome:?}"));
    }
    drop(outcome);
    let fixture = match dies {
        // What it would still do must fail, too.
        true => fixture.reopen_after(|| durable::set_hook(None)),
        false => fixture.reopen(),
    };
    assert_all(&fixture, &before, &format!("{what}, reopened"));
    for _ in 0..3 {
        placement::place(&fixture.context.images, family).unwrap();
    }
    assert_all(&fixture, &before, &format!("{what}, placed again"));
    let left = placement::plan(&fixture.context.images, family).unwrap();
    assert_eq!(left.placement.to_string(), "", "{what}");
    reached
}

#[test]
fn whatever_step_fails_nothing_shows() {
    for from in [Share::All, Share::Majority] {
        for dies in [false, true] {
            let steps = (0..).take_while(|step| run(from, *step, dies)).count();
            assert!(steps > 20, "{steps}");
        }
    }
}
