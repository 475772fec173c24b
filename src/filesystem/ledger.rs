//! What the kernel knows of a live image, in memory that outlives the process: the nodes that it refers to,
//! the handles that it has open and the host files that are registered with it. Who takes the image over
//! when this process has been killed goes on with that ([`super::inherit`]).
//!
//! A record is written before the kernel gets the answer that it is about, and goes when the kernel needs it
//! no more. So a ledger tells of all that the kernel knows; of one request that was cut short it may tell
//! what the kernel has never heard. Nothing on the host depends on it: what lies in a store is found out
//! from the store.
//!
//! The layout, in words of 64 bits: a head of 8192 (which layout; how many records of each kind were ever in use;
//! how long the description is; the last number of a handle; and from word 64 the description, which is the
//! transport's own), then places for
//! nodes (4 words each), handles (8), registered files (1) and changes under way (4). It is told from others by
//! its first word. All numbers of it are read with suspicion: a place that makes no sense is left out.

mod slots;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;
use rustix::io::Errno;

use crate::store::digest::Digest;
use crate::store::metadata::Time;
use crate::store::number::Number;
use crate::sys::shared_memory::SharedWords;
use slots::{Area, Slots};

/// "foldled" and the version of the layout.
const MAGIC: u64 = u64::from_be_bytes(*b"foldled\x01");

const DESCRIPTION_LENGTH: usize = 8;
const LAST_HANDLE: usize = 9;
const DESCRIPTION: usize = 64;
const HEAD: usize = 8192;

const NODES: Area = Area {
    used: 1,
    start: HEAD,
    length: 4,
    most: 1 << 24,
};
const HANDLES: Area = Area {
    used: 2,
    start: NODES.end(),
    length: 8,
    most: 1 << 22,
};
const REGISTERED: Area = Area {
    used: 3,
    start: HANDLES.end(),
    length: 1,
    most: 1 << 22,
};
/// Each takes the place of the one before the last so many.
const BEGUN: Area = Area {
    used: 4,
    start: REGISTERED.end(),
    length: 4,
    most: 1 << 10,
};
const WORDS: usize = BEGUN.end();

/// A node as the kernel knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownNode {
    /// Its number.
    pub number: Number,
    /// How many lookups the kernel has not forgotten.
    pub lookups: u64,
    /// How its handles are opened: [`super::transport`]'s own.
    pub transport: u64,
    /// When its last name went, if it has none.
    pub unlinked: Option<Time>,
}

/// An open handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenHandle {
    /// The node's number.
    pub number: Number,
    /// What the kernel calls it.
    pub id: u64,
    /// The top byte of the nodeid at which it is open.
    pub flip: u8,
    /// It counts as a writer.
    pub writes: bool,
    /// execve(2) opened it.
    pub executes: bool,
    /// The file that the kernel reads or writes itself; 0 for none.
    pub registered: u32,
    /// The object that a direct reader has open.
    pub object: Option<Digest>,
    /// The request that opened it.
    pub request: u64,
}

/// A change that can be carried out, but of which cannot be told by what there is whether it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begun {
    /// The request.
    pub request: u64,
    /// Whose change: of a rename, what had the old name before.
    pub number: Number,
}

/// A place in a ledger, given back when this is dropped.
#[derive(Debug)]
pub(super) struct Entry {
    ledger: Arc<Ledger>,
    kind: Kind,
    slot: u32,
    turn: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Node,
    Handle,
    Registered,
}

/// The ledger of one connection.
#[derive(Debug)]
pub struct Ledger {
    memory: SharedWords,
    nodes: Slots,
    handles: Slots,
    registered: Slots,
    /// Nothing is altered, and nothing taken out.
    is_left: AtomicBool,
    /// What would have been taken out since another process left it.
    let_go: Mutex<Vec<(Kind, u32)>>,
    /// How often this process has begun to take it over.
    turn: AtomicU32,
}

const WRITES: u64 = 1 << 8;
const EXECUTES: u64 = 1 << 9;
const HAS_OBJECT: u64 = 1 << 10;
const REGISTERED_SHIFT: u32 = 32;

