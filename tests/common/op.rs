//! The vocabulary: operations whose operands are indices into what exists when they run. The same
//! list drives the model and any number of real systems, and shrinks well.

use proptest::prelude::*;
use proptest::sample::select;

/// Which entry an operation is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Where {
    /// The n-th of all entries, the root apart.
    Entry(u16),
    /// The n-th of all regular files.
    File(u16),
    /// In the n-th directory, a name of [`NAMES`], whether there is such an entry or not.
    Name(u16, u8),
    /// Below the n-th entry that is no directory.
    Below(u16),
    /// The root.
    Root,
    /// This path; for tests that do one thing.
    Path(&'static str),
}

/// Names of entries to be.
pub const NAMES: [&str; 12] = [
    "a", "b", "c", "d", "conf", ".hidden", "new file", "etc", "usr", "LONG", "BYTES", "TOO LONG",
];

/// The bytes of a name: some stand for what cannot be written in Rust's strings.
pub fn name(index: u8) -> Vec<u8> {
    match NAMES[usize::from(index) % NAMES.len()] {
        "LONG" => vec![b'n'; 255],
        "BYTES" => b"\xff\xfe\x01 bytes".to_vec(),
        "TOO LONG" => vec![b'n'; 256],
        name => name.as_bytes().to_vec(),
    }
}

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// O_RDONLY
    Read,
    /// O_WRONLY
    Write,
    /// O_RDWR
    Both,
}

/// What more is asked of an open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Also {
    /// Nothing.
    Nothing,
    /// O_TRUNC
    Truncate,
    /// O_APPEND
    Append,
    /// O_EXCL; only with O_CREAT.
    Exclusive,
}

/// What mknod makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// Character device 1:3.
    Null,
    /// Character device 0:0, which overlayfs uses as its whiteout.
    Zero,
    /// Block device 7:200.
    Block,
}

/// The flags of renameat2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renaming {
    /// None.
    Plain,
    /// RENAME_NOREPLACE
    NoReplace,
    /// RENAME_EXCHANGE
    Exchange,
    /// RENAME_WHITEOUT
    Whiteout,
}

/// The modes of fallocate that reach a FUSE server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allocation {
    /// 0
    Extend,
    /// FALLOC_FL_KEEP_SIZE
    Keep,
    /// FALLOC_FL_PUNCH_HOLE with KEEP_SIZE
    Punch,
    /// FALLOC_FL_ZERO_RANGE
    Zero,
    /// FALLOC_FL_ZERO_RANGE with KEEP_SIZE
    ZeroKeep,
}

/// The mtime of utimensat; atime is never compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// UTIME_NOW
    Now,
    /// UTIME_OMIT, atime set.
    Omit,
    /// Seconds and nanoseconds, in the past.
    At(i64, u32),
}

/// The flags of setxattr.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    /// 0
    Any,
    /// XATTR_CREATE
    Create,
    /// XATTR_REPLACE
    Replace,
}

/// Names of xattrs.
pub const XATTRS: [&str; 10] = [
    "user.a",
    "user.b",
    "trusted.t",
    "security.foldfs_test",
    "trusted.overlay.opaque",
    "trusted.foldfs",
    "trusted.foldfs.g",
    "system.posix_acl_access",
    "system.posix_acl_default",
    "nonsense.x",
];

/// What nobody must see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invisible {
    /// Fold the family.
    Fold,
    /// Make the kernel forget what it can.
    DropCaches,
    /// Collect objects that nothing refers to.
    Collect,
    /// Another image, somewhat different, joins the family.
    Import,
    /// One of those leaves it.
    Remove,
    /// A clone of this image is made; it is compared at the end.
    Clone,
    /// What stands at a path, and below it, is pinned.
    Hold,
    /// No longer.
    Release,
    /// Unmount and mount again; all descriptors are closed first.
    Remount,
    /// What [`LOCKED`] says is locked or, if it is, unlocked.
    Lock,
    /// The former is tried while somebody can write to a file there.
    LockInVain,
}

