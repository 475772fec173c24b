//! What an image shows at the paths of a patch.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::os::fd::OwnedFd;

use super::known::{Known, Told};
use crate::archive::patch::{ContentId, PatchTable, PathVersion};
use crate::archive::{ComparedView, Standing};
use crate::error::{Error, Result};
use crate::filesystem::Filesystem;
use crate::filesystem::follow::Alteration;
use crate::merge::compare::{NamedSide, Names, Side, Tree, What, open_path};
use crate::path_bytes::PathBytes;
use crate::store::metadata::{Content, Metadata};
use crate::store::number::Number;
use crate::store::objects::Objects;

/// Bytes of all paths and of those above them.
const PATHS_MAX: usize = 512 << 20;

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    /// Type and content. A digest is known where the size is that of a version in the patch.
    pub content: Content,
    pub metadata: Metadata,
    /// st_ino.
    pub number: u64,
    /// How many names the file has in this image.
    pub links: u32,
    /// The content is no object.
    pub is_private: bool,
    /// Somebody may be altering the content.
    pub is_written: bool,
}

impl Seen {
    pub(super) fn is_directory(&self) -> bool {
        self.content == Content::Directory
    }
}

/// An image at the paths of a patch and in the directories above them.
#[derive(Default)]
pub(super) struct Observed {
    seen: HashMap<Vec<u8>, Seen>,
    /// What of it the shared layer shows, also where nothing is seen.
    standings: HashMap<Vec<u8>, Standing>,
    /// The names in the directories that the patch takes away.
    inside: HashMap<Vec<u8>, Vec<Vec<u8>>>,
    /// Files that have to be read, by number and path.
    unknown: Vec<(u64, Vec<u8>)>,
}

impl Observed {
    /// Files of which nobody knows the content yet, but that may have one of the patch's: number and path.
    pub(super) fn unknown(&self) -> &[(u64, Vec<u8>)] {
        &self.unknown
    }

    /// What stands at a path; `None`: nothing.
    pub(super) fn at(&self, path: &[u8]) -> Option<&Seen> {
        self.seen.get(path)
    }

    /// What the shared layer has to do with it.
    pub(super) fn standing(&self, path: &[u8]) -> Standing {
        self.standings.get(path).copied().unwrap_or_default()
    }

    /// The paths of all that is in a directory that the patch takes away.
    pub(super) fn inside(&self, path: &[u8]) -> &[Vec<u8>] {
        self.inside.get(path).map_or(&[], Vec::as_slice)
    }

    /// Where the image has contents that are no objects.
    pub(super) fn private_contents(&self) -> HashMap<ContentId, Vec<u8>> {
        let private = self.seen.iter().filter(|(_, seen)| seen.is_private);
        let known =
            private.filter_map(|(path, seen)| Some((content_id(&seen.content)?, path.clone())));
        known.collect()
    }
}

/// The path of the directory that a path is in; `None` for the root.
pub(super) fn above(path: &[u8]) -> Option<&[u8]> {
    if path.is_empty() {
        return None;
    }
    let slash = path.iter().rposition(|&byte| byte == b'/');
    Some(&path[..slash.unwrap_or(0)])
}

/// The name that a path has in that directory.
pub(super) fn name_in(path: &[u8]) -> &[u8] {
    let slash = path.iter().rposition(|&byte| byte == b'/');
    &path[slash.map_or(0, |slash| slash + 1)..]
}

fn content_id(content: &Content) -> Option<ContentId> {
    match content {
        Content::Regular {
            size,
            digest: Some(digest),
        } => Some(ContentId {
            digest: *digest,
            size: *size,
        }),
        _ => None,
    }
}

/// Which names of which directories are looked at.
struct Wanted {
    names: HashMap<Vec<u8>, Names>,
    /// Directories of which all names are.
    whole: HashSet<Vec<u8>>,
    /// Sizes of contents, by path.
    sizes: HashMap<Vec<u8>, BTreeSet<u64>>,
}

impl Wanted {
    fn of(table: &PatchTable) -> Result<Self> {
        let mut bytes = 0;
        let mut wanted = Self {
            names: HashMap::new(),
            whole: HashSet::new(),
            sizes: HashMap::new(),
        };
        for entry in &table.entries {
            let is_directory = |version: &Option<PathVersion>| {
                let content = version.as_ref().map(|version| &version.content);
                content == Some(&Content::Directory)
            };
            if is_directory(&entry.old) && !is_directory(&entry.new) {
                wanted.whole.insert(entry.path.clone());
            }
            let versions = [&entry.old, &entry.new].into_iter().flatten();
            let ids = versions.filter_map(PathVersion::content_id);
            let sizes = wanted.sizes.entry(entry.path.clone()).or_default();
            sizes.extend(ids.map(|id| id.size));
            let mut path = &entry.path[..];
            while let Some(parent) = above(path) {
                let names = wanted.names.entry(parent.to_vec()).or_default();
                bytes += path.len();
                if bytes > PATHS_MAX {
                    return Err(
                        Error::failed("the patch", "its paths are too many and too deep")
                            .remedy("make several patches of it"),
                    );
                }
                if !names.insert(name_in(path).into()) {
                    break;
                }
                path = parent;
            }
        }
        Ok(wanted)
    }
}

