//! Taking a live image over from a process that has ended, while the kernel goes on using it: nodes and
//! handles come to life again under the numbers that the kernel knows them by (docs/architecture.md, "The
//! daemon's death").
//!
//! The ledger says what the kernel knows, the store says what there is: a node is where its number is found in
//! the view; without a name it lies in `orphans/`, or is of the shared layer. What a directory held when another one
//! was renamed over it went with the process that had it open: the kernel gets ESTALE for such a one.

mod finder;

use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{AtFlags, statat};

use super::Filesystem;
use super::failure::{Failure, Outcome};
use super::handles::FileHandle;
use super::ledger::{Entry, KnownNode, Ledger, OpenHandle};
use super::node::{Node, OpenFile, Place, Source};
use super::transport::{Host, Registered, known};
use crate::store::layer::{self, Layer, PrivateEntry};
use crate::store::mark::{DirectoryRole, Role};
use crate::store::metadata::{Content, FileType, Time};
use crate::store::number::Number;
use crate::store::tree;
use finder::Finder;

/// What another process has left of an image that the kernel goes on using.
pub struct Inheritance {
    /// What the kernel knows.
    pub ledger: Arc<Ledger>,
    /// Takes a file over that is registered with the kernel under this id.
    pub adopt: Box<dyn Fn(u32) -> Registered + Send + Sync>,
}

/// What was taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Inherited {
    /// Nodes.
    pub nodes: usize,
    /// Handles.
    pub handles: usize,
    /// Nodes that are not to be found any more.
    pub lost: usize,
}

impl Filesystem {
    /// Brings to life what the kernel knows. Before anybody else uses this, and after
    /// [`Filesystem::recover`].
    ///
    /// What is not to be found, or cannot be read, is logged and counted: the kernel gets ESTALE for it.
    ///
    /// # Errors
    /// The host is short of something ([`Failure::is_shortage`]): it can be tried again with another `self`.
    pub(super) fn inherit(&self, inheritance: &Inheritance) -> Outcome<Inherited> {
        let Inheritance { ledger, adopt } = inheritance;
        ledger.begin_again();
        let mut registered: HashMap<u32, Registered> = HashMap::new();
        for (id, record) in ledger.registered() {
            let taken_over = || adopt(id).noted(Some(record));
            registered.entry(id).or_insert_with(taken_over);
        }
        let mut nodes = ledger.known_nodes();
        let numbers: HashSet<Number> = nodes.iter().map(|(node, _)| node.number).collect();
        let mut finder = Finder::new(self, &numbers);
        if let Some(shortage) = finder.shortage() {
            return Err(shortage);
        }
        nodes.sort_by_key(|(known, _)| finder.order(known.number));
        let mut inherited = Inherited::default();
        let mut how = HashMap::new();
        for (known, record) in nodes.into_iter().filter(|(known, _)| known.lookups > 0) {
            let number = known.number;
            match self.inherited_node(&known, record, &mut finder) {
                Ok(Some(node)) => {
                    how.insert(number, known.transport);
                    inherited.nodes += 1;
                    self.done(node);
                }
                Ok(None) => inherited.lost += 1,
                Err(failure) if failure.is_shortage() => return Err(failure),
                // The others are to work nonetheless.
                Err(failure) => {
                    log::error!(
                        "images/{}: inode {number}: {failure}",
                        self.view.layer.image()
                    );
                    inherited.lost += 1;
                }
            }
        }
        inherited.handles = self.inherit_handles(inheritance, &how, &mut registered)?;
        drop(finder);
        // Nobody has open what is left over of these.
        self.unused.lock().extend(registered.into_values());
        Ok(inherited)
    }

    /// The answer is how many there are. `how`: the word that the ledger has of each node's transport.
    fn inherit_handles(
        &self,
        Inheritance { ledger, adopt }: &Inheritance,
        how: &HashMap<Number, u64>,
        registered: &mut HashMap<u32, Registered>,
    ) -> Outcome<usize> {
        self.handles.go_on_after(ledger.last_handle());
        // One descriptor for all who read the same.
        let mut opened = HashMap::new();
        let mut count = 0;
        for (handle, record) in ledger.open_handles() {
            let id = handle.registered;
            let file = (id != 0).then(|| {
                let taken_over = || adopt(id).noted(ledger.add_registered(id));
                registered.entry(id).or_insert_with(taken_over).clone()
            });
            let Some(node) = self.table.get(handle.number) else {
                continue;
            };
            let reads_directly = file.is_some() && !handle.writes;
            let what = (handle.number, handle.object);
            if reads_directly && !opened.contains_key(&what) {
                opened.insert(what, self.opened_before(&node, &handle)?);
            }
            let direct = reads_directly.then(|| opened.get(&what).cloned().flatten());
            self.inherited_handle(node.clone(), &handle, record, direct);
            let word = how.get(&handle.number).copied().unwrap_or_default();
            let host = match (&handle.object, handle.writes) {
                (Some(_), _) => Host::Object,
                (None, true) => Host::Written,
                (None, false) => Host::Private,
            };
            let mut state = node.state.lock();
            state.reopened(handle.flip, file.map(|file| (file, host)), known(word));
            drop(state);
            self.done(node);
            count += 1;
        }
        Ok(count)
    }