/// Of a time in one word, nanoseconds have the lower 30 bits; one more tells it from none.
const NANOSECONDS: u32 = 30;

fn packed(time: Option<Time>) -> u64 {
    time.map_or(0, |time| {
        let seconds = time.seconds.clamp(0, (1 << 33) - 1).cast_unsigned();
        1 << 63 | seconds << NANOSECONDS | u64::from(time.nanoseconds)
    })
}

fn unpacked(word: u64) -> Option<Time> {
    (word >> 63 == 1).then(|| Time {
        seconds: (word << 1 >> 1 >> NANOSECONDS).cast_signed(),
        nanoseconds: (word as u32 & ((1 << NANOSECONDS) - 1)).min(999_999_999),
    })
}

impl Ledger {
    /// An empty one.
    ///
    /// # Errors
    /// The kernel's: no descriptor, no memory.
    pub fn new() -> rustix::io::Result<Arc<Self>> {
        let memory = SharedWords::new("foldfs-ledger", WORDS)?;
        memory.words()[0].store(MAGIC, Ordering::Release);
        Ok(Self::of(memory, false))
    }

    /// What another process has left. It stays as it is until [`Ledger::go_on`]: if this process fails before, the next
    /// one finds all of it.
    ///
    /// # Errors
    /// EINVAL if it is no ledger, or one of a version that is not understood.
    pub fn open(descriptor: OwnedFd) -> rustix::io::Result<Arc<Self>> {
        let memory = SharedWords::open(descriptor)?;
        let words = memory.words();
        if words.len() != WORDS || words[0].load(Ordering::Acquire) != MAGIC {
            return Err(Errno::INVAL);
        }
        Ok(Self::of(memory, true))
    }

    fn of(memory: SharedWords, is_left: bool) -> Arc<Self> {
        let words = memory.words();
        Arc::new(Self {
            nodes: Slots::of(NODES, words),
            handles: Slots::of(HANDLES, words),
            registered: Slots::of(REGISTERED, words),
            is_left: AtomicBool::new(is_left),
            let_go: Mutex::default(),
            turn: AtomicU32::new(0),
            memory,
        })
    }

    fn words(&self) -> &[AtomicU64] {
        self.memory.words()
    }

    /// What was let go of so far is there again: who took it over has failed, and another one in this process tries. What
    /// the first one had, and lets go of later, does not count.
    pub(super) fn begin_again(&self) {
        let mut let_go = self.let_go.lock();
        self.turn.fetch_add(1, Ordering::AcqRel);
        let_go.clear();
    }

    fn turn(&self) -> u32 {
        self.turn.load(Ordering::Acquire)
    }

    /// This process has taken over what another one has left, and serves it from now on: what it has let go of goes.
    pub fn go_on(&self) {
        let mut let_go = self.let_go.lock();
        self.is_left.store(false, Ordering::Release);
        for (kind, slot) in let_go.drain(..) {
            self.slots(kind).give_back(self.words(), slot);
        }
    }

    /// This process ends, and the kernel goes on: what is forgotten from now on stays noted for the next one.
    #[cfg(test)]
    pub fn leave(&self) {
        self.is_left.store(true, Ordering::Release);
    }

    /// Whether it is another process that goes on.
    pub fn is_left(&self) -> bool {
        self.is_left.load(Ordering::Acquire)
    }

    /// Keeps what the transport has to say of the connection.
    ///
    /// # Errors
    /// EFBIG for more than 64,000 bytes.
    pub fn describe(&self, text: &[u8]) -> rustix::io::Result<()> {
        let words = &self.words()[DESCRIPTION..HEAD];
        if text.len() > words.len() * 8 {
            return Err(Errno::FBIG);
        }
        let length = &self.words()[DESCRIPTION_LENGTH];
        length.store(0, Ordering::Release);
        for (word, bytes) in words.iter().zip(text.chunks(8)) {
            let mut whole = [0; 8];
            whole[..bytes.len()].copy_from_slice(bytes);
            word.store(u64::from_ne_bytes(whole), Ordering::Release);
        }
        length.store(text.len() as u64, Ordering::Release);
        Ok(())
    }

