//! The inode table: number to node, for as long as anybody refers to it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use super::node::{Node, Place};
use crate::store::number::Number;

/// All nodes of a live image. There is at most one node for a number: it stays until the kernel has
/// forgotten it and neither a child nor an operation refers to it.
#[derive(Default)]
pub struct Table {
    nodes: Mutex<HashMap<Number, Arc<Node>>>,
}

impl Table {
    /// The node of a number.
    pub fn get(&self, number: Number) -> Option<Arc<Node>> {
        self.nodes.lock().get(&number).cloned()
    }

    /// The node of a number, made if it is not there. The answer keeps it in the table.
    pub fn get_or_insert(&self, number: Number, make: impl FnOnce() -> Node) -> Arc<Node> {
        self.nodes
            .lock()
            .entry(number)
            .or_insert_with(|| Arc::new(make()))
            .clone()
    }

    /// The kernel is told of the node once more.
    pub fn remember(&self, node: &Node) {
        let _guard = self.nodes.lock();
        node.lookups.fetch_add(1, Ordering::Relaxed);
    }

    /// The kernel forgets `count` lookups. The answer is a node that left the table unlinked: what
    /// is kept of it in `orphans/` can go.
    pub fn forget(&self, number: Number, count: u64) -> Option<Arc<Node>> {
        let mut nodes = self.nodes.lock();
        let node = nodes.get(&number)?.clone();
        let before = node.lookups.load(Ordering::Relaxed);
        node.lookups
            .store(before.saturating_sub(count), Ordering::Relaxed);
        self.sweep(&mut nodes, node)
    }

    /// An operation or handle is done with a node that the kernel may have forgotten meanwhile.
    pub fn release(&self, node: Arc<Node>) -> Option<Arc<Node>> {
        let mut nodes = self.nodes.lock();
        self.sweep(&mut nodes, node)
    }

    /// Drops the node from the table if nothing refers to it, and then its parents, likewise.
    fn sweep(&self, nodes: &mut HashMap<Number, Arc<Node>>, node: Arc<Node>) -> Option<Arc<Node>> {
        let mut current = node;
        let mut unlinked = None;
        loop {
            // Two references: the table's and ours. More come only through the table, which is locked.
            let idle = current.lookups.load(Ordering::Relaxed) == 0
                && Arc::strong_count(&current) == 2
                && current.state.lock().handles == 0
                && nodes
                    .get(&current.number)
                    .is_some_and(|kept| Arc::ptr_eq(kept, &current));
            if !idle {
                return unlinked;
            }
            nodes.remove(&current.number);
            let place = std::mem::replace(&mut current.state.lock().place, Place::Unlinked);
            match place {
                Place::Entry { parent, .. } => current = parent,
                Place::Unlinked => {
                    unlinked = Some(current);
                    return unlinked;
                }
                Place::Root | Place::Index => return unlinked,
            }
        }
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.nodes.lock().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All nodes, for background work that has to look at each.
    pub fn all(&self) -> Vec<Arc<Node>> {
        self.nodes.lock().values().cloned().collect()
    }
}
