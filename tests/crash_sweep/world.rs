//! A store that operations are tried on, and what its images look like to their guests.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use foldfs::archive::{import_directory, import_tar};
use foldfs::error::Error;
use foldfs::filesystem::Filesystem;
use foldfs::filesystem::failure::Failure;
use foldfs::filesystem::node::Node;
use foldfs::filesystem::open::OpenFlags;
use foldfs::merge::walk;
use foldfs::ops::{Context, check, clone, import, remove};
use foldfs::progress::Silent;
use foldfs::store::catalog::{Reads, Share};
use foldfs::store::metadata::FileType;
use foldfs::store::{Access, Store};

use super::family::live::ROOT;
use super::family::{Seen, Snapshot, find};

/// How something ended; why, if it failed.
pub type Done = Result<(), String>;

/// An error as text.
pub fn said(error: Error) -> String {
    error.to_string()
}

/// The same of a live image.
pub fn refused(failure: Failure) -> String {
    failure.to_string()
}

/// A directory with a store, the trees that are imported, and what is exported.
pub struct World {
    /// The directory.
    pub place: PathBuf,
    /// The open store.
    pub context: Context,
}

/// What all images look like, and what was exported.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// Each image's view.
    pub images: BTreeMap<String, Snapshot>,
    /// What stands at the destinations of exports: type, mode and content.
    pub exported: BTreeMap<String, (u32, Vec<u8>)>,
}

impl World {
    /// Opens the store in `place`, as the next process would.
    pub fn open(place: &Path) -> Result<World, Error> {
        let store = Store::open(&place.join("store"), Access::Write)?;
        Ok(World {
            place: place.to_owned(),
            context: Context::new(Arc::new(store), 1),
        })
    }

    /// An image at work.
    pub fn filesystem(&self, image: &str) -> Result<Arc<Filesystem>, String> {
        let row = self.context.store.catalog().image_by_name(image);
        let row = row.map_err(said)?.ok_or(format!("no image {image}"))?;
        self.context.images.filesystem(row.id).map_err(said)
    }

    /// A tree to be imported.
    pub fn source(&self, name: &str) -> PathBuf {
        self.place.join("sources").join(name)
    }

    /// Imports a directory, or an archive, into a family.
    pub fn import(&self, name: &str, source: &str, family: &str) -> Done {
        let path = self.source(source);
        let store = &self.context.store;
        let tree = match path.is_dir() {
            true => import_directory(store, &path, &Silent),
            false => import_tar(store, &path, &Silent),
        };
        let tree = tree.map_err(said)?;
        let options = import::Options {
            name: name.to_owned(),
            family: Some(family.to_owned()),
            share: Share::Majority,
            source: source.to_owned(),
        };
        let plan = import::plan(&self.context, &tree, &options).map_err(said)?;
        import::apply(&self.context, &tree, &plan, &Silent).map_err(said)?;
        Ok(())
    }

    /// Clones an image.
    pub fn clone(&self, from: &str, to: &str) -> Done {
        let options = clone::Options {
            from: from.to_owned(),
            to: to.to_owned(),
            frozen: false,
        };
        let plan = clone::plan(&self.context, &options).map_err(said)?;
        clone::apply(&self.context, &plan, &Silent).map_err(said)?;
        Ok(())
    }

    /// Removes an image.
    pub fn remove(&self, name: &str) -> Done {
        let plan = remove::plan(&self.context, name).map_err(said)?;
        remove::apply(&self.context, &plan, &Silent).map_err(said)?;
        Ok(())
    }

    /// What everything looks like now.
    pub fn state(&self) -> State {
        let images = self.context.store.catalog().images().unwrap();
        let views = images.into_iter().map(|image| {
            let live = self.context.images.filesystem(image.id);
            let live = live.unwrap_or_else(|error| panic!("{}: {error}", image.name));
            (image.name, view(&live))
        });
        State {
            images: views.collect(),
            exported: exported(&self.place),
        }
    }

