//! The walk that plans a placement: by directory, through all images at once, and only where one of
//! them has something private.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use parking_lot::RwLock;
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::cursor::{Cursor, below, item_at};
use super::groups::keep_split_groups;
use super::rule::{Ballot, Choice, decide};
use super::withdraw::{could_withdraw, could_withdraw_with_alias};
use super::{Becomes, Change, Directory, Placement};
use crate::error::{Context, Result};
use crate::merge::lookup::{self, Item, Parts, Site, damaged};
use crate::merge::shared_names::SharedNames;
use crate::merge::version::{Version, version_of};
use crate::merge::view::View;
use crate::path_bytes::PathBytes;
use crate::store::catalog::Share;
use crate::store::entry;
use crate::store::layer;
use crate::store::mark::{DirectoryRole, Role};
use crate::store::metadata::{Content, Metadata, SharedInode};
use crate::store::number::Number;
use crate::store::shared::SharedLayer;

/// An image that has a vote.
#[derive(Clone, Copy)]
pub struct Participant<'a> {
    /// Its view.
    pub view: &'a View,
    /// What a guest at work holds for writing while it changes a name. Held here for one name of
    /// one image at a time: what is read of it belongs together, and may be out of date by the time
    /// that the plan is carried out.
    pub names: &'a RwLock<()>,
    /// It is the family's base.
    pub base: bool,
    /// Private inodes that stay, whatever the shared layer holds: an administrator pinned them.
    pub held: &'a HashSet<Number>,
}

/// Plans which versions the shared layer should hold, so that the rule holds for every path.
///
/// # Errors
/// Those of reading the private layers and the catalog.
pub fn plan(
    shared: &SharedLayer,
    root: Number,
    share: Share,
    participants: &[Participant<'_>],
) -> Result<Placement> {
    let mut planner = Planner {
        shared,
        share,
        participants,
        base: participants.iter().position(|participant| participant.base),
        indexed: names_of_indexed(shared, participants)?,
        placement: Placement::default(),
        pending: Vec::new(),
    };
    planner.run(root)?;
    let mut placement = planner.placement;
    keep_split_groups(&mut placement);
    Ok(placement)
}

/// The names of the shared files that an image has in `index/`: nothing private need be at a name
/// for the image to have another version of it.
fn names_of_indexed(shared: &SharedLayer, participants: &[Participant<'_>]) -> Result<SharedNames> {
    let mut names = SharedNames::default();
    for Participant { view, .. } in participants {
        let indexed = view.layer.index_numbers()?;
        let indexed = indexed.into_iter().map(|number| view.shared_of(number));
        names.add(shared, indexed)?;
    }
    Ok(names)
}

/// A directory of the plan: of the shared layer as it is and as it will be.
struct Place {
    path: Vec<u8>,
    /// The shared directory that is there.
    old: Option<Number>,
    /// What it is in the plan.
    new: Directory,
    /// For each participant.
    cursors: Vec<Cursor>,
}

/// A directory that is still to be looked at.
enum Pending {
    /// It is there or will be.
    Below {
        parent: Arc<Place>,
        name: Box<[u8]>,
        old: Option<Number>,
        new: Directory,
    },
    /// It leaves the shared layer, and all that is in it.
    Removed { path: Vec<u8>, directory: Number },
}

struct Planner<'a> {
    shared: &'a SharedLayer,
    share: Share,
    participants: &'a [Participant<'a>],
    base: Option<usize>,
    indexed: SharedNames,
    placement: Placement,
    pending: Vec<Pending>,
}