/// What is locked: a directory, a name wherever it is, and another one for directories only.
/// [`super::model::Model::denies`] knows what it means.
pub const LOCKED: [&str; 3] = ["/etc", "conf", ".hidden/"];

/// An operation. `P` is how it names entries: [`Where`] in a list of operations, a path when it is
/// carried out. `u8` fields named `handle` and `map` mean the n-th of those that are open.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "they are called what the system calls are called")]
#[rustfmt::skip]
pub enum Op<P = Where> {
    Create { at: P, mode: u32, access: Access, also: Also },
    Mkdir { at: P, mode: u32 },
    Symlink { at: P, target: u8 },
    Mknod { at: P, what: Special, mode: u32 },
    Link { from: P, to: P },
    Unlink { at: P },
    Rmdir { at: P },
    Rename { from: P, to: P, how: Renaming },
    Open { at: P, access: Access, also: Also },
    Close { handle: u8 },
    Read { handle: u8, offset: u32, length: u32 },
    Write { handle: u8, length: u32, seed: u8 },
    Pwrite { handle: u8, offset: u32, length: u32, seed: u8 },
    Ftruncate { handle: u8, length: u32 },
    Truncate { at: P, length: u32 },
    Fallocate { handle: u8, how: Allocation, offset: u32, length: u32 },
    Map { handle: u8 },
    MapLoad { map: u8 },
    MapStore { map: u8, offset: u32, length: u32, seed: u8 },
    Unmap { map: u8 },
    Chmod { at: P, mode: u32 },
    Fchmod { handle: u8, mode: u32 },
    Chown { at: P, uid: Option<u32>, gid: Option<u32> },
    Utimens { at: P, mtime: When },
    SetXattr { at: P, xattr: u8, value: u8, how: Setting },
    GetXattr { at: P, xattr: u8 },
    RemoveXattr { at: P, xattr: u8 },
    ListXattr { at: P },
    Readdir { at: P },
    Readlink { at: P },
    Access { at: P, mode: u8 },
    Stat { at: P },
    Fsync { handle: u8 },
    CopyRange { from: u8, to: u8, source: u32, target: u32, length: u32 },
    SeekData { handle: u8, offset: u32 },
    SeekHole { handle: u8, offset: u32 },
    Invisible(Invisible),
}

impl<P> Op<P> {
    #[rustfmt::skip]
    /// The same operation with its entries named in another way.
    pub fn map<Q>(self, mut f: impl FnMut(P) -> Q) -> Op<Q> {
        use Op::*;
        match self {
            Create { at, mode, access, also } => Create { at: f(at), mode, access, also },
            Mkdir { at, mode } => Mkdir { at: f(at), mode },
            Symlink { at, target } => Symlink { at: f(at), target },
            Mknod { at, what, mode } => Mknod { at: f(at), what, mode },
            Link { from, to } => Link { from: f(from), to: f(to) },
            Unlink { at } => Unlink { at: f(at) },
            Rmdir { at } => Rmdir { at: f(at) },
            Rename { from, to, how } => Rename { from: f(from), to: f(to), how },
            Open { at, access, also } => Open { at: f(at), access, also },
            Close { handle } => Close { handle },
            Read { handle, offset, length } => Read { handle, offset, length },
            Write { handle, length, seed } => Write { handle, length, seed },
            Pwrite { handle, offset, length, seed } => Pwrite { handle, offset, length, seed },
            Ftruncate { handle, length } => Ftruncate { handle, length },
            Truncate { at, length } => Truncate { at: f(at), length },
            Fallocate { handle, how, offset, length } => Fallocate { handle, how, offset, length },
            Map { handle } => Map { handle },
            MapLoad { map } => MapLoad { map },
            MapStore { map, offset, length, seed } => MapStore { map, offset, length, seed },
            Unmap { map } => Unmap { map },
            Chmod { at, mode } => Chmod { at: f(at), mode },
            Fchmod { handle, mode } => Fchmod { handle, mode },
            Chown { at, uid, gid } => Chown { at: f(at), uid, gid },
            Utimens { at, mtime } => Utimens { at: f(at), mtime },
            SetXattr { at, xattr, value, how } => SetXattr { at: f(at), xattr, value, how },
            GetXattr { at, xattr } => GetXattr { at: f(at), xattr },
            RemoveXattr { at, xattr } => RemoveXattr { at: f(at), xattr },
            ListXattr { at } => ListXattr { at: f(at) },
            Readdir { at } => Readdir { at: f(at) },
            Readlink { at } => Readlink { at: f(at) },
            Access { at, mode } => Access { at: f(at), mode },
            Stat { at } => Stat { at: f(at) },
            Fsync { handle } => Fsync { handle },
            CopyRange { from, to, source, target, length } => {
                CopyRange { from, to, source, target, length }
            }
            SeekData { handle, offset } => SeekData { handle, offset },
            SeekHole { handle, offset } => SeekHole { handle, offset },
            Invisible(what) => Invisible(what),
        }
    }
}

