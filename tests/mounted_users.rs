//! Needs root and FUSE. Random operations of several users, in a mounted image and in a plain copy
//! of it: who may do what, and what it does to set-id bits, groups and ACLs, is the same in both.
//! The model knows root only; here it merely names the operands.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on should panic"
)]

mod common;

use std::os::fd::AsFd;
use std::path::Path;

use common::directory::{Directory, System};
use common::drive;
use common::model::{Model, Outcome};
use common::op::{self, Op};
use common::snapshot::{Depth, Fields, Snapshot};
use common::store::TestStore;
use common::user::User;
use common::{at, sample};
use proptest::prelude::*;
use rustix::fs::{AtFlags, Gid, Mode, Uid, chmodat, chownat};
use rustix::io::Errno;
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

const USERS: [User; 5] = [
    User {
        uid: 0,
        gid: 0,
        groups: &[],
    },
    User {
        uid: 1000,
        gid: 1000,
        groups: &[50],
    },
    User {
        uid: 1001,
        gid: 50,
        groups: &[1000],
    },
    User {
        uid: 1002,
        gid: 1002,
        groups: &[],
    },
    // Many groups: /proc/PID/status has them in one long line.
    User {
        uid: 9,
        gid: 9,
        groups: &[
            1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25,
            26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 50,
        ],
    },
];

/// This thread is somebody else until the guard goes.
struct Being;

impl Being {
    fn new(user: User) -> Being {
        let groups: Vec<Gid> = user.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
        set_thread_groups(&groups).unwrap();
        let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
        set_thread_res_gid(gid, gid, Gid::ROOT).unwrap();
        set_thread_res_uid(uid, uid, Uid::ROOT).unwrap();
        Being
    }
}

impl Drop for Being {
    fn drop(&mut self) {
        set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).unwrap();
        set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT).unwrap();
        set_thread_groups(&[]).unwrap();
    }
}

/// The sample tree belongs to root almost wholly; here everybody owns something.
fn share_out(tree: &Path) {
    let root = at::open_root(tree);
    let snapshot = Snapshot::take(root.as_fd(), Depth::Attributes);
    let modes = [0o777, 0o1777, 0o775, 0o2775, 0o755, 0o6775, 0o666, 0o4777];
    for (index, (path, entry)) in snapshot.entries.iter().enumerate() {
        let (directory, name) = at::parent(root.as_fd(), path).unwrap();
        let uid = Uid::from_raw(USERS[index % USERS.len()].uid);
        let gid = Gid::from_raw([0, 50, 1000, 1002][index / 3 % 4]);
        chownat(
            &directory,
            name,
            Some(uid),
            Some(gid),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .unwrap();
        if entry.file_type() != rustix::fs::FileType::Symlink {
            let mode = Mode::from_raw_mode(modes[index % modes.len()]);
            chmodat(&directory, name, mode, AtFlags::empty()).unwrap();
        }
    }
}

/// Times come later in one of the two; what sets them is compared by the other suites.
const SAME: Fields = Fields::COPY
    .without(Fields::MTIME)
    .without(Fields::DIRECTORY_MTIME);

fn same(plain: &mut Directory, image: &mut Directory, depth: Depth) -> Result<(), String> {
    let (expected, found) = (plain.scan(depth), image.scan(depth));
    let mut lines = expected.tree.differences(&found.tree, SAME);
    for (slot, pair) in expected.handles.iter().zip(&found.handles).enumerate() {
        if let (Some((expected, old)), Some((found, new))) = pair {
            let modes = (expected.mode, found.mode);
            if modes.0 != modes.1 || old != new || expected.size != found.size {
                lines.push(format!("handle {slot}: {expected:?}, found {found:?}"));
            }
        }
    }
    if lines.is_empty() {
        return Ok(());
    }
    Err(lines.join("\n"))
}

/// The exceptions of docs/semantics.md.
fn may_differ(step: &Op<Vec<u8>>, expected: &Outcome) -> bool {
    match step {
        // Where there are holes.
        Op::SeekData { .. } | Op::SeekHole { .. } => true,
        // Of a set-id file by somebody else: it does nothing, but does not say so.
        Op::Chown { uid, gid, .. } => {
            uid.is_none() && gid.is_none() && *expected == Outcome::Error(Errno::PERM)
        }
        _ => false,
    }
}

fn case(ops: &[(u8, Op)]) -> Result<(usize, usize), String> {
    let store = TestStore::coherent();
    let (tree, copy) = (store.place.join("tree"), store.place.join("copy"));
    sample::make(&tree, 0);
    share_out(&tree);
    sample::copy(&tree, &copy);
    store.import("first", &tree, "family");
    store.import("second", &tree, "family");
    let mounted = store.mount_with("first", "dev,suid,allow_other");
    let mut model = Model::read(&copy);
    let (mut plain, mut image) = (Directory::new(&copy), Directory::new(&mounted.path));
    let (mut allowed, mut refused) = (0, 0);
    same(&mut plain, &mut image, Depth::Full).map_err(|error| format!("at the start: {error}"))?;
    for (index, (user, op)) in ops.iter().enumerate() {
        let Some(step) = model.prepare(op) else {
            continue;
        };
        let user = USERS[usize::from(*user) % USERS.len()];
        let context =
            |error: String| format!("operation {index}, {step:?} by {}: {error}", user.uid);
        let (expected, found) = {
            let _being = Being::new(user);
            (plain.perform(&step), image.perform(&step))
        };
        if expected != found && !may_differ(&step, &expected) {
            return Err(context(format!("gave {found:?}, expected {expected:?}")));
        }
        match expected {
            Outcome::Error(_) => refused += 1,
            _ => {
                allowed += 1;
                model.perform(&step);
            }
        }
        let depth = match index % 8 {
            0 => Depth::Full,
            _ => Depth::Attributes,
        };
        same(&mut plain, &mut image, depth).map_err(context)?;
    }
    same(&mut plain, &mut image, Depth::Full).map_err(|error| format!("at the end: {error}"))?;
    drop((plain, image));
    let shown = mounted.snapshot();
    store.ok(&["fold"]);
    mounted.unmount();
    let mounted = store.mount("first");
    let lines = shown.differences(&mounted.snapshot(), Fields::ALL);
    if !lines.is_empty() {
        return Err(format!("a fold and a remount show:\n{}", lines.join("\n")));
    }
    mounted.unmount();
    store.wait_for_daemons();
    store.assert_sound();
    Ok((allowed, refused))
}

#[test]
fn users_may_do_what_they_may_in_a_plain_directory() {
    let test = "users_may_do_what_they_may_in_a_plain_directory";
    if !common::can_run(test, common::needs_fuse()) {
        return;
    }
    // Those below the test's directory must be reached by everybody.
    let (mut allowed, mut refused) = (0, 0);
    let steps = (any::<u8>(), op::visible());
    drive::explore(steps, 150, drive::operations(2_000), |ops| {
        let counts = case(ops)?;
        allowed += counts.0;
        refused += counts.1;
        Ok(counts.0 + counts.1)
    });
    eprintln!("{allowed} allowed, {refused} refused");
    assert!(allowed > refused / 10 && refused > allowed / 10);
}
