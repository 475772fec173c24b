//! Random guests in a family while placements run in steps, change their rule, and the store is
//! reopened: no step ever shows. Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on should panic"
)]

mod family;

use std::path::Path;

use family::guest::Guest;
use family::{Fixture, Snapshot, assert_same, settle_at, symlink, write};
use foldfs::fold::placement::{self, Work};
use foldfs::store::catalog::Share;
use proptest::prelude::*;

const IMAGES: [&str; 5] = ["f", "one", "two", "three", "four"];

/// Paths that operations choose from; some exist at first.
const PATHS: [&str; 14] = [
    "etc/hosts",
    "etc",
    "etc/x",
    "usr/a",
    "usr/b",
    "usr",
    "usr/sub",
    "usr/sub/deep",
    "usr/sub/c",
    "opt",
    "opt/n",
    "opt/n/f",
    "link",
    "var",
];

#[derive(Debug, Clone)]
enum Op {
    Create(usize, usize),
    Mkdir(usize, usize),
    Unlink(usize, usize),
    Rmdir(usize, usize),
    Rename(usize, usize, usize),
    Exchange(usize, usize, usize),
    Link(usize, usize, usize),
    Symlink(usize, usize),
    Chmod(usize, usize, u32),
    Write(usize, usize),
    /// The next step of the placement under way: plan, cover, commit, uncover.
    Step,
    Place,
    SetShare(bool),
    Reopen,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let image = || 0..IMAGES.len();
    let path = || 0..PATHS.len();
    let op = prop_oneof![
        2 => (image(), path()).prop_map(|(i, p)| Op::Create(i, p)),
        2 => (image(), path()).prop_map(|(i, p)| Op::Mkdir(i, p)),
        3 => (image(), path()).prop_map(|(i, p)| Op::Unlink(i, p)),
        2 => (image(), path()).prop_map(|(i, p)| Op::Rmdir(i, p)),
        4 => (image(), path(), path()).prop_map(|(i, p, q)| Op::Rename(i, p, q)),
        1 => (image(), path(), path()).prop_map(|(i, p, q)| Op::Exchange(i, p, q)),
        2 => (image(), path(), path()).prop_map(|(i, p, q)| Op::Link(i, p, q)),
        1 => (image(), path()).prop_map(|(i, p)| Op::Symlink(i, p)),
        6 => (image(), path(), 0..2u32).prop_map(|(i, p, m)| Op::Chmod(i, p, 0o700 + m)),
        2 => (image(), path()).prop_map(|(i, p)| Op::Write(i, p)),
        8 => Just(Op::Step),
        2 => Just(Op::Place),
        1 => any::<bool>().prop_map(Op::SetShare),
        1 => Just(Op::Reopen),
    ];
    proptest::collection::vec(op, 1..40)
}

fn tree(root: &Path, newer: bool, time: u64) {
    write(root, "etc/os-release", "ID=debian\nVERSION_ID=\"13\"\n");
    write(root, "etc/hosts", if newer { "new\n" } else { "old\n" });
    write(root, "usr/a", "a");
    write(root, "usr/b", "b");
    write(root, "usr/sub/deep/d", "d");
    std::fs::hard_link(root.join("usr/a"), root.join("usr/sub/c")).unwrap();
    symlink(root, "usr/a", "link");
    if newer {
        write(root, "opt/n/f", "f");
        write(root, "opt/n/g", "");
        std::fs::remove_file(root.join("usr/b")).unwrap();
    }
    settle_at(root, time);
}

fn fixture() -> Fixture {
    let fixture = Fixture::new();
    for (position, name) in IMAGES.iter().enumerate().skip(1) {
        let source = fixture.source(name);
        tree(&source, position > 1, 1_100_000_000 + (position / 2) as u64);
        fixture.import_as(name, &source, Some("f"), Share::Majority);
    }
    fixture
}

struct World {
    fixture: Option<Fixture>,
    guests: Vec<Guest>,
    seen: Vec<Snapshot>,
    work: Option<(Work, u8)>,
}

impl World {
    fn fixture(&self) -> &Fixture {
        self.fixture.as_ref().unwrap()
    }

