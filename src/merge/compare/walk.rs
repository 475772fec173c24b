//! The walk through two trees at the same time.

use std::collections::{HashMap, HashSet};
use std::iter::Peekable;
use std::os::fd::AsFd;
use std::vec::IntoIter;

use parking_lot::Mutex;

use super::links::Links;
use super::side::{Aspects, Side};
use super::threads;
use super::{Difference, NamedSide, Names, Scope, Tree, Within, in_walk_order};
use crate::error::{Context, Result};
use crate::path_bytes::PathBytes;
use crate::store::content::same_content;

/// All paths of `scope` at which two trees differ, in the order of a walk. Contents are compared by
/// digest where both are known, else by size and bytes. Which names are one file is compared among
/// the names in the scope. The trees stand in their roots before and after.
///
/// # Errors
/// Those of reading the trees.
pub fn compare(old: &mut dyn Tree, new: &mut dyn Tree, scope: &Scope) -> Result<Vec<Difference>> {
    let compared = Compared::default();
    loop {
        let found = match threads::pass(old, new, scope, &compared)? {
            Some(found) => found,
            None => {
                let mut pass = Pass::new(old, new, scope, &compared);
                pass.run(usize::MAX)?;
                pass.found
            }
        };
        // Of a file with several names some may have been left out, unless one of the trees looked at
        // all of them already.
        let shared = match found.left_out {
            true => found.links.shared_elsewhere(),
            false => HashSet::new(),
        };
        if shared.is_empty() || !old.look_at(&shared)? || !new.look_at(&shared)? {
            return Ok(finish(found.differences, found.links));
        }
    }
}

/// Adds where links differ.
fn finish(mut differences: Vec<Difference>, links: Links) -> Vec<Difference> {
    let mut differing = links.differing();
    for found in &mut differences {
        if differing.remove(&found.path).is_some() {
            found.aspects.links = true;
        }
    }
    let aspects = Aspects {
        links: true,
        ..Aspects::default()
    };
    let only_links = differing.into_iter();
    differences.extend(only_links.map(|(path, (old, new))| Difference {
        path,
        old: Some(old),
        new: Some(new),
        aspects,
    }));
    differences.sort_by(|left, right| in_walk_order(&left.path, &right.path));
    differences
}

/// A directory on the way.
struct Level {
    old: Option<Peekable<IntoIter<NamedSide>>>,
    new: Option<Peekable<IntoIter<NamedSide>>>,
    path_length: usize,
}

/// Whether contents are the same, by path: what has been read is not read in the next pass.
pub(super) type Compared = Mutex<HashMap<Vec<u8>, bool>>;

/// What a pass has found.
#[derive(Default)]
pub(super) struct Found {
    differences: Vec<Difference>,
    links: Links,
    /// Names were left out because the shared layer has them in both trees.
    left_out: bool,
}

impl Found {
    /// Adds what was found elsewhere.
    pub(super) fn add(&mut self, other: Self) {
        self.differences.extend(other.differences);
        self.links.add(other.links);
        self.left_out |= other.left_out;
    }
}

/// A directory that was not entered.
pub(super) struct Deferred {
    path: Vec<u8>,
    in_old: bool,
    in_new: bool,
}

/// A walk through both trees, or a part of one.
pub(super) struct Pass<'a> {
    old: &'a mut dyn Tree,
    new: &'a mut dyn Tree,
    scope: &'a Scope,
    compared: &'a Compared,
    /// So far.
    pub(super) found: Found,
}

/// A name, and what it is in either tree.
struct Pair {
    name: Box<[u8]>,
    old: Option<Side>,
    new: Option<Side>,
}

/// The next name of a directory in either tree, with what both have there.
fn next(level: &mut Level) -> Option<Pair> {
    let peek = |names: &mut Option<Peekable<IntoIter<NamedSide>>>| {
        names
            .as_mut()
            .and_then(|names| names.peek().map(|(name, _)| name.clone()))
    };
    let name = match (peek(&mut level.old), peek(&mut level.new)) {
        (Some(old), Some(new)) => old.min(new),
        (old, new) => old.or(new)?,
    };
    let take = |names: &mut Option<Peekable<IntoIter<NamedSide>>>| {
        let taken = names.as_mut()?.next_if(|(found, _)| *found == name);
        taken.map(|(_, side)| side)
    };
    let (old, new) = (take(&mut level.old), take(&mut level.new));
    Some(Pair { name, old, new })
}

impl<'a> Pass<'a> {
    /// One through trees that stand in their roots.
    pub(super) fn new(
        old: &'a mut dyn Tree,
        new: &'a mut dyn Tree,
        scope: &'a Scope,
        compared: &'a Compared,
    ) -> Self {
        Self {
            old,
            new,
            scope,
            compared,
            found: Found::default(),
        }
    }