/// The bytes that a write of this seed writes; never zero.
pub fn pattern(seed: u8, length: u32) -> Vec<u8> {
    let byte = |i: u32| (i.wrapping_mul(31) as u8).wrapping_add(seed) | 1;
    (0..length).map(byte).collect()
}

/// The target of a symlink to make. None leads out of the tree.
pub fn target(index: u8) -> Vec<u8> {
    match index % 4 {
        0 => b"a".to_vec(),
        1 => b"../usr/bin/tool".to_vec(),
        2 if super::on_xfs() => vec![b't'; 1023],
        2 => vec![b't'; 4095],
        _ => b"\xff\x01 nowhere".to_vec(),
    }
}

/// The value of an xattr; ACLs as acl(5) lays them out.
pub fn xattr_value(xattr: &str, index: u8) -> Vec<u8> {
    if xattr.starts_with("system.posix_acl_") {
        return acl_value(index);
    }
    match index % 5 {
        0 => Vec::new(),
        1 => b"y".to_vec(),
        2 => pattern(7, 64),
        3 => pattern(9, 700),
        _ => b"value".to_vec(),
    }
}

fn acl_value(index: u8) -> Vec<u8> {
    const NONE: u32 = u32::MAX;
    let entries: &[(u16, u16, u32)] = match index % 5 {
        0 => &[(1, 6, NONE), (4, 4, NONE), (32, 0, NONE)],
        1 => &[
            (1, 7, NONE),
            (2, 6, 1000),
            (4, 5, NONE),
            (16, 7, NONE),
            (32, 1, NONE),
        ],
        2 => &[
            (1, 6, NONE),
            (4, 7, NONE),
            (8, 4, 50),
            (16, 4, NONE),
            (32, 0, NONE),
        ],
        3 => &[
            (1, 7, NONE),
            (2, 7, 3),
            (2, 0, 9),
            (4, 0, NONE),
            (16, 5, NONE),
            (32, 5, NONE),
        ],
        _ => return b"no ACL".to_vec(),
    };
    let mut value = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}

fn place() -> impl Strategy<Value = Where> {
    prop_oneof![
        6 => any::<u16>().prop_map(Where::Entry),
        5 => (any::<u16>(), 0..NAMES.len() as u8).prop_map(|(d, n)| Where::Name(d, n)),
        1 => any::<u16>().prop_map(Where::Below),
    ]
}

fn fresh() -> impl Strategy<Value = Where> {
    prop_oneof![
        1 => any::<u16>().prop_map(Where::Entry),
        12 => (any::<u16>(), 0..NAMES.len() as u8).prop_map(|(d, n)| Where::Name(d, n)),
    ]
}

