//! The commit of a placement: one catalog transaction, while no image of the family changes its
//! names.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::holds;
use super::placement::{Done, Work};
use crate::error::{Context, Error, Result};
use crate::filesystem::images::Images;
use crate::merge::locate::{self, Located};
use crate::merge::lookup::{Item, Site};
use crate::merge::placement::{Becomes, Change, Directory, Placement};
use crate::merge::version::{Version, version_of};
use crate::merge::view::View;
use crate::store::catalog::{Alias, NewUncover, Reads, Transaction, UncoverAction};
use crate::store::entry;
use crate::store::layer::{self, PrivateEntry};
use crate::store::mark::{DirectoryRole, Mark, Role};
use crate::store::metadata::{Content, Metadata, SharedInode, Time};
use crate::store::number::{ImageId, Number};

/// Where one image shows a directory of the plan.
enum Shown {
    /// Nowhere.
    Nowhere,
    /// Without anything private: what changes in it would show.
    Bare,
    /// As this private directory, of this number.
    Private(OwnedFd, Number),
}

pub(super) fn commit(images: &Images, work: &Work) -> Result<Done> {
    let lock = images.change_lock(work.family.id);
    let alone = lock.write();
    let held = work.images.iter().map(|(_, live)| holds::of_live(live));
    let mut committing = Committing {
        work,
        held: held.collect::<Result<_>>()?,
        places: HashMap::new(),
        still_shown: HashSet::new(),
        made: HashMap::new(),
        now: Time::now(),
    };
    let leaving = work.leaving();
    for (_, filesystem) in &work.images {
        committing.still_shown.extend(filesystem.shown_of(&leaving));
    }
    let accepted = committing.accepted()?;
    let transaction = images.store().catalog().transaction()?;
    committing.change_shared_layer(&transaction, &accepted)?;
    for image in 0..work.images.len() {
        committing.list_redundant(&transaction, &accepted, image)?;
    }
    images.store().commit_generation(transaction)?;
    images.shared().forget();
    for (_, filesystem) in &work.images {
        filesystem.view.reload_aliases()?;
    }
    drop(alone);
    let mut done = Done::default();
    let mut applied = Placement::default();
    for (change, accepted) in work.placement.changes.iter().zip(accepted) {
        match accepted {
            true => applied.changes.push(change.clone()),
            false => done.left_out += 1,
        }
    }
    done.counts = applied.counts();
    Ok(done)
}

struct Committing<'a> {
    work: &'a Work,
    /// Of each image, what stays whatever the shared layer holds.
    held: Vec<HashSet<Number>>,
    /// For each image.
    places: HashMap<Directory, Vec<Shown>>,
    /// Shared inodes that a node still shows.
    still_shown: HashSet<Number>,
    /// The inodes of changes that make one.
    made: HashMap<usize, SharedInode>,
    now: Time,
}

