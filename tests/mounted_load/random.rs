//! Random operations, one list after the other, in both images and in the plain directory.

use std::fs;

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngSeed, TestRunner};

use crate::Pair;
use crate::common::directory::{Directory, System};
use crate::common::model::Model;
use crate::common::op::{self, Op};
use crate::common::sample;
use crate::common::snapshot::{Fields, Snapshot};

/// Operations of a list.
const LENGTH: usize = 120;

/// Every so many lists one is left there to the end.
const KEPT: u64 = 8;

/// Times come later in one than in the other.
const SAME: Fields = Fields::COPY
    .without(Fields::MTIME)
    .without(Fields::DIRECTORY_MTIME);

/// How many operations there were.
pub fn run(pair: &Pair<'_>) -> u64 {
    let mut performed = 0;
    let mut round = 0;
    while round == 0 || !pair.over.is() {
        round += 1;
        let places = pair
            .roots()
            .map(|root| root.join(format!("srv/random{round}")));
        sample::make(&places[0], round as u32 % 3);
        places[1..]
            .iter()
            .for_each(|place| sample::copy(&places[0], place));
        performed += perform(&places, round);
        let [expected, found @ ..] = places.each_ref().map(|place| Snapshot::of(place));
        for found in &found {
            expected.assert_same(
                found,
                SAME,
                &format!("after the operations of seed {round}"),
            );
        }
        if round % KEPT != 1 {
            places
                .iter()
                .for_each(|place| fs::remove_dir_all(place).unwrap());
        }
    }
    performed
}

fn perform(places: &[std::path::PathBuf; 3], seed: u64) -> u64 {
    let config = Config {
        rng_seed: RngSeed::Fixed(seed),
        ..Config::default()
    };
    let lists = proptest::collection::vec(op::visible(), LENGTH);
    let tree = lists.new_tree(&mut TestRunner::new(config));
    let list = tree.expect("lists can be made").current();
    let mut model = Model::read(&places[0]);
    let [mut plain, mut one, mut two] = places.each_ref().map(|place| Directory::new(place));
    let mut performed = 0;
    for (index, op) in list.iter().enumerate() {
        let Some(step) = model.prepare(op) else {
            continue;
        };
        model.perform(&step);
        let expected = plain.perform(&step);
        for image in [&mut one, &mut two] {
            let found = image.perform(&step);
            // Where there are holes may differ.
            let may_differ = matches!(step, Op::SeekData { .. } | Op::SeekHole { .. });
            assert!(
                expected == found || may_differ,
                "seed {seed}, operation {index}, {step:?} gave {found:?}, expected {expected:?}"
            );
        }
        performed += 1;
    }
    performed
}
