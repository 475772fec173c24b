//! Reading directories.
//!
//! A cookie (telldir(3), d_off) is a lasting function of the entry's name alone: 63 bits of its
//! SHA-256; "go on behind cookie c" so means the same however often the directory has changed
//! since, in this handle or another, before a remount and after it. Should two names of one
//! directory have the same bits, the one that was listed first keeps them (of two seen at once, the
//! lesser by its bytes) and the other gets the next that is free, for as long as somebody reads on.
//!
//! There are no handles: opening a directory would cost two requests. Who reads on where a piece
//! ended gets those of the names read for it that still exist, as they are then: linear in the
//! directory's size. Who comes with another cookie, or too late, has the names read again. Either
//! way an entry that nobody touches is seen exactly once.

use std::collections::{HashMap, HashSet, VecDeque};
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::sync::Arc;

use lru::LruCache;
use parking_lot::Mutex;
use rustix::io::Errno;

use super::Filesystem;
use super::attributes::Attributes;
use super::failure::Outcome;
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

/// How many directories' names are kept while they are read.
const LISTINGS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(31);

/// How many pieces of one directory somebody may read on from.
const READERS: usize = 16;

/// The names of directories that somebody is reading, by the directory's number. A leaf lock.
pub(super) struct Listings(Mutex<LruCache<Number, Reading>>);

struct Reading {
    listing: Arc<Listing>,
    /// The last cookies of the pieces that were read, the oldest first.
    ends: VecDeque<u64>,
}

impl Default for Listings {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(LISTINGS)))
    }
}

impl Listings {
    /// What somebody who reads on behind a cookie goes on with.
    fn resume(&self, directory: Number, behind: u64) -> Option<Arc<Listing>> {
        let mut listings = self.0.lock();
        let reading = listings.get_mut(&directory)?;
        let position = reading.ends.iter().position(|&end| end == behind)?;
        reading.ends.remove(position);
        let listing = reading.listing.clone();
        if reading.ends.is_empty() {
            listings.pop(&directory);
        }
        Some(listing)
    }

    /// The newest names that are kept of a directory.
    fn newest(&self, directory: Number) -> Option<Arc<Listing>> {
        let listings = self.0.lock();
        let reading = listings.peek(&directory)?;
        Some(reading.listing.clone())
    }

    /// A piece ended with a cookie, and there may be another one.
    fn ended(&self, directory: Number, listing: Arc<Listing>, end: u64) {
        let mut listings = self.0.lock();
        let reading = listings.get_or_insert_mut(directory, || Reading {
            listing: listing.clone(),
            ends: VecDeque::new(),
        });
        reading.listing = listing;
        reading.ends.push_back(end);
        if reading.ends.len() > READERS {
            reading.ends.pop_front();
        }
    }
}

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
    /// `before`: an earlier listing that somebody may read on with, whose names keep their cookies.
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
    /// Hands the entries behind a cookie to `take`, "." and ".." first, until it answers `false`:
    /// that entry was not taken. The end is where it is not called any more.
    ///
    /// # Errors
    /// ENOTDIR.
    pub fn read_directory(
        &self,
        node: &Arc<Node>,
        behind: u64,
        take: &mut dyn FnMut(&Entry<'_>) -> bool,
    ) -> Outcome<()> {
        let _names = self.names.read();
        self.each_entry(node, behind, &mut |entry, _| Ok(take(entry)))
    }

    /// Likewise, with the attributes that [`Filesystem::lookup`] would give, and like it counting
    /// one reference to each node whose entry was taken; "." and ".." are not counted.
    pub fn read_directory_plus(
        &self,
        node: &Arc<Node>,
        behind: u64,
        take: &mut dyn FnMut(&Entry<'_>, &Attributes) -> bool,
    ) -> Outcome<()> {
        let mut left = None;
        let outcome = {
            let _names = self.names.read();
            self.each_entry(node, behind, &mut |entry, of| match of {
                Of::Itself(node) => Ok(take(entry, &self.attributes_of(node)?)),
                Of::Child(parent, item) => {
                    let node = self.node_of(parent, entry.name, item);
                    let attributes = self.attributes_of_item(&node, item);
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
        node: &Arc<Node>,
        behind: u64,
        take: &mut dyn FnMut(&Entry<'_>, Of<'_>) -> Outcome<bool>,
    ) -> Outcome<()> {
        if node.file_type != FileType::Directory {
            return Err(Errno::NOTDIR.into());
        }
        let listing = self.listing(node, behind)?;
        let mut end = behind;
        let outcome = self.each_entry_or_failure(node, &listing, behind, &mut |entry, of| {
            let taken = take(entry, of)?;
            if taken {
                end = entry.cookie;
            }
            Ok(taken)
        });
        if end == behind {
            return outcome;
        }
        self.listings.ended(node.number, listing, end);
        Ok(())
    }

    fn each_entry_or_failure(
        &self,
        node: &Arc<Node>,
        listing: &Listing,
        behind: u64,
        take: &mut dyn FnMut(&Entry<'_>, Of<'_>) -> Outcome<bool>,
    ) -> Outcome<()> {
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

    /// The names of a directory as they were when the piece was read that ended with this cookie,
    /// else as they are. With `names` held.
    fn listing(&self, node: &Arc<Node>, behind: u64) -> Outcome<Arc<Listing>> {
        if behind != START
            && let Some(listing) = self.listings.resume(node.number, behind)
        {
            return Ok(listing);
        }
        let names = self.names_of(node)?;
        let before = self.listings.newest(node.number).unwrap_or_default();
        Ok(Arc::new(Listing::new(
            names.into_iter(),
            &before,
            cookie_of,
        )))
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
