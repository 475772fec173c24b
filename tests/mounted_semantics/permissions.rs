//! Who may do what, and what new inodes get from their parent and the umask.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{
    DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink,
};
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::{
    CWD, FileType, Mode, XattrFlags, lgetxattr, llistxattr, lremovexattr, lsetxattr, makedev,
    mknodat,
};

use super::common::op;
use super::common::user::{MEMBER, ROOT, SOMEBODY, User};
use super::places::{Files, Places, Probe, tell};

const DEFAULT_ACL: &str = "system.posix_acl_default";
const ACCESS_ACL: &str = "system.posix_acl_access";
const USERS: [User; 3] = [ROOT, SOMEBODY, MEMBER];

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn set(path: &Path, xattr: &str, value: &[u8]) -> io::Result<()> {
    Ok(lsetxattr(path, xattr, value, XattrFlags::empty())?)
}

/// Directories for everybody to make something in: plain, set-gid, with a default ACL, with both.
fn furnish(place: &Path) {
    for (name, bits, group, acl) in [
        ("open", 0o777, 0, false),
        ("set-gid", 0o2777, 50, false),
        ("acl", 0o777, 0, true),
        ("set-gid-acl", 0o2777, 50, true),
    ] {
        let path = place.join(name);
        fs::create_dir(&path).unwrap();
        chown(&path, None, Some(group)).unwrap();
        mode(&path, bits);
        if acl {
            set(&path, DEFAULT_ACL, &op::xattr_value(DEFAULT_ACL, 1)).unwrap();
        }
    }
}

/// Mode, owner and ACLs.
fn look(path: &Path) -> io::Result<String> {
    let meta = path.symlink_metadata()?;
    let acls = [ACCESS_ACL, DEFAULT_ACL].map(|name| {
        let mut buffer = [0; 200];
        let length = lgetxattr(path, name, &mut buffer[..]).unwrap_or(0);
        format!("{:02x?}", &buffer[..length])
    });
    Ok(format!(
        "{:o} {}:{} {acls:?}",
        meta.mode(),
        meta.uid(),
        meta.gid()
    ))
}

/// Makes one of everything in each of the directories beside the file.
fn make(path: &Path) -> io::Result<String> {
    let mut told = String::new();
    for parent in ["open", "set-gid", "acl", "set-gid-acl"] {
        let new = path.with_file_name(parent).join("new");
        for bits in [0o666, 0o6751, 0o600] {
            let making: [(&str, &dyn Fn() -> io::Result<()>); 6] = [
                ("open", &|| {
                    let mut options = OpenOptions::new();
                    let options = options.write(true).create_new(true).mode(bits);
                    options.open(&new).map(drop)
                }),
                ("mkdir", &|| fs::DirBuilder::new().mode(bits).create(&new)),
                ("mknod", &|| node(&new, FileType::RegularFile, bits)),
                ("mkfifo", &|| node(&new, FileType::Fifo, bits)),
                ("symlink", &|| symlink("target", &new)),
                ("bind", &|| UnixListener::bind(&new).map(drop)),
            ];
            for (name, making) in making {
                let outcome = tell(making().and_then(|()| look(&new)));
                told += &format!("\n  {parent} {name} {bits:o}: {outcome}");
                fs::remove_file(&new).or_else(|_| fs::remove_dir(&new))?;
            }
        }
    }
    Ok(told)
}

fn node(path: &Path, file_type: FileType, bits: u32) -> io::Result<()> {
    Ok(mknodat(CWD, path, file_type, Mode::from_raw_mode(bits), 0)?)
}

#[test]
fn new_inodes_get_what_they_get_in_a_plain_directory() {
    let test = "new_inodes_get_what_they_get_in_a_plain_directory";
    let files = Files {
        furnish: &furnish,
        ..Files::default()
    };
    let Some(places) = Places::new(test, &files) else {
        return;
    };
    let mut lines = String::new();
    for user in USERS {
        for mask in [0, 0o027, 0o777] {
            lines += &places.differences_with("file", user, mask, make);
        }
    }
    assert!(lines.is_empty(), "\n{lines}");
    places.finish();
}

