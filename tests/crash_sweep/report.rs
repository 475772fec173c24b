//! What a part of the sweep has seen, handed from the process that ran it to the one that counts.

use std::collections::BTreeSet;
use std::fs;
use std::panic::Location;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

/// A place in the source: file and line.
pub type Site = (String, u32);

/// Where a step is done.
pub fn site(step: &Location<'_>) -> Site {
    (step.file().to_owned(), step.line())
}

/// The places that were reached, shared with a hook.
#[derive(Debug, Clone, Default)]
pub struct Sites(Arc<Mutex<(BTreeSet<Site>, String)>>);

impl Sites {
    /// Notes that a step is about to be done.
    pub fn reached(&self, site: &Location<'_>) {
        self.0.lock().0.insert(self::site(site));
    }

    /// Notes at which the run was disturbed.
    pub fn at(&self, site: &Location<'_>) {
        self.0.lock().1 = site.to_string();
    }

    /// Where the run was disturbed.
    pub fn last(&self) -> String {
        self.0.lock().1.clone()
    }
}

/// What was reached, and how much was tried.
#[derive(Debug, Default)]
pub struct Report {
    pub sites: Sites,
    /// Pairs of steps, one after the other, between which the power went.
    pub dark: BTreeSet<Site>,
    /// Steps that were disturbed.
    pub points: usize,
    /// Stores that were looked at afterwards: points that leave the same bytes are one.
    pub looks: usize,
    /// Every step is to be disturbed.
    pub is_whole: bool,
    /// Decides which steps are.
    pub random: Random,
}

/// Numbers that a seed decides.
#[derive(Debug, Default)]
pub struct Random(pub u64);

impl Random {
    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        // Knuth's MMIX generator.
        let next = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = next.wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }
}

impl Report {
    /// Writes it for the parent.
    pub fn write(&self, path: &Path) {
        let mut text = format!("{} {}\n", self.points, self.looks);
        for (file, line) in &self.sites.0.lock().0 {
            text += &format!("{line} {file}\n");
        }
        for (file, line) in &self.dark {
            text += &format!("dark {line} {file}\n");
        }
        fs::write(path, text).unwrap();
    }

    /// Adds what a child has written.
    pub fn add(&mut self, path: &Path) {
        let text = fs::read_to_string(path).unwrap();
        let mut lines = text.lines().map(|line| line.split_once(' ').unwrap());
        let (points, looks) = lines.next().unwrap();
        self.points += points.parse::<usize>().unwrap();
        self.looks += looks.parse::<usize>().unwrap();
        for (kind, rest) in lines {
            if kind == "dark" {
                let (line, file) = rest.split_once(' ').unwrap();
                self.dark.insert((file.to_owned(), line.parse().unwrap()));
            } else {
                let site = (rest.to_owned(), kind.parse().unwrap());
                self.sites.0.lock().0.insert(site);
            }
        }
    }

    /// All places.
    pub fn all_sites(&self) -> BTreeSet<Site> {
        self.sites.0.lock().0.clone()
    }
}
