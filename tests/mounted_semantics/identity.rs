//! Which inode is which: numbers, devices, link counts, the times of directories.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, RawDir, RenameFlags, mknodat, renameat_with};

use super::common::at;
use super::common::directory::drop_caches;
use super::places::{Files, PLACES, Places, Probe, with_times};

/// The number of every inode below a directory, which must all lie on one device and have the
/// numbers that readdir gives, "." and ".." included.
fn numbers(root: &Path) -> BTreeMap<PathBuf, u64> {
    let meta = fs::metadata(root).unwrap();
    let mut found = BTreeMap::from([(PathBuf::new(), meta.ino())]);
    let mut pending = vec![(PathBuf::new(), None)];
    while let Some((path, above)) = pending.pop() {
        let directory = at::open_root(&root.join(&path));
        let mut buffer = Vec::with_capacity(1 << 15);
        let mut entries = RawDir::new(&directory, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry.unwrap();
            let name = entry.file_name().to_str().unwrap();
            match (name, above) {
                (".", _) => assert_eq!(entry.ino(), found[&path], "{path:?}"),
                ("..", Some(above)) => assert_eq!(entry.ino(), above, "{path:?}"),
                ("..", None) => {}
                _ => {
                    let below = path.join(name);
                    let child = fs::symlink_metadata(root.join(&below)).unwrap();
                    assert_eq!(child.dev(), meta.dev(), "{below:?}");
                    assert_eq!(child.ino(), entry.ino(), "{below:?}");
                    if child.is_dir() {
                        pending.push((below.clone(), Some(found[&path])));
                    }
                    found.insert(below, child.ino());
                }
            }
        }
    }
    found
}

/// Which paths are the same inode.
fn groups(numbers: &BTreeMap<PathBuf, u64>) -> Vec<Vec<&PathBuf>> {
    let mut groups: BTreeMap<u64, Vec<&PathBuf>> = BTreeMap::new();
    for (path, number) in numbers {
        groups.entry(*number).or_default().push(path);
    }
    let mut groups: Vec<_> = groups.into_values().collect();
    groups.sort();
    groups
}

#[test]
fn a_number_stays_with_its_inode_whatever_happens_to_it() {
    let test = "a_number_stays_with_its_inode_whatever_happens_to_it";
    let names = ["file", "other", "third"].map(String::from).to_vec();
    let files = Files {
        names,
        ..Files::default()
    };
    let Some(places) = Places::new(test, &files) else {
        return;
    };
    let roots = [&places.plain, &places.first.path];
    let all = |what: &dyn Fn(&Path)| {
        for root in roots {
            for place in PLACES {
                what(&root.join(place));
            }
        }
    };
    let mut expected = numbers(&places.first.path);
    let look = |expected: &BTreeMap<PathBuf, u64>, what: &str| {
        let found = numbers(&places.first.path);
        assert_eq!(expected, &found, "{what}");
        let plain = numbers(&places.plain);
        assert_eq!(groups(&plain), groups(&found), "{what}");
    };
    look(&expected, "at first");
    drop_caches();
    look(&expected, "after drop_caches");
    all(&|place| {
        let file = OpenOptions::new().write(true).open(place.join("file"));
        file.unwrap().write_all_at(b"promoted", 5_000).unwrap();
        fs::set_permissions(place.join("other"), Permissions::from_mode(0o640)).unwrap();
        fs::set_permissions(place, Permissions::from_mode(0o711)).unwrap();
    });
    look(&expected, "after promotions");
    all(&|place| fs::rename(place.join("file"), place.join("moved")).unwrap());
    all(&|place| fs::rename(place, place.with_extension("moved")).unwrap());
    let moved = |path: &PathBuf| -> PathBuf {
        let mut names = path.iter();
        let Some(place) = names.next().and_then(|name| name.to_str()) else {
            return PathBuf::new();
        };
        let is_place = PLACES.contains(&place);
        let mut new = PathBuf::from(match is_place {
            true => format!("{place}.moved"),
            false => place.to_owned(),
        });
        new.extend(names.map(|name| match is_place && name == "file" {
            true => "moved".as_ref(),
            false => name,
        }));
        new
    };
    expected = expected
        .iter()
        .map(|(path, ino)| (moved(path), *ino))
        .collect();
    look(&expected, "after renames");
    places.store.ok(&["fold"]);
    look(&expected, "after a fold");
    drop_caches();
    look(&expected, "after a fold and drop_caches");
    places.finish();
}

