//! Names and paths: how long they may be, which bytes they may have, and names that other file
//! systems of this sort keep for themselves.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, RenameFlags, StatxFlags, Timespec, Timestamps, XattrFlags,
    lgetxattr, lsetxattr, mknodat, renameat_with, statvfs, statx, utimensat,
};
use rustix::io::Errno;

use super::common::at;
use super::common::mapping::truncate_path;
use super::common::user::ROOT;
use super::places::{Files, Places, Probe, tell};

/// A call on a path. What it needs is there, if it can be there.
type Call = fn(&Path) -> io::Result<()>;

fn node(path: &Path, file_type: FileType) -> io::Result<()> {
    Ok(mknodat(CWD, path, file_type, Mode::RWXU, 0)?)
}

fn note(path: &Path) -> io::Result<()> {
    Ok(lsetxattr(path, "user.note", b"x", XattrFlags::empty())?)
}

/// On names that are free.
const MAKING: [(&str, Call); 11] = [
    ("create", |path| File::create_new(path).map(drop)),
    ("open", |path| File::open(path).map(drop)),
    ("mkdir", |path| fs::create_dir(path)),
    ("fifo", |path| node(path, FileType::Fifo)),
    ("device", |path| node(path, FileType::CharacterDevice)),
    ("socket", |path| node(path, FileType::Socket)),
    ("symlink", |path| symlink("target", path)),
    ("link", |path| fs::hard_link("shared/file", path)),
    ("rename-to", |path| {
        fs::write("shared/new", "new")?;
        fs::rename("shared/new", path)
    }),
    ("rename-no-replace", |path| {
        fs::write("shared/new", "new")?;
        let (from, to) = ("shared/new", path);
        Ok(renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
    }),
    ("unlink-nothing", |path| fs::remove_file(path)),
];

/// On a file.
const USING: [(&str, Call); 16] = [
    ("stat", |path| path.metadata().map(drop)),
    ("lstat", |path| path.symlink_metadata().map(drop)),
    ("statx", |path| {
        let asked = statx(CWD, path, AtFlags::empty(), StatxFlags::BASIC_STATS);
        Ok(asked.map(drop)?)
    }),
    ("open", |path| File::open(path).map(drop)),
    ("write", |path| fs::write(path, "new")),
    ("truncate", |path| {
        truncate_path(path, 5).map_err(io::Error::from)
    }),
    ("chmod", |path| {
        fs::set_permissions(path, Permissions::from_mode(0o600))
    }),
    ("chown", |path| chown(path, Some(5), Some(6))),
    ("utimensat", |path| {
        let now = Timespec {
            tv_sec: 5,
            tv_nsec: 6,
        };
        let times = Timestamps {
            last_access: now,
            last_modification: now,
        };
        Ok(utimensat(CWD, path, &times, AtFlags::empty())?)
    }),
    ("setxattr", note),
    ("getxattr", |path| {
        note(path)?;
        Ok(lgetxattr(path, "user.note", &mut [0; 10][..]).map(drop)?)
    }),
    ("statfs", |path| Ok(statvfs(path).map(drop)?)),
    ("link-from", |path| fs::hard_link(path, "shared/link")),
    ("rename-from", |path| fs::rename(path, "shared/renamed")),
    ("exchange", |path| {
        fs::write("shared/exchanged", "other")?;
        let (from, to) = ("shared/exchanged", path);
        Ok(renameat_with(CWD, from, CWD, to, RenameFlags::EXCHANGE)?)
    }),
    ("unlink", |path| fs::remove_file(path)),
];

/// On a directory or a symlink.
const ENTERING: [(&str, Call); 3] = [
    ("rmdir", |path| {
        fs::create_dir(path)?;
        fs::remove_dir(path)
    }),
    ("readdir", |path| {
        fs::create_dir(path)?;
        fs::read_dir(path).map(|list| list.for_each(drop))
    }),
    ("readlink", |path| {
        symlink("target", path)?;
        fs::read_link(path).map(drop)
    }),
];

/// Carries every call out on a path, which is free between two of them.
fn each_call(path: &Path) -> io::Result<String> {
    let mut told = String::new();
    let calls = [
        (&MAKING[..], false),
        (&USING[..], true),
        (&ENTERING[..], false),
    ];
    for (calls, wants_file) in calls {
        for (name, call) in calls {
            if wants_file {
                // Where the name is too long it is the call's turn to say so.
                let _there = File::create(path);
            }
            let outcome = tell(call(path).map(|()| String::from("done")));
            told += &format!("{name}: {outcome}; ");
            for path in [
                path,
                "shared/new".as_ref(),
                "shared/renamed".as_ref(),
                "shared/link".as_ref(),
                "shared/exchanged".as_ref(),
            ] {
                let _gone = fs::remove_file(path);
                let _gone = fs::remove_dir_all(path);
            }
        }
    }
    Ok(told)
}

fn long_name(path: &Path, length: usize) -> io::Result<String> {
    each_call(&path.with_file_name("n".repeat(length)))
}

/// The same file by a path of so many bytes.
fn long_path(path: &Path, length: usize) -> io::Result<String> {
    let (place, name) = (path.parent().unwrap(), path.file_name().unwrap());
    let mut long = place.as_os_str().as_bytes().to_vec();
    let name = [b".new", name.as_bytes()].concat();
    long.resize(length - name.len(), b'/');
    long.extend(name);
    each_call(&PathBuf::from(OsStr::from_bytes(&long)))
}

const LENGTHS: [(&str, Probe); 6] = [
    ("name-of-255", |path| long_name(path, 255)),
    ("name-of-256", |path| long_name(path, 256)),
    ("name-of-1000", |path| long_name(path, 1_000)),
    ("path-of-4095", |path| long_path(path, 4_095)),
    ("path-of-4096", |path| long_path(path, 4_096)),
    ("ordinary", |path| long_name(path, 20)),
];

#[test]
fn every_call_takes_names_of_255_bytes_and_paths_of_4095() {
    let test = "every_call_takes_names_of_255_bytes_and_paths_of_4095";
    let mut files = Files::of(&LENGTHS, 100);
    files.names.push(String::from("file"));
    let Some(places) = Places::new(test, &files) else {
        return;
    };
    places.assert_same(&LENGTHS);
    let root = &places.first.path;
    assert_eq!(statvfs(root).unwrap().f_namemax, 255);
    let within = |probe: Probe| {
        super::common::user::within(root, ROOT, 0o022, || probe(Path::new("shared/x")).unwrap())
    };
    let refused = Errno::NAMETOOLONG.to_string();
    for length in [LENGTHS[0], LENGTHS[3]] {
        assert!(!within(length.1).contains(&refused), "{}", within(length.1));
    }
    for length in [LENGTHS[1], LENGTHS[4]] {
        let told = within(length.1);
        assert_eq!(told.matches(&refused).count(), 30, "{told}");
    }
    places.finish();
}

#[test]
fn names_may_have_any_bytes() {
    let every: Probe = |path| {
        let place = path.parent().unwrap();
        for byte in (1..=255u8).filter(|byte| *byte != b'/') {
            for name in [&[byte][..], &[b'a', byte]] {
                if name != b"." {
                    File::create_new(place.join(OsStr::from_bytes(name)))?;
                }
            }
        }
        for byte in [b'\n', b'*', b'\\', 0x80, 0xff] {
            fs::remove_file(place.join(OsStr::from_bytes(&[byte])))?;
            let (from, to) = ([b'a', byte], [byte, byte, b' ']);
            fs::rename(
                place.join(OsStr::from_bytes(&from)),
                place.join(OsStr::from_bytes(&to)),
            )?;
        }
        let listed = at::list(at::open_root(place).as_fd(), b"")?;
        let mut names: Vec<_> = listed.into_iter().map(|item| item.name).collect();
        names.sort();
        Ok(format!("{names:?}"))
    };
    let Some(places) = Places::new("names_may_have_any_bytes", &Files::default()) else {
        return;
    };
    places.assert_same(&[("file", every)]);
    places.finish();
}

/// What overlayfs, aufs, NFS, FUSE and foldfs itself use, what other systems forbid, and names that
/// one might take for the same.
const RESERVED: [&str; 34] = [
    ".wh.",
    ".wh..",
    ".wh.file",
    ".wh..wh.",
    ".wh..wh..opq",
    ".wh..wh.orph",
    ".wh..wh.plnk",
    "file",
    ".nfs0000000000000001",
    ".fuse_hidden0000000100000001",
    "work",
    "index",
    "private",
    "redirects",
    "orphans",
    "objects",
    "staging",
    "foldfs.toml",
    "catalog.db",
    "trusted.foldfs",
    ".foldfs",
    "1",
    "2.names",
    "#1",
    "lost+found",
    "...",
    " ",
    "CON",
    "x.",
    "x",
    "X",
    "e\u{301}",
    "\u{e9}",
    "-rf",
];

fn reserved(path: &Path) -> io::Result<String> {
    let place = path.parent().unwrap();
    let names = || -> io::Result<String> {
        let listed = at::list(at::open_root(place).as_fd(), b"")?;
        let mut names: Vec<_> = listed.into_iter().map(|item| item.name).collect();
        names.sort();
        Ok(format!(
            "{} {:?}",
            names.len(),
            names.join(&b"|"[..]).escape_ascii().to_string()
        ))
    };
    let content = fs::read(path)?.len();
    let moved = place.join(format!(
        ".wh.{}",
        path.file_name().unwrap().to_str().unwrap()
    ));
    let before = names()?;
    fs::remove_file(path)?;
    let removed = names()?;
    fs::create_dir(path)?;
    fs::write(path.join(".wh.inner"), "inner")?;
    let moving = tell(fs::rename(path, &moved).map(|()| String::new()));
    fs::write(path.with_file_name("scratch"), "back")?;
    let back = tell(fs::rename(path.with_file_name("scratch"), path).map(|()| String::new()));
    let kind = path.symlink_metadata()?.file_type().is_fifo();
    Ok(format!(
        "{content} {before} {removed} {moving} {back} {kind} {}",
        names()?
    ))
}

#[test]
fn reserved_looking_names_are_ordinary() {
    let files = Files {
        names: RESERVED.map(String::from).to_vec(),
        length: 500,
        ..Files::default()
    };
    let Some(places) = Places::new("reserved_looking_names_are_ordinary", &files) else {
        return;
    };
    // Every other one stays as it is.
    let used: Vec<(&str, Probe)> = RESERVED
        .iter()
        .step_by(2)
        .map(|name| (*name, reserved as Probe))
        .collect();
    places.assert_same(&used);
    places.finish();
}