fn file() -> impl Strategy<Value = Where> {
    prop_oneof![
        7 => any::<u16>().prop_map(Where::File),
        1 => place(),
    ]
}

fn any_entry() -> impl Strategy<Value = Where> {
    prop_oneof![
        10 => any::<u16>().prop_map(Where::Entry),
        1 => Just(Where::Root),
        2 => place(),
    ]
}

fn mode() -> impl Strategy<Value = u32> {
    select(vec![
        0o644, 0o600, 0o755, 0o777, 0o000, 0o4755, 0o2755, 0o2644, 0o1777, 0o6711, 0o666,
    ])
}

fn offset() -> impl Strategy<Value = u32> {
    prop_oneof![3 => 0..300u32, 3 => select(vec![0, 4095, 4096, 4097, 8192, 65536, 131_072]),
        1 => 0..200_000u32]
}

fn length() -> impl Strategy<Value = u32> {
    prop_oneof![4 => 0..200u32, 2 => select(vec![1, 4096, 5000, 8192, 70_000])]
}

fn access() -> impl Strategy<Value = Access> {
    select(vec![
        Access::Read,
        Access::Read,
        Access::Write,
        Access::Both,
        Access::Both,
    ])
}

fn seed() -> impl Strategy<Value = u8> {
    any::<u8>()
}

fn handle() -> impl Strategy<Value = u8> {
    any::<u8>()
}

