//! What is known of a node's handles at the kernel's: how they are opened, and at which nodeids.

mod packed;

use std::any::Any;
use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::failure::Outcome;
use super::ledger::Entry;
use super::node::{Place, State};
use crate::store::number::Number;
pub(super) use packed::known;

/// A host file that the kernel may use itself; the last reference takes that back.
#[derive(Clone)]
pub struct Registered {
    id: u32,
    _hold: Arc<dyn Any + Send + Sync>,
    /// Goes after it is taken back.
    record: Option<Arc<Entry>>,
}

impl Registered {
    /// A file that the kernel knows by `id`, until `hold` is dropped.
    pub fn new(id: u32, hold: Arc<dyn Any + Send + Sync>) -> Self {
        let record = None;
        Self {
            id,
            _hold: hold,
            record,
        }
    }

    /// What the kernel calls it.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Noted in a ledger.
    pub(super) fn noted(self, record: Option<Entry>) -> Self {
        let record = record.map(Arc::new);
        Self { record, ..self }
    }
}

impl fmt::Debug for Registered {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Registered({}, {:?})", self.id, self.record)
    }
}

/// Registers a host file, an O_PATH descriptor, which the kernel opens with each caller's flags. It
/// refuses with ELOOP where the host's file system is a stack already, and with EPERM without
/// CAP_SYS_ADMIN: the file will be cached.
pub type Register<'a> = &'a dyn Fn(BorrowedFd<'_>) -> std::io::Result<Registered>;

/// Which host file direct handles have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Host {
    /// One that must not be written to, and that is not the node's any more once it is promoted.
    Object,
    /// The private file. Who writes has to come through us, which clears set-id bits and drops shown
    /// times.
    PrivateForReading,
    /// The private file, for everybody.
    Private,
    /// Likewise, and somebody has it open for writing, or had since the first open: a cached inode beside
    /// this one would not see what is written here.
    Written,
}

/// Handles at a nodeid that is not the current one any more.
#[derive(Debug)]
struct Old {
    flip: u8,
    handles: u32,
    registered: Registered,
}

#[derive(Debug, Clone)]
pub(super) enum Mode {
    Cached,
    Direct(Registered, Host),
}

/// What is to be known of a node's handles at the kernel's. Made when the node is opened first.
#[derive(Debug, Default)]
pub struct Transport {
    /// The top byte of the current nodeid.
    pub(super) flip: u8,
    /// How the handles at the current nodeid are opened, and how many there are.
    pub(super) current: Option<(Mode, u32)>,
    /// Those at nodeids from before a flip. Their files stay registered: the kernel looks for one only when
    /// it reads our answer to the open.
    old: Vec<Old>,
    /// The last top byte that was new, and since when.
    last: u8,
    flipped: Option<Instant>,
    /// The kernel's cached pages at the current nodeid may be older than the file.
    pub(super) stale_pages: bool,
    /// Writable mappings may alter mtime, or a second nodeid the rest, without the kernel's noticing:
    /// it must not keep attributes.
    pub(super) volatile: bool,
}

/// No node flips twice within this time.
const CALM: Duration = Duration::from_secs(10);

/// The nodeid's top byte lies above all numbers.
const FLIP_SHIFT: u32 = Number::END.trailing_zeros();

/// What the kernel is told of a node beside its attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Identity {
    /// The top byte of the nodeid.
    pub flip: u8,
    /// Attributes may change without the kernel's knowing: it must not keep them.
    pub volatile: bool,
}

impl Identity {
    /// The nodeid of a number.
    pub fn nodeid(self, number: Number) -> u64 {
        number.get() | u64::from(self.flip) << FLIP_SHIFT
    }
}

/// The top byte of a nodeid.
pub fn flip_of(nodeid: u64) -> u8 {
    (nodeid >> FLIP_SHIFT) as u8
}

impl State {
    /// How the kernel knows the node.
    pub(super) fn identity(&self) -> Identity {
        let transport = self.transport.as_ref();
        transport.map_or_else(Identity::default, |transport| Identity {
            flip: transport.flip,
            volatile: transport.volatile,
        })
    }

    /// All nodeids at which the kernel may have an inode of the node.
    pub(super) fn nodeids(&self, number: Number) -> Vec<u64> {
        let identity = self.identity();
        let old = self.transport.iter().flat_map(|transport| &transport.old);
        let old = old.map(|old| old.flip);
        let flips = std::iter::once(identity.flip).chain(old);
        let nodeid = |flip| Identity { flip, ..identity }.nodeid(number);
        flips.map(nodeid).collect()
    }

    /// Has the ledger say how the kernel knows the node: after each change of it, before the kernel hears.
    pub(super) fn note(&self) {
        if let Some(known) = &self.known {
            let is_unlinked = matches!(self.place, Place::Unlinked);
            known.set_state(packed::packed(self), is_unlinked.then_some(self.unlinked));
        }
    }

