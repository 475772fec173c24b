//! A layer as container images have them, put over a view: an archive with what is added or replaced, and with
//! whiteouts for what is gone (OCI image-spec, "Layer Filesystem Changeset"): `.wh.NAME` takes NAME away,
//! `.wh..wh..opq` all that the directory had before.

use std::collections::{BTreeMap, HashSet};
use std::os::fd::OwnedFd;

use super::compared_staged::ComparedStaged;
use super::compared_view::ComparedView;
use crate::error::{Error, Result};
use crate::merge::compare::{NamedSide, Names, Side, Tree};
use crate::path_bytes::PathBytes;
use crate::store::number::Number;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Names that other programs keep for themselves in layers.
const RESERVED: &[u8] = b".wh..wh.";

/// What the layer makes of the view, standing in one of its directories.
pub struct ComparedLayer<'a> {
    below: ComparedView<'a>,
    above: ComparedStaged<'a>,
    levels: Vec<Level>,
    path: Vec<Vec<u8>>,
}

/// Which of the two have the directory.
#[derive(Clone, Copy)]
struct Level {
    below: bool,
    above: bool,
}

/// Where a name comes from.
enum Found {
    Below(Side),
    Above(Side),
    /// A directory of both, with the metadata that it has here.
    Both(Side),
}

impl<'a> ComparedLayer<'a> {
    /// Stands in the root.
    pub fn new(below: ComparedView<'a>, above: ComparedStaged<'a>) -> Self {
        let both = Level {
            below: true,
            above: true,
        };
        Self {
            below,
            above,
            levels: vec![both],
            path: Vec::new(),
        }
    }

    fn here(&self) -> Level {
        let nowhere = Level {
            below: false,
            above: false,
        };
        self.levels.last().copied().unwrap_or(nowhere)
    }

    fn found(&mut self, only: Option<&Names>) -> Result<BTreeMap<Box<[u8]>, Found>> {
        let here = self.here();
        let mut found = BTreeMap::new();
        let members = match here.above {
            true => self.above.list(None)?,
            false => Vec::new(),
        };
        let is_opaque = members.iter().any(|(name, _)| **name == *OPAQUE);
        if here.below && !is_opaque {
            let sides = self.below.list(only)?.into_iter();
            found.extend(sides.map(|(name, side)| (name, Found::Below(side))));
        }
        for (name, side) in members {
            if let Some(gone) = name.strip_prefix(WHITEOUT) {
                // What the layer itself has at that name stays.
                if !name.starts_with(RESERVED) && matches!(found.get(gone), Some(Found::Below(_))) {
                    found.remove(gone);
                }
                continue;
            }
            if only.is_some_and(|only| !only.contains(&name)) {
                continue;
            }
            let merged = self.merged(&name, side, found.remove(&name))?;
            found.insert(name, merged);
        }
        Ok(found)
    }

    fn merged(&self, name: &[u8], side: Side, below: Option<Found>) -> Result<Found> {
        let Some(Found::Below(below)) = below.filter(|_| side.is_directory()) else {
            return Ok(Found::Above(side));
        };
        let is_implied = self.above.is_implied(Some(name))?;
        match (below.is_directory(), is_implied) {
            (true, true) => Ok(Found::Both(below)),
            (true, false) => Ok(Found::Both(side)),
            (false, false) => Ok(Found::Above(side)),
            (false, true) => {
                let path = [self.path.join(&b'/'), name.to_vec()].join(&b'/');
                let object = format!("{}", PathBytes::from(path));
                let cause =
                    "the archive has something below it, and in the base it is no directory";
                Err(Error::failed(object, cause).remedy(
                    "name what is meant without the symlink, or have the archive hold the directory itself",
                ))
            }
        }
    }

    fn side(found: Found) -> Side {
        match found {
            Found::Below(side) | Found::Above(side) | Found::Both(side) => side,
        }
    }

    fn at(&mut self, name: &[u8]) -> Result<Found> {
        let only = Names::from([name.into()]);
        let found = self.found(Some(&only))?.remove(name);
        found.ok_or_else(|| {
            let name = PathBytes::from(name);
            Error::failed(name, "it is gone while it is read").remedy("try again")
        })
    }
}

impl Tree for ComparedLayer<'_> {
    fn root(&mut self) -> Result<Side> {
        match self.above.is_implied(None)? {
            true => self.below.root(),
            false => self.above.root(),
        }
    }

    fn list(&mut self, only: Option<&Names>) -> Result<Vec<NamedSide>> {
        let found = self.found(only)?.into_iter();
        Ok(found
            .map(|(name, found)| (name, Self::side(found)))
            .collect())
    }

    fn enter(&mut self, name: &[u8]) -> Result<()> {
        let (below, above) = match self.at(name)? {
            Found::Below(_) => (true, false),
            Found::Above(_) => (false, true),
            Found::Both(_) => (true, true),
        };
        if below {
            self.below.enter(name)?;
        }
        if above {
            self.above.enter(name)?;
        }
        self.levels.push(Level { below, above });
        self.path.push(name.to_vec());
        Ok(())
    }

    fn leave(&mut self) -> Result<()> {
        if let Some(level) = self.levels.pop() {
            if level.below {
                self.below.leave()?;
            }
            if level.above {
                self.above.leave()?;
            }
        }
        self.path.pop();
        Ok(())
    }

    fn open(&mut self, name: &[u8]) -> Result<OwnedFd> {
        match self.at(name)? {
            Found::Below(_) => self.below.open(name),
            Found::Above(_) | Found::Both(_) => self.above.open(name),
        }
    }

    /// All names are looked at anyway.
    fn look_at(&mut self, _inodes: &HashSet<Number>) -> Result<bool> {
        Ok(false)
    }
}