/// One operation of those that programs ask for.
pub fn visible() -> BoxedStrategy<Op> {
    use Op::*;
    let also = || {
        select(vec![
            Also::Nothing,
            Also::Nothing,
            Also::Truncate,
            Also::Append,
        ])
    };
    let create = select(vec![
        Also::Nothing,
        Also::Truncate,
        Also::Append,
        Also::Exclusive,
    ]);
    let id = || proptest::option::of(select(vec![0u32, 1000, 50]));
    // With these xfs sets other times than ext4, and what the latter leaves has another owner.
    let rare = u32::from(!super::on_xfs());
    let renaming = prop_oneof![
        5 => Just(Renaming::Plain), 2 => Just(Renaming::NoReplace),
        3 * rare => Just(Renaming::Exchange), rare => Just(Renaming::Whiteout),
    ];
    let allocation = select(vec![
        Allocation::Extend,
        Allocation::Keep,
        Allocation::Punch,
        Allocation::Zero,
        Allocation::ZeroKeep,
    ]);
    let when = prop_oneof![
        Just(When::Now),
        Just(When::Omit),
        (
            select(vec![0i64, 1, -1, -86_400, 1_000_000_000]),
            0..1_000_000_000u32
        )
            .prop_map(|(s, n)| When::At(s, n)),
    ];
    let special = select(vec![
        Special::Fifo,
        Special::Socket,
        Special::Null,
        Special::Zero,
        Special::Zero,
        Special::Block,
    ]);
    let setting = select(vec![
        Setting::Any,
        Setting::Any,
        Setting::Create,
        Setting::Replace,
    ]);
    let xattr = || 0..XATTRS.len() as u8;
    let names = prop_oneof![
        8 => (fresh(), mode(), access(), create)
            .prop_map(|(at, mode, access, also)| Create { at, mode, access, also }),
        5 => (fresh(), mode()).prop_map(|(at, mode)| Mkdir { at, mode }),
        2 => (fresh(), 0..4u8).prop_map(|(at, target)| Symlink { at, target }),
        3 => (fresh(), special, mode()).prop_map(|(at, what, mode)| Mknod { at, what, mode }),
        6 => (place(), fresh()).prop_map(|(from, to)| Link { from, to }),
        7 => place().prop_map(|at| Unlink { at }),
        3 => place().prop_map(|at| Rmdir { at }),
        14 => (place(), place(), renaming).prop_map(|(from, to, how)| Rename { from, to, how }),
        2 => any_entry().prop_map(|at| Readdir { at }),
        1 => place().prop_map(|at| Readlink { at }),
    ];
    let data = prop_oneof![
        10 => (file(), access(), also()).prop_map(|(at, access, also)| Open { at, access, also }),
        3 => handle().prop_map(|handle| Close { handle }),
        3 => (handle(), offset(), length())
            .prop_map(|(handle, offset, length)| Read { handle, offset, length }),
        4 => (handle(), length(), seed())
            .prop_map(|(handle, length, seed)| Write { handle, length, seed }),
        6 => (handle(), offset(), length(), seed())
            .prop_map(|(handle, offset, length, seed)| Pwrite { handle, offset, length, seed }),
        2 => (handle(), offset()).prop_map(|(handle, length)| Ftruncate { handle, length }),
        3 => (file(), offset()).prop_map(|(at, length)| Truncate { at, length }),
        3 => (handle(), allocation, offset(), length())
            .prop_map(|(handle, how, offset, length)| Fallocate { handle, how, offset, length }),
        3 => handle().prop_map(|handle| Map { handle }),
        2 => any::<u8>().prop_map(|map| MapLoad { map }),
        3 => (any::<u8>(), offset(), length(), seed())
            .prop_map(|(map, offset, length, seed)| MapStore { map, offset, length, seed }),
        1 => any::<u8>().prop_map(|map| Unmap { map }),
        1 => handle().prop_map(|handle| Fsync { handle }),
        2 => (handle(), handle(), offset(), offset(), length()).prop_map(
            |(from, to, source, target, length)| CopyRange { from, to, source, target, length }),
        1 => (handle(), offset()).prop_map(|(handle, offset)| SeekData { handle, offset }),
        1 => (handle(), offset()).prop_map(|(handle, offset)| SeekHole { handle, offset }),
    ];
    let attributes = prop_oneof![
        4 => (any_entry(), mode()).prop_map(|(at, mode)| Chmod { at, mode }),
        1 => (handle(), mode()).prop_map(|(handle, mode)| Fchmod { handle, mode }),
        3 => (any_entry(), id(), id()).prop_map(|(at, uid, gid)| Chown { at, uid, gid }),
        3 => (any_entry(), when).prop_map(|(at, mtime)| Utimens { at, mtime }),
        5 => (any_entry(), xattr(), 0..5u8, setting)
            .prop_map(|(at, xattr, value, how)| SetXattr { at, xattr, value, how }),
        2 => (any_entry(), xattr()).prop_map(|(at, xattr)| GetXattr { at, xattr }),
        3 => (any_entry(), xattr()).prop_map(|(at, xattr)| RemoveXattr { at, xattr }),
        1 => any_entry().prop_map(|at| ListXattr { at }),
        1 => (any_entry(), 0..8u8).prop_map(|(at, mode)| Access { at, mode }),
        1 => any_entry().prop_map(|at| Stat { at }),
    ];
    prop_oneof![5 => names, 5 => data, 3 => attributes].boxed()
}

/// One operation of all, the invisible ones included.
pub fn all() -> BoxedStrategy<Op> {
    let invisible = prop_oneof![
        4 => Just(Invisible::Fold), 3 => Just(Invisible::DropCaches), 1 => Just(Invisible::Collect),
        1 => Just(Invisible::Clone),
        2 => Just(Invisible::Import), 2 => Just(Invisible::Remove),
        1 => Just(Invisible::Hold), 1 => Just(Invisible::Release),
        3 => Just(Invisible::Remount),
    ];
    prop_oneof![9 => visible(), 1 => invisible.prop_map(Op::Invisible)].boxed()
}

/// Likewise; now and then something is locked or unlocked.
pub fn with_locks() -> BoxedStrategy<Op> {
    let lock = Op::Invisible(Invisible::Lock);
    prop_oneof![30 => all(), 1 => Just(lock)].boxed()
}