    /// The kernel has come back with this top byte, from a file handle of a nodeid that it had forgotten:
    /// it is the current one again, if no handle is open. The answer is how the kernel is to know it.
    pub(super) fn recall_as(&mut self, flip: u8) -> Identity {
        let identity = self.identity();
        if flip == identity.flip {
            return identity;
        }
        let transport = self.transport.get_or_insert_default();
        transport.volatile = true;
        if transport.current.is_none() && transport.old.is_empty() {
            transport.flip = flip;
            transport.last = transport.last.max(flip);
        }
        self.note();
        Identity {
            flip,
            volatile: true,
        }
    }

    /// Whether who opens the file for writing now will do so past us, whatever bits it has.
    pub(super) fn is_written_directly(&self) -> bool {
        let transport = self.transport.as_ref();
        let current = transport.and_then(|transport| transport.current.as_ref());
        matches!(current, Some((Mode::Direct(_, Host::Written), _)))
    }

    /// Whether direct readers would be too many, because the next writer would make the node flip again:
    /// open(2) bears with one ESTALE, not with two.
    pub(super) fn may_not_flip(&self) -> bool {
        self.transport.as_ref().is_some_and(|transport| {
            let recently = |at: Instant| at.elapsed() < CALM;
            !transport.old.is_empty() || transport.flipped.is_some_and(recently)
        })
    }

    /// No writable mapping is left: until the next open for writing the kernel may keep attributes, unless
    /// it has two inodes of the node.
    pub(super) fn settle(&mut self) {
        if let Some(transport) = &mut self.transport {
            transport.volatile = transport.flipped.is_some() || transport.flip > 0;
        }
        self.note();
    }

    /// Whether the kernel has host files of the node registered.
    pub(super) fn is_direct(&self) -> bool {
        let transport = self.transport.as_ref();
        let current = transport.and_then(|transport| transport.current.as_ref());
        matches!(current, Some((Mode::Direct(..), _)))
    }

    /// After a fold: what direct handles have open is not the node's file any more, but has its bytes.
    pub(super) fn direct_is_folded(&mut self) {
        let transport = self.transport.as_mut();
        if let Some((Mode::Direct(_, host), _)) = transport.and_then(|it| it.current.as_mut()) {
            *host = Host::Object;
        }
        self.settle();
    }

    /// A handle at the nodeid with this top byte is closed. The answer is what the kernel need not
    /// have registered any longer, to be dropped without a lock.
    pub(super) fn closed(&mut self, flip: u8) -> Option<Registered> {
        let transport = self.transport.as_mut()?;
        if flip != transport.flip {
            let position = transport.old.iter().position(|old| old.flip == flip)?;
            let old = &mut transport.old[position];
            old.handles -= 1;
            return match old.handles {
                0 => Some(transport.old.swap_remove(position).registered),
                _ => None,
            };
        }
        let (_, handles) = transport.current.as_mut()?;
        *handles -= 1;
        if *handles > 0 {
            return None;
        }
        let closed = transport.current.take()?;
        self.note();
        match closed {
            (Mode::Direct(registered, _), _) => Some(registered),
            (Mode::Cached, _) => None,
        }
    }

    /// Gives the node another nodeid if direct handles have a host file of this kind open. The answer
    /// is the old nodeid, whose attributes the kernel is to forget.
    ///
    /// # Errors
    /// EBUSY when there are handles at 256 nodeids: so many generations of readers at the same time are
    /// no accident.
    pub(super) fn flip_if(
        &mut self,
        number: Number,
        is_in_the_way: impl Fn(Host) -> bool,
    ) -> Outcome<Option<u64>> {
        let before = self.identity().nodeid(number);
        let Some(transport) = &mut self.transport else {
            return Ok(None);
        };
        let Some((Mode::Direct(registered, host), handles)) = &transport.current else {
            return Ok(None);
        };
        if !is_in_the_way(*host) {
            return Ok(None);
        }
        let is_free = |flip: &u8| {
            *flip != transport.flip && transport.old.iter().all(|old| old.flip != *flip)
        };
        // One after the other: the kernel has no pages of a nodeid that is new.
        let mut next = (1..=u8::MAX).map(|step| transport.last.wrapping_add(step));
        let flip = next.find(is_free).ok_or(Errno::BUSY)?;
        transport.old.push(Old {
            flip: transport.flip,
            handles: *handles,
            registered: registered.clone(),
        });
        transport.stale_pages = flip <= transport.last;
        transport.last = flip;
        transport.flipped = Some(Instant::now());
        transport.flip = flip;
        transport.current = None;
        transport.volatile = true;
        self.note();
        Ok(Some(before))
    }
}

#[cfg(test)]
mod tests;