    fn awaken(&mut self) {
        self.guests = IMAGES
            .map(|name| Guest(self.fixture().filesystem(name)))
            .into();
    }

    #[track_caller]
    fn assert_unseen(&self, what: &str) {
        for (name, before) in IMAGES.iter().zip(&self.seen) {
            assert_same(
                before,
                &self.fixture().snapshot(name),
                &format!("{name}, {what}"),
            );
        }
    }

    /// Works in an image; what the guest is refused changes nothing.
    fn guest(&mut self, image: usize, action: impl FnOnce(&Guest) -> bool) {
        if action(&self.guests[image]) {
            self.seen[image] = self.fixture().snapshot(IMAGES[image]);
        }
    }

    fn step(&mut self) {
        let under_way = self.work.take();
        let images = &self.fixture().context.images;
        let (work, stage) = under_way.unwrap_or_else(|| {
            let family = self.fixture().image("f").family;
            (placement::plan(images, family).unwrap(), 0)
        });
        match stage {
            1 => work.cover(images).unwrap(),
            2 => drop(work.commit(images).unwrap()),
            3 => drop(work.uncover(images).unwrap()),
            _ => {}
        }
        self.assert_unseen(&format!("step {stage} of\n{}", work.placement));
        if stage < 3 {
            self.work = Some((work, stage + 1));
        }
    }

    fn place(&mut self) {
        while self.work.is_some() {
            self.step();
        }
        for _ in 0..4 {
            self.step();
        }
    }

    fn run(&mut self, op: &Op) {
        let p = |path: &usize| PATHS[*path];
        match op {
            Op::Create(image, path) => self.guest(*image, |guest| guest.create(p(path)).is_ok()),
            Op::Mkdir(image, path) => self.guest(*image, |guest| guest.mkdir(p(path)).is_ok()),
            Op::Unlink(image, path) => self.guest(*image, |guest| guest.unlink(p(path)).is_ok()),
            Op::Rmdir(image, path) => self.guest(*image, |guest| guest.rmdir(p(path)).is_ok()),
            Op::Rename(image, old, new) => {
                self.guest(*image, |guest| guest.rename(p(old), p(new)).is_ok());
            }
            Op::Exchange(image, old, new) => {
                self.guest(*image, |guest| guest.exchange(p(old), p(new)).is_ok());
            }
            Op::Link(image, old, new) => {
                self.guest(*image, |guest| guest.link(p(old), p(new)).is_ok());
            }
            Op::Symlink(image, path) => {
                self.guest(*image, |guest| guest.symlink("target", p(path)).is_ok());
            }
            Op::Chmod(image, path, mode) => {
                self.guest(*image, |guest| guest.chmod(p(path), *mode).is_ok());
            }
            Op::Write(image, path) => {
                self.guest(*image, |guest| guest.write(p(path), b"written").is_ok());
            }
            Op::Step => self.step(),
            Op::Place => self.place(),
            Op::SetShare(all) => {
                let share = if *all { Share::All } else { Share::Majority };
                let family = self.fixture().image("f").family;
                let transaction = self
                    .fixture()
                    .context
                    .store
                    .catalog()
                    .transaction()
                    .unwrap();
                transaction.set_share(family, share).unwrap();
                transaction.commit().unwrap();
            }
            Op::Reopen => {
                self.work = None;
                self.guests.clear();
                self.fixture = self.fixture.take().map(Fixture::reopen);
                self.awaken();
                self.assert_unseen("reopened");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(24),
        max_shrink_iters: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_step_of_a_placement_ever_shows(ops in ops()) {
        let fixture = fixture();
        let seen = IMAGES.map(|name| fixture.snapshot(name)).into();
        let mut world = World { fixture: Some(fixture), guests: Vec::new(), seen, work: None };
        world.awaken();
        for op in &ops {
            world.run(op);
        }
        for round in 0.. {
            world.place();
            let images = &world.fixture().context.images;
            let family = world.fixture().image("f").family;
            let left = placement::plan(images, family).unwrap().placement;
            if left.is_empty() {
                break;
            }
            assert!(round < 3, "it never ends: {left}");
        }
        world.run(&Op::Reopen);
    }
}
