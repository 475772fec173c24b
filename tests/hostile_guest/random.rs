//! Random numbers that a seed repeats, and how long a fuzzing test goes on.

use std::time::{Duration, Instant};

/// How long each fuzzing test goes on: FOLDFS_TEST_HOSTILE_SECONDS, else a few seconds.
fn duration() -> Duration {
    Duration::from_secs(number("FOLDFS_TEST_HOSTILE_SECONDS").unwrap_or(12))
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    let parsed = text.parse();
    Some(parsed.unwrap_or_else(|_| panic!("{variable} is a number")))
}

/// Runs rounds with one seed each until the time is over. FOLDFS_TEST_SEED is the first one's.
pub fn rounds(test: &str, mut round: impl FnMut(u64)) {
    let first = number("FOLDFS_TEST_SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.unwrap().as_micros() as u64
    });
    let start = Instant::now();
    for seed in first.. {
        // Shown when it fails.
        println!("{test}: FOLDFS_TEST_SEED={seed}");
        round(seed);
        if start.elapsed() > duration() {
            return;
        }
    }
}

/// A generator (splitmix64).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// One that gives the same numbers for the same seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.any() % end as u64) as usize
    }

    /// Whether something happens that does so once in `times`.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// One of these.
    pub fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// A number at which something ends: of a file, of 31, 32, 63 or 64 bits.
    pub fn edge(&mut self) -> u64 {
        let edges = [
            0,
            1,
            4095,
            4096,
            9000,
            70_000,
            1 << 20,
            1 << 31,
            1 << 32,
            1 << 44,
            1 << 56,
            1 << 63,
            0u64.wrapping_sub(4096),
        ];
        let near = [0, 1, 2, 511].map(|near: u64| near.wrapping_sub(1));
        match self.below(8) {
            0 => self.any(),
            1..4 => self.any() % 100_000,
            _ => self.one(&edges).wrapping_add(*self.one(&near)),
        }
    }

    /// Bytes.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.any() as u8).collect()
    }

    /// A name: mostly one of a few, so that the same ones meet again; some of no file system.
    pub fn name(&mut self) -> Vec<u8> {
        const USUAL: [&[u8]; 14] = [
            b"etc", b"usr", b"var", b"bin", b"lib", b"hosts", b"tool", b"other", b"conf.d", b"a",
            b"b", b"c", b"empty", b"deep",
        ];
        match self.below(10) {
            0..7 => self.one(&USUAL).to_vec(),
            7 => format!("n{}", self.below(40)).into_bytes(),
            8 => {
                let length = *self.one(&[1, 254, 255, 256, 300]);
                let byte = self.any() as u8;
                vec![if matches!(byte, 0 | b'/') { b'x' } else { byte }; length]
            }
            _ => {
                let length = 1 + self.below(40);
                let mut name = self.bytes(length);
                name.retain(|byte| !matches!(byte, 0 | b'/'));
                name
            }
        }
    }

    /// The value of an ACL: user::rwx user:7:rwx group::r-x mask::rwx other::---, one in three with
    /// a byte changed.
    pub fn acl(&mut self) -> Vec<u8> {
        const ENTRIES: [(u16, u16, u32); 5] = [
            (1, 7, u32::MAX),
            (2, 7, 7),
            (4, 5, u32::MAX),
            (16, 7, u32::MAX),
            (32, 0, u32::MAX),
        ];
        let mut value = 2u32.to_le_bytes().to_vec();
        for (tag, permissions, id) in ENTRIES {
            value.extend(tag.to_le_bytes());
            value.extend(permissions.to_le_bytes());
            value.extend(id.to_le_bytes());
        }
        if self.once_in(3) {
            let at = self.below(value.len());
            value[at] = self.any() as u8;
        }
        value
    }

    /// The name of an xattr.
    pub fn xattr(&mut self) -> Vec<u8> {
        const NAMES: [&[u8]; 12] = [
            b"user.a",
            b"user.b",
            b"trusted.a",
            b"trusted.foldfs",
            b"trusted.foldfs.foldfs",
            b"trusted.overlay.opaque",
            b"security.capability",
            b"system.posix_acl_access",
            b"system.posix_acl_default",
            b"user.",
            b"",
            b"nothing",
        ];
        match self.below(6) {
            0 => {
                let mut name = self.one(&[&b"user."[..], b"trusted.foldfs"]).to_vec();
                name.resize(*self.one(&[253, 254, 255, 256, 1000]), b'n');
                name
            }
            _ => self.one(&NAMES).to_vec(),
        }
    }
}