    /// What [`Ledger::describe`] was told last; nothing if it was cut short.
    pub fn description(&self) -> Vec<u8> {
        let words = &self.words()[DESCRIPTION..HEAD];
        let length = self.words()[DESCRIPTION_LENGTH].load(Ordering::Acquire);
        let bytes = words
            .iter()
            .flat_map(|word| word.load(Ordering::Acquire).to_ne_bytes());
        bytes
            .take(usize::try_from(length).unwrap_or_default())
            .collect()
    }

    fn slots(&self, kind: Kind) -> &Slots {
        match kind {
            Kind::Node => &self.nodes,
            Kind::Handle => &self.handles,
            Kind::Registered => &self.registered,
        }
    }

    fn records(&self, area: Area) -> impl Iterator<Item = (u32, &[AtomicU64])> {
        let words = self.words();
        let record = move |slot| (slot, &words[area.place(slot)]);
        let is_taken = |(_, record): &(u32, &[AtomicU64])| record[0].load(Ordering::Acquire) != 0;
        area.used(words).map(record).filter(is_taken)
    }

    fn entry(self: &Arc<Self>, kind: Kind, slot: Option<u32>) -> Option<Entry> {
        let slot = slot?;
        Some(Entry {
            ledger: self.clone(),
            kind,
            slot,
            turn: self.turn(),
        })
    }

    /// A record of a node.
    pub(super) fn add_node(self: &Arc<Self>, number: Number) -> Option<Entry> {
        let slot = self.nodes.take(self.words(), &[number.get(), 0, 0, 0]);
        self.entry(Kind::Node, slot)
    }

    /// The last number that was given to a handle: no other one ever gets a lower one, since the kernel may still be
    /// about to close that.
    pub(super) fn last_handle(&self) -> u64 {
        self.words()[LAST_HANDLE].load(Ordering::Acquire)
    }

    /// A record of a handle.
    pub(super) fn add_handle(self: &Arc<Self>, handle: &OpenHandle) -> Option<Entry> {
        self.words()[LAST_HANDLE].fetch_max(handle.id, Ordering::AcqRel);
        let flags = [
            (handle.writes, WRITES),
            (handle.executes, EXECUTES),
            (handle.object.is_some(), HAS_OBJECT),
        ];
        let flags = flags
            .iter()
            .map(|(is, flag)| u64::from(*is) * flag)
            .sum::<u64>();
        let how = flags | u64::from(handle.flip) | u64::from(handle.registered) << REGISTERED_SHIFT;
        let mut record = [
            handle.number.get(),
            handle.id,
            how,
            handle.request,
            0,
            0,
            0,
            0,
        ];
        if let Some(digest) = handle.object {
            for (word, bytes) in record[4..]
                .iter_mut()
                .zip(digest.as_bytes().chunks_exact(8))
            {
                let bytes: [u8; 8] = bytes.try_into().unwrap_or_default();
                *word = u64::from_ne_bytes(bytes);
            }
        }
        let slot = self.handles.take(self.words(), &record);
        self.entry(Kind::Handle, slot)
    }

    /// A record of a registered file.
    pub(super) fn add_registered(self: &Arc<Self>, id: u32) -> Option<Entry> {
        let slot = self.registered.take(self.words(), &[u64::from(id)]);
        self.entry(Kind::Registered, slot)
    }

    /// Notes a change before it is carried out.
    pub fn begin(&self, change: &Begun) {
        let words = self.words();
        // Whichever threads come here at the same time take different places.
        let turn = words[BEGUN.used].fetch_add(1, Ordering::AcqRel);
        let slot = (turn % u64::from(BEGUN.most)) as u32;
        let place = &words[BEGUN.place(slot)];
        place[0].store(0, Ordering::Release);
        place[1].store(change.request, Ordering::Release);
        place[0].store(change.number.get(), Ordering::Release);
    }

