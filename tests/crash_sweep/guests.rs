//! What guests do to an image, one operation at a time.

use std::sync::Arc;

use foldfs::filesystem::Filesystem;
use foldfs::filesystem::failure::Outcome;
use foldfs::store::metadata::FileType;
use parking_lot::Mutex;
use rustix::fs::RenameFlags;

use super::base::DEFAULT_ACL;
use super::family::guest::Guest;
use super::scenarios::{Call, PLAIN, Scenario, Shows};
use super::world::{Done, World, refused};

/// user::rw- user:7:rw- group::r-- mask::rw- other::r--
const ACCESS_ACL: &[u8] = &[
    2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 6, 0, 7, 0, 0, 0, 4, 0, 4, 0, 255, 255, 255,
    255, 16, 0, 6, 0, 255, 255, 255, 255, 32, 0, 4, 0, 255, 255, 255, 255,
];

fn one(world: &World, act: fn(&Guest) -> Outcome<()>) -> Done {
    act(&world.guest("one")?).map_err(refused)
}

macro_rules! guest {
    ($shows:expr, $($name:literal: $act:expr,)*) => {
        &[$(Scenario {
            name: $name,
            calls: {
                const CALLS: &[Call] = &[Call {
                    run: |world| one(world, $act),
                    durable: false,
                }];
                CALLS
            },
            shows: $shows,
            ..PLAIN
        }),*]
    };
}

/// Names.
pub const NAMES: &[Scenario] = guest!(
    Shows::Whole,
    "create in a shared directory": |g| g.create("usr/deep/a/new"),
    "create by a user": |g| g.create_as_user("usr/new"),
    "create over a whiteout": |g| g.create("gone"),
    "create below a default ACL": |g| g.create("acl/new"),
    "mkdir": |g| g.mkdir("usr/deep/new"),
    "mkdir below a default ACL": |g| g.mkdir("acl/new"),
    "mkdir over a whiteout": |g| g.mkdir("gone"),
    "mknod of a device": |g| g.mknod("usr/new", FileType::CharDevice),
    "mknod of a fifo over a whiteout": |g| g.mknod("gone", FileType::Fifo),
    "symlink": |g| g.symlink("a/target", "usr/new"),
    "link of a shared file": |g| g.link("etc/passwd", "usr/new"),
    "link of a stub": |g| g.link("stub", "usr/new"),
    "link of a private file": |g| g.link("own/file", "usr/new"),
    "link of a shared file of several names": |g| g.link("etc/shell", "usr/new"),
    "link of a private file of several names": |g| g.link("own/one", "usr/new"),
    "link over a whiteout": |g| g.link("own/file", "gone"),
    "link of a fifo": |g| g.link("own/fifo", "usr/new"),
    "unlink of a shared file": |g| g.unlink("etc/passwd"),
    "unlink of a private file": |g| g.unlink("own/file"),
    "unlink of a stub": |g| g.unlink("stub"),
    "unlink of a shared file of several names": |g| g.unlink("etc/shell"),
    "unlink of one of two private names": |g| g.unlink("own/one"),
    "unlink of the last of several names": |g| g.unlink("own/last"),
    "unlink of an open file": |g| g.unlink_open("own/file"),
    "unlink of an open shared file": |g| g.unlink_open("etc/passwd"),
    "rmdir of a shared directory": |g| g.rmdir("emptied"),
    "rmdir of a private directory": |g| g.rmdir("own/empty"),
    "rmdir of an opaque directory": |g| g.rmdir("hollow"),
    "rename of a shared file": |g| g.rename("etc/passwd", "etc/new"),
    "rename of a private file": |g| g.rename("own/file", "usr/new"),
    "rename of one of several names": |g| g.rename("usr/bin/sh", "own/new"),
    "rename of one of several names over a file": |g| g.rename("usr/bin/sh", "own/file"),
    "rename over a whiteout": |g| g.rename("own/file", "gone"),
    "rename over a shared file": |g| g.rename("etc/passwd", "over/target"),
    "rename over a private file": |g| g.rename("etc/passwd", "own/file"),
    "rename over one of several names": |g| g.rename("own/file", "etc/shell"),
    "rename over one of two private names": |g| g.rename("etc/passwd", "own/one"),
    "rename over the last of several names": |g| g.rename("etc/passwd", "own/last"),
    "rename of a shared directory": |g| g.rename("usr/deep", "own/deep"),
    "rename of a renamed directory": |g| g.rename("own/moved", "usr/moved"),
    "rename of a private directory": |g| g.rename("own", "usr/own"),
    "rename of a directory over a whiteout": |g| g.rename("own/empty", "gone"),
    "rename of a shared directory over a whiteout": |g| g.rename("usr/deep", "gone"),
    "rename of a directory over an emptied one": |g| g.rename("usr/deep", "emptied"),
    "rename of a directory over a private one": |g| g.rename("usr/deep", "own/empty"),
    "exchange of a directory and a file": |g| g.exchange("usr/deep", "etc/shell"),
    "exchange of shared files": |g| g.exchange("etc/passwd", "over/target"),
);

