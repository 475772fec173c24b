//! In what two trees differ: both are walked at the same time, and each path that only one has, or
//! that they have in different versions, is told with what stands there in the old and in the new.
//!
//! Names of the shared layer that neither tree alters are not looked at at all ([`Tree::deviations`]).

mod links;
mod side;
mod threads;
mod walk;

use std::collections::{BTreeSet, HashSet};
use std::os::fd::OwnedFd;

pub use side::{Aspects, Side, What};
pub use walk::compare;

use crate::error::Result;
use crate::store::number::Number;

/// Names of one directory.
pub type Names = BTreeSet<Box<[u8]>>;

/// A name of a directory and what stands there.
pub type NamedSide = (Box<[u8]>, Side);

/// Where the names of a directory may be something else than in a shared directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deviations {
    /// The shared directory that shows through.
    pub shared: Number,
    /// All names that may not be what this shared directory has, or that somebody has to look at.
    pub names: Names,
}

/// A tree to compare, with a directory that it stands in: the root at first.
pub trait Tree {
    /// The root itself.
    ///
    /// # Errors
    /// Those of reading the tree; so with all others.
    fn root(&mut self) -> Result<Side>;

    /// What is in the directory, sorted by the bytes of the names; `only`: of these names.
    fn list(&mut self, only: Option<&Names>) -> Result<Vec<NamedSide>>;

    /// Goes into a directory of this directory.
    fn enter(&mut self, name: &[u8]) -> Result<()>;

    /// Goes back up.
    fn leave(&mut self) -> Result<()>;

    /// Opens the content of a regular file of this directory that is not empty.
    fn open(&mut self, name: &[u8]) -> Result<OwnedFd>;

    /// The same tree once more, standing in its root, for another thread; `None` if that cannot be.
    fn another(&self) -> Result<Option<Box<dyn Tree + Send + '_>>> {
        Ok(None)
    }

    /// `None` where no shared directory shows through. Two directories of one store that show the
    /// same shared one are equal in all names that neither of them has among its deviations, and
    /// below these.
    fn deviations(&mut self) -> Result<Option<Deviations>> {
        Ok(None)
    }

    /// Has all names of these shared inodes be deviations, and the directories over them. Whether
    /// there was one that was none before.
    fn look_at(&mut self, inodes: &HashSet<Number>) -> Result<bool> {
        debug_assert!(inodes.is_empty(), "a tree without a shared layer has none");
        Ok(false)
    }
}

/// A path at which two trees differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// From the root, separated by '/', without a leading one; empty for the root itself.
    pub path: Vec<u8>,
    /// What the old tree has; `None`: nothing.
    pub old: Option<Side>,
    /// What the new tree has; one of both has something.
    pub new: Option<Side>,
    /// In what they differ, where both have something.
    pub aspects: Aspects,
}

/// Which paths are compared: those that are given and what is below them.
#[derive(Debug, Clone, Default)]
pub struct Scope(Vec<Vec<u8>>);

/// How a path lies to a [`Scope`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Within {
    /// It is compared, and all that is below it.
    Inside,
    /// Something below it is compared.
    Above,
    /// It is not looked at.
    Outside,
}

impl Scope {
    /// These paths, without a leading '/'; none: all there are.
    pub fn new(paths: Vec<Vec<u8>>) -> Self {
        Self(paths)
    }

    /// Where a path is.
    pub fn of(&self, path: &[u8]) -> Within {
        let is_below = |above: &[u8], path: &[u8]| {
            above.is_empty()
                || path
                    .strip_prefix(above)
                    .is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
        };
        match &self.0[..] {
            [] => Within::Inside,
            some if some.iter().any(|above| is_below(above, path)) => Within::Inside,
            some if some.iter().any(|below| is_below(path, below)) => Within::Above,
            _ => Within::Outside,
        }
    }
}

/// Opens a regular file of a tree that stands in its root, by its path; not an empty one.
///
/// # Errors
/// Those of the tree; it stands in its root again only if there was none.
pub fn open_path(tree: &mut dyn Tree, path: &[u8]) -> Result<OwnedFd> {
    let mut names: Vec<&[u8]> = path.split(|&byte| byte == b'/').collect();
    let last = names.pop().unwrap_or_default();
    for name in &names {
        tree.enter(name)?;
    }
    let file = tree.open(last)?;
    for _ in &names {
        tree.leave()?;
    }
    Ok(file)
}

/// The order in which trees are walked: a directory before what is in it, names by their bytes.
pub fn in_walk_order(left: &[u8], right: &[u8]) -> std::cmp::Ordering {
    let names = |path| <[u8]>::split(path, |&byte| byte == b'/');
    (!left.is_empty())
        .cmp(&!right.is_empty())
        .then_with(|| names(left).cmp(names(right)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cmp::Ordering;

    #[test]
    fn a_scope_is_paths_and_what_is_below_them() {
        let scope = Scope::new(vec![b"etc/apt".to_vec(), b"usr".to_vec()]);
        for (path, within) in [
            ("", Within::Above),
            ("etc", Within::Above),
            ("etc/apt", Within::Inside),
            ("etc/apt/sources.list", Within::Inside),
            ("etc/apt2", Within::Outside),
            ("et", Within::Outside),
            ("usr/bin", Within::Inside),
            ("var", Within::Outside),
        ] {
            assert_eq!(scope.of(path.as_bytes()), within, "{path}");
        }
        assert_eq!(Scope::default().of(b"x"), Within::Inside);
        assert_eq!(Scope::new(vec![Vec::new()]).of(b""), Within::Inside);
    }

    #[test]
    fn a_directory_comes_before_what_is_in_it() {
        let order = |left: &str, right: &str| in_walk_order(left.as_bytes(), right.as_bytes());
        assert_eq!(order("", "a"), Ordering::Less);
        assert_eq!(order("a", "a/b"), Ordering::Less);
        assert_eq!(order("a/b", "a.b"), Ordering::Less);
        assert_eq!(order("b", "a/b"), Ordering::Greater);
        assert_eq!(order("", ""), Ordering::Equal);
    }
}
