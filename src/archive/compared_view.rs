//! An image's view as a tree to compare.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::OFlags;

use super::view_source::ImageSource;
use crate::error::{Context, Error, Result};
use crate::merge::compare::{Deviations, NamedSide, Names, Side, Tree, What};
use crate::merge::list;
use crate::merge::lookup::{self, Item, OpenDirectory};
use crate::merge::shared_names::SharedNames;
use crate::merge::view::View;
use crate::merge::walk::Visit;
use crate::path_bytes::PathBytes;
use crate::store::digest::Digest;
use crate::store::layer::{self, PrivateEntry};
use crate::store::mark::{self, DirectoryRole, Mark, Role};
use crate::store::metadata::{Content, Time};
use crate::store::number::Number;
use crate::store::objects::Objects;
use crate::sys::xattr;

/// How often a file is opened that is replaced while it is opened.
const ATTEMPTS: usize = 8;

/// A directory on the way.
struct Level {
    /// Its private part is open for reading.
    directory: OpenDirectory,
    /// What has been listed of it and can be entered.
    subdirectories: HashMap<Box<[u8]>, Way>,
    /// Length of the path of the directory above.
    path_length: usize,
}

/// How a directory is entered.
#[derive(Clone, Copy)]
enum Way {
    /// Nothing private is there.
    Shared(Number),
    /// By its name in the private directory.
    Private,
}

impl Way {
    fn to(item: &Item) -> Option<Self> {
        match (item, item.directory()?) {
            (Item::Shared { .. }, shared) => shared.map(Self::Shared),
            (Item::Private { .. }, _) => Some(Self::Private),
        }
    }
}

/// Opens a private directory for [`layer::names_from`].
fn open_private(parent: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    layer::open_directory(parent, name, OFlags::RDONLY | OFlags::NOATIME)
}

/// The mark of a directory or file that is open for reading.
fn mark_of(file: BorrowedFd<'_>) -> rustix::io::Result<Option<Mark>> {
    let bytes = xattr::get_descriptor(file, mark::NAME.as_bytes())?;
    Ok(bytes.and_then(|bytes| Mark::decode(&bytes).ok()))
}

/// A view, standing in one of its directories. Holds one descriptor for each private level of the
/// depth.
pub struct ComparedView<'a> {
    view: &'a View,
    objects: &'a Objects,
    levels: Vec<Level>,
    /// Of the directory it stands in.
    path: Vec<u8>,
    /// Shared names that are not what the shared layer has there.
    shown_otherwise: SharedNames,
}

/// What of the shared layer shows at a name of a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// The shared directory whose entry of that name shows, if it has one: nothing private is in its place.
    pub entry_of: Option<Number>,
    /// The shared directory that shows through the one that is there.
    pub directory: Option<Number>,
    /// The metadata of that directory is the shared one's, perhaps but for its mtime.
    pub has_shared_metadata: bool,
    /// And so is its mtime.
    pub has_shared_mtime: bool,
}

impl<'a> ComparedView<'a> {
    /// Stands in the root of a view.
    ///
    /// # Errors
    /// Those of reading it.
    pub fn new(view: &'a View, objects: &'a Objects) -> Result<Self> {
        let mut shown_otherwise = SharedNames::default();
        let indexed = view.layer.index_numbers()?;
        let indexed = indexed.into_iter().map(|number| view.shared_of(number));
        shown_otherwise.add(&view.shared, indexed)?;
        shown_otherwise.add(&view.shared, view.with_own_mtime())?;
        Self::standing(view, objects, shown_otherwise)
    }

    fn standing(
        view: &'a View,
        objects: &'a Objects,
        shown_otherwise: SharedNames,
    ) -> Result<Self> {
        let about = || format!("images/{}/private", view.layer.image());
        let root = OpenDirectory {
            private: Some(open_private(view.layer.private(), b".").about(about())?),
            shared: Some(view.root),
        };
        Ok(Self {
            view,
            objects,
            levels: vec![Level {
                directory: root,
                subdirectories: HashMap::new(),
                path_length: 0,
            }],
            path: Vec::new(),
            shown_otherwise,
        })
    }