/// What the modes, a sticky directory and supplementary groups let somebody do.
fn may(path: &Path) -> io::Result<String> {
    let mut told = String::new();
    let mut note = |what: &str, outcome: io::Result<()>| {
        told += &format!(
            "\n  {what}: {}",
            tell(outcome.map(|()| String::from("done")))
        );
    };
    let of_group = path.with_file_name("of-group");
    note("read", File::open(of_group.join("file")).map(drop));
    let append = OpenOptions::new().append(true).open(of_group.join("file"));
    note("append", append.and_then(|mut file| file.write_all(b"x")));
    note("list", fs::read_dir(&of_group).map(drop));
    note("create", File::create(of_group.join("new")).map(drop));
    let sticky = path.with_file_name("sticky");
    for name in ["root's", "somebody's", "member's"] {
        let file = sticky.join(name);
        note("rename", fs::rename(&file, sticky.join("moved")));
        note("rename back", fs::rename(sticky.join("moved"), &file));
        note("replace", {
            let new = sticky.join("new");
            let replaced = fs::write(&new, "new").and_then(|()| fs::rename(&new, &file));
            replaced.and_then(|()| fs::write(&file, "new"))
        });
        note("remove", fs::remove_file(&file));
        note(
            "remove directory",
            fs::remove_dir(sticky.join(format!("{name} directory"))),
        );
        note(
            "chmod",
            fs::set_permissions(&file, Permissions::from_mode(0o640)),
        );
    }
    note(
        "by ACL",
        File::open(path.with_file_name("by-acl")).map(drop),
    );
    note("set-gid", {
        let file = path.with_file_name("set-gid");
        fs::set_permissions(&file, Permissions::from_mode(0o2755)).and_then(|()| {
            (file.metadata()?.mode() & 0o2000 != 0)
                .then_some(())
                .ok_or(io::ErrorKind::Other.into())
        })
    });
    Ok(told)
}

fn furnish_for_may(place: &Path) {
    let group = place.join("of-group");
    fs::create_dir(&group).unwrap();
    fs::write(group.join("file"), "the group's").unwrap();
    chown(&group, None, Some(50)).unwrap();
    chown(group.join("file"), None, Some(50)).unwrap();
    mode(&group, 0o770);
    mode(&group.join("file"), 0o660);
    let sticky = place.join("sticky");
    fs::create_dir(&sticky).unwrap();
    mode(&sticky, 0o1777);
    for (name, user) in [
        ("root's", ROOT),
        ("somebody's", SOMEBODY),
        ("member's", MEMBER),
    ] {
        let paths = [sticky.join(name), sticky.join(format!("{name} directory"))];
        fs::write(&paths[0], name).unwrap();
        fs::create_dir(&paths[1]).unwrap();
        for path in paths {
            chown(path, Some(user.uid), Some(user.gid)).unwrap();
        }
    }
    let acl = place.join("by-acl");
    fs::write(&acl, "some may read it").unwrap();
    mode(&acl, 0o600);
    set(&acl, ACCESS_ACL, &op::xattr_value(ACCESS_ACL, 1)).unwrap();
    let set_gid = place.join("set-gid");
    fs::write(&set_gid, "member's").unwrap();
    chown(set_gid, Some(MEMBER.uid), Some(50)).unwrap();
}

#[test]
fn groups_and_sticky_directories_count_as_in_a_plain_directory() {
    let test = "groups_and_sticky_directories_count_as_in_a_plain_directory";
    let files = Files {
        furnish: &furnish_for_may,
        ..Files::default()
    };
    let Some(places) = Places::new(test, &files) else {
        return;
    };
    let mut lines = String::new();
    for user in [MEMBER, SOMEBODY, ROOT] {
        lines += &places.differences("file", user, may);
    }
    assert!(lines.is_empty(), "\n{lines}");
    places.finish();
}

/// What overlayfs and foldfs itself would take for theirs.
const MARKS: [&str; 8] = [
    "trusted.overlay.opaque",
    "trusted.overlay.whiteout",
    "trusted.overlay.redirect",
    "trusted.overlay.metacopy",
    "trusted.overlay.origin",
    "trusted.overlay.impure",
    "trusted.foldfs",
    "trusted.foldfs.more",
];

