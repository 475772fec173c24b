//! Uncover: private entries that say what the shared layer says since a commit go, so that the
//! shared ones show through (docs/format.md). Each is looked at again: a guest may have been there.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Filesystem;
use super::failure::Outcome;
use super::node::{Node, Place, Source};
use crate::error::Result;
use crate::merge::lookup::{Item, Site};
use crate::merge::placement::withdraw::could_withdraw;
use crate::merge::private_directories::{PrivatePath, private_entries};
use crate::merge::version::{Version, version_of};
use crate::store::catalog::{NewUncover, Reads, Uncover, UncoverAction};
use crate::store::entry;
use crate::store::layer::{self, PrivateEntry};
use crate::store::mark::{DirectoryRole, Mark, Role};
use crate::store::metadata::{Content, SharedInode};
use crate::store::number::Number;
use crate::sys::durable;

/// Whether a private file (an empty one: content is an object here) is open, or may be mapped: its
/// handles must not lose the inode that a later write goes to.
fn is_open_as_private(node: &Node, mark: &Mark) -> bool {
    let state = node.state.lock();
    let is_used = state.handles > 0 || state.open.is_some() || state.identity().volatile;
    mark.role == Role::File && is_used
}

impl Filesystem {
    /// Does what the catalog says is still to be uncovered in this image; how many entries went.
    ///
    /// # Errors
    /// Those of the host and the catalog; the rows stay, and a later call goes on.
    pub fn uncover(&self) -> Result<u64> {
        let image = self.view.layer.image();
        let rows = self.store.catalog().uncovers(image)?;
        if rows.is_empty() {
            return Ok(0);
        }
        let paths = self.paths_of(&rows)?;
        let mut done = 0;
        for batch in rows.chunk_by(|left, right| left.step.directory == right.step.directory) {
            let Some(path) = batch.first().and_then(|row| paths.get(&row.step.directory)) else {
                continue;
            };
            done += self
                .uncover_in(path, batch)
                .map_err(|failure| failure.about(format!("images/{image}")))?;
        }
        let transaction = self.store.catalog().transaction()?;
        for row in &rows {
            transaction.delete_uncover(row.id)?;
        }
        transaction.commit()?;
        Ok(done)
    }

    /// Where the directories of the rows stand.
    fn paths_of(&self, rows: &[Uncover]) -> Result<HashMap<Number, PrivatePath>> {
        let mut wanted: HashSet<Number> = rows.iter().map(|row| row.step.directory).collect();
        let mut paths = HashMap::new();
        if wanted.remove(&Number::ROOT) {
            paths.insert(Number::ROOT, PrivatePath::new());
        }
        // A guest may be at work: what the walk has seen must still be there when it goes down.
        let _names = self.names.read();
        private_entries(&self.view, &mut |above, name, mark| {
            if wanted.remove(&mark.number) {
                paths.insert(mark.number, above.path_to(name));
            }
            !wanted.is_empty()
        })?;
        Ok(paths)
    }

    fn uncover_in(&self, path: &PrivatePath, rows: &[Uncover]) -> Outcome<u64> {
        let _change = self.change.read();
        let _names = self.names.write();
        let Some(directory) = self.descend(path)? else {
            return Ok(0);
        };
        let mut done = 0;
        let mut run = || -> Outcome<()> {
            for row in rows {
                if directory.number == row.step.directory {
                    done += u64::from(self.uncover_one(&directory, &row.step)?);
                }
            }
            Ok(())
        };
        let outcome = run();
        let outcome = outcome.and_then(|()| self.withdraw_upward(&directory));
        self.done(directory);
        outcome.map(|()| done)
    }

    fn uncover_one(&self, directory: &Arc<Node>, step: &NewUncover) -> Outcome<bool> {
        let Some(private) = self.private_directory(directory)? else {
            return Ok(false);
        };
        let Some(parent) = directory.shared_directory() else {
            return Ok(false);
        };
        let name = &*step.name;
        let shared = self.view.shared.directory(parent)?;
        let shared = shared.find(name).cloned();
        match (layer::read_entry(private.as_fd(), name)?, shared) {
            (Some(PrivateEntry::Whiteout), None) => {
                if step.number != Number::ROOT || step.action != UncoverAction::Remove {
                    return Ok(false);
                }
                self.keep_times(directory, || Ok(durable::unlink(&*private, name)?))?;
                Ok(true)
            }
            (Some(PrivateEntry::Marked { stat, mark }), Some(shared)) => {
                if mark.number != step.number {
                    return Ok(false);
                }
                match step.action {
                    UncoverAction::Remove => {
                        self.remove_redundant(directory, &private, name, stat, mark, &shared)
                    }
                    UncoverAction::Merge => self.merge(directory, name, mark, &shared),
                    UncoverAction::Withdraw => self.withdraw(directory, name),
                }
            }
            _ => Ok(false),
        }
    }

