//! Which of the paths that are gone, and of those that are new, are the same file elsewhere.

use std::collections::HashMap;
use std::hash::Hash;
use std::os::fd::AsFd;

use crate::error::{Context, Result};
use crate::merge::compare::{Aspects, Difference, Side, Tree, open_path};
use crate::path_bytes::PathBytes;
use crate::store::content::{digest_of, same_content};
use crate::store::digest::Digest;
use crate::store::metadata::{Content, Metadata};

/// A file that stands elsewhere in the new tree; positions in the list of differences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// Where it was: a path that the new tree lacks.
    pub from: usize,
    /// Where it is: a path that the old tree lacks.
    pub to: usize,
    /// What else differs.
    pub aspects: Aspects,
}

/// The moves between two trees; each position is in one at most.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Moves {
    by_origin: HashMap<usize, usize>,
    by_destination: HashMap<usize, usize>,
    aspects: HashMap<usize, Aspects>,
}

/// The positions that have a key: gone ones and new ones.
type Groups<K> = HashMap<K, (Vec<usize>, Vec<usize>)>;

fn group<K: Eq + Hash>(
    differences: &[Difference],
    key: impl Fn(usize, &Side) -> Option<K>,
) -> Groups<K> {
    let mut groups: Groups<K> = HashMap::new();
    for (index, difference) in differences.iter().enumerate() {
        let (side, gone) = match (&difference.old, &difference.new) {
            (Some(old), None) => (old, true),
            (None, Some(new)) => (new, false),
            _ => continue,
        };
        let Some(key) = key(index, side) else {
            continue;
        };
        let group = groups.entry(key).or_default();
        match gone {
            true => group.0.push(index),
            false => group.1.push(index),
        }
    }
    groups.retain(|_, (gone, new)| !gone.is_empty() && !new.is_empty());
    groups
}

impl Moves {
    /// Finds the moves. In two images of one store (`same_store`) it is the same file if it has the
    /// same number and type, and one of its names is gone and one is new. Else a regular file with
    /// bytes in it, if one path with its content and metadata is gone and one is new.
    ///
    /// # Errors
    /// Those of reading contents of which nobody has the digest.
    pub fn find(
        differences: &[Difference],
        old: &mut dyn Tree,
        new: &mut dyn Tree,
        same_store: bool,
    ) -> Result<Self> {
        let mut moves = Self::default();
        if same_store {
            let key = |_: usize, side: &Side| Some((side.number, side.content().file_type()));
            moves.pair(group(differences, key));
        }
        let left = |moves: &Self, index: usize, side: &Side| -> Option<(u64, Metadata)> {
            let known =
                moves.by_origin.contains_key(&index) || moves.by_destination.contains_key(&index);
            match side.content() {
                Content::Regular { size, .. } if *size > 0 && !known => {
                    Some((*size, side.metadata().clone()))
                }
                _ => None,
            }
        };
        let alike = group(differences, |index, side| left(&moves, index, side));
        let mut digests: HashMap<usize, Digest> = HashMap::new();
        for (gone, added) in alike.values() {
            for &index in gone {
                digests.insert(index, digest(&differences[index], true, old)?);
            }
            for &index in added {
                digests.insert(index, digest(&differences[index], false, new)?);
            }
        }
        let key =
            |index: usize, side: &Side| Some((*digests.get(&index)?, side.metadata().clone()));
        moves.pair(group(differences, key));
        for (&from, &to) in &moves.by_origin {
            let (from, there) = (&differences[from], &differences[to]);
            let (Some(gone), Some(added)) = (&from.old, &there.new) else {
                continue;
            };
            let aspects = Aspects::of(gone, added, || {
                let files = (open_path(old, &from.path)?, open_path(new, &there.path)?);
                same_content(files.0.as_fd(), files.1.as_fd()).about(shown(&there.path))
            })?;
            moves.aspects.insert(to, aspects);
        }
        Ok(moves)
    }

    fn pair<K>(&mut self, groups: Groups<K>) {
        for (gone, new) in groups.into_values() {
            if let ([from], [to]) = (&gone[..], &new[..]) {
                self.by_origin.insert(*from, *to);
                self.by_destination.insert(*to, *from);
            }
        }
    }

    /// The move that begins or ends at a position.
    pub fn at(&self, index: usize) -> Option<Move> {
        let ends = self.by_destination.get(&index).map(|&from| (from, index));
        let begins = || self.by_origin.get(&index).map(|&to| (index, to));
        let (from, to) = ends.or_else(begins)?;
        let aspects = self.aspects.get(&to).copied().unwrap_or_default();
        Some(Move { from, to, aspects })
    }
}

fn shown(path: &[u8]) -> PathBytes {
    [b"/", path].concat().into()
}

/// The digest of a regular file that is gone, or new.
pub fn digest(difference: &Difference, gone: bool, tree: &mut dyn Tree) -> Result<Digest> {
    let side = if gone {
        &difference.old
    } else {
        &difference.new
    };
    if let Some(Content::Regular {
        digest: Some(digest),
        ..
    }) = side.as_ref().map(Side::content)
    {
        return Ok(*digest);
    }
    let file = open_path(tree, &difference.path)?;
    digest_of(file.as_fd()).about(shown(&difference.path))
}
