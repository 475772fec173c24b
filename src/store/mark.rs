//! The mark: the one xattr that a private entry carries.
//!
//! ```text
//! offset  size  field
//! 0       1     version: 1
//! 1       1     role | flags 0x10 shown ctime, 0x20 shown mtime
//! 2       8     number
//! 10      32    digest              stub only
//! 10      8     shared directory    directories merged and transparent only
//! ..      12    shown ctime: i64 seconds, u32 nanoseconds
//! ..      12    shown mtime, likewise
//! ```
//! All little-endian; at most 56 bytes, so that it fits into a 256-byte ext4 inode.

use super::digest::Digest;
use super::metadata::Time;
use super::number::Number;

/// The xattr's name.
pub const NAME: &str = "trusted.foldfs";

const VERSION: u8 = 1;
const SHOWN_CTIME: u8 = 0x10;
const SHOWN_MTIME: u8 = 0x20;

/// What a private entry is (docs/format.md, The private layer).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Everything is the host inode's own.
    File,
    /// Metadata is the host inode's, content is the object's; the host's size is the object's.
    Stub {
        /// The object.
        digest: Digest,
    },
    /// A link of `index/NUMBER.names`: the file is `index/NUMBER`.
    Name,
    /// A directory.
    Directory(DirectoryRole),
}

/// What of a private directory comes from the shared layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirectoryRole {
    /// Nothing (opaque).
    Own,
    /// The names it does not hold.
    Merged {
        /// The shared directory.
        shared: Number,
    },
    /// The names it does not hold, and its metadata.
    Transparent {
        /// The shared directory.
        shared: Number,
    },
}

impl DirectoryRole {
    /// The shared directory it merges with.
    pub fn shared(self) -> Option<Number> {
        match self {
            DirectoryRole::Own => None,
            DirectoryRole::Merged { shared } | DirectoryRole::Transparent { shared } => {
                Some(shared)
            }
        }
    }
}

/// Times to show in place of the host inode's, while only background work has touched the entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Shown {
    /// Instead of the host's ctime.
    pub ctime: Option<Time>,
    /// Instead of the host's mtime.
    pub mtime: Option<Time>,
}

/// The content of the xattr.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The inode number that the view shows.
    pub number: Number,
    /// What the entry is.
    pub role: Role,
    /// Times to show instead of the host's.
    pub shown: Shown,
}

/// Bytes that [`Mark::encode`] never makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadMark;

impl Mark {
    /// A mark without shown times.
    pub fn new(number: Number, role: Role) -> Self {
        Self {
            number,
            role,
            shown: Shown::default(),
        }
    }

    /// The xattr's value.
    pub fn encode(&self) -> Vec<u8> {
        let role = match self.role {
            Role::File => 1,
            Role::Stub { .. } => 2,
            Role::Name => 3,
            Role::Directory(DirectoryRole::Own) => 4,
            Role::Directory(DirectoryRole::Merged { .. }) => 5,
            Role::Directory(DirectoryRole::Transparent { .. }) => 6,
        };
        let flag = |present: bool, bit: u8| if present { bit } else { 0 };
        let flags = flag(self.shown.ctime.is_some(), SHOWN_CTIME)
            | flag(self.shown.mtime.is_some(), SHOWN_MTIME);
        let mut out = vec![VERSION, role | flags];
        out.extend_from_slice(&self.number.get().to_le_bytes());
        match self.role {
            Role::Stub { digest } => out.extend_from_slice(digest.as_bytes()),
            Role::Directory(directory) => {
                if let Some(shared) = directory.shared() {
                    out.extend_from_slice(&shared.get().to_le_bytes());
                }
            }
            Role::File | Role::Name => {}
        }
        for time in [self.shown.ctime, self.shown.mtime].into_iter().flatten() {
            out.extend_from_slice(&time.seconds.to_le_bytes());
            out.extend_from_slice(&time.nanoseconds.to_le_bytes());
        }
        out
    }

