//! Where the entries of some numbers stand in a private layer, as one walk of it has seen them.

use std::collections::{HashMap, HashSet};

use super::private_directories::{Step, merges_with, walk};
use super::view::View;
use crate::error::Error;
use crate::store::number::Number;

/// Where a private entry stands: in which directory, and its name there.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'a> {
    /// An index of [`PrivateTree::directory`]: 0 for the root.
    pub above: usize,
    /// The name.
    pub name: &'a [u8],
}

/// All directories of a private layer, and where some of its entries stand.
#[derive(Debug, Default)]
pub struct PrivateTree {
    steps: Vec<Step>,
    by_number: HashMap<Number, Step>,
    merging_with: HashMap<Number, Step>,
}

impl PrivateTree {
    /// What can be read, for these numbers; and why that is not all, if so.
    pub fn read(view: &View, numbers: &HashSet<Number>) -> (Self, Option<Error>) {
        let mut tree = Self::default();
        let Self {
            steps,
            by_number,
            merging_with,
        } = &mut tree;
        let walked = walk(view, steps, &mut |above, name, mark| {
            let step = || Step {
                above: above.index(),
                name: name.into(),
            };
            if numbers.contains(&mark.number) {
                by_number.insert(mark.number, step());
            }
            if let Some(shared) = merges_with(mark) {
                merging_with.insert(shared, step());
            }
            true
        });
        (tree, walked.err())
    }

    /// The entry of a number, one of them if it has several names.
    pub fn of(&self, number: Number) -> Option<Standing<'_>> {
        self.by_number.get(&number).map(standing)
    }

    /// The directory that merges with a directory of the shared layer.
    pub fn merging_with(&self, shared: Number) -> Option<Standing<'_>> {
        self.merging_with.get(&shared).map(standing)
    }

    /// Where a directory stands; that of the root is of no use.
    pub fn directory(&self, index: usize) -> Standing<'_> {
        standing(&self.steps[index])
    }
}

fn standing(step: &Step) -> Standing<'_> {
    Standing {
        above: step.above,
        name: &step.name,
    }
}