/// Sets each mark on a file and a directory, then looks at all there is.
fn marked(path: &Path) -> io::Result<String> {
    let directory = path.with_extension("d");
    fs::create_dir(&directory)?;
    fs::write(directory.join("inner"), "inner")?;
    let mut told = String::new();
    for target in [path, &directory] {
        for (name, value) in MARKS.iter().zip([
            &b"y"[..],
            b"",
            b"/etc",
            b"\0\0",
            b"\xfb",
            b"y",
            b"\x01\x02",
            b"x",
        ]) {
            told += &format!(
                "{}; ",
                tell(set(target, name, value).map(|()| String::new()))
            );
        }
        lremovexattr(target, MARKS[1])?;
        let mut names = [0; 4096];
        let length = llistxattr(target, &mut names[..])?;
        let mut names: Vec<_> = names[..length].split(|byte| *byte == 0).collect();
        names.sort_unstable();
        for name in names.into_iter().filter(|name| !name.is_empty()) {
            let mut value = [0; 100];
            let length = lgetxattr(target, name, &mut value[..])?;
            told += &format!(
                "{}={} ",
                name.escape_ascii(),
                value[..length].escape_ascii()
            );
        }
    }
    let zero = path.with_extension("zero");
    mknodat(
        CWD,
        &zero,
        FileType::CharacterDevice,
        Mode::RUSR,
        makedev(0, 0),
    )?;
    fs::hard_link(&zero, path.with_extension("too"))?;
    let meta = zero.metadata()?;
    fs::rename(&zero, path.with_extension("moved"))?;
    let entries = fs::read_dir(path.parent().unwrap())?.count();
    Ok(format!(
        "{told}{:o} {} {} {entries} {}",
        meta.mode(),
        meta.rdev(),
        meta.nlink(),
        fs::read_dir(&directory)?.count()
    ))
}

#[test]
fn overlayfs_marks_and_whiteouts_of_a_guest_are_its_own() {
    let test = "overlayfs_marks_and_whiteouts_of_a_guest_are_its_own";
    let Some(places) = Places::new(test, &Files::default()) else {
        return;
    };
    places.assert_same(&[("file", marked)]);
    places.finish();
}

#[test]
fn trusted_xattrs_are_hidden_from_ordinary_users() {
    let files = Files {
        adorn: &|path| {
            set(path, "trusted.note", b"root's").unwrap();
            set(path, "user.note", b"everybody's").unwrap();
            mode(path, 0o666);
        },
        ..Files::default()
    };
    let test = "trusted_xattrs_are_hidden_from_ordinary_users";
    let Some(places) = Places::new(test, &files) else {
        return;
    };
    let asks: Probe = |path| {
        let mut buffer = [0; 200];
        let listed = llistxattr(path, &mut buffer[..])?;
        let mut names: Vec<_> = buffer[..listed].split(|byte| *byte == 0).collect();
        names.sort_unstable();
        let names = names.join(&b' ').escape_ascii().to_string();
        let size = llistxattr(path, &mut [0u8; 0][..])?;
        let got = lgetxattr(path, "trusted.note", &mut [0; 50][..]);
        let own = set(path, "trusted.own", b"x");
        let gone = lremovexattr(path, "trusted.note");
        let other = set(path, "security.other", b"x");
        let user = set(path, "user.other", b"x");
        Ok(format!(
            "{names} {size} {got:?} {own:?} {gone:?} {other:?} {user:?}"
        ))
    };
    let mut lines = places.differences("file", SOMEBODY, asks);
    assert!(lines.is_empty(), "\n{lines}");
    let seen = super::common::user::within(&places.first.path, SOMEBODY, 0o022, || {
        asks(Path::new("shared/file")).unwrap()
    });
    assert!(
        seen.contains("user.note") && !seen.contains("trusted"),
        "{seen}"
    );
    lines = places.differences("file", ROOT, asks);
    assert!(lines.is_empty(), "\n{lines}");
    places.finish();
}
