//! FUSE messages such as no kernel sends, and some that it does.
//!
//! fuser trusts the kernel in what it parses itself, and its own parser gives up the process's thread
//! when a header says that the message is shorter than the header, when WRITE, SETXATTR or IOCTL
//! carry another length than they say, and when a time is outside of what SystemTime holds. Only
//! those are left out: another adapter has to check them by itself.

use std::fmt;

use super::fuse_peer::{Answer, HEADER, message};
use super::random::Random;

const FORGET: u32 = 2;
const SETATTR: u32 = 4;
const WRITE: u32 = 16;
const SETXATTR: u32 = 21;
const CREATE: u32 = 35;
const DESTROY: u32 = 38;
const IOCTL: u32 = 39;
const BATCH_FORGET: u32 = 42;

/// What answers taught.
#[derive(Debug, Default)]
pub struct Known {
    nodes: Vec<u64>,
    handles: Vec<u64>,
}

/// A message and what is to come of it.
pub struct Message {
    /// All of it.
    pub bytes: Vec<u8>,
    /// Its unique.
    pub unique: u64,
    /// What it asks for.
    pub opcode: u32,
    /// How many answers it gets.
    pub answers: usize,
    /// Whether the session may end with it.
    pub may_end: bool,
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = &self.bytes[..self.bytes.len().min(200)];
        write!(f, "{}: {:x?}", self.opcode, start)
    }
}

impl Known {
    /// Learns from an answer to a request.
    pub fn learn(&mut self, opcode: u32, answer: &Answer) {
        let number = |at: usize| {
            let bytes = answer.body.get(at..at + 8)?;
            Some(u64::from_ne_bytes(bytes.try_into().unwrap()))
        };
        if answer.error != 0 {
            return;
        }
        let (node, handle) = match opcode {
            1 | 6 | 8 | 9 | 13 => (number(0), None),
            CREATE => (number(0), number(128)),
            14 | 27 => (None, number(0)),
            _ => (None, None),
        };
        let keep = |list: &mut Vec<u64>, number: Option<u64>| {
            list.extend(number.filter(|number| *number != 0));
            let surplus = list.len().saturating_sub(200);
            list.drain(..surplus);
        };
        keep(&mut self.nodes, node);
        keep(&mut self.handles, handle);
    }

    fn node(&self, random: &mut Random) -> u64 {
        match random.below(20) {
            0 => *random.one(&[0, 2, u64::MAX, 1 << 56, (1 << 56) - 1]),
            1 => random.any(),
            2 => random.below(500) as u64,
            // With a flip count in its top byte.
            3 => self.recent(&self.nodes, random) | random.any() << 56,
            4..8 => 1,
            _ => self.recent(&self.nodes, random),
        }
    }

    fn handle(&self, random: &mut Random) -> u64 {
        match random.below(12) {
            0 => random.edge(),
            1 => random.below(1000) as u64,
            _ => self.recent(&self.handles, random),
        }
    }

    fn recent(&self, list: &[u64], random: &mut Random) -> u64 {
        match list.len() {
            0 => 1,
            length => list[length - 1 - random.below(length.min(60))],
        }
    }
}

/// A name as a hostile kernel would send it.
fn name(random: &mut Random) -> Vec<u8> {
    const HOSTILE: [&[u8]; 17] = [
        b"",
        b".",
        b"..",
        b"/",
        b"a/b",
        b"etc/hosts",
        b"./etc",
        b"etc/",
        b"../private",
        b"../index",
        b"../work",
        b"../../2/private/etc",
        b"../../2/private/etc/hosts",
        b"../../3/private",
        b"../../../catalog.db",
        b"../../../objects",
        b"/etc/passwd",
    ];
    match random.below(4) {
        0 => random.one(&HOSTILE).to_vec(),
        1 if random.once_in(20) => vec![b'n'; 5000],
        _ => random.name(),
    }
}

struct Body(Vec<u8>);

impl Body {
    fn u32(mut self, number: u64) -> Self {
        self.0.extend((number as u32).to_ne_bytes());
        self
    }