/// Two steps each. After a crash between them the old name shows nothing, or the file has the ACL and
/// is set-gid still.
pub const TWO_STEPS: &[Scenario] = guest!(
    Shows::Between,
    "chown by a user of a file that is set-gid": |g| g.chown_as_user("own/setgid"),
    "setfacl by a user of a program with set-id": |g| g.set_acl_as_user("own/moved/y", ACCESS_ACL),
    "rename with a whiteout": |g| g.rename_with("own/file", "usr/new", RenameFlags::WHITEOUT),
);

/// An image in which a file is about to be promoted.
static PROMOTING: Mutex<Option<Arc<Filesystem>>> = Mutex::new(None);

/// Two operations at once: one of them may have happened.
pub const AT_ONCE: &[Scenario] = &[Scenario {
    name: "removexattr of a shared file while it is promoted",
    meanwhile: |_, step| {
        if step.file().ends_with("filesystem/promote_content.rs")
            && let Some(live) = PROMOTING.lock().take()
        {
            let _refused = Guest(live).remove_xattr("etc/passwd", b"user.note");
        }
    },
    calls: &[Call {
        run: |world| {
            let guest = world.guest("one")?;
            *PROMOTING.lock() = Some(guest.0.clone());
            let written = guest.write("etc/passwd", b"changed");
            PROMOTING.lock().take();
            written.map_err(refused)
        },
        durable: false,
    }],
    shows: Shows::Between,
    ..PLAIN
}];

/// Owners, modes, times, xattrs, ACLs.
pub const METADATA: &[Scenario] = guest!(
    Shows::Whole,
    "chmod of a shared file": |g| g.chmod("etc/passwd", 0o600),
    "chmod of a shared file of several names": |g| g.chmod("etc/shell", 0o600),
    "chmod of a private file": |g| g.chmod("own/file", 0o600),
    "chmod of a shared directory": |g| g.chmod("usr/lib", 0o700),
    "chmod of the root": |g| g.chmod("", 0o700),
    "chmod by a user": |g| g.chmod_as_user("etc/passwd"),
    "chown of a shared file": |g| g.chown("etc/passwd"),
    "chown of a program with set-id": |g| g.chown("own/moved/y"),
    "chown of a fifo": |g| g.chown("etc/fifo"),
    "chown of a symlink": |g| g.chown("etc/link"),
    "utimes of a shared file": |g| g.set_mtime("etc/passwd"),
    "utimes of a shared directory": |g| g.set_mtime("usr/lib/a"),
    "setxattr of a shared file": |g| g.set_xattr("etc/passwd", b"user.new", b"value"),
    "setxattr of a directory": |g| g.set_xattr("usr", b"trusted.overlay.opaque", b"y"),
    "setxattr of a private file": |g| g.set_xattr("own/file", b"user.own", &[b'x'; 3000]),
    "removexattr of a shared file": |g| g.remove_xattr("etc/passwd", b"user.note"),
    "removexattr of a private file": |g| g.remove_xattr("own/file", b"trusted.foldfs"),
    "setfacl of a shared file": |g| g.set_xattr("etc/passwd", b"system.posix_acl_access", ACCESS_ACL),
    "setfacl of a directory": |g| g.set_xattr("usr/lib", b"system.posix_acl_default", DEFAULT_ACL),
    "removal of an ACL": |g| g.remove_xattr("acl", b"system.posix_acl_default"),
);

macro_rules! calls {
    ($($durable:literal $act:expr),* $(,)?) => {{
        const CALLS: &[Call] = &[$(Call {
            run: |world| one(world, $act),
            durable: $durable,
        }),*];
        CALLS
    }};
}