    /// The change that a request began, whether it was carried out or not.
    pub fn begun(&self, request: u64) -> Option<Begun> {
        let words = self.words();
        let places = BEGUN.used(words).map(|slot| &words[BEGUN.place(slot)]);
        let mut found = places.filter_map(|place| {
            let number = Number::new(place[0].load(Ordering::Acquire))?;
            let request = place[1].load(Ordering::Acquire);
            Some(Begun { request, number })
        });
        found.find(|change| change.request == request)
    }

    /// The nodes that the kernel knows.
    pub(super) fn known_nodes(self: &Arc<Self>) -> Vec<(KnownNode, Entry)> {
        let nodes = self.records(NODES).filter_map(|(slot, record)| {
            let word = |at: usize| record[at].load(Ordering::Acquire);
            let known = KnownNode {
                number: Number::new(word(0))?,
                lookups: word(1),
                transport: word(2),
                unlinked: unpacked(word(3)),
            };
            Some((known, self.entry(Kind::Node, Some(slot))?))
        });
        nodes.collect()
    }

    /// The numbers of the nodes that the kernel knows.
    pub fn numbers(&self) -> impl Iterator<Item = Number> {
        let numbers = self.records(NODES);
        numbers.filter_map(|(_, record)| Number::new(record[0].load(Ordering::Acquire)))
    }

    /// The handles that are open.
    pub(super) fn open_handles(self: &Arc<Self>) -> Vec<(OpenHandle, Entry)> {
        let handles = self.records(HANDLES).filter_map(|(slot, record)| {
            let word = |at: usize| record[at].load(Ordering::Acquire);
            let how = word(2);
            let object = || {
                let mut bytes = [0; 32];
                for (at, part) in bytes.chunks_exact_mut(8).enumerate() {
                    part.copy_from_slice(&word(4 + at).to_ne_bytes());
                }
                Digest::from_bytes(bytes)
            };
            let handle = OpenHandle {
                number: Number::new(word(0))?,
                id: word(1),
                flip: how as u8,
                writes: how & WRITES != 0,
                executes: how & EXECUTES != 0,
                registered: (how >> REGISTERED_SHIFT) as u32,
                object: (how & HAS_OBJECT != 0).then(object),
                request: word(3),
            };
            Some((handle, self.entry(Kind::Handle, Some(slot))?))
        });
        handles.collect()
    }

    /// The files that are registered.
    pub(super) fn registered(self: &Arc<Self>) -> Vec<(u32, Entry)> {
        let registered = self.records(REGISTERED).filter_map(|(slot, record)| {
            let id = u32::try_from(record[0].load(Ordering::Acquire)).ok()?;
            Some((id, self.entry(Kind::Registered, Some(slot))?))
        });
        registered.collect()
    }
}

impl AsFd for Ledger {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }
}

impl Entry {
    /// Whether it stands in this ledger.
    pub(super) fn is_in(&self, ledger: &Arc<Ledger>) -> bool {
        Arc::ptr_eq(&self.ledger, ledger)
    }

    /// Not while it is left: handles that come to life one after the other, or go with a process that ends, are not all
    /// that the kernel has.
    fn store(&self, at: usize, value: u64) {
        if self.ledger.is_left() || self.turn != self.ledger.turn() {
            return;
        }
        let words = self.ledger.words();
        words[NODES.place(self.slot).start + at].store(value, Ordering::Release);
    }

    /// Of a node: how many lookups the kernel has not forgotten.
    pub(super) fn set_lookups(&self, lookups: u64) {
        debug_assert_eq!(self.kind, Kind::Node);
        self.store(1, lookups);
    }

    /// Of a node: the rest.
    pub(super) fn set_state(&self, transport: u64, unlinked: Option<Time>) {
        debug_assert_eq!(self.kind, Kind::Node);
        self.store(2, transport);
        self.store(3, packed(unlinked));
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if self.ledger.is_left() {
            let mut let_go = self.ledger.let_go.lock();
            // It may go on meanwhile.
            if self.ledger.is_left() && self.turn == self.ledger.turn() {
                return let_go.push((self.kind, self.slot));
            }
        }
        if self.turn != self.ledger.turn() {
            return;
        }
        let slots = self.ledger.slots(self.kind);
        slots.give_back(self.ledger.words(), self.slot);
    }
}

#[cfg(test)]
mod tests;
