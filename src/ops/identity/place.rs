//! Where paths lead in a view, as a program in the image would find it: symlinks of directories are followed,
//! and none leads out of the view.

use crate::archive::ImageSource;
use crate::error::{Context as _, Error, Result};
use crate::merge::list;
use crate::merge::lookup::{self, Item, OpenDirectory};
use crate::merge::walk::Visit;
use crate::path_bytes::PathBytes;
use crate::store::metadata::{Content, FileType, Metadata};
use crate::sys::copy;

/// As the kernel has it.
const MOST_LINKS: usize = 40;

/// So many names are looked up for one path, those in symlinks included. Each may cost a descriptor.
const MOST_NAMES: usize = 256;

/// The longest name that there can be in an image.
const NAME_MAX: usize = 255;

/// A directory of a view.
pub(super) struct Directory {
    path: Vec<u8>,
    open: OpenDirectory,
}

/// What stands at a name.
pub(super) struct Place {
    /// From the root, without a leading '/'; no symlink in it but the last name.
    pub path: Vec<u8>,
    parent: OpenDirectory,
    name: Box<[u8]>,
    pub item: Item,
}

/// What a path leads to.
enum End {
    Directory(Directory),
    Other(Box<Place>),
}

struct Level {
    name: Box<[u8]>,
    open: OpenDirectory,
}

/// The names of a path, the last one first.
fn reversed(path: &[u8]) -> impl Iterator<Item = Box<[u8]>> {
    let names = path.rsplit(|&byte| byte == b'/');
    let names = names.filter(|name| !matches!(*name, b"" | b"."));
    names.map(Box::from)
}

fn path_of(levels: &[Level], name: Option<&[u8]>) -> Vec<u8> {
    let above = levels.iter().skip(1).map(|level| &*level.name);
    let names: Vec<&[u8]> = above.chain(name).collect();
    names.join(&b'/')
}

/// The directory that a path leads to.
pub(super) fn directory(source: &ImageSource<'_>, path: &[u8]) -> Result<Option<Directory>> {
    Ok(match resolve(source, path)? {
        Some(End::Directory(directory)) => Some(directory),
        _ => None,
    })
}

/// The regular file that a path leads to.
pub(super) fn file(source: &ImageSource<'_>, path: &[u8]) -> Result<Option<Place>> {
    Ok(match resolve(source, path)? {
        Some(End::Other(place)) if place.item.file_type() == FileType::Regular => Some(*place),
        _ => None,
    })
}

fn resolve(source: &ImageSource<'_>, path: &[u8]) -> Result<Option<End>> {
    let view = source.view;
    let mut levels = vec![Level {
        name: Box::default(),
        open: OpenDirectory::root(view)?,
    }];
    let mut pending: Vec<_> = reversed(path).collect();
    let (mut links, mut names) = (0, 0);
    while let Some(name) = pending.pop() {
        names += 1;
        if names > MOST_NAMES {
            return Ok(None);
        }
        if &*name == b".." {
            // What is above the root is the root.
            levels.truncate((levels.len() - 1).max(1));
            continue;
        }
        let Some(level) = levels.last().filter(|_| name.len() <= NAME_MAX) else {
            return Ok(None);
        };
        let Some(item) = lookup::lookup(view, level.open.parts(), &name)? else {
            return Ok(None);
        };
        if let Some(open) = level.open.descend(view, &name, &item)? {
            levels.push(Level { name, open });
            continue;
        }
        let path = path_of(&levels, Some(&name));
        if item.file_type() == FileType::Symlink {
            let visit = Visit {
                path: &path,
                parent: &level.open,
                name: &name,
                item: &item,
            };
            links += 1;
            match source.describe(&visit)? {
                (Content::Symlink { target }, ..) if links <= MOST_LINKS => {
                    if target.starts_with(b"/") {
                        levels.truncate(1);
                    }
                    pending.extend(reversed(&target));
                }
                _ => return Ok(None),
            }
            continue;
        }
        return Ok(match levels.pop().filter(|_| pending.is_empty()) {
            Some(level) => Some(End::Other(Box::new(Place {
                path,
                parent: level.open,
                name,
                item,
            }))),
            None => None,
        });
    }
    let path = path_of(&levels, None);
    let directory = levels.pop().map(|level| Directory {
        path,
        open: level.open,
    });
    Ok(directory.map(End::Directory))
}

impl Directory {
    /// What stands at those of its names that are wanted, sorted by name.
    pub(super) fn places(
        self,
        source: &ImageSource<'_>,
        wanted: &dyn Fn(&[u8]) -> bool,
    ) -> Result<Vec<(Vec<u8>, Item)>> {
        let named = list::list_wanted(source.view, self.open.parts(), wanted)?;
        let named = named.into_iter();
        let placed = named.map(|(name, item)| match &self.path[..] {
            b"" => (name.into_vec(), item),
            above => ([above, b"/", &name].concat(), item),
        });
        Ok(placed.collect())
    }
}

impl Place {
    fn visit(&self) -> Visit<'_> {
        Visit {
            path: &self.path,
            parent: &self.parent,
            name: &self.name,
            item: &self.item,
        }
    }

    /// Content and metadata.
    pub(super) fn describe(&self, source: &ImageSource<'_>) -> Result<(Content, Metadata)> {
        let (content, metadata, _) = source.describe(&self.visit())?;
        Ok((content, metadata))
    }

    /// The bytes of a regular file; `None` if there are more than `most`.
    pub(super) fn read(&self, source: &ImageSource<'_>, most: u64) -> Result<Option<Vec<u8>>> {
        let (content, _) = self.describe(source)?;
        let object = || PathBytes::from([b"/", &self.path[..]].concat());
        let size = content.size();
        if size > most {
            return Ok(None);
        }
        if size == 0 {
            return Ok(Some(Vec::new()));
        }
        let file = match &content {
            Content::Regular {
                digest: Some(digest),
                size,
            } => source.open_object(digest, *size)?,
            _ => {
                let file = self.visit().open_private(source.view)?;
                file.ok_or_else(|| Error::failed(object(), "it has no content"))?
            }
        };
        let mut bytes = vec![0; size as usize];
        let length = copy::read_at(&file, &mut bytes, 0).about(object())?;
        bytes.truncate(length);
        Ok(Some(bytes))
    }
}