    /// From the roots; the directories so many levels below them are left to others.
    pub(super) fn run(&mut self, depth: usize) -> Result<Vec<Deferred>> {
        let (old, new) = (self.old.root()?, self.new.root()?);
        self.take(b"", b".", Some(old), Some(new))?;
        let root = self.level(true, true, 0)?;
        self.walk(root, Vec::new(), depth)
    }

    /// What is in a directory that was left to others.
    pub(super) fn below(&mut self, directory: &Deferred) -> Result<()> {
        let Deferred {
            path,
            in_old,
            in_new,
        } = directory;
        let names = || path.split(|&byte| byte == b'/');
        for (tree, there) in [(&mut self.old, in_old), (&mut self.new, in_new)] {
            for name in names().filter(|_| *there) {
                tree.enter(name)?;
            }
        }
        let level = self.level(*in_old, *in_new, path.len())?;
        self.walk(level, path.clone(), usize::MAX)?;
        for (tree, there) in [(&mut self.old, in_old), (&mut self.new, in_new)] {
            for _ in names().filter(|_| *there) {
                tree.leave()?;
            }
        }
        Ok(())
    }

    fn walk(&mut self, first: Level, mut path: Vec<u8>, depth: usize) -> Result<Vec<Deferred>> {
        let mut deferred = Vec::new();
        let mut levels = vec![first];
        while let Some(level) = levels.last_mut() {
            path.truncate(level.path_length);
            let Some(Pair { name, old, new }) = next(level) else {
                let left = levels.pop();
                if let (Some(left), false) = (left, levels.is_empty()) {
                    if left.old.is_some() {
                        self.old.leave()?;
                    }
                    if left.new.is_some() {
                        self.new.leave()?;
                    }
                }
                continue;
            };
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            if self.scope.of(&path) == Within::Outside {
                continue;
            }
            let is_directory = |side: &Option<Side>| side.as_ref().is_some_and(Side::is_directory);
            let (in_old, in_new) = (is_directory(&old), is_directory(&new));
            self.take(&path, &name, old, new)?;
            if !in_old && !in_new {
                continue;
            }
            if levels.len() == depth {
                let path = path.clone();
                deferred.push(Deferred {
                    path,
                    in_old,
                    in_new,
                });
                continue;
            }
            if in_old {
                self.old.enter(&name)?;
            }
            if in_new {
                self.new.enter(&name)?;
            }
            levels.push(self.level(in_old, in_new, path.len())?);
        }
        Ok(deferred)
    }

    /// Lists the directory that the trees stand in.
    fn level(&mut self, in_old: bool, in_new: bool, path_length: usize) -> Result<Level> {
        let mut only: Option<Names> = None;
        if in_old
            && in_new
            && let (Some(old), Some(new)) = (self.old.deviations()?, self.new.deviations()?)
            && old.shared == new.shared
        {
            self.found.left_out = true;
            let mut names = old.names;
            names.extend(new.names);
            only = Some(names);
        }
        let list = |tree: &mut dyn Tree, there: bool| -> Result<_> {
            let names = there.then(|| tree.list(only.as_ref())).transpose()?;
            Ok(names.map(|names| names.into_iter().peekable()))
        };
        Ok(Level {
            old: list(self.old, in_old)?,
            new: list(self.new, in_new)?,
            path_length,
        })
    }

    /// Compares what stands at a path of the directory that the trees stand in.
    fn take(
        &mut self,
        path: &[u8],
        name: &[u8],
        old: Option<Side>,
        new: Option<Side>,
    ) -> Result<()> {
        if self.scope.of(path) != Within::Inside {
            return Ok(());
        }
        self.found.links.note(path, old.as_ref(), new.as_ref());
        let mut aspects = Aspects::default();
        if let (Some(old), Some(new)) = (&old, &new) {
            aspects = Aspects::of(old, new, || self.same_bytes(path, name))?;
            if !aspects.any() {
                return Ok(());
            }
        }
        self.found.differences.push(Difference {
            path: path.to_vec(),
            old,
            new,
            aspects,
        });
        Ok(())
    }

    fn same_bytes(&mut self, path: &[u8], name: &[u8]) -> Result<bool> {
        if let Some(&known) = self.compared.lock().get(path) {
            return Ok(known);
        }
        let (old, new) = (self.old.open(name)?, self.new.open(name)?);
        let same = same_content(old.as_fd(), new.as_fd());
        let same = same.about(PathBytes::from([b"/", path].concat()))?;
        self.compared.lock().insert(path.to_vec(), same);
        Ok(same)
    }
}
