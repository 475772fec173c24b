//! Handles: what open(2) of a live image gives. Directories are read without.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rustix::io::Errno;

use super::Filesystem;
use super::change::Notes;
use super::failure::Outcome;
use super::ledger::Entry;
use super::node::{Backing, Node, OpenFile, Place};

/// All open handles, by the id that the kernel was told. A leaf lock.
#[derive(Default)]
pub(super) struct Handles {
    last: AtomicU64,
    open: Mutex<HashMap<u64, Arc<FileHandle>>>,
}

/// An open regular file.
pub(super) struct FileHandle {
    pub(super) node: Arc<Node>,
    /// Present when it was opened for writing.
    pub(super) writer: Option<Writer>,
    /// execve(2) opened it.
    pub(super) execute: bool,
    /// The top byte of the nodeid at which the kernel has it open.
    pub(super) flip: Option<u8>,
    /// What a direct reader has open: it does not see a promotion.
    pub(super) direct: Option<Arc<OpenFile>>,
    /// What the ledger says of it.
    pub(super) record: Option<Entry>,
    /// Of a handle that was taken over: the request that opened it.
    pub(super) request: Option<u64>,
    /// What the kernel has open is not to be had any more.
    pub(super) is_lost: bool,
}

/// One of a node's writers, as long as it lives. While there is one the node is not folded.
pub(super) struct Writer {
    node: Arc<Node>,
    notes: Arc<Notes>,
}

impl Filesystem {
    /// To be made before `node.content` is taken: a fold that has it gives up.
    pub(super) fn writer(&self, node: &Arc<Node>) -> Writer {
        node.writers.fetch_add(1, Ordering::SeqCst);
        Writer {
            node: node.clone(),
            notes: self.change.notes().clone(),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let mut state = self.node.state.lock();
        let last = self.node.writers.fetch_sub(1, Ordering::SeqCst) == 1;
        // A descriptor open for writing would keep fold from its read lease.
        let writable = matches!(&state.open, Some(open) if open.backing == Backing::Writable);
        let closed = match last && (writable || state.handles == 0) {
            true => state.open.take(),
            false => None,
        };
        let unlinked = matches!(state.place, Place::Unlinked);
        drop(state);
        // Closing the last descriptor of an unlinked file may take its time.
        drop(closed);
        if !unlinked {
            self.notes.altered.add(self.node.number);
            self.notes.closed.fetch_add(1, Ordering::Release);
        }
    }
}

impl FileHandle {
    /// Counts as a handle of the node from now on.
    pub(super) fn new(node: Arc<Node>, writer: Option<Writer>, execute: bool) -> Self {
        let mut state = node.state.lock();
        state.handles += 1;
        state.programs += u32::from(execute);
        drop(state);
        Self {
            node,
            writer,
            execute,
            flip: None,
            direct: None,
            record: None,
            request: None,
            is_lost: false,
        }
    }
}

impl Drop for FileHandle {
    fn drop(&mut self) {
        let mut state = self.node.state.lock();
        state.handles -= 1;
        state.programs -= u32::from(self.execute);
        let registered = self.flip.and_then(|flip| state.closed(flip));
        // Writers may be operations without a handle; the last of them closes it.
        let last = state.handles == 0 && self.node.writers.load(Ordering::SeqCst) == 0;
        let closed = match last {
            true => state.open.take(),
            false => None,
        };
        drop(state);
        // First: who goes on after a kill in between must not take the kernel to know a file that was taken back.
        drop(self.record.take());
        drop((closed, registered));
    }
}

impl Handles {
    /// An id that no handle has.
    pub(super) fn new_id(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// What the kernel has heard of ids up to this one is not about a handle that is opened from now on.
    pub(super) fn go_on_after(&self, id: u64) {
        self.last.fetch_max(id, Ordering::Relaxed);
    }

    pub(super) fn insert_file(&self, id: u64, handle: FileHandle) {
        self.go_on_after(id);
        self.open.lock().insert(id, Arc::new(handle));
    }

    /// The handles that a request opened, as the ledger has it.
    pub(super) fn opened_by(&self, request: u64) -> Vec<u64> {
        let open = self.open.lock();
        let by = open
            .iter()
            .filter(|(_, handle)| handle.request == Some(request));
        by.map(|(id, _)| *id).collect()
    }

    /// The open file of an id.
    ///
    /// # Errors
    /// EBADF.
    pub(super) fn file(&self, id: u64) -> Outcome<Arc<FileHandle>> {
        Ok(self.open.lock().get(&id).cloned().ok_or(Errno::BADF)?)
    }
}

impl Filesystem {
    /// Closes a handle. The kernel does so when nothing uses it any more.
    pub fn release(&self, id: u64) {
        let Some(handle) = self.handles.open.lock().remove(&id) else {
            return;
        };
        let node = handle.node.clone();
        drop(handle);
        self.done(node);
    }

    /// Closes all handles.
    pub(super) fn close_all(&self) {
        let open = std::mem::take(&mut *self.handles.open.lock());
        for (_, handle) in open {
            let node = handle.node.clone();
            drop(handle);
            self.done(node);
        }
    }

    /// How many handles are open.
    pub fn open_handles(&self) -> usize {
        self.handles.open.lock().len()
    }
}