    /// What `check --content` finds.
    pub fn findings(&self) -> Vec<String> {
        let report = check::run(&self.context, check::Options { content: true }, &Silent);
        let found = report.unwrap().findings.into_iter();
        // One scenario gives this file a name outside the store.
        let found = found.filter(|finding| !format!("{finding:?}").contains("own/linked"));
        let mut found: Vec<_> = found.map(|finding| format!("{finding:?}")).collect();
        found.extend(objects_with_other_names(&self.place));
        found
    }
}

/// An object must never be a file that a guest can write.
fn objects_with_other_names(place: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for directory in fs::read_dir(place.join("store/objects")).unwrap() {
        for object in fs::read_dir(directory.unwrap().path()).unwrap() {
            let object = object.unwrap();
            let metadata = object.metadata().unwrap();
            if metadata.nlink() != 1 || metadata.permissions().mode() & 0o7777 != 0o400 {
                found.push(format!("{}: {metadata:?}", object.path().display()));
            }
        }
    }
    found
}

/// What a guest sees of an image.
fn view(live: &Filesystem) -> Snapshot {
    let mut paths = Vec::new();
    walk::walk(&live.view, &mut |visit| {
        paths.push(String::from_utf8(visit.path.to_vec()).unwrap());
        Ok(true)
    })
    .unwrap();
    let seen = paths.into_iter().map(|path| {
        let seen = look(live, &path);
        (path, seen)
    });
    seen.collect()
}

fn look(live: &Filesystem, path: &str) -> Seen {
    let (node, attributes) = find(live, path).unwrap_or_else(|| panic!("{path} is not found"));
    let content = match attributes.file_type {
        FileType::Regular => content(live, &node, path),
        FileType::Symlink => live.read_link(&node).unwrap(),
        _ => Vec::new(),
    };
    let names = live.xattr_names(&node, &ROOT).unwrap();
    let xattrs = names.into_iter().map(|name| {
        let value = live.xattr(&node, &name).unwrap();
        (name, value)
    });
    Seen {
        number: attributes.number.get(),
        file_type: format!("{:?}", attributes.file_type),
        mode: attributes.mode,
        links: attributes.links,
        owner: (attributes.uid, attributes.gid),
        rdev: attributes.rdev,
        size: match attributes.file_type {
            FileType::Directory => 0,
            _ => attributes.size,
        },
        mtime: attributes.mtime,
        ctime: attributes.ctime,
        content,
        xattrs: xattrs.collect(),
    }
}

fn content(live: &Filesystem, node: &Arc<Node>, path: &str) -> Vec<u8> {
    let handle = live.open(node, OpenFlags::default());
    let handle = handle.unwrap_or_else(|failure| panic!("{path}: {failure}"));
    let mut content = Vec::new();
    let mut buffer = vec![0; 1 << 17];
    loop {
        let read = live.read(handle, content.len() as u64, &mut buffer);
        match read.unwrap_or_else(|failure| panic!("{path}: {failure}")) {
            0 => break,
            length => content.extend_from_slice(&buffer[..length]),
        }
    }
    live.release(handle);
    content
}

/// Where exports go, below a world's place.
pub const EXPORTS: [&str; 3] = ["export-dir", "export-tar", "export-overlay"];

fn exported(place: &Path) -> BTreeMap<String, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let fresh = place.join("fresh");
    if fresh.join("foldfs.toml").exists() {
        drop(Store::open(&fresh, Access::Write).unwrap());
        found.insert("a fresh store".into(), Default::default());
    }
    let mut pending: Vec<_> = EXPORTS.iter().map(|name| place.join(name)).collect();
    while let Some(path) = pending.pop() {
        let Ok(metadata) = path.symlink_metadata() else {
            continue;
        };
        let mut content = Vec::new();
        if metadata.is_dir() {
            let entries = fs::read_dir(&path).unwrap();
            pending.extend(entries.map(|entry| entry.unwrap().path()));
        } else if metadata.is_file() {
            content = fs::read(&path).unwrap();
        } else if metadata.is_symlink() {
            content = fs::read_link(&path)
                .unwrap()
                .into_os_string()
                .into_encoded_bytes();
        }
        let name = path.strip_prefix(place).unwrap().display().to_string();
        found.insert(name, (metadata.mode(), content));
    }
    found
}
