//! What one name of a directory is in a view.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{OFlags, Stat};
use rustix::io::Errno;

use super::view::{ShownAs, View};
use crate::error::{Context, Error, Result};
use crate::store::layer::{self, Layer, PrivateEntry};
use crate::store::mark::{DirectoryRole, Mark, Role};
use crate::store::metadata::{Content, FileType, SharedInode};
use crate::store::number::Number;
use crate::store::shared::SharedDirectory;

/// The two parts of a directory of a view. One of them is always there.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// The private directory, any descriptor of it.
    pub private: Option<BorrowedFd<'a>>,
    /// The shared directory that shows through.
    pub shared: Option<Number>,
}

/// Where the host inode of a private item lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Site {
    /// The name itself, in the private directory.
    Entry,
    /// `index/NUMBER`: it has (or had) several names.
    Index,
}

/// What a name is.
#[derive(Debug, Clone)]
#[allow(
    clippy::large_enum_variant,
    reason = "most live on the stack; a box for each entry costs more"
)]
pub enum Item {
    /// A private inode (a stub's content is an object).
    Private {
        /// Of the host inode: size, mode, owner and device are the view's; times unless the mark
        /// says otherwise; number and links are not. All but times are the shared directory's
        /// where the role is transparent.
        stat: Stat,
        /// Its mark.
        mark: Mark,
        /// Where it lies.
        site: Site,
    },
    /// An inode of the shared layer.
    Shared {
        /// The inode.
        inode: Arc<SharedInode>,
        /// Its number and ctime in this image.
        shown: ShownAs,
    },
}

impl Item {
    /// st_ino.
    pub fn number(&self) -> Number {
        match self {
            Item::Private { mark, .. } => mark.number,
            Item::Shared { shown, .. } => shown.number,
        }
    }

    /// The type.
    pub fn file_type(&self) -> FileType {
        match self {
            // The host has no others.
            Item::Private { stat, .. } => {
                FileType::from_mode(stat.st_mode).unwrap_or(FileType::Regular)
            }
            Item::Shared { inode, .. } => inode.content.file_type(),
        }
    }

    /// Whether it is a directory, and then the shared directory it shows.
    pub fn directory(&self) -> Option<Option<Number>> {
        match self {
            Item::Private {
                mark:
                    Mark {
                        role: Role::Directory(role),
                        ..
                    },
                ..
            } => Some(role.shared()),
            Item::Shared { inode, .. } if inode.content == Content::Directory => {
                Some(Some(inode.number))
            }
            _ => None,
        }
    }

    /// The role of a private directory.
    pub fn directory_role(&self) -> Option<DirectoryRole> {
        match self {
            Item::Private {
                mark:
                    Mark {
                        role: Role::Directory(role),
                        ..
                    },
                ..
            } => Some(*role),
            _ => None,
        }
    }
}

/// A directory of a view with its private part opened, for going down a tree.
#[derive(Debug)]
pub struct OpenDirectory {
    /// The private part.
    pub private: Option<OwnedFd>,
    /// The shared part.
    pub shared: Option<Number>,
}

impl OpenDirectory {
    /// The view's root.
    pub fn root(view: &View) -> Result<Self> {
        let about = || format!("images/{}/private", view.layer.image());
        let private = layer::open_directory(view.layer.private(), b".", OFlags::PATH);
        Ok(Self {
            private: Some(private.about(about())?),
            shared: Some(view.root),
        })
    }

    /// Both parts.
    pub fn parts(&self) -> Parts<'_> {
        use std::os::fd::AsFd;
        Parts {
            private: self.private.as_ref().map(AsFd::as_fd),
            shared: self.shared,
        }
    }

    /// The directory `name` below, which `item` is what `name` means; `None` if it is none.
    pub fn descend(&self, view: &View, name: &[u8], item: &Item) -> Result<Option<Self>> {
        let Some(shared) = item.directory() else {
            return Ok(None);
        };
        let private = match (item, &self.private) {
            (Item::Private { .. }, Some(parent)) => {
                let opened = layer::open_directory(parent, name, OFlags::PATH);
                Some(opened.map_err(|error| damaged(view, name, error))?)
            }
            _ => None,
        };
        Ok(Some(Self { private, shared }))
    }
}

/// An error about an entry of an image's private layer.
pub(super) fn damaged(view: &View, name: &[u8], error: Errno) -> Error {
    let object = format!("images/{}: {}", view.layer.image(), name.escape_ascii());
    let error = match error {
        Errno::BADMSG => Error {
            errno: Some(libc::EIO),
            ..Error::failed(
                object,
                "an entry without a valid mark, which foldfs did not make",
            )
        },
        other => Error {
            errno: Some(other.raw_os_error()),
            ..Error::failed(object, std::io::Error::from(other))
        },
    };
    error.remedy("run `foldfs check`")
}

/// What `name` is in a directory; `None` if there is no such name.
///
/// # Errors
/// A private entry that foldfs did not make, a token without its file, a host or catalog failure.
pub fn lookup(view: &View, parts: Parts<'_>, name: &[u8]) -> Result<Option<Item>> {
    if let Some(private) = parts.private {
        match layer::read_entry(private, name).map_err(|error| damaged(view, name, error))? {
            Some(PrivateEntry::Whiteout) => return Ok(None),
            Some(PrivateEntry::Marked { stat, mark }) => {
                return private_item(view, stat, mark).map(Some);
            }
            None => {}
        }
    }
    let Some(shared) = parts.shared else {
        return Ok(None);
    };
    let directory = view.shared.directory(shared)?;
    shared_item(view, &directory, name)
}

/// What an entry of a private directory is.
pub(super) fn private_item(view: &View, stat: Stat, mark: Mark) -> Result<Item> {
    match mark.role {
        Role::Name => indexed(view, mark.number),
        _ => Ok(Item::Private {
            stat,
            mark,
            site: Site::Entry,
        }),
    }
}

/// The file `index/NUMBER`.
pub fn indexed(view: &View, number: Number) -> Result<Item> {
    let name = Layer::number_name(number);
    match layer::read_entry(view.layer.index(), &name) {
        Ok(Some(PrivateEntry::Marked { stat, mark })) if mark.number == number => {
            Ok(Item::Private {
                stat,
                mark,
                site: Site::Index,
            })
        }
        Ok(_) => Err(damaged(view, &name, Errno::BADMSG)),
        Err(error) => Err(damaged(view, &name, error)),
    }
}

/// What a name of a shared directory is in this view, provided that nothing private is in its
/// place.
pub fn shared_item(view: &View, directory: &SharedDirectory, name: &[u8]) -> Result<Option<Item>> {
    let Some(inode) = directory.find(name) else {
        return Ok(None);
    };
    let shown = view.shown_as(inode.number, inode.ctime);
    if inode.content != Content::Directory && view.is_indexed(shown.number) {
        return indexed(view, shown.number).map(Some);
    }
    Ok(Some(Item::Shared {
        inode: view.as_shown(inode),
        shown,
    }))
}

/// The root of the view.
pub fn root(view: &View) -> Result<Item> {
    match layer::read_entry(view.layer.private(), b".") {
        Ok(Some(PrivateEntry::Marked { stat, mark })) => Ok(Item::Private {
            stat,
            mark,
            site: Site::Entry,
        }),
        Ok(_) => Err(damaged(view, b"/", Errno::BADMSG)),
        Err(error) => Err(damaged(view, b"/", error)),
    }
}
