//! An earlier state of an image, as a tree to compare: what its view shows now, but for the paths that were
//! something else then.

use std::collections::{BTreeMap, HashSet};
use std::os::fd::OwnedFd;

use super::compared_view::ComparedView;
use crate::error::{Error, Result};
use crate::merge::compare::{Deviations, NamedSide, Names, Side, Tree};
use crate::path_bytes::PathBytes;
use crate::store::metadata::Content;
use crate::store::number::Number;

/// What was otherwise, by path.
#[derive(Debug, Clone, Default)]
pub struct Past {
    root: Option<Side>,
    directories: BTreeMap<Vec<u8>, BTreeMap<Box<[u8]>, Then>>,
}

/// What a name was.
#[derive(Debug, Clone)]
enum Then {
    /// As now; but something below it was otherwise.
    Above,
    /// This. A directory had what it has now, but for what is told of that.
    Was(Side),
    /// It was not there.
    Gone,
}

/// The path of the directory, and the name in it.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

impl Past {
    /// Notes what a path was; a later word of it counts.
    pub fn set(&mut self, path: &[u8], side: Option<Side>) {
        if path.is_empty() {
            self.root = side;
            return;
        }
        let then = side.map_or(Then::Gone, Then::Was);
        let (directory, name) = split(path);
        let names = self.directories.entry(directory.to_vec()).or_default();
        names.insert(name.into(), then);
        let mut below = directory;
        while !below.is_empty() {
            let (directory, name) = split(below);
            let names = self.directories.entry(directory.to_vec()).or_default();
            names.entry(name.into()).or_insert(Then::Above);
            below = directory;
        }
    }

    /// What a path was, if it has been told; `Some(None)`: nothing.
    pub fn at(&self, path: &[u8]) -> Option<Option<&Side>> {
        if path.is_empty() {
            return self.root.as_ref().map(Some);
        }
        let (directory, name) = split(path);
        match self.directories.get(directory)?.get(name)? {
            Then::Above => None,
            Then::Was(side) => Some(Some(side)),
            Then::Gone => Some(None),
        }
    }
}

/// The earlier state, standing in one of its directories.
pub struct ComparedPast<'a> {
    now: ComparedView<'a>,
    past: &'a Past,
    /// Whether the directories on the way are there now; the root always is.
    is_there: Vec<bool>,
    /// Of the directory it stands in.
    path: Vec<Vec<u8>>,
}

impl<'a> ComparedPast<'a> {
    /// Stands in the root. `now` does, too.
    pub fn new(now: ComparedView<'a>, past: &'a Past) -> Self {
        Self {
            now,
            past,
            is_there: Vec::new(),
            path: Vec::new(),
        }
    }

    fn is_there(&self) -> bool {
        self.is_there.last().copied().unwrap_or(true)
    }

    fn then(&self) -> Option<&'a BTreeMap<Box<[u8]>, Then>> {
        self.past.directories.get(&self.path.join(&b'/'))
    }

    fn side(&mut self, name: &[u8]) -> Result<Option<Side>> {
        let only = Names::from([name.into()]);
        let found = self.list(Some(&only))?.pop();
        Ok(found.map(|(_, side)| side))
    }

    fn missing(&self, name: &[u8]) -> Error {
        let path = [self.path.join(&b'/'), name.to_vec()].join(&b'/');
        Error::failed(PathBytes::from(path), "it was removed while it was read").remedy("try again")
    }
}

impl Tree for ComparedPast<'_> {
    fn root(&mut self) -> Result<Side> {
        match &self.past.root {
            Some(side) => Ok(side.clone()),
            None => self.now.root(),
        }
    }

    fn list(&mut self, only: Option<&Names>) -> Result<Vec<NamedSide>> {
        let sides = match self.is_there() {
            true => self.now.list(only)?,
            false => Vec::new(),
        };
        let Some(then) = self.then() else {
            return Ok(sides);
        };
        let mut sides: BTreeMap<Box<[u8]>, Side> = sides.into_iter().collect();
        for (name, then) in then {
            if only.is_some_and(|only| !only.contains(name)) {
                continue;
            }
            match then {
                Then::Above => {}
                Then::Was(side) => drop(sides.insert(name.clone(), side.clone())),
                Then::Gone => drop(sides.remove(name)),
            }
        }
        Ok(sides.into_iter().collect())
    }

    fn enter(&mut self, name: &[u8]) -> Result<()> {
        let only = Names::from([name.into()]);
        let there = match self.is_there() {
            true => self.now.list(Some(&only))?.pop(),
            false => None,
        };
        let is_there = there.is_some_and(|(_, side)| side.is_directory());
        if is_there {
            self.now.enter(name)?;
        }
        self.is_there.push(is_there);
        self.path.push(name.to_vec());
        Ok(())
    }

    fn leave(&mut self) -> Result<()> {
        self.path.pop();
        match self.is_there.pop() {
            Some(true) => self.now.leave(),
            _ => Ok(()),
        }
    }

    fn open(&mut self, name: &[u8]) -> Result<OwnedFd> {
        let told = self.then().and_then(|then| then.get(name));
        if let Some(Then::Above) | None = told {
            return self.now.open(name);
        }
        match self.side(name)?.as_ref().map(Side::content) {
            Some(Content::Regular {
                digest: Some(digest),
                size,
            }) => self.now.open_object(digest, *size),
            _ => Err(self.missing(name)),
        }
    }

    fn deviations(&mut self) -> Result<Option<Deviations>> {
        if !self.is_there() {
            return Ok(None);
        }
        let mut found = self.now.deviations()?;
        if let (Some(found), Some(then)) = (&mut found, self.then()) {
            found.names.extend(then.keys().cloned());
        }
        Ok(found)
    }

    fn look_at(&mut self, inodes: &HashSet<Number>) -> Result<bool> {
        self.now.look_at(inodes)
    }
}