    fn here(&self) -> Result<&OpenDirectory> {
        let here = self.levels.last().map(|level| &level.directory);
        here.ok_or_else(|| Error::failed("comparison", "it left the root"))
    }

    fn path_of(&self, name: &[u8]) -> Vec<u8> {
        match &self.path[..] {
            b"" => name.to_vec(),
            path => [path, b"/", name].concat(),
        }
    }

    fn shown_path(&self, name: &[u8]) -> PathBytes {
        [b"/", &self.path_of(name)[..]].concat().into()
    }

    /// Opens an object, or what another process is making it of.
    pub(super) fn open_object(&self, digest: &Digest, size: u64) -> Result<OwnedFd> {
        self.source().open_object(digest, size)
    }

    fn find(&self, name: &[u8]) -> Result<Item> {
        let found = lookup::lookup(self.view, self.here()?.parts(), name)?;
        found.ok_or_else(|| {
            Error::failed(self.shown_path(name), "it was removed while it was read")
                .remedy("stop what writes to the image, or compare a clone")
        })
    }

    fn source(&self) -> ImageSource<'a> {
        ImageSource {
            view: self.view,
            objects: self.objects,
        }
    }

    /// What of the shared layer shows at a name of the directory that it stands in; `.` is that directory.
    ///
    /// # Errors
    /// Those of reading it.
    pub fn standing_at(&self, name: &[u8]) -> Result<Standing> {
        let parts = self.here()?.parts();
        let private = match parts.private {
            Some(private) => layer::read_entry(private, name).about(self.shown_path(name))?,
            None => None,
        };
        let (Some(entry_of), None) = (parts.shared, &private) else {
            let Some(PrivateEntry::Marked { mark, .. }) = private else {
                return Ok(Standing::default());
            };
            let Role::Directory(role) = mark.role else {
                return Ok(Standing::default());
            };
            let is_transparent = matches!(role, DirectoryRole::Transparent { .. });
            return Ok(self.standing_of(role.shared(), is_transparent));
        };
        let directory = self.view.shared.directory(entry_of)?;
        let Some(inode) = directory.find(name) else {
            return Ok(Standing {
                entry_of: Some(entry_of),
                ..Standing::default()
            });
        };
        if inode.content == Content::Directory {
            return Ok(Standing {
                entry_of: Some(entry_of),
                ..self.standing_of(Some(inode.number), true)
            });
        }
        let number = self.view.shown_as(inode.number, inode.ctime).number;
        let is_indexed = self.view.is_indexed(number);
        Ok(Standing {
            entry_of: (!is_indexed).then_some(entry_of),
            ..Standing::default()
        })
    }

    fn standing_of(&self, directory: Option<Number>, has_shared_metadata: bool) -> Standing {
        let own_mtime = |shared| self.view.shown_as(shared, Time::default()).mtime.is_some();
        Standing {
            entry_of: None,
            directory,
            has_shared_metadata,
            has_shared_mtime: has_shared_metadata && !directory.is_some_and(own_mtime),
        }
    }

    fn side(&self, name: &[u8], item: &Item) -> Result<Side> {
        if let Item::Shared { inode, shown } = item {
            return Ok(Side {
                number: shown.number.get(),
                several_names: inode.content != Content::Directory && inode.links > 1,
                what: What::Shared(inode.clone()),
            });
        }
        let (content, metadata, several_names) = self.source().describe(&Visit {
            path: &self.path_of(name),
            parent: self.here()?,
            name,
            item,
        })?;
        Ok(Side {
            number: item.number().get(),
            several_names,
            what: What::Own(Arc::new((content, metadata))),
        })
    }
}

/// Whether an open private file is a stub by now, whose bytes are not its content. One without a
/// mark has become an object meanwhile.
fn is_stub(file: &OwnedFd) -> rustix::io::Result<bool> {
    let mark = mark_of(file.as_fd())?;
    Ok(mark.is_some_and(|mark| matches!(mark.role, Role::Stub { .. })))
}