    /// Removes a private non-directory that looks as the shared one does.
    fn remove_redundant(
        &self,
        directory: &Arc<Node>,
        private: &OwnedFd,
        name: &[u8],
        stat: rustix::fs::Stat,
        mark: Mark,
        shared: &SharedInode,
    ) -> Outcome<bool> {
        let shown = self.view.shown_as(shared.number, shared.ctime);
        let alike = shown.number == mark.number
            && shown.ctime == entry::shown_ctime(&stat, &mark)
            && shared.content != Content::Directory
            && matches!(mark.role, Role::File | Role::Stub { .. });
        if !alike {
            return Ok(false);
        }
        let item = Item::Private {
            stat,
            mark,
            site: Site::Entry,
        };
        let version = version_of(&self.view, Some(private.as_fd()), name, &item)?;
        if version != Some(Version::of_shared(shared)) {
            return Ok(false);
        }
        let node = self.table.get(mark.number);
        if let Some(node) = &node
            && (node.writers.load(Ordering::Acquire) > 0 || is_open_as_private(node, &mark))
        {
            return Ok(false);
        }
        self.keep_times(directory, || Ok(durable::unlink(private, name)?))?;
        if let Some(node) = node {
            node.state.lock().source = Source::Shared(shared.number);
            self.done(node);
        }
        Ok(true)
    }

    /// A directory of its own becomes merged with the shared one of its name: what it lacks is
    /// hidden first.
    fn merge(
        &self,
        parent: &Arc<Node>,
        name: &[u8],
        mark: Mark,
        shared: &SharedInode,
    ) -> Outcome<bool> {
        if mark.role != Role::Directory(DirectoryRole::Own)
            || shared.content != Content::Directory
            || self.view.is_redirected(shared.number)
        {
            return Ok(false);
        }
        let Some(node) = self.child(parent, name)? else {
            return Ok(false);
        };
        let hide_and_merge = || -> Outcome<()> {
            let private = self.ensure_private_directory(&node)?;
            let mut hidden = false;
            for (name, _) in self.view.shared.directory(shared.number)?.iter() {
                if layer::read_entry(private.as_fd(), name)?.is_none() {
                    self.hide(&node, name)?;
                    hidden = true;
                }
            }
            if hidden {
                let listing = layer::open_directory(&*private, b".", rustix::fs::OFlags::RDONLY)?;
                durable::sync(listing)?;
            }
            let role = DirectoryRole::Merged {
                shared: shared.number,
            };
            self.change_role(&node, role)
        };
        let merged = hide_and_merge();
        self.done(node);
        merged.map(|()| true)
    }

    /// Removes a private directory that is empty and shows what the shared one shows.
    fn withdraw(&self, parent: &Arc<Node>, name: &[u8]) -> Outcome<bool> {
        let Some(private) = self.private_directory(parent)? else {
            return Ok(false);
        };
        let Some(above) = parent.shared_directory() else {
            return Ok(false);
        };
        let shared = self.view.shared.directory(above)?;
        let Some(shared) = shared.find(name) else {
            return Ok(false);
        };
        let Some(PrivateEntry::Marked { stat, mark }) = layer::read_entry(private.as_fd(), name)?
        else {
            return Ok(false);
        };
        let here = match mark.role {
            Role::Directory(role) => role.shared() == Some(shared.number),
            _ => false,
        };
        if !here || !could_withdraw(&self.view, private.as_fd(), name, &stat, &mark, shared)? {
            return Ok(false);
        }
        self.keep_times(parent, || Ok(durable::rmdir(&*private, name)?))?;
        self.directories.lock().pop(&mark.number);
        if let Some(node) = self.table.get(mark.number) {
            {
                let mut state = node.state.lock();
                state.source = Source::SharedDirectory(shared.number);
                state.own_times = false;
            }
            self.done(node);
        }
        Ok(true)
    }

    /// Removes a directory that has become superfluous, and those above it, likewise.
    fn withdraw_upward(&self, directory: &Arc<Node>) -> Outcome<()> {
        let mut current = directory.clone();
        while let Place::Entry { parent, name } = current.place() {
            if !self.withdraw(&parent, &name)? {
                break;
            }
            current = parent;
        }
        Ok(())
    }
}