    fn u64(mut self, number: u64) -> Self {
        self.0.extend(number.to_ne_bytes());
        self
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    fn text(self, text: &[u8]) -> Self {
        self.bytes(text).bytes(&[0])
    }
}

/// Anything.
pub fn random_message(random: &mut Random, known: &Known, unique: u64) -> Message {
    const OPCODES: [u32; 75] = [
        1, 1, 1, 1, 1, 1, 2, 3, 3, 4, 4, 4, 5, 6, 6, 8, 8, 9, 9, 9, 10, 10, 11, 12, 12, 13, 13, 13,
        14, 14, 14, 14, 15, 15, 15, 16, 16, 16, 17, 18, 18, 20, 21, 21, 21, 22, 22, 23, 24, 25, 26,
        27, 27, 28, 28, 29, 30, 31, 32, 33, 34, 35, 35, 35, 36, 37, 39, 40, 41, 43, 43, 44, 45, 46,
        47,
    ];
    let opcode = match random.below(60) {
        0 => random.any() as u32,
        1 => *random.one(&[0, 7, 19, 48, 49, 50, 51, 52, 61, 4096, u32::MAX]),
        2..4 => BATCH_FORGET,
        4 if random.once_in(20) => DESTROY,
        _ => *random.one(&OPCODES),
    };
    let mut body = body(random, known, opcode);
    let spoils = !matches!(opcode, SETATTR | WRITE | SETXATTR | IOCTL);
    match random.below(12) {
        0 if spoils => {
            let length = random.below(body.len() + 1);
            body.truncate(length);
        }
        1 if spoils && !body.is_empty() => {
            for _ in 0..=random.below(4) {
                let at = random.below(body.len());
                body[at] = random.any() as u8;
            }
        }
        2 if spoils => {
            let length = random.below(5000);
            body.extend(random.bytes(length));
        }
        _ => {}
    }
    let nodeid = known.node(random);
    let unique = match random.below(100) {
        0 => *random.one(&[0, u64::MAX, 1 << 63]),
        _ => unique,
    };
    let mut bytes = message(opcode, unique, nodeid, &body);
    if random.once_in(3) {
        // Other users, and processes that do not exist.
        let (uid, pid) = (random.below(3) as u32 * 500, random.any() as u32);
        bytes[24..28].copy_from_slice(&uid.to_ne_bytes());
        bytes[28..32].copy_from_slice(&uid.to_ne_bytes());
        bytes[32..36].copy_from_slice(&pid.to_ne_bytes());
    }
    let mut may_end = opcode == DESTROY;
    let mut answers = usize::from(match opcode {
        FORGET => body.len() < 8,
        BATCH_FORGET => !is_batch(&body),
        _ => true,
    });
    if random.once_in(500) {
        // More than there is, or a header that is cut off.
        may_end = true;
        answers = 0;
        if random.once_in(2) {
            let length = HEADER + body.len() + 1 + random.below(100_000);
            bytes[..4].copy_from_slice(&(length as u32).to_ne_bytes());
        } else {
            bytes.truncate(1 + random.below(HEADER - 1));
        }
    }
    Message {
        bytes,
        unique,
        opcode,
        answers,
        may_end,
    }
}

fn is_batch(body: &[u8]) -> bool {
    let count = body.get(..4).map(|count| count.try_into().unwrap());
    let count = count.map_or(0, u32::from_ne_bytes) as usize;
    body.len() >= 8 && (body.len() - 8) / 16 >= count
}

/// A body such as belongs to an opcode, with anything in its fields.
fn body(r: &mut Random, known: &Known, opcode: u32) -> Vec<u8> {
    let body = Body(Vec::new());
    let body = match opcode {
        1 | 10 | 11 => body.text(&name(r)),
        FORGET => body.u64(r.edge()),
        3 => body.u32(r.any()).u32(0).u64(known.handle(r)),
        SETATTR => {
            let valid = match r.below(3) {
                0 => r.any(),
                1 => u64::from(u32::MAX),
                _ => 1 << r.below(12),
            };
            let body = body.u32(valid).u32(0).u64(known.handle(r));
            // size, lock owner, atime, mtime, ctime
            let mut body = body.u64(r.edge()).u64(r.any());
            for _ in 0..3 {
                let most = i64::MAX as u64;
                body = body.u64(r.edge().clamp(0, most));
            }
            for _ in 0..3 {
                body = body.u32(r.any() % 1_000_000_000);
            }
            let body = body.u32(r.any()).u32(0);
            body.u32(r.any()).u32(r.any()).u32(0)
        }
        6 => {
            let target = match r.below(4) {
                0 => b"../../../../../../../etc/passwd".to_vec(),
                1 => vec![b't'; *r.one(&[0, 1, 4095, 4096, 70_000])],
                _ => name(r),
            };
            body.text(&name(r)).text(&target)
        }
        8 => {
            let mode = match r.below(3) {
                0 => r.any(),
                _ => (r.below(16) as u64) << 12 | r.any() & 0o7777,
            };
            let body = body.u32(mode).u32(r.any()).u32(r.any() & 0o777).u32(0);
            body.text(&name(r))
        }
        9 => body.u32(r.any()).u32(r.any() & 0o777).text(&name(r)),
        12 => {
            let body = body.u64(known.node(r));
            body.text(&name(r)).text(&name(r))
        }
        13 => body.u64(known.node(r)).text(&name(r)),
        14 | 27 => body.u32(open_flags(r)).u32(0),
        15 | 28 | 44 => {
            let body = body.u64(known.handle(r)).u64(r.edge());
            let size = match r.below(4) {
                0 => r.edge(),
                _ => 4096,
            };
            body.u32(size).u32(r.any()).u64(r.any()).u32(0).u32(0)
        }
        WRITE => {
            let length = *r.one(&[0, 1, 100, 4096, 70_000]);
            let data = r.bytes(length);
            let body = body.u64(known.handle(r)).u64(r.edge());
            let body = body.u32(length as u64).u32(r.any());
            body.u64(r.any()).u32(0).u32(0).bytes(&data)
        }
        18 | 29 => {
            let body = body.u64(known.handle(r));
            body.u32(r.any()).u32(r.any()).u64(r.any())
        }
        20 | 30 => body.u64(known.handle(r)).u32(r.any()).u32(0),
        SETXATTR => {
            let name = r.xattr();
            let value = match r.below(3) {
                _ if name.starts_with(b"system.posix") => r.acl(),
                0 => vec![b'v'; *r.one(&[0, 4000, 65_536, 65_537, 100_000])],
                _ => {
                    let length = r.below(60);
                    r.bytes(length)
                }
            };
            let flags = r.below(5) as u64;
            let body = body.u32(value.len() as u64).u32(flags);
            body.text(&name).bytes(&value)
        }
        22 => body.u32(size(r)).u32(0).text(&r.xattr()),
        23 => body.u32(size(r)).u32(0),
        24 => body.text(&r.xattr()),
        25 => body.u64(known.handle(r)).u32(0).u32(0).u64(r.any()),
        26 => body.u32(r.any() % 10).u32(r.any()).bytes(&[0; 56]),
        31..=33 => {
            let body = body.u64(known.handle(r)).u64(r.any());
            let body = body.u64(r.edge()).u64(r.edge());
            body.u32(r.any() % 4).u32(r.any()).u32(r.any()).u32(0)
        }
        34 => body.u32(r.any()).u32(0),
        CREATE => {
            let body = body.u32(open_flags(r)).u32(r.any());
            body.u32(r.any() & 0o777).u32(0).text(&name(r))
        }
        36 => body.u64(r.edge()),
        37 => body.u64(r.edge()).u32(r.any()).u32(0),
        IOCTL => {
            let length = r.below(100);
            let data = r.bytes(length);
            let body = body.u64(known.handle(r)).u32(r.any()).u32(r.any());
            let body = body.u64(r.any()).u32(length as u64).u32(r.edge());
            body.bytes(&data)
        }
        40 => {
            let body = body.u64(known.handle(r)).u64(r.any());
            body.u32(r.any()).u32(r.any())
        }
        BATCH_FORGET => {
            let count = r.below(20) as u64;
            let mut body = body.u32(count).u32(0);
            for _ in 0..count {
                body = body.u64(known.node(r)).u64(r.edge());
            }
            body
        }
        43 => {
            let body = body.u64(known.handle(r)).u64(r.edge()).u64(r.edge());
            let mode = match r.below(3) {
                0 => r.any(),
                _ => r.any() & 0x7f,
            };
            body.u32(mode).u32(0)
        }
        45 => {
            let flags = match r.below(8) {
                0 => r.any(),
                _ => r.any() & 7,
            };
            let body = body.u64(known.node(r)).u32(flags).u32(0);
            body.text(&name(r)).text(&name(r))
        }
        46 => {
            let body = body.u64(known.handle(r)).u64(r.edge());
            body.u32(r.below(6) as u64).u32(0)
        }
        47 => {
            let body = body.u64(known.handle(r)).u64(r.edge());
            let body = body.u64(known.node(r)).u64(known.handle(r));
            body.u64(r.edge()).u64(r.edge()).u64(r.any())
        }
        _ => {
            let length = r.below(200);
            let bytes = r.bytes(length);
            body.bytes(&bytes)
        }
    };
    body.0
}

fn open_flags(random: &mut Random) -> u64 {
    match random.below(3) {
        0 => random.any(),
        1 => libc::O_RDWR as u64,
        _ => *random.one(&[
            0,
            libc::O_WRONLY | libc::O_TRUNC,
            libc::O_RDONLY | libc::O_TRUNC,
        ]) as u64,
    }
}

fn size(random: &mut Random) -> u64 {
    *random.one(&[0, 1, 10, 4096, 65_536, u64::MAX])
}
