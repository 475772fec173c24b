//! The inode table: number to node, for as long as anybody refers to it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use super::ledger::Ledger;
use super::node::{Node, Place};
use crate::store::number::Number;

/// How many nodes that could not leave before are looked at again each time.
const AGAIN: usize = 4;

/// All nodes of a live image. There is at most one node for a number: it stays until the kernel has
/// forgotten it and neither a child nor an operation refers to it.
#[derive(Default)]
pub struct Table {
    nodes: Mutex<Nodes>,
}

#[derive(Default)]
struct Nodes {
    by_number: HashMap<Number, Arc<Node>>,
    /// Nodes that the kernel does not know (any more) and somebody still referred to when they were
    /// looked at. Each once; may hold numbers whose node is gone or known again.
    busy: VecDeque<Number>,
    /// Where it is noted what the kernel knows.
    ledger: Option<Arc<Ledger>>,
}

impl Table {
    /// The node of a number.
    pub fn get(&self, number: Number) -> Option<Arc<Node>> {
        self.nodes.lock().by_number.get(&number).cloned()
    }

    /// Whether there is a node of that number.
    pub fn has(&self, number: Number) -> bool {
        self.nodes.lock().by_number.contains_key(&number)
    }

    /// The node of a number, made if it is not there. The answer keeps it in the table; who has got
    /// it either tells the kernel of it ([`Table::remember`]) or gives it back
    /// ([`Table::release`]).
    pub fn get_or_insert(&self, number: Number, make: impl FnOnce() -> Node) -> Arc<Node> {
        let mut nodes = self.nodes.lock();
        let node = nodes.by_number.entry(number);
        node.or_insert_with(|| Arc::new(make())).clone()
    }

    /// The kernel is told of the node once more.
    pub fn remember(&self, node: &Node) {
        let nodes = self.nodes.lock();
        let lookups = node.lookups.fetch_add(1, Ordering::Relaxed) + 1;
        let Some(ledger) = &nodes.ledger else {
            return;
        };
        let mut state = node.state.lock();
        if !state
            .known
            .as_ref()
            .is_some_and(|known| known.is_in(ledger))
        {
            state.known = ledger.add_node(node.number);
            state.note();
        }
        if let Some(known) = &state.known {
            known.set_lookups(lookups);
        }
    }

    /// Notes in `ledger` what the kernel knows from now on.
    pub fn note_in(&self, ledger: Option<Arc<Ledger>>) {
        self.nodes.lock().ledger = ledger;
    }

    /// Notes all that was not noted while it was not the time for that.
    pub fn note_again(&self) {
        for node in self.nodes.lock().by_number.values() {
            let state = node.state.lock();
            if let Some(known) = &state.known {
                known.set_lookups(node.lookups.load(Ordering::Relaxed));
            }
            state.note();
        }
    }

    /// The kernel forgets `count` lookups. The answer are nodes that left the table unlinked: what
    /// is kept of them in `orphans/` can go.
    pub fn forget(&self, number: Number, count: u64) -> Vec<Arc<Node>> {
        let mut nodes = self.nodes.lock();
        let Some(node) = nodes.by_number.get(&number).cloned() else {
            return Vec::new();
        };
        let before = node.lookups.load(Ordering::Relaxed);
        let after = before.saturating_sub(count);
        node.lookups.store(after, Ordering::Relaxed);
        if let Some(known) = &node.state.lock().known {
            known.set_lookups(after);
        }
        nodes.sweep(node)
    }

    /// An operation or handle is done with a node that the kernel may have forgotten meanwhile, or
    /// never knew.
    pub fn release(&self, node: Arc<Node>) -> Vec<Arc<Node>> {
        self.nodes.lock().sweep(node)
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.nodes.lock().by_number.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All nodes, for background work that has to look at each.
    pub fn all(&self) -> Vec<Arc<Node>> {
        self.nodes.lock().by_number.values().cloned().collect()
    }
}

impl Nodes {
    /// Drops the node if nothing refers to it, and then its parents, likewise; and some of those
    /// that somebody still referred to before.
    fn sweep(&mut self, node: Arc<Node>) -> Vec<Arc<Node>> {
        let mut unlinked = Vec::new();
        self.sweep_upward(node, &mut unlinked);
        for _ in 0..AGAIN.min(self.busy.len()) {
            let Some(number) = self.busy.pop_front() else {
                break;
            };
            if let Some(node) = self.by_number.get(&number).cloned() {
                node.state.lock().queued = false;
                self.sweep_upward(node, &mut unlinked);
            }
        }
        unlinked
    }

    fn sweep_upward(&mut self, node: Arc<Node>, unlinked: &mut Vec<Arc<Node>>) {
        let mut current = node;
        loop {
            let kept = self.by_number.get(&current.number);
            if !kept.is_some_and(|kept| Arc::ptr_eq(kept, &current)) {
                return;
            }
            let mut state = current.state.lock();
            if current.lookups.load(Ordering::Relaxed) > 0 || state.handles > 0 {
                return;
            }
            // Two references: the table's and ours. More come only through the table, which is locked.
            if Arc::strong_count(&current) > 2 {
                if !state.queued {
                    state.queued = true;
                    self.busy.push_back(current.number);
                }
                return;
            }
            let place = std::mem::replace(&mut state.place, Place::Unlinked);
            state.known = None;
            drop(state);
            self.by_number.remove(&current.number);
            match place {
                Place::Entry { parent, .. } => current = parent,
                Place::Unlinked => return unlinked.push(current),
                Place::Root | Place::Index => return,
            }
        }
    }
}