impl Tree for ComparedView<'_> {
    fn root(&mut self) -> Result<Side> {
        self.side(b".", &lookup::root(self.view)?)
    }

    fn list(&mut self, only: Option<&Names>) -> Result<Vec<NamedSide>> {
        let parts = self.here()?.parts();
        let mut sides = Vec::new();
        let mut subdirectories = HashMap::new();
        let mut take = |name: &[u8], item: &Item| -> Result<()> {
            if let Some(way) = Way::to(item) {
                subdirectories.insert(name.into(), way);
            }
            sides.push((name.into(), self.side(name, item)?));
            Ok(())
        };
        match only {
            None => {
                for (name, item) in list::list(self.view, parts)? {
                    take(&name, &item)?;
                }
            }
            Some(names) => {
                for name in names {
                    if let Some(item) = lookup::lookup(self.view, parts, name)? {
                        take(name, &item)?;
                    }
                }
            }
        }
        if let Some(level) = self.levels.last_mut() {
            level.subdirectories = subdirectories;
        }
        Ok(sides)
    }

    fn enter(&mut self, name: &[u8]) -> Result<()> {
        let listed = self.levels.last_mut();
        let listed = listed.and_then(|level| level.subdirectories.remove(name));
        let replaced = || {
            Error::failed(self.shown_path(name), "it was replaced while it was read")
                .remedy("stop what writes to the image, or compare a clone")
        };
        let way = match listed {
            Some(way) => way,
            None => Way::to(&self.find(name)?).ok_or_else(replaced)?,
        };
        let directory = match (way, &self.here()?.private) {
            (Way::Shared(number), _) => OpenDirectory {
                private: None,
                shared: Some(number),
            },
            (Way::Private, None) => return Err(replaced()),
            (Way::Private, Some(parent)) => {
                let opened = open_private(parent.as_fd(), name);
                let opened = opened.about(self.shown_path(name))?;
                // Another one may stand there by now.
                let mark = mark_of(opened.as_fd()).about(self.shown_path(name))?;
                let Some(Role::Directory(role)) = mark.map(|mark| mark.role) else {
                    return Err(replaced());
                };
                OpenDirectory {
                    private: Some(opened),
                    shared: role.shared(),
                }
            }
        };
        let path = self.path_of(name);
        self.levels.push(Level {
            directory,
            subdirectories: HashMap::new(),
            path_length: self.path.len(),
        });
        self.path = path;
        Ok(())
    }

    fn leave(&mut self) -> Result<()> {
        let left = self.levels.pop();
        self.path.truncate(left.map_or(0, |left| left.path_length));
        Ok(())
    }

    fn open(&mut self, name: &[u8]) -> Result<OwnedFd> {
        let source = self.source();
        for _ in 0..ATTEMPTS {
            let item = self.find(name)?;
            let side = self.side(name, &item)?;
            if let Content::Regular {
                digest: Some(digest),
                size,
            } = side.content()
            {
                return source.open_object(digest, *size);
            }
            let path = self.path_of(name);
            let visit = Visit {
                path: &path,
                parent: self.here()?,
                name,
                item: &item,
            };
            // A pass may fold it meanwhile.
            if let Some(file) = visit.open_private(self.view)?
                && !is_stub(&file).about(self.shown_path(name))?
            {
                return Ok(file);
            }
        }
        Err(
            Error::failed(self.shown_path(name), "it changes while it is read")
                .remedy("stop what writes to the image, or compare a clone"),
        )
    }

    fn deviations(&mut self) -> Result<Option<Deviations>> {
        let here = self.here()?;
        let Some(shared) = here.shared else {
            return Ok(None);
        };
        let known = self.shown_otherwise.in_directory(shared);
        let mut names: Names = known.cloned().unwrap_or_default();
        if let Some(private) = &here.private {
            names.extend(layer::names_from(private.as_fd()).about(self.shown_path(b""))?);
        }
        Ok(Some(Deviations { shared, names }))
    }

    fn another(&self) -> Result<Option<Box<dyn Tree + Send + '_>>> {
        let shown_otherwise = self.shown_otherwise.clone();
        let tree = Self::standing(self.view, self.objects, shown_otherwise)?;
        Ok(Some(Box::new(tree)))
    }

    fn look_at(&mut self, inodes: &HashSet<Number>) -> Result<bool> {
        let inodes = inodes.iter().copied();
        self.shown_otherwise.add(&self.view.shared, inodes)
    }
}