impl Planner<'_> {
    fn run(&mut self, root: Number) -> Result<()> {
        let mut cursors = Vec::new();
        for participant in self.participants {
            let view = participant.view;
            let about = || format!("images/{}/private", view.layer.image());
            let opened = layer::open_directory(view.layer.private(), b".", OFlags::PATH);
            cursors.push(Cursor::Merged(opened.about(about())?));
        }
        self.visit(Place {
            path: Vec::new(),
            old: Some(root),
            new: Directory::Shared(root),
            cursors,
        })?;
        while let Some(next) = self.pending.pop() {
            match next {
                Pending::Removed { path, directory } => self.remove_all(&path, directory)?,
                Pending::Below {
                    parent,
                    name,
                    old,
                    new,
                } => {
                    let place = self.descend(&parent, &name, old, new)?;
                    let private = |cursor: &Cursor| cursor.private().is_some();
                    let indexed = old.is_some_and(|old| self.indexed.in_directory(old).is_some());
                    if indexed || place.cursors.iter().any(private) {
                        self.visit(place)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Decides every name of a directory that could need it.
    fn visit(&mut self, place: Place) -> Result<()> {
        let place = Arc::new(place);
        let shared = match place.old {
            Some(directory) => Some(self.shared.directory(directory)?),
            None => None,
        };
        let mut names = BTreeSet::new();
        for (cursor, participant) in place.cursors.iter().zip(self.participants) {
            if let Some(private) = cursor.private() {
                match layer::names_in(private) {
                    Ok(listed) => names.extend(listed),
                    // Removed since it was opened.
                    Err(Errno::NOENT) => {}
                    Err(error) => return Err(damaged(participant.view, b".", error)),
                }
            }
        }
        // A directory that hides everything shared has a say in every shared name.
        if place
            .cursors
            .iter()
            .any(|cursor| matches!(cursor, Cursor::Own(_)))
        {
            let listed = shared.iter().flat_map(|directory| directory.iter());
            names.extend(listed.map(|(name, _)| name.to_vec()));
        }
        if let Some(indexed) = place.old.and_then(|old| self.indexed.in_directory(old)) {
            names.extend(indexed.iter().map(|name| name.to_vec()));
        }
        let first = self.pending.len();
        for name in names {
            let old = shared.as_ref().and_then(|directory| directory.find(&name));
            self.name(&place, name, old.cloned())?;
        }
        // The stack gives them back in the order of their names.
        self.pending[first..].reverse();
        Ok(())
    }

    /// Decides one name.
    fn name(
        &mut self,
        place: &Arc<Place>,
        name: Vec<u8>,
        old: Option<Arc<SharedInode>>,
    ) -> Result<()> {
        let mut ballots = Vec::with_capacity(self.participants.len());
        let mut redundant = false;
        for (cursor, participant) in place.cursors.iter().zip(self.participants) {
            let vote = vote(participant, cursor, place.old, &name, old.as_ref())?;
            redundant |= vote.redundant;
            ballots.push(vote.ballot);
        }
        let now = old.as_deref().map(now_of);
        let now = now.as_ref().map_or(Choice::Nothing, |ballot| match ballot {
            Ballot::Version(version) => Choice::Version(version),
            _ => Choice::Directory,
        });
        let choice = decide(self.share, &ballots, self.base, now);
        let same = choice == now;
        if same && !redundant {
            if let (Choice::Directory, Some(old)) = (choice, &old) {
                self.pending.push(Pending::Below {
                    parent: place.clone(),
                    name: name.into(),
                    old: Some(old.number),
                    new: Directory::Shared(old.number),
                });
            }
            return Ok(());
        }
        let new = match choice {
            _ if same => Becomes::Same,
            Choice::Nothing => Becomes::Nothing,
            Choice::Directory => match self.metadata_of_most(place, &name)? {
                Some(metadata) => Becomes::Directory(metadata),
                // Removed since the vote.
                None => return Ok(()),
            },
            Choice::Version(version) => Becomes::Version(version.clone()),
        };
        let mut path = place.path.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(&name);
        let position = self.placement.changes.len();
        if matches!(new, Becomes::Directory(_)) {
            self.pending.push(Pending::Below {
                parent: place.clone(),
                name: name.clone().into(),
                old: None,
                new: Directory::New(position),
            });
        }
        if let Some(old) = old.as_deref()
            && old.content == Content::Directory
            && !same
        {
            let path = path.clone();
            self.pending.push(Pending::Removed {
                path,
                directory: old.number,
            });
        }
        self.placement.changes.push(Change {
            path: PathBytes::from(path),
            directory: place.new,
            name: name.into(),
            old,
            new,
        });
        Ok(())
    }

    /// The metadata that most images have for a directory that the shared layer gets; the base's
    /// on a tie. `None` if none has it any more.
    fn metadata_of_most(&self, place: &Place, name: &[u8]) -> Result<Option<Metadata>> {
        let mut counts: Vec<(Metadata, usize)> = Vec::new();
        for (cursor, participant) in place.cursors.iter().zip(self.participants) {
            let Some(private) = cursor.private() else {
                continue;
            };
            let parts = Parts {
                private: Some(private),
                shared: place.old,
            };
            let view = participant.view;
            let _names = participant.names.read();
            let Some(Item::Private { stat, mark, .. }) = lookup::lookup(view, parts, name)? else {
                continue;
            };
            if mark.role != Role::Directory(DirectoryRole::Own) {
                continue;
            }
            let metadata = entry::read_metadata(private, name, &stat, &mark)
                .map_err(|error| damaged(view, name, error))?;
            // Twice as many, and one more for the base, which breaks ties.
            let weight = 2 + usize::from(participant.base);
            match counts.iter_mut().find(|(known, _)| *known == metadata) {
                Some((_, count)) => *count += weight,
                None => counts.push((metadata, weight)),
            }
        }
        let most = counts.iter().map(|(_, count)| *count).max();
        let first = counts.into_iter().find(|(_, count)| Some(*count) == most);
        Ok(first.map(|(metadata, _)| metadata))
    }

    /// All that is in a directory that leaves the shared layer leaves it, too.
    fn remove_all(&mut self, path: &[u8], directory: Number) -> Result<()> {
        let first = self.pending.len();
        for (name, inode) in self.shared.directory(directory)?.iter() {
            let path = [path, b"/", name].concat();
            if inode.content == Content::Directory {
                self.pending.push(Pending::Removed {
                    path: path.clone(),
                    directory: inode.number,
                });
            }
            self.placement.changes.push(Change {
                path: PathBytes::from(path),
                directory: Directory::Shared(directory),
                name: name.into(),
                old: Some(inode.clone()),
                new: Becomes::Nothing,
            });
        }
        self.pending[first..].reverse();
        Ok(())
    }

    /// The directory `name` of a place, for each participant.
    fn descend(
        &self,
        parent: &Place,
        name: &[u8],
        old: Option<Number>,
        new: Directory,
    ) -> Result<Place> {
        let mut cursors = Vec::with_capacity(self.participants.len());
        for (cursor, participant) in parent.cursors.iter().zip(self.participants) {
            cursors.push(below(participant, cursor, parent.old, name, old)?);
        }
        let mut path = parent.path.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        Ok(Place {
            path,
            old,
            new,
            cursors,
        })
    }
}

/// What the shared layer holds at a name, as a ballot.
fn now_of(old: &SharedInode) -> Ballot {
    match old.content {
        Content::Directory => Ballot::Directory,
        _ => Ballot::Version(Version::of_shared(old)),
    }
}

/// What one image holds at a name.
struct Vote {
    ballot: Ballot,
    /// It has a private entry there that it would not need.
    redundant: bool,
}

fn vote(
    participant: &Participant<'_>,
    cursor: &Cursor,
    directory: Option<Number>,
    name: &[u8],
    old: Option<&Arc<SharedInode>>,
) -> Result<Vote> {
    let view = participant.view;
    let _names = participant.names.read();
    let merged = matches!(cursor, Cursor::Merged(_));
    let plain = |ballot| Vote {
        ballot,
        redundant: false,
    };
    if matches!(cursor, Cursor::Abstains) {
        return Ok(plain(Ballot::Other));
    }
    let Some(item) = item_at(view, cursor, directory, name)? else {
        let hidden = match cursor.private() {
            Some(private) => layer::read_entry(private, name)
                .map_err(|error| damaged(view, name, error))?
                .is_some(),
            None => false,
        };
        return Ok(Vote {
            ballot: Ballot::Lacks,
            // A whiteout that hides nothing.
            redundant: hidden && old.is_none(),
        });
    };
    if let Some(shows) = item.directory() {
        let here = old.filter(|old| old.content == Content::Directory);
        let here = here.map(|old| old.number);
        let Item::Private { stat, mark, .. } = &item else {
            return Ok(plain(Ballot::Directory));
        };
        if shows.is_some() && shows != here {
            return Ok(plain(Ballot::Other));
        }
        let redundant = match (merged && shows.is_some(), old, cursor.private()) {
            (true, Some(old), Some(private)) => {
                could_withdraw(view, private, name, stat, mark, old)?
                    || could_withdraw_with_alias(view, private, name, stat, mark, old)?
            }
            _ => false,
        };
        return Ok(Vote {
            ballot: Ballot::Directory,
            redundant,
        });
    }
    if participant.held.contains(&item.number()) {
        return Ok(plain(Ballot::Other));
    }
    let Some(version) = version_of(view, cursor.private(), name, &item)? else {
        return Ok(plain(Ballot::Other));
    };
    let own = matches!(
        item,
        Item::Private {
            site: Site::Entry,
            ..
        }
    );
    let redundant = merged && own && old.is_some_and(|old| Version::of_shared(old) == version);
    Ok(Vote {
        ballot: Ballot::Version(version),
        redundant,
    })
}
