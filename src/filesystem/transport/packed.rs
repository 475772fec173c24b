//! What a ledger keeps of a node's transport, in one word; and back.
//!
//! From the lowest bit: the current top byte (8 bits), the last one that was new (8), how the current handles
//! are opened (3), what else is true (4), and from bit 32 the registered file.

use std::time::Instant;

use super::{Host, Mode, Registered, Transport};
use crate::filesystem::node::State;

const LAST: u32 = 8;
const MODE: u32 = 16;
const STALE_PAGES: u64 = 1 << 19;
const VOLATILE: u64 = 1 << 20;
const FLIPPED: u64 = 1 << 21;
const REPLACED: u64 = 1 << 22;
const REGISTERED: u32 = 32;

/// What the current handles have, in the order of their codes from 2 on; 0 is none, 1 is cached.
const HOSTS: [Host; 4] = [
    Host::Object,
    Host::PrivateForReading,
    Host::Private,
    Host::Written,
];

/// The word of a node's state.
pub(super) fn packed(state: &State) -> u64 {
    let replaced = u64::from(state.is_replaced) * REPLACED;
    let Some(transport) = &state.transport else {
        return replaced;
    };
    let (mode, registered) = match &transport.current {
        None => (0, 0),
        Some((Mode::Cached, _)) => (1, 0),
        Some((Mode::Direct(registered, host), _)) => {
            let code = HOSTS.iter().position(|known| known == host);
            (code.unwrap_or_default() as u64 + 2, registered.id())
        }
    };
    let flags = [
        (transport.stale_pages, STALE_PAGES),
        (transport.volatile, VOLATILE),
        (transport.flipped.is_some(), FLIPPED),
    ];
    let flags = flags.iter().map(|(is, flag)| u64::from(*is) * flag);
    replaced
        | flags.sum::<u64>()
        | u64::from(transport.flip)
        | u64::from(transport.last) << LAST
        | mode << MODE
        | u64::from(registered) << REGISTERED
}

/// How the current handles of a node were opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::filesystem) enum Known {
    None,
    Cached,
    Direct(u32, Host),
}

/// How the handles were opened that a word of [`packed`] is about.
pub(in crate::filesystem) fn known(word: u64) -> Known {
    match (word >> MODE & 7) as usize {
        0 => Known::None,
        code @ 2.. if code - 2 < HOSTS.len() => {
            Known::Direct((word >> REGISTERED) as u32, HOSTS[code - 2])
        }
        _ => Known::Cached,
    }
}

impl State {
    /// Takes over what a word of [`packed`] says, but for the handles.
    pub(in crate::filesystem) fn unpack(&mut self, word: u64) {
        self.is_replaced = word & REPLACED != 0;
        if word & !REPLACED == 0 {
            return;
        }
        self.transport = Some(Box::new(Transport {
            flip: word as u8,
            last: (word >> LAST) as u8,
            flipped: (word & FLIPPED != 0).then(Instant::now),
            stale_pages: word & STALE_PAGES != 0,
            volatile: word & VOLATILE != 0,
            ..Transport::default()
        }));
    }

    /// A handle that was opened before, at the nodeid with this top byte, and the file that it is registered with, of
    /// the kind that it seems to be; `current` is how those are opened that are open at the current one.
    pub(in crate::filesystem) fn reopened(
        &mut self,
        flip: u8,
        registered: Option<(Registered, Host)>,
        current: Known,
    ) {
        let transport = self.transport.get_or_insert_default();
        if flip != transport.flip {
            if let Some(old) = transport.old.iter_mut().find(|old| old.flip == flip) {
                old.handles += 1;
            } else if let Some((registered, _)) = registered {
                transport.old.push(super::Old {
                    flip,
                    handles: 1,
                    registered,
                });
            }
            return;
        }
        match (&mut transport.current, registered, current) {
            (Some((_, handles)), ..) => *handles += 1,
            (now, Some((registered, _)), Known::Direct(_, host)) => {
                *now = Some((Mode::Direct(registered, host), 1));
            }
            (now, Some((registered, host)), _) => {
                *now = Some((Mode::Direct(registered, host), 1));
            }
            (now, None, _) => *now = Some((Mode::Cached, 1)),
        }
    }
}
