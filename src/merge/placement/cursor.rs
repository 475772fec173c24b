//! What the walk holds of one image: its directory in the place of one of the plan.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::OFlags;

use super::plan::Participant;
use crate::error::Result;
use crate::merge::lookup::{self, Item, Parts, damaged};
use crate::merge::view::View;
use crate::store::layer;
use crate::store::number::Number;

/// What an image has in place of a directory of the plan.
pub(super) enum Cursor {
    /// No directory.
    Lacks,
    /// The shared one, with nothing private in it.
    Plain,
    /// A private one, merged with the shared one.
    Merged(OwnedFd),
    /// A private one that takes nothing from the shared layer.
    Own(OwnedFd),
    /// A directory that was renamed to here, or is in one.
    Abstains,
}

impl Cursor {
    pub(super) fn private(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Cursor::Merged(directory) | Cursor::Own(directory) => Some(directory.as_fd()),
            Cursor::Lacks | Cursor::Plain | Cursor::Abstains => None,
        }
    }
}

/// What `name` means to an image whose directory `cursor` is.
pub(super) fn item_at(
    view: &View,
    cursor: &Cursor,
    directory: Option<Number>,
    name: &[u8],
) -> Result<Option<Item>> {
    let parts = match cursor {
        Cursor::Lacks | Cursor::Abstains => return Ok(None),
        Cursor::Plain => Parts {
            private: None,
            shared: directory,
        },
        Cursor::Merged(private) => Parts {
            private: Some(private.as_fd()),
            shared: directory,
        },
        Cursor::Own(private) => Parts {
            private: Some(private.as_fd()),
            shared: None,
        },
    };
    lookup::lookup(view, parts, name)
}

/// The directory `name` of an image's directory; `old`: the shared directory of that name.
pub(super) fn below(
    participant: &Participant<'_>,
    cursor: &Cursor,
    directory: Option<Number>,
    name: &[u8],
    old: Option<Number>,
) -> Result<Cursor> {
    let view = participant.view;
    let _names = participant.names.read();
    if matches!(cursor, Cursor::Abstains) {
        return Ok(Cursor::Abstains);
    }
    let Some(item) = item_at(view, cursor, directory, name)? else {
        return Ok(Cursor::Lacks);
    };
    let Some(shows) = item.directory() else {
        return Ok(Cursor::Lacks);
    };
    if shows.is_some() && shows != old {
        return Ok(Cursor::Abstains);
    }
    let (Item::Private { .. }, Some(parent)) = (&item, cursor.private()) else {
        return Ok(Cursor::Plain);
    };
    let opened = layer::open_directory(parent, name, OFlags::PATH);
    let opened = opened.map_err(|error| damaged(view, name, error))?;
    Ok(match shows {
        Some(_) => Cursor::Merged(opened),
        None => Cursor::Own(opened),
    })
}
