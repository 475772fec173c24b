//! Reading directories.
//!
//! A cookie (telldir(3), d_off) is a lasting function of the entry's name alone: 63 bits of its
//! SHA-256; "go on behind cookie c" so means the same however often the directory has changed
//! since, in this handle or another, before a remount and after it. Should two names of one
//! directory have the same bits, the one that was listed first keeps them (of two seen at once, the
//! lesser by its bytes) and the other gets the next that is free, for as long as the handle lives.
//!
//! A handle reads the names once, when it reads from the beginning, and then shows those of them
//! that still exist, as they are then: linear in the directory's size, and an entry that nobody
//! touches is seen exactly once.

use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::io::Errno;

use super::Filesystem;
use super::attributes::Attributes;
use super::failure::Outcome;
use super::handles::DirectoryHandle;
use super::node::{Node, Place};
use crate::merge::lookup::Item;
use crate::store::digest::Digest;
use crate::store::layer;
use crate::store::metadata::FileType;
use crate::store::number::Number;

/// Where reading begins.
pub const START: u64 = 0;
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;
const FIRST: u64 = 3;
/// One past the largest cookie: d_off is signed.
const END: u64 = i64::MAX as u64;

/// One entry of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The name.
    pub name: &'a [u8],
    /// st_ino.
    pub number: Number,
    /// The type.
    pub file_type: FileType,
    /// Where reading goes on behind it.
    pub cookie: u64,
}

/// The names of a directory and their cookies, in the order of the cookies.
#[derive(Debug, Default)]
pub(super) struct Listing(Vec<(u64, Box<[u8]>)>);

/// What an entry stands for.
enum Of<'a> {
    /// "." or "..".
    Itself(&'a Arc<Node>),
    /// What a name of the directory is.
    Child(&'a Arc<Node>, &'a Item),
}

fn parent_of(node: &Arc<Node>) -> Arc<Node> {
    match node.place() {
        Place::Entry { parent, .. } => parent,
        Place::Root | Place::Index | Place::Unlinked => node.clone(),
    }
}

fn cookie_of(name: &[u8]) -> u64 {
    let digest = Digest::of(name);
    let mut head = [0; 8];
    head.copy_from_slice(&digest.as_bytes()[..8]);
    FIRST + u64::from_le_bytes(head) % (END - FIRST)
}

impl Listing {
    /// `before`: an earlier listing of the same handle, whose names keep their cookies.
    fn new(
        names: impl Iterator<Item = Box<[u8]>>,
        before: &Listing,
        cookie_of: impl Fn(&[u8]) -> u64,
    ) -> Self {
        let mut entries: Vec<_> = names.map(|name| (cookie_of(&name), name)).collect();
        entries.sort_unstable();
        let alike = entries.windows(2).any(|pair| pair[0].0 == pair[1].0);
        let moved = |(cookie, name): &(u64, Box<[u8]>)| *cookie != cookie_of(name);
        if alike || before.0.iter().any(moved) {
            entries = separate(entries, before);
        }
        Self(entries)
    }

    /// The first entry behind a cookie.
    fn behind(&self, cookie: u64) -> usize {
        self.0.partition_point(|(other, _)| *other <= cookie)
    }
}

/// Gives each name a cookie of its own.
fn separate(entries: Vec<(u64, Box<[u8]>)>, before: &Listing) -> Vec<(u64, Box<[u8]>)> {
    let kept: HashMap<&[u8], u64> = before.0.iter().map(|(c, name)| (&**name, *c)).collect();
    let mut taken: HashSet<u64> = kept.values().copied().collect();
    let mut separated = Vec::with_capacity(entries.len());
    for (mut cookie, name) in entries {
        if let Some(&own) = kept.get(&*name) {
            separated.push((own, name));
            continue;
        }
        while !taken.insert(cookie) {
            cookie = match cookie + 1 {
                END => FIRST,
                next => next,
            };
        }
        separated.push((cookie, name));
    }
    separated.sort_unstable();
    separated
}

impl Filesystem {
    /// opendir(3). [`Filesystem::release`] closes it.
    ///
    /// # Errors
    /// ENOTDIR.
    pub fn open_directory(&self, node: &Arc<Node>) -> Outcome<u64> {
        if node.file_type != FileType::Directory {
            return Err(Errno::NOTDIR.into());
        }
        let handle = DirectoryHandle::new(node.clone());
        Ok(self.handles.insert_directory(handle))
    }

