//! Set-id bits and security.capability: what takes them away, for whom, and what they do.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, XattrFlags, chownat, copy_file_range, fallocate, getxattr,
    sendfile, setxattr,
};

use super::common::mapping::{Mapped, truncate_path};
use super::common::store::run;
use super::common::user::{MEMBER, ROOT, SOMEBODY, User, within};
use super::places::{Files, Places, Probe};

const CAPABILITY: &str = "security.capability";

/// Each with the mode and whether it has a capability. All may be written by everybody and belong
/// to group 50, in which `MEMBER` is.
const KINDS: [(&str, u32, bool); 4] = [
    ("both", 0o6777, false),
    ("no-group-execute", 0o6766, false),
    ("capable", 0o777, true),
    ("set-uid-capable", 0o4777, true),
];

const USERS: [(&str, User); 3] = [("root", ROOT), ("somebody", SOMEBODY), ("member", MEMBER)];

/// cap_net_raw+ep as the kernel stores it.
fn net_raw() -> Vec<u8> {
    let words: [u32; 5] = [0x0200_0001, 1 << 13, 0, 0, 0];
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn adorn(path: &Path) {
    let name = path.file_name().unwrap().to_str().unwrap();
    let kind = name.split(' ').next().unwrap();
    let (_, mode, capable) = KINDS.iter().find(|(other, ..)| *other == kind).unwrap();
    // Some belong to those who change them.
    let owner = match name {
        _ if !name.contains("own-") => 0,
        _ if name.contains("member") => MEMBER.uid,
        _ => SOMEBODY.uid,
    };
    chown(path, Some(owner), Some(50)).unwrap();
    fs::set_permissions(path, Permissions::from_mode(*mode)).unwrap();
    if *capable {
        setxattr(path, CAPABILITY, &net_raw(), XattrFlags::empty()).unwrap();
    }
}

/// What is left of a file's privileges.
fn privileges(path: &Path, said: io::Result<()>) -> io::Result<String> {
    let meta = path.metadata()?;
    let mode = meta.permissions().mode() & 0o7777;
    let mut buffer = [0; 64];
    let capable = getxattr(path, CAPABILITY, &mut buffer[..]).is_ok();
    let said = super::places::tell(said.map(|()| String::from("done")));
    Ok(format!("{said}, mode {mode:o}, capable: {capable}"))
}

fn with_file(path: &Path, work: impl FnOnce(&File) -> io::Result<()>) -> io::Result<String> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    privileges(path, work(&file))
}

fn allocated(path: &Path, mode: FallocateFlags) -> io::Result<String> {
    with_file(path, |file| Ok(fallocate(file, mode, 0, 100)?))
}

const CHANGES: [(&str, Probe); 23] = [
    ("write", |path| {
        with_file(path, |mut file| file.write_all(b"x"))
    }),
    ("write-nothing", |path| {
        with_file(path, |mut file| file.write_all(b""))
    }),
    ("pwrite", |path| {
        with_file(path, |file| file.write_all_at(b"x", 5))
    }),
    ("append", |path| {
        let file = OpenOptions::new().append(true).open(path);
        privileges(path, file.and_then(|mut file| file.write_all(b"x")))
    }),
    ("open-for-writing", |path| with_file(path, |_| Ok(()))),
    ("open-truncate", |path| {
        let file = OpenOptions::new().write(true).truncate(true).open(path);
        privileges(path, file.map(drop))
    }),
    ("ftruncate", |path| with_file(path, |file| file.set_len(5))),
    ("ftruncate-same", |path| {
        with_file(path, |file| file.set_len(100))
    }),
    ("truncate", |path| {
        let said = truncate_path(path, 3);
        privileges(path, said.map_err(io::Error::from))
    }),
    ("fallocate", |path| allocated(path, FallocateFlags::empty())),
    ("fallocate-keep-size", |path| {
        allocated(path, FallocateFlags::KEEP_SIZE)
    }),
    ("fallocate-punch", |path| {
        allocated(path, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE)
    }),
    ("fallocate-zero", |path| {
        allocated(path, FallocateFlags::ZERO_RANGE)
    }),
    ("copy-file-range", |path| {
        with_file(path, |file| {
            let (mut from, mut to) = (0, 50);
            copy_file_range(file, Some(&mut from), file, Some(&mut to), 20)?;
            Ok(())
        })
    }),
    ("sendfile", |path| {
        let source = File::open(path)?;
        with_file(path, |file| {
            sendfile(file, &source, None, 10)?;
            Ok(())
        })
    }),
    ("mapped-store", |path| {
        with_file(path, |file| {
            Ok(Mapped::new(file.as_fd(), 100, true)?.store(3, b"new")?)
        })
    }),
    ("own-chown-same", |path| changed_owner(path, None, None)),
    ("own-chown-group-50", |path| {
        changed_owner(path, None, Some(50))
    }),
    ("own-chown-own-group", |path| {
        changed_owner(path, None, Some(rustix::process::getegid().as_raw()))
    }),
    ("chown-user", |path| changed_owner(path, Some(77), None)),
    ("own-chmod", |path| {
        privileges(
            path,
            fs::set_permissions(path, Permissions::from_mode(0o6755)),
        )
    }),
    ("own-chmod-no-execute", |path| {
        privileges(
            path,
            fs::set_permissions(path, Permissions::from_mode(0o6644)),
        )
    }),
    ("own-set-xattr", |path| {
        let set = setxattr(path, "user.note", b"x", XattrFlags::empty());
        privileges(path, set.map_err(io::Error::from))
    }),
];