/// A directory on the way.
struct Level {
    path: Vec<u8>,
    below: std::vec::IntoIter<NamedSide>,
}

/// Looks at all paths of a patch in an image, which is still meanwhile; no file is read.
///
/// # Errors
/// Those of reading the image.
pub(super) fn observe(
    still: &Alteration<'_>,
    objects: &Objects,
    table: &PatchTable,
    known: &Known,
) -> Result<Observed> {
    let wanted = Wanted::of(table)?;
    let looker = Looker {
        still,
        known,
        wanted: &wanted,
    };
    let mut tree = ComparedView::new(&still.filesystem().view, objects)?;
    let mut observed = Observed::default();
    let root = tree.root()?;
    let root = looker.seen(b"", &root, &mut observed.unknown)?;
    observed.seen.insert(Vec::new(), root);
    observed
        .standings
        .insert(Vec::new(), tree.standing_at(b".")?);
    let mut levels = vec![looker.level(&mut tree, Vec::new(), &mut observed)?];
    while let Some(current) = levels.last_mut() {
        let Some((name, side)) = current.below.next() else {
            levels.pop();
            if !levels.is_empty() {
                tree.leave()?;
            }
            continue;
        };
        let path = join(&current.path, &name);
        let looks_below = wanted.names.contains_key(&path) || wanted.whole.contains(&path);
        if side.is_directory() && looks_below {
            tree.enter(&name)?;
            let below = looker.level(&mut tree, path, &mut observed)?;
            levels.push(below);
        }
    }
    Ok(observed)
}

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    match path {
        b"" => name.to_vec(),
        path => [path, b"/", name].concat(),
    }
}

struct Looker<'a> {
    still: &'a Alteration<'a>,
    known: &'a Known,
    wanted: &'a Wanted,
}

impl Looker<'_> {
    /// Takes note of what is in the directory that the tree stands in.
    fn level(
        &self,
        tree: &mut ComparedView<'_>,
        path: Vec<u8>,
        observed: &mut Observed,
    ) -> Result<Level> {
        let none = Names::new();
        let names = self.wanted.names.get(&path).unwrap_or(&none);
        let is_whole = self.wanted.whole.contains(&path);
        let sides = tree.list((!is_whole).then_some(names))?;
        if is_whole {
            let all = sides.iter().map(|(name, _)| join(&path, name));
            observed.inside.insert(path.clone(), all.collect());
        }
        for name in names {
            let standing = tree.standing_at(name)?;
            observed.standings.insert(join(&path, name), standing);
        }
        let mut below = Vec::new();
        for (name, side) in sides {
            if names.contains(&name) {
                let path = join(&path, &name);
                let seen = self.seen(&path, &side, &mut observed.unknown)?;
                observed.seen.insert(path, seen);
                below.push((name, side));
            }
        }
        let below = below.into_iter();
        Ok(Level { path, below })
    }

    fn seen(&self, path: &[u8], side: &Side, unknown: &mut Vec<(u64, Vec<u8>)>) -> Result<Seen> {
        let mut content = side.content().clone();
        let number = Number::new(side.number).unwrap_or(Number::ROOT);
        let mut is_private = false;
        let mut is_written = !side.is_directory() && self.still.is_written(number);
        if let Content::Regular { size, digest } = &mut content
            && digest.is_none()
            && *size > 0
        {
            is_private = true;
            let sizes = self.wanted.sizes.get(path);
            if sizes.is_some_and(|sizes| sizes.contains(size)) {
                match self.known.told(side.number) {
                    Told::Digest(known) => *digest = Some(known),
                    Told::Written => is_written = true,
                    Told::Unknown => unknown.push((side.number, path.to_vec())),
                }
            }
        }
        let links = match &side.what {
            _ if !side.several_names => 1,
            What::Shared(inode) => inode.links,
            What::Own(_) => {
                let image = self.still.filesystem().view.layer.image();
                let links = self.still.names_of_indexed(number);
                let path = PathBytes::from([b"/", path].concat());
                links.map_err(|failure| failure.about(format!("images/{image}: {path}")))?
            }
        };
        Ok(Seen {
            content,
            metadata: side.metadata().clone(),
            number: side.number,
            links,
            is_private,
            is_written,
        })
    }
}

/// Opens a file of an image by its path.
///
/// # Errors
/// Those of reading the image.
pub(super) fn open(filesystem: &Filesystem, objects: &Objects, path: &[u8]) -> Result<OwnedFd> {
    let mut tree = ComparedView::new(&filesystem.view, objects)?;
    open_path(&mut tree, path)
}
