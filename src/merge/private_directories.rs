//! The entries of a private layer, its directories above all, found by what their marks say: for those who come with a
//! number and look for the place.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::OFlags;

use super::lookup::damaged;
use super::view::View;
use crate::error::Result;
use crate::store::layer::{self, PrivateEntry};
use crate::store::mark::{Mark, Role};
use crate::store::number::Number;

/// The names that lead from the root to a private directory.
pub type PrivatePath = Vec<Box<[u8]>>;

/// A private directory that a walk has come to.
#[derive(Debug, Clone, Copy)]
pub struct Above<'a> {
    steps: &'a [Step],
    at: usize,
}

/// A directory: where the one above it stands among all, and what it is called there. The first one is the root.
/// Guests nest directories as deep as they like: a path of each would take the square of that.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) above: usize,
    pub(super) name: Box<[u8]>,
}

impl Above<'_> {
    /// Which of all directories it is, in the order in which the walk comes to them: 0 for the root.
    pub fn index(self) -> usize {
        self.at
    }

    /// Where a name in it stands.
    pub fn path_to(self, name: &[u8]) -> PrivatePath {
        let mut path = vec![Box::from(name)];
        let mut at = self.at;
        while at != 0 {
            path.push(self.steps[at].name.clone());
            at = self.steps[at].above;
        }
        path.reverse();
        path
    }
}

/// A private directory below the root, still to be opened.
struct Pending {
    parent: Arc<OwnedFd>,
    step: Step,
}

/// Where the private entry of this number stands; `None` if there is none below the root. One of
/// its names, if it has several.
///
/// # Errors
/// Those of reading the private layer.
pub fn path_of(view: &View, number: Number) -> Result<Option<PrivatePath>> {
    let mut found = None;
    private_entries(view, &mut |above, name, mark| {
        if mark.number == number {
            found = Some(above.path_to(name));
        }
        found.is_none()
    })?;
    Ok(found)
}

/// Where the private directory stands that merges with a shared one; `None` if there is none below
/// the root.
///
/// # Errors
/// Those of reading the private layer.
pub fn path_merging_with(view: &View, shared: Number) -> Result<Option<PrivatePath>> {
    let mut found = None;
    private_entries(view, &mut |above, name, mark| {
        if merges_with(mark) == Some(shared) {
            found = Some(above.path_to(name));
        }
        found.is_none()
    })?;
    Ok(found)
}

/// The directory of the shared layer with which a private entry merges, if it does.
pub fn merges_with(mark: &Mark) -> Option<Number> {
    match mark.role {
        Role::Directory(role) => role.shared(),
        _ => None,
    }
}

/// Hands every marked entry to `take`, as the directory that holds it and its name, until it answers
/// `false`.
///
/// # Errors
/// Those of reading the private layer.
pub fn private_entries(
    view: &View,
    take: &mut dyn FnMut(Above<'_>, &[u8], &Mark) -> bool,
) -> Result<()> {
    walk(view, &mut Vec::new(), take)
}

/// [`private_entries`]; `steps` are all directories that it has come to, if it fails, too.
pub(super) fn walk(
    view: &View,
    steps: &mut Vec<Step>,
    take: &mut dyn FnMut(Above<'_>, &[u8], &Mark) -> bool,
) -> Result<()> {
    steps.push(Step {
        above: 0,
        name: Box::default(),
    });
    let root = layer::open_directory(view.layer.private(), b".", OFlags::PATH);
    let mut directory = Arc::new(root.map_err(|error| damaged(view, b".", error))?);
    let mut pending = Vec::new();
    loop {
        let at = steps.len() - 1;
        let above = Above { steps, at };
        let names = layer::names_in(directory.as_fd());
        for name in names.map_err(|error| damaged(view, b".", error))? {
            let entry = layer::read_entry(directory.as_fd(), &name);
            let Some(PrivateEntry::Marked { mark, .. }) =
                entry.map_err(|error| damaged(view, &name, error))?
            else {
                continue;
            };
            if !take(above, &name, &mark) {
                return Ok(());
            }
            if let Role::Directory(_) = mark.role {
                pending.push(Pending {
                    parent: directory.clone(),
                    step: Step {
                        above: at,
                        name: name.into(),
                    },
                });
            }
        }
        let Some(Pending { parent, step }) = pending.pop() else {
            return Ok(());
        };
        let opened = layer::open_directory(&*parent, &step.name, OFlags::PATH);
        directory = Arc::new(opened.map_err(|error| damaged(view, &step.name, error))?);
        steps.push(step);
    }
}
