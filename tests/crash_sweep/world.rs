//! A store that operations are tried on, and what its images look like to their guests.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use foldfs::error::Error;
use foldfs::filesystem::failure::Failure;
use foldfs::ops::{Context, check, hold};
use foldfs::progress::Silent;
use foldfs::store::catalog::{Reads, Share};
use foldfs::store::digest::Digest;
use foldfs::store::{Access, Store};

use super::family::guest::Guest;
use super::family::{Snapshot, commands, seen};

/// How something ended; why, if it failed.
pub type Done = Result<(), String>;

/// Likewise, of opening a store.
pub type Opened = Result<World, String>;

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
    /// What stands at the destinations of exports, and what a repair has moved aside: type, mode
    /// and content.
    pub exported: BTreeMap<String, (u32, Vec<u8>)>,
    /// What is held.
    pub holds: BTreeSet<String>,
}

impl World {
    /// Opens the store in `place`, as the next process would.
    pub fn open(place: &Path) -> Opened {
        let store = Store::open(&place.join("store"), Access::Write).map_err(said)?;
        Ok(World {
            place: place.to_owned(),
            context: Context::new(Arc::new(store), 1),
        })
    }

    /// A guest at work in an image.
    pub fn guest(&self, image: &str) -> Result<Guest, String> {
        let row = self.context.store.catalog().image_by_name(image);
        let row = row.map_err(said)?.ok_or(format!("no image {image}"))?;
        let live = self.context.images.filesystem(row.id);
        live.map(Guest).map_err(said)
    }

    /// A tree to be imported.
    pub fn source(&self, name: &str) -> PathBuf {
        self.place.join("sources").join(name)
    }

    /// Imports a directory, or an archive, into a family.
    pub fn import(&self, name: &str, source: &str, family: &str) -> Done {
        let (path, share) = (self.source(source), Share::Majority);
        let imported = commands::import(&self.context, name, &path, Some(family), share);
        imported.map(drop).map_err(said)
    }

    /// Clones an image.
    pub fn clone(&self, from: &str, to: &str) -> Done {
        commands::clone(&self.context, from, to).map_err(said)
    }

    /// Removes an image.
    pub fn remove(&self, name: &str) -> Done {
        commands::remove(&self.context, name).map_err(said)
    }

    /// What everything looks like now.
    pub fn state(&self) -> State {
        let catalog = self.context.store.catalog();
        let mut state = State {
            exported: exported(&self.place),
            ..State::default()
        };
        for image in catalog.images().unwrap() {
            let live = self.context.images.filesystem(image.id);
            let live = live.unwrap_or_else(|error| panic!("{}: {error}", image.name));
            for path in catalog.holds(image.id).unwrap() {
                let path = path.escape_ascii();
                state.holds.insert(format!("{}: {path}", image.name));
            }
            state.images.insert(image.name, seen::by_a_guest(&live));
        }
        state
    }

    /// What `check --content` finds, and what is held and not the image's own.
    pub fn findings(&self) -> Vec<String> {
        let report = check::run(&self.context, check::Options { content: true }, &Silent);
        let found = report.unwrap().findings.into_iter();
        // One scenario gives this file a name outside the store.
        let found = found.filter(|finding| !format!("{finding:?}").contains("own/linked"));
        let mut found: Vec<_> = found.map(|finding| format!("{finding:?}")).collect();
        found.extend(objects_with_other_names(&self.place));
        for image in self.context.store.catalog().images().unwrap() {
            let plan = hold::plan(&self.context, &image.name, &[]).unwrap();
            let held = hold::survey(&self.context, &plan, &Silent).unwrap().paths;
            let shared = held.into_iter().filter(|held| held.shared_inodes > 0);
            found.extend(shared.map(|held| format!("{}: {held:?}", image.name)));
        }
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
    set_aside(&place.join("store/quarantine"), &mut found);
    found
}

/// What is in the quarantine, by its name in what was moved there: an attempt that ended early may have
/// used up a number.
fn set_aside(quarantine: &Path, found: &mut BTreeMap<String, (u32, Vec<u8>)>) {
    let mut pending = vec![quarantine.to_owned()];
    while let Some(directory) = pending.pop() {
        let Ok(entries) = fs::read_dir(&directory) else {
            continue;
        };
        for entry in entries {
            let path = entry.unwrap().path();
            let metadata = path.symlink_metadata().unwrap();
            if metadata.is_dir() {
                pending.push(path);
            } else if metadata.is_file() && path != quarantine.join("list") {
                let inside = path.strip_prefix(quarantine).unwrap().components().skip(1);
                let inside = inside.collect::<PathBuf>();
                let content = fs::read(&path).unwrap();
                let digest = Digest::of(&content);
                let mut name = format!("aside/{}: {digest}", inside.display());
                while found.contains_key(&name) {
                    name.push_str(" once more");
                }
                found.insert(name, (metadata.mode(), content));
            }
        }
    }
}