    fn inherited_node(
        &self,
        known: &KnownNode,
        record: Entry,
        finder: &mut Finder<'_>,
    ) -> Outcome<Option<Arc<Node>>> {
        let number = known.number;
        let there = match self.table.get(number) {
            Some(node) => Some(node),
            None => finder.find(number)?,
        };
        if let Some(node) = &there
            && !matches!(node.place(), Place::Unlinked)
        {
            self.discard_left_orphan(number)?;
        }
        let node = match there {
            Some(node) => node,
            None => {
                let Some(node) = self.unlinked_node(number)? else {
                    return Ok(None);
                };
                let node = self.table.get_or_insert(number, || node);
                node.state.lock().unlinked = known.unlinked.unwrap_or_else(Time::now);
                self.note_unlinked(&node);
                node
            }
        };
        let before = node.lookups.load(Ordering::Relaxed);
        node.lookups
            .store(before.saturating_add(known.lookups), Ordering::Relaxed);
        let mut state = node.state.lock();
        if state.known.is_none() {
            state.unpack(known.transport);
            state.known = Some(record);
        }
        if let Some(record) = &state.known {
            record.set_lookups(before.saturating_add(known.lookups));
        }
        drop(state);
        Ok(Some(node))
    }

    /// A change put aside what has a name, and was not carried out.
    fn discard_left_orphan(&self, number: Number) -> Outcome<()> {
        let (orphans, orphan) = (self.view.layer.orphans(), Layer::number_name(number));
        if statat(orphans, &orphan[..], AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            let about = format!("images/{}/orphans", self.view.layer.image());
            tree::remove(orphans, &orphan, &about)?;
        }
        Ok(())
    }

    /// The node of a number that no name leads to.
    fn unlinked_node(&self, number: Number) -> Outcome<Option<Node>> {
        let orphan = Layer::number_name(number);
        if let Some(entry) = layer::read_entry(self.view.layer.orphans(), &orphan)? {
            let PrivateEntry::Marked { stat, mark } = entry else {
                return Ok(None);
            };
            let source = match mark.role {
                Role::Directory(role) => Source::PrivateDirectory(role),
                _ => Source::Private,
            };
            let file_type = FileType::from_mode(stat.st_mode).unwrap_or(FileType::Regular);
            return Ok(Some(Node::new(number, file_type, Place::Unlinked, source)));
        }
        let shared = self.view.shared_of(number);
        let Some(inode) = self.view.shared.inode(shared)? else {
            return Ok(None);
        };
        let source = match inode.content {
            Content::Directory => Source::SharedDirectory(shared),
            _ => Source::Shared(shared),
        };
        let file_type = inode.content.file_type();
        Ok(Some(Node::new(number, file_type, Place::Unlinked, source)))
    }

    /// What a node without a name has of the shared layer is noted: see [`super::follow`].
    pub(super) fn note_unlinked(&self, node: &Node) {
        if let Source::Shared(_)
        | Source::SharedDirectory(_)
        | Source::PrivateDirectory(DirectoryRole::Transparent { .. }) = node.source()
        {
            self.unlinked_shared.lock().insert(node.number);
        }
    }

    /// `direct`: what a direct reader has open, if it is one.
    fn inherited_handle(
        &self,
        node: Arc<Node>,
        open: &OpenHandle,
        record: Entry,
        direct: Option<Option<Arc<OpenFile>>>,
    ) {
        let writer = open.writes.then(|| self.writer(&node));
        let mut handle = FileHandle::new(node, writer, open.executes);
        handle.flip = Some(open.flip);
        handle.record = Some(record);
        handle.request = Some(open.request);
        // The kernel reads it without us; what it has to ask us for fails.
        handle.is_lost = matches!(direct, Some(None));
        handle.direct = direct.flatten();
        self.handles.insert_file(open.id, handle);
    }

    /// What a direct reader has open, if it can be had.
    ///
    /// # Errors
    /// The host is short of something.
    fn opened_before(&self, node: &Arc<Node>, open: &OpenHandle) -> Outcome<Option<Arc<OpenFile>>> {
        let opened = match &open.object {
            Some(digest) => self.reopen_object(digest),
            None => self.open_private_to_read(node),
        };
        match opened {
            Ok(opened) => Ok(Some(Arc::new(opened))),
            Err(failure) if failure.is_shortage() => Err(failure),
            Err(failure) => {
                log::warn!("images/{}: {failure}", self.view.layer.image());
                Ok(None)
            }
        }
    }

    /// A request comes again that was under way when the process before this one ended: handles that it
    /// opened then the kernel has never heard of.
    pub fn close_unheard_of(&self, request: u64) {
        for id in self.handles.opened_by(request) {
            self.release(id);
        }
    }

    /// Has the kernel ask for the attributes of all that it knows, and for what directories hold: a change may have
    /// been cut short before the kernel had heard all of it. Names it asks for anyway since
    /// [`Filesystem::unsettle`]. No lock is held.
    pub fn tell_inherited(&self) {
        for node in self.table.all() {
            let number = node.number;
            let nodeids = node.state.lock().nodeids(number);
            let is_directory = node.file_type == FileType::Directory;
            self.done(node);
            self.tell(|upcall| match is_directory {
                true => upcall.forget_directory(number.get()),
                false => nodeids
                    .into_iter()
                    .for_each(|nodeid| upcall.forget_attributes(nodeid)),
            });
        }
    }

    /// Removes what nobody has open any more, but keeps what is in `known` for [`Filesystem::inherit`].
    pub(super) fn empty_orphans(&self, known: &HashSet<Number>) -> crate::error::Result<()> {
        let orphans = self.view.layer.orphans();
        let about = format!("images/{}/orphans", self.view.layer.image());
        if known.is_empty() {
            return tree::remove_contents(orphans, &about);
        }
        let kept: HashSet<Vec<u8>> = known.iter().map(|&it| Layer::number_name(it)).collect();
        let names = layer::names_in(orphans.as_fd());
        let names = names.map_err(|errno| Failure::from(errno).about(&about))?;
        for name in names.iter().filter(|name| !kept.contains(&name[..])) {
            tree::remove(orphans, name, &about)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