/// Several operations, some of them fsync(2).
pub const SEQUENCES: &[Scenario] = &[
    Scenario {
        name: "unlink of both names",
        calls: calls!(
            false | g | g.unlink("several/first"),
            false | g | g.unlink("several/second"),
        ),
        ..PLAIN
    },
    Scenario {
        name: "a new file, synced, then others",
        calls: calls!(
            false | g | g.create("etc/new"),
            false | g | g.write_at("etc/new", 0, b"synced"),
            true | g | g.sync("etc/new", false),
            false | g | g.create("etc/newer"),
            false | g | g.write_at("etc/newer", 0, &[b'n'; 5000]),
            false | g | g.rename("etc/newer", "etc/new"),
        ),
        shows: Shows::Data,
        ..PLAIN
    },
    Scenario {
        name: "a promoted file, synced, renamed",
        calls: calls!(
            false | g | g.write_at("etc/passwd", 3, b"synced"),
            true | g | g.sync("etc/passwd", true),
            false | g | g.rename("etc/passwd", "usr/lib/a/b/new"),
            true | g | g.sync("usr/lib/a/b/new", false),
        ),
        shows: Shows::Data,
        ..PLAIN
    },
    Scenario {
        name: "a stub, synced",
        calls: calls!(
            false | g | g.chmod("etc/passwd", 0o600),
            true | g | g.sync("etc/passwd", false),
            false | g | g.link("etc/passwd", "usr/lib/a/new"),
            true | g | g.sync("usr/lib/a/new", false),
            false | g | g.unlink("etc/passwd"),
            true | g | g.sync_directory("etc"),
        ),
        shows: Shows::Whole,
        ..PLAIN
    },
    Scenario {
        name: "a renamed directory, synced",
        calls: calls!(
            false | g | g.rename("usr/deep", "own/deep"),
            true | g | g.sync_directory("own"),
            false | g | g.write_at("own/deep/a/b", 0, b"in it"),
            true | g | g.sync("own/deep/a/b", false),
        ),
        shows: Shows::Data,
        ..PLAIN
    },
];

/// Content.
pub const WRITES: &[Scenario] = guest!(
    Shows::Data,
    "write to a shared file": |g| g.write_at("etc/passwd", 3, b"changed"),
    "write to a large shared file": |g| g.write_at("var/large", 70_000, b"changed"),
    "write to a file with holes": |g| g.write_at("var/holes", 70_000, b"changed"),
    "write to a stub": |g| g.write_at("stub", 3, b"changed"),
    "write to an empty shared file": |g| g.write_at("etc/empty", 0, b"changed"),
    "write to a shared file of several names": |g| g.write_at("etc/shell", 3, b"changed"),
    "write to a private file": |g| g.write_at("own/file", 3, b"changed"),
    "write to a private file of two names": |g| g.write_at("own/one", 3, b"changed"),
    "write by a user to a program with set-id": |g| g.write_as_user("own/moved/y"),
    "truncate of a shared file": |g| g.truncate("etc/passwd", 5),
    "truncate of a shared file to nothing": |g| g.truncate("etc/passwd", 0),
    "truncate of a shared file to more": |g| g.truncate("etc/passwd", 5000),
    "truncate of a private file": |g| g.truncate("own/large", 70_000),
    "open of a shared file with O_TRUNC": |g| g.open_truncated("etc/passwd"),
    "open of a private file with O_TRUNC": |g| g.open_truncated("own/large"),
    "fallocate of a shared file": |g| g.fallocate("etc/passwd", 0, 0, 300_000),
    "copy_file_range to a shared file": |g| g.copy_range("var/large", "etc/passwd"),
);

/// A guest at work where placement is about to change something.
pub fn busy_where_it_places(world: &World) -> Done {
    let three = world.guest("three")?;
    let two = world.guest("two")?;
    let work = || {
        three.rename("usr/lib", "etc/lib")?;
        three.unlink("several/first")?;
        three.unlink("etc/hosts")?;
        three.create("etc/hosts")?;
        three.unlink("over/target")?;
        three.rmdir("over")?;
        three.mkdir("over")?;
        three.mkdir("opt/new")?;
        three.rename("only", "opt/new/only")?;
        two.unlink("only/2")?;
        two.chmod("usr/bin/bash", 0o700)
    };
    work().map_err(refused)
}