    /// Hands the entries behind a cookie to `take`, "." and ".." first, until it answers `false`:
    /// that entry was not taken. The end is where it is not called any more.
    pub fn read_directory(
        &self,
        handle: u64,
        behind: u64,
        take: &mut dyn FnMut(&Entry<'_>) -> bool,
    ) -> Outcome<()> {
        let handle = self.handles.directory(handle)?;
        let _names = self.names.read();
        self.each_entry(&handle, behind, &mut |entry, _| Ok(take(entry)))
    }

    /// Likewise, with the attributes that [`Filesystem::lookup`] would give, and like it counting
    /// one reference to each node whose entry was taken; "." and ".." are not counted.
    pub fn read_directory_plus(
        &self,
        handle: u64,
        behind: u64,
        take: &mut dyn FnMut(&Entry<'_>, &Attributes) -> bool,
    ) -> Outcome<()> {
        let handle = self.handles.directory(handle)?;
        let mut left = None;
        let outcome = {
            let _names = self.names.read();
            self.each_entry(&handle, behind, &mut |entry, of| match of {
                Of::Itself(node) => Ok(take(entry, &self.attributes_of(node)?)),
                Of::Child(parent, item) => {
                    let node = self.node_of(parent, entry.name, item);
                    let attributes = self.attributes_of(&node);
                    let taken = attributes.map(|attributes| take(entry, &attributes));
                    match taken {
                        Ok(true) => self.table.remember(&node),
                        _ => left = Some(node),
                    }
                    taken
                }
            })
        };
        if let Some(node) = left {
            self.done(node);
        }
        outcome
    }

    /// With `names` held. A failure counts only where it is the first thing: what was taken before
    /// it reaches the caller, who comes back for the rest.
    fn each_entry(
        &self,
        handle: &DirectoryHandle,
        behind: u64,
        take: &mut dyn FnMut(&Entry<'_>, Of<'_>) -> Outcome<bool>,
    ) -> Outcome<()> {
        let mut any = false;
        let outcome = self.each_entry_or_failure(handle, behind, &mut |entry, of| {
            let taken = take(entry, of)?;
            any |= taken;
            Ok(taken)
        });
        match outcome {
            Err(_) if any => Ok(()),
            outcome => outcome,
        }
    }

    fn each_entry_or_failure(
        &self,
        handle: &DirectoryHandle,
        behind: u64,
        take: &mut dyn FnMut(&Entry<'_>, Of<'_>) -> Outcome<bool>,
    ) -> Outcome<()> {
        let node = &handle.node;
        let parent = parent_of(node);
        for (cookie, name, node) in [(DOT, &b"."[..], node), (DOT_DOT, b"..", &parent)] {
            let entry = Entry {
                name,
                number: node.number,
                file_type: FileType::Directory,
                cookie,
            };
            if cookie > behind && !take(&entry, Of::Itself(node))? {
                return Ok(());
            }
        }
        let listing = self.listing(handle, behind)?;
        for (cookie, name) in &listing.0[listing.behind(behind)..] {
            // Gone since the names were read.
            let Some(item) = self.item(node, name)? else {
                continue;
            };
            let entry = Entry {
                name,
                number: item.number(),
                file_type: item.file_type(),
                cookie: *cookie,
            };
            if !take(&entry, Of::Child(node, &item))? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The names of a directory, read again where reading begins again. With `names` held.
    fn listing(&self, handle: &DirectoryHandle, behind: u64) -> Outcome<Arc<Listing>> {
        let mut kept = handle.listing.lock();
        if let (Some(listing), false) = (&*kept, behind == START) {
            return Ok(listing.clone());
        }
        let names = self.names_of(&handle.node)?;
        let none = Listing::default();
        let before = kept.as_deref().unwrap_or(&none);
        let listing = Arc::new(Listing::new(names.into_iter(), before, cookie_of));
        *kept = Some(listing.clone());
        Ok(listing)
    }

    /// The names that a directory may have: some may be whited out. With `names` held.
    fn names_of(&self, node: &Arc<Node>) -> Outcome<HashSet<Box<[u8]>>> {
        let mut names = HashSet::new();
        if matches!(node.place(), Place::Unlinked) {
            return Ok(names);
        }
        if let Some(private) = self.private_directory(node)? {
            let private = layer::names_in(private.as_fd())?;
            names.extend(private.into_iter().map(Vec::into_boxed_slice));
        }
        if let Some(shared) = node.shared_directory() {
            let directory = self.view.shared.directory(shared)?;
            names.extend(directory.iter().map(|(name, _)| Box::from(name)));
        }
        Ok(names)
    }
}

#[cfg(test)]
mod tests;