impl Committing<'_> {
    fn view(&self, image: usize) -> &View {
        &self.work.images[image].1.view
    }

    fn id(&self, image: usize) -> ImageId {
        self.work.images[image].0
    }

    /// Which changes can be made: every image that shows the directory holds something private at
    /// the name, or nothing would show.
    fn accepted(&mut self) -> Result<Vec<bool>> {
        let changes = &self.work.placement.changes;
        let mut accepted = vec![true; changes.len()];
        for (position, change) in changes.iter().enumerate() {
            self.find_place(change.directory)?;
            accepted[position] = match change.directory {
                Directory::New(parent) => accepted[parent],
                Directory::Shared(_) if change.new == Becomes::Same => true,
                Directory::Shared(_) => self.is_covered(change)?,
            };
        }
        // A directory leaves only with all that is in it. What is in it comes after it.
        let mut leaving: HashMap<Number, usize> = HashMap::new();
        for (position, change) in changes.iter().enumerate().rev() {
            let Some(old) = change.old.as_ref().filter(|_| change.new != Becomes::Same) else {
                continue;
            };
            if old.content == Content::Directory && accepted[position] {
                let shared = &self.view(0).shared;
                let inside = shared.directory(old.number)?.iter().len();
                accepted[position] = leaving.get(&old.number).copied().unwrap_or(0) == inside;
            }
            if let Directory::Shared(parent) = change.directory
                && accepted[position]
            {
                *leaving.entry(parent).or_default() += 1;
            }
        }
        // What was to be in a directory that does not come.
        for (position, change) in changes.iter().enumerate() {
            if let Directory::New(parent) = change.directory {
                accepted[position] &= accepted[parent];
            }
        }
        Ok(accepted)
    }

    fn is_covered(&self, change: &Change) -> Result<bool> {
        if let Some(old) = &change.old {
            if self.still_shown.contains(&old.number) {
                return Ok(false);
            }
            if old.content == Content::Directory {
                for image in 0..self.work.images.len() {
                    if !matches!(
                        locate::locate(self.view(image), old.number)?,
                        Located::Nowhere
                    ) {
                        return Ok(false);
                    }
                }
            }
        }
        for (image, shown) in self.places[&change.directory].iter().enumerate() {
            let covered = match shown {
                Shown::Nowhere => true,
                Shown::Bare => false,
                Shown::Private(directory, _) => {
                    let entry = layer::read_entry(directory.as_fd(), &change.name);
                    entry.about(self.about(image, &change.name))?.is_some()
                }
            };
            if !covered {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn about(&self, image: usize, name: &[u8]) -> String {
        format!("images/{}: {}", self.id(image), name.escape_ascii())
    }

    /// Finds where each image shows a directory of the plan.
    fn find_place(&mut self, directory: Directory) -> Result<()> {
        if self.places.contains_key(&directory) {
            return Ok(());
        }
        let mut places = Vec::new();
        for image in 0..self.work.images.len() {
            let place = match directory {
                Directory::Shared(number) => match locate::locate(self.view(image), number)? {
                    Located::Nowhere => Shown::Nowhere,
                    Located::Plain => Shown::Bare,
                    Located::Private(found) => self.private(image, found)?,
                },
                Directory::New(position) => self.place_below(image, position)?,
            };
            places.push(place);
        }
        self.places.insert(directory, places);
        Ok(())
    }

    fn private(&self, image: usize, directory: OwnedFd) -> Result<Shown> {
        let about = || self.about(image, b".");
        match layer::read_entry(directory.as_fd(), b".").about(about())? {
            Some(PrivateEntry::Marked { mark, .. }) => Ok(Shown::Private(directory, mark.number)),
            _ => Err(Errno::BADMSG).about(about()),
        }
    }

    /// Where an image has the directory that change `position` makes: its own one of that name.
    fn place_below(&self, image: usize, position: usize) -> Result<Shown> {
        let change = &self.work.placement.changes[position];
        let above = self.places.get(&change.directory);
        let Some(Shown::Private(parent, _)) = above.map(|places| &places[image]) else {
            return Ok(Shown::Nowhere);
        };
        let about = || self.about(image, &change.name);
        match layer::read_entry(parent.as_fd(), &change.name).about(about())? {
            Some(PrivateEntry::Marked { mark, .. })
                if mark.role == Role::Directory(DirectoryRole::Own) =>
            {
                let opened = layer::open_directory(parent, &change.name, OFlags::PATH);
                Ok(Shown::Private(opened.about(about())?, mark.number))
            }
            _ => Ok(Shown::Nowhere),
        }
    }

    fn change_shared_layer(
        &mut self,
        transaction: &Transaction<'_>,
        accepted: &[bool],
    ) -> Result<()> {
        let changes = &self.work.placement.changes;
        let chosen = || changes.iter().enumerate().filter(|(at, _)| accepted[*at]);
        for (_, change) in chosen().rev() {
            if let (Directory::Shared(parent), Some(old)) = (change.directory, &change.old)
                && change.new != Becomes::Same
            {
                transaction.take_name(parent, &change.name, old)?;
            }
        }
        let new =
            |change: &Change| matches!(change.new, Becomes::Directory(_) | Becomes::Version(_));
        let count = chosen().filter(|(_, change)| new(change)).count();
        let mut numbers = transaction.reserve_numbers(count as u64)?;
        for (position, change) in chosen().filter(|(_, change)| new(change)) {
            let number = numbers.next().and_then(Number::new);
            let number = number.ok_or_else(|| Error::failed("catalog.db", "no number is left"))?;
            let parent = match change.directory {
                Directory::Shared(parent) => parent,
                Directory::New(parent) => match self.made.get(&parent) {
                    Some(parent) => parent.number,
                    None => continue,
                },
            };
            let (content, metadata) = match &change.new {
                Becomes::Directory(metadata) => (Content::Directory, metadata),
                Becomes::Version(version) => (version.content.clone(), &version.metadata),
                Becomes::Same | Becomes::Nothing => continue,
            };
            let inode = self.inode(number, content, metadata);
            transaction.make_name(self.work.family.id, parent, &change.name, &inode)?;
            self.made.insert(position, inode);
        }
        Ok(())
    }

    fn inode(&self, number: Number, content: Content, metadata: &Metadata) -> SharedInode {
        let links = match content {
            Content::Directory => 2,
            _ => 1,
        };
        SharedInode {
            number,
            content,
            metadata: metadata.clone(),
            ctime: self.now,
            links,
        }
    }

    /// Lists what one image need not keep, in the order in which it can go.
    fn list_redundant(
        &self,
        transaction: &Transaction<'_>,
        accepted: &[bool],
        image: usize,
    ) -> Result<()> {
        let mut withdrawn = Vec::new();
        for (position, change) in self.work.placement.changes.iter().enumerate() {
            let places = self.places.get(&change.directory);
            let Some(Shown::Private(directory, number)) = places.map(|places| &places[image])
            else {
                continue;
            };
            if !accepted[position] {
                continue;
            }
            let about = || self.about(image, &change.name);
            let found = layer::read_entry(directory.as_fd(), &change.name).about(about())?;
            let step = |number_there, action| NewUncover {
                directory: *number,
                name: change.name.clone(),
                number: number_there,
                action,
            };
            let new = match &change.new {
                Becomes::Same => change.old.as_deref(),
                Becomes::Nothing => None,
                _ => self.made.get(&position),
            };
            match (found, new) {
                (Some(PrivateEntry::Whiteout), None) => {
                    let step = step(Number::ROOT, UncoverAction::Remove);
                    transaction.add_uncover(self.id(image), &step)?;
                }
                (Some(PrivateEntry::Marked { stat, mark }), Some(new)) => {
                    let parent = directory;
                    if let Role::Directory(role) = mark.role {
                        if new.content != Content::Directory {
                            continue;
                        }
                        if role == DirectoryRole::Own && change.new != Becomes::Same {
                            let name = &change.name;
                            self.alias_directory(transaction, image, parent, name, new)?;
                            let step = step(mark.number, UncoverAction::Merge);
                            transaction.add_uncover(self.id(image), &step)?;
                        } else if role.shared() == Some(new.number) {
                            let name = &change.name;
                            self.alias_directory(transaction, image, parent, name, new)?;
                            withdrawn.push(step(mark.number, UncoverAction::Withdraw));
                        }
                        continue;
                    }
                    let item = Item::Private {
                        stat,
                        mark,
                        site: Site::Entry,
                    };
                    if mark.role == Role::Name || self.held[image].contains(&mark.number) {
                        continue;
                    }
                    let view = self.view(image);
                    let version = version_of(view, Some(parent.as_fd()), &change.name, &item)?;
                    if version == Some(Version::of_shared(new)) {
                        self.alias(transaction, image, new, &stat, &mark, None)?;
                        let step = step(mark.number, UncoverAction::Remove);
                        transaction.add_uncover(self.id(image), &step)?;
                    }
                }
                _ => {}
            }
        }
        self.alias_emptied(transaction, image)?;
        // A directory comes before what is in it, and goes after it.
        for step in withdrawn.iter().rev() {
            transaction.add_uncover(self.id(image), step)?;
        }
        Ok(())
    }

    /// A private directory with metadata of its own that looks like the shared one, mtime aside, may
    /// go when it is empty: the image is to show the shared one as it does.
    fn alias_directory(
        &self,
        transaction: &Transaction<'_>,
        image: usize,
        parent: &OwnedFd,
        name: &[u8],
        shared: &SharedInode,
    ) -> Result<()> {
        let about = || self.about(image, name);
        let found = layer::read_entry(parent.as_fd(), name).about(about())?;
        let Some(PrivateEntry::Marked { stat, mark }) = found else {
            return Ok(());
        };
        if matches!(
            mark.role,
            Role::Directory(DirectoryRole::Transparent { .. })
        ) {
            return Ok(());
        }
        let metadata = entry::read_metadata(parent.as_fd(), name, &stat, &mark);
        let metadata = metadata.about(about())?;
        if !metadata.equal_but_mtime(&shared.metadata) {
            return Ok(());
        }
        let mtime = (metadata.mtime != shared.metadata.mtime).then_some(metadata.mtime);
        self.alias(transaction, image, shared, &stat, &mark, mtime)
    }

    /// The directories in which something becomes redundant may become so themselves, and those
    /// above them.
    fn alias_emptied(&self, transaction: &Transaction<'_>, image: usize) -> Result<()> {
        let root = self.work.family.root;
        let mut seen = HashSet::from([root]);
        for directory in self.places.keys() {
            let Directory::Shared(mut directory) = *directory else {
                continue;
            };
            while seen.insert(directory) {
                let names = transaction.names_of(directory)?;
                let Some((above, name)) = names.into_iter().next() else {
                    break;
                };
                let Located::Private(parent) = locate::locate(self.view(image), above)? else {
                    break;
                };
                if let Some(shared) = transaction.inode(directory)?
                    && let Located::Private(_) = locate::locate(self.view(image), directory)?
                    && !self.view(image).is_redirected(directory)
                {
                    self.alias_directory(transaction, image, &parent, &name, &shared)?;
                }
                directory = above;
            }
        }
        Ok(())
    }

    /// The image shows `new` under the number and with the times of its private entry.
    fn alias(
        &self,
        transaction: &Transaction<'_>,
        image: usize,
        new: &SharedInode,
        stat: &rustix::fs::Stat,
        mark: &Mark,
        mtime: Option<Time>,
    ) -> Result<()> {
        let id = self.id(image);
        // What was shown under this number before: it is hidden, for numbers are unique in a view.
        if let Some(stale) = transaction.alias_by_number(id, mark.number)?
            && stale.shared != new.number
        {
            transaction.delete_alias(id, stale.shared)?;
        }
        let alias = Alias {
            shared: new.number,
            number: mark.number,
            ctime: entry::shown_ctime(stat, mark),
            mtime,
        };
        transaction.put_alias(id, &alias)
    }
}