const LINKS: [(&str, Probe); 9] = [
    ("unlinked", |path| {
        let file = File::open(path)?;
        fs::remove_file(path)?;
        Ok(format!("{}", file.metadata()?.nlink()))
    }),
    ("unlinked-and-written", |path| {
        let file = OpenOptions::new().write(true).open(path)?;
        fs::remove_file(path)?;
        file.write_all_at(b"x", 0)?;
        Ok(format!("{}", file.metadata()?.nlink()))
    }),
    ("linked", |path| {
        let file = File::open(path)?;
        fs::hard_link(path, path.with_extension("too"))?;
        let other = path.with_extension("too").metadata()?;
        let same = other.ino() == path.metadata()?.ino();
        Ok(format!(
            "{} {} {same}",
            file.metadata()?.nlink(),
            other.nlink()
        ))
    }),
    ("linked-and-unlinked", |path| {
        fs::hard_link(path, path.with_extension("too"))?;
        fs::remove_file(path)?;
        Ok(format!(
            "{}",
            path.with_extension("too").metadata()?.nlink()
        ))
    }),
    ("replaced", |path| {
        let file = File::open(path)?;
        fs::write(path.with_extension("new"), "new")?;
        fs::rename(path.with_extension("new"), path)?;
        Ok(format!(
            "{} {}",
            file.metadata()?.nlink(),
            path.metadata()?.nlink()
        ))
    }),
    ("directories", |path| {
        let place = path.parent().unwrap();
        let mut told = String::new();
        let mut tell = |names: &[&str]| {
            for name in names {
                let links = place.join(name).metadata().unwrap().nlink();
                told += &format!("{links} ");
            }
        };
        tell(&[""]);
        fs::create_dir(place.join("one"))?;
        fs::create_dir(place.join("two"))?;
        fs::create_dir(place.join("one/inner"))?;
        tell(&["", "one"]);
        fs::rename(place.join("one/inner"), place.join("two/inner"))?;
        tell(&["one", "two"]);
        fs::remove_dir(place.join("one"))?;
        fs::rename(place.join("two/inner"), place.join("one"))?;
        tell(&["", "one", "two"]);
        fs::remove_dir(place.join("two"))?;
        tell(&[""]);
        Ok(told)
    }),
    ("removed-directory", |path| {
        let new = path.with_extension("d");
        fs::create_dir_all(new.join("inner"))?;
        let open = at::open_root(&new);
        fs::remove_dir(new.join("inner"))?;
        fs::remove_dir(&new)?;
        let stat = rustix::fs::fstat(&open)?;
        let inside = rustix::fs::mkdirat(&open, "x", Mode::RWXU).unwrap_err();
        let listed = at::list(open.as_fd(), b"").map(|names| names.len());
        Ok(format!("{} {inside} {listed:?}", stat.st_nlink))
    }),
    ("exchanged-with-a-directory", |path| {
        let place = path.parent().unwrap();
        fs::create_dir_all(place.join("x/inner"))?;
        fs::write(place.join("x/file"), "x")?;
        let (from, to) = (place.join("x/inner"), path);
        renameat_with(CWD, &from, CWD, to, RenameFlags::EXCHANGE)?;
        let links = |path: &Path| path.metadata().unwrap().nlink();
        Ok(format!("{} {}", links(place), links(&place.join("x"))))
    }),
    ("of-all-kinds", |path| {
        symlink("x", path.with_extension("symlink"))?;
        mknodat(
            CWD,
            path.with_extension("fifo"),
            FileType::Fifo,
            Mode::RWXU,
            0,
        )?;
        let links = ["symlink", "fifo"].map(|kind| {
            let first = path.with_extension(kind);
            fs::hard_link(&first, path.with_extension(format!("{kind}-too"))).unwrap();
            first.symlink_metadata().unwrap().nlink()
        });
        Ok(format!("{links:?}"))
    }),
];

#[test]
fn link_counts_are_those_of_a_plain_directory() {
    let test = "link_counts_are_those_of_a_plain_directory";
    let Some(places) = Places::new(test, &Files::of(&LINKS, 5_000)) else {
        return;
    };
    places.assert_same(&LINKS);
    places.finish();
}

/// Of the directory that the file lies in.
fn above(path: &Path, work: impl FnOnce() -> io::Result<()>) -> io::Result<String> {
    with_times(path.parent().unwrap(), || work().map(|()| String::new()))
}

const TIMES: [(&str, Probe); 15] = [
    ("create", |path| {
        above(path, || File::create(path.with_extension("new")).map(drop))
    }),
    ("create-what-exists", |path| {
        above(path, || File::create_new(path).map(drop))
    }),
    ("mkdir", |path| {
        above(path, || fs::create_dir(path.with_extension("d")))
    }),
    ("symlink", |path| {
        above(path, || symlink("x", path.with_extension("s")))
    }),
    ("link", |path| {
        above(path, || fs::hard_link(path, path.with_extension("l")))
    }),
    ("link-of-the-file", |path| {
        with_times(path, || {
            fs::hard_link(path, path.with_extension("l")).map(|()| String::new())
        })
    }),
    ("unlink", |path| above(path, || fs::remove_file(path))),
    ("rename", |path| {
        above(path, || fs::rename(path, path.with_extension("r")))
    }),
    ("rename-of-the-file", |path| {
        let new = path.with_extension("r");
        fs::rename(path, &new)?;
        with_times(&new, || {
            fs::rename(&new, path)
                .map(|()| String::new())
                .and(fs::rename(path, &new).map(|()| String::new()))
        })
    }),
    ("rename-over", |path| {
        fs::write(path.with_extension("r"), "x")?;
        above(path, || fs::rename(path.with_extension("r"), path))
    }),
    ("rename-of-nothing", |path| {
        above(path, || fs::rename(path.with_extension("none"), path))
    }),
    ("rename-of-a-directory-elsewhere", |path| {
        let (from, to) = (path.with_extension("from"), path.with_extension("to"));
        fs::create_dir_all(from.join("moves"))?;
        fs::create_dir(&to)?;
        let rename = || fs::rename(from.join("moves"), to.join("moves")).map(|()| String::new());
        with_times(&from, || {
            with_times(&to, || with_times(&from.join("moves"), rename)).or(Ok(String::from("gone")))
        })
    }),
    ("write", |path| above(path, || fs::write(path, "new"))),
    ("chmod", |path| {
        above(path, || {
            fs::set_permissions(path, Permissions::from_mode(0o600))
        })
    }),
    ("read", |path| {
        above(path, || {
            fs::read_dir(path.parent().unwrap()).map(|list| list.for_each(drop))
        })
    }),
];

#[test]
fn directory_times_are_those_of_a_plain_directory() {
    let test = "directory_times_are_those_of_a_plain_directory";
    let Some(places) = Places::new(test, &Files::of(&TIMES, 5_000)) else {
        return;
    };
    places.assert_same(&TIMES);
    places.finish();
}
