//! Random guests in a family while placements run in steps, change their rule, and the store is
//! reopened: no step ever shows. Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on should panic"
)]

mod family;

use family::guest::Guest;
use family::random::{Act, WEIGHT, acts, config, tree};
use family::{Fixture, Snapshot, assert_same, commands};
use foldfs::fold::placement::{self, Work};
use foldfs::store::catalog::Share;
use proptest::prelude::*;

const IMAGES: [&str; 5] = ["f", "one", "two", "three", "four"];

#[derive(Debug, Clone)]
enum Op {
    /// Of the guest of an image.
    Act(usize, Act),
    /// The next step of the placement under way: plan, cover, commit, uncover.
    Step,
    Place,
    SetShare(bool),
    Reopen,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        WEIGHT => (0..IMAGES.len(), acts()).prop_map(|(image, act)| Op::Act(image, act)),
        8 => Just(Op::Step),
        2 => Just(Op::Place),
        1 => any::<bool>().prop_map(Op::SetShare),
        1 => Just(Op::Reopen),
    ];
    proptest::collection::vec(op, 1..40)
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
        match op {
            Op::Act(image, act) => {
                if act.run(&self.guests[*image]) {
                    self.seen[*image] = self.fixture().snapshot(IMAGES[*image]);
                }
            }
            Op::Step => self.step(),
            Op::Place => self.place(),
            Op::SetShare(all) => {
                let share = if *all { Share::All } else { Share::Majority };
                let family = self.fixture().image("f").family;
                commands::set_share(&self.fixture().context, family, share).unwrap();
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
    #![proptest_config(config())]

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
