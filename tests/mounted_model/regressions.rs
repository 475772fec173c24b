//! What the random operations have found, each by its shortest list.

#![allow(clippy::panic, reason = "a test that cannot go on should panic")]

use super::common::drive::Watch;
use super::common::op::Op::{self, *};
use super::common::op::Where::Path;
use super::common::op::{self, Also, Renaming};
use super::{common, watched};

fn check(test: &str, ops: &[Op]) {
    if common::can_run(test, common::needs_fuse()) {
        let performed = watched(ops, Watch::Closely).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(performed, ops.len(), "an operation was left out");
    }
}

/// The kernel asks for nothing at all then, but ctime and set-id bits change.
#[test]
fn regression_chown_that_keeps_both() {
    let (uid, gid) = (None, None);
    let chown = |path| Chown {
        at: Path(path),
        uid,
        gid,
    };
    check(
        "regression_chown_that_keeps_both",
        &[
            chown("usr/long link"),
            chown("usr/bin/tool"),
            chown("usr/lib"),
            chown("etc/zero"),
        ],
    );
}

#[test]
fn regression_ctime_of_an_open_file_whose_last_name_goes() {
    let open = Open {
        at: Path("usr/sparse"),
        access: op::Access::Read,
        also: Also::Nothing,
    };
    check(
        "regression_ctime_of_an_open_file_whose_last_name_goes",
        &[
            Link {
                from: Path("usr/sparse"),
                to: Path("etc/x"),
            },
            open,
            Unlink { at: Path("etc/x") },
            Unlink {
                at: Path("usr/sparse"),
            },
        ],
    );
}

#[test]
fn regression_what_rename_whiteout_leaves_inherits() {
    let rename = |from, to| Rename {
        from: Path(from),
        to: Path(to),
        how: Renaming::Whiteout,
    };
    check(
        "regression_what_rename_whiteout_leaves_inherits",
        &[
            Mkdir {
                at: Path("var/log/x"),
                mode: 0o700,
            },
            rename("var/log/x", "etc/x"),
            rename("usr/lib/a.conf", "etc/a.conf"),
        ],
    );
}

/// After the fold the directory is the shared one but for its mtime, which the layers that the
/// kernel's overlayfs was given did not have.
#[test]
fn regression_export_of_a_directory_with_an_mtime_of_its_own() {
    let at = Path("etc/conf.d/new");
    check(
        "regression_export_of_a_directory_with_an_mtime_of_its_own",
        &[
            Mkdir { at, mode: 0o755 },
            Rmdir { at },
            Op::Invisible(op::Invisible::Fold),
        ],
    );
}