fn changed_owner(path: &Path, uid: Option<u32>, gid: Option<u32>) -> io::Result<String> {
    let (uid, gid) = (
        uid.map(rustix::fs::Uid::from_raw),
        gid.map(rustix::fs::Gid::from_raw),
    );
    let changed = chownat(CWD, path, uid, gid, AtFlags::empty());
    privileges(path, changed.map_err(io::Error::from))
}

/// The exceptions about these: exceptions.rs shows them.
fn is_exception(kind: &str, user: User, change: &str) -> bool {
    let capable = KINDS.iter().any(|(other, _, c)| *other == kind && *c);
    capable && (change == "mapped-store" || kind == "set-uid-capable" && user == ROOT)
}

#[test]
fn privileges_go_as_in_a_plain_directory() {
    let mut cases = Vec::new();
    for (kind, ..) in KINDS {
        for (who, user) in USERS {
            for (change, probe) in CHANGES {
                if is_exception(kind, user, change) {
                    continue;
                }
                cases.push((format!("{kind} {who} {change}"), user, probe));
            }
        }
    }
    let files = Files {
        names: cases.iter().map(|(name, ..)| name.clone()).collect(),
        length: 100,
        adorn: &adorn,
        ..Files::default()
    };
    let Some(places) = Places::new("privileges_go_as_in_a_plain_directory", &files) else {
        return;
    };
    let mut lines = String::new();
    for (name, user, probe) in &cases {
        lines += &places.differences(name, *user, *probe);
    }
    assert!(lines.is_empty(), "\n{lines}");
    places.finish();
}

/// A program with a set-uid bit, or with a capability, that tells what it got of it.
#[test]
fn privileges_of_programs_count_where_the_mount_allows_it() {
    let names = ["set-uid", "set-gid", "capable"];
    let files = Files {
        names: names.map(String::from).to_vec(),
        length: 10,
        adorn: &|path| {
            fs::copy("/bin/cat", path).unwrap();
            let mode = match path.file_name().unwrap().to_str().unwrap() {
                "set-uid" => 0o4755,
                "set-gid" => 0o2755,
                _ => 0o755,
            };
            chown(path, Some(9), Some(50)).unwrap();
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
            if path.ends_with("capable") {
                setxattr(path, CAPABILITY, &net_raw(), XattrFlags::empty()).unwrap();
            }
        },
        ..Files::default()
    };
    let test = "privileges_of_programs_count_where_the_mount_allows_it";
    let Some(places) = Places::new(test, &files) else {
        return;
    };
    let tells: Probe = |path| {
        let mut command = Command::new(Path::new(".").join(path));
        let ran = run(command.arg("/proc/self/status"), b"").exits(0);
        let mut told = String::new();
        for line in ran.text().lines() {
            if ["Uid:", "Gid:", "CapEff:"]
                .iter()
                .any(|word| line.starts_with(word))
            {
                write!(told, "{line}; ").unwrap();
            }
        }
        Ok(told)
    };
    let mut lines = String::new();
    for name in names {
        lines += &places.differences(name, SOMEBODY, tells);
    }
    assert!(lines.is_empty(), "\n{lines}");
    let told = |root: &Path, name: &str| {
        let path = Path::new("shared").join(name);
        within(root, SOMEBODY, 0o022, || tells(&path).unwrap())
    };
    let first = &places.first.path;
    assert!(told(first, "set-uid").contains("Uid:\t1000\t9\t9"));
    assert!(told(first, "set-gid").contains("Gid:\t1000\t50\t50"));
    assert!(told(first, "capable").contains("CapEff:\t0000000000002000"));
    let store = &places.store;
    store.ok(&["clone", "first", "plain-mount"]);
    let mounted = store.mount_with("plain-mount", "allow_other");
    for name in names {
        let told = told(&mounted.path, name);
        assert!(told.contains("Uid:\t1000\t1000"), "{name}: {told}");
        assert!(told.contains("Gid:\t1000\t1000"), "{name}: {told}");
        assert!(told.contains("CapEff:\t0000000000000000"), "{name}: {told}");
    }
    mounted.unmount();
    places.finish();
}