    /// The inverse of [`Mark::encode`].
    ///
    /// # Errors
    /// [`BadMark`] for any bytes that `encode` does not make: another version, an unknown role or
    /// flag, a number out of range, a wrong length.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadMark> {
        let mut rest = Rest(bytes);
        if rest.byte()? != VERSION {
            return Err(BadMark);
        }
        let second = rest.byte()?;
        if second & !(0x0f | SHOWN_CTIME | SHOWN_MTIME) != 0 {
            return Err(BadMark);
        }
        let number = rest.number()?;
        let role = match second & 0x0f {
            1 => Role::File,
            2 => Role::Stub {
                digest: Digest::from_bytes(rest.array()?),
            },
            3 => Role::Name,
            4 => Role::Directory(DirectoryRole::Own),
            5 => Role::Directory(DirectoryRole::Merged {
                shared: rest.number()?,
            }),
            6 => Role::Directory(DirectoryRole::Transparent {
                shared: rest.number()?,
            }),
            _ => return Err(BadMark),
        };
        let ctime = if second & SHOWN_CTIME != 0 {
            Some(rest.time()?)
        } else {
            None
        };
        let mtime = if second & SHOWN_MTIME != 0 {
            Some(rest.time()?)
        } else {
            None
        };
        if !rest.0.is_empty() {
            return Err(BadMark);
        }
        Ok(Self {
            number,
            role,
            shown: Shown { ctime, mtime },
        })
    }
}

struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], BadMark> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(BadMark)?;
        self.0 = tail;
        Ok(*head)
    }

    fn byte(&mut self) -> Result<u8, BadMark> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    fn number(&mut self) -> Result<Number, BadMark> {
        Number::new(u64::from_le_bytes(self.array()?)).ok_or(BadMark)
    }

    fn time(&mut self) -> Result<Time, BadMark> {
        let seconds = i64::from_le_bytes(self.array()?);
        let nanoseconds = u32::from_le_bytes(self.array()?);
        if nanoseconds >= 1_000_000_000 {
            return Err(BadMark);
        }
        Ok(Time {
            seconds,
            nanoseconds,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn numbers() -> impl Strategy<Value = Number> {
        (1..Number::END).prop_map(|value| Number::new(value).unwrap())
    }

    fn times() -> impl Strategy<Value = Option<Time>> {
        proptest::option::of((any::<i64>(), 0..1_000_000_000u32).prop_map(
            |(seconds, nanoseconds)| Time {
                seconds,
                nanoseconds,
            },
        ))
    }

    fn roles() -> impl Strategy<Value = Role> {
        prop_oneof![
            Just(Role::File),
            any::<[u8; 32]>().prop_map(|b| Role::Stub {
                digest: Digest::from_bytes(b)
            }),
            Just(Role::Name),
            Just(Role::Directory(DirectoryRole::Own)),
            numbers().prop_map(|shared| Role::Directory(DirectoryRole::Merged { shared })),
            numbers().prop_map(|shared| Role::Directory(DirectoryRole::Transparent { shared })),
        ]
    }

    proptest! {
        #[test]
        fn decode_inverts_encode(number in numbers(), role in roles(), ctime in times(), mtime in times()) {
            let mark = Mark { number, role, shown: Shown { ctime, mtime } };
            prop_assert_eq!(Mark::decode(&mark.encode()), Ok(mark));
        }

        #[test]
        fn decode_accepts_only_what_encode_makes(bytes in proptest::collection::vec(any::<u8>(), 0..70)) {
            if let Ok(mark) = Mark::decode(&bytes) {
                prop_assert_eq!(mark.encode(), bytes);
            }
        }
    }

    #[test]
    fn fits_into_a_256_byte_inode() {
        let time = Some(Time {
            seconds: 1,
            nanoseconds: 2,
        });
        let stub = Mark {
            number: Number::FIRST,
            role: Role::Stub {
                digest: Digest::of(b""),
            },
            shown: Shown {
                ctime: time,
                mtime: None,
            },
        };
        assert!(stub.encode().len() <= 56);
        let directory = Mark {
            number: Number::FIRST,
            role: Role::Directory(DirectoryRole::Merged {
                shared: Number::FIRST,
            }),
            shown: Shown {
                ctime: time,
                mtime: time,
            },
        };
        assert!(directory.encode().len() <= 56);
    }
}
