//! Stores that are not as they should be, or do not stay so: repairs, what an older foldfs left, and
//! what others do meanwhile.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use foldfs::ops::repair;
use foldfs::progress::Silent;
use foldfs::store::catalog::Reads;
use foldfs::store::digest::Digest;
use foldfs::store::mark::{self, Mark, Role};
use foldfs::store::number::Number;
use foldfs::store::{Access, Store};
use rustix::fs::{XattrFlags, lgetxattr, lremovexattr, lsetxattr};

use super::scenarios::{self, Call, PLAIN, Scenario, Shows, durable};
use super::world::{Opened, World, said};

const GENERATION: &str = "trusted.foldfs.generation";

/// The opening is what is swept here, each time it is tried.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "check --repair",
        leave: damage,
        open: |place| repaired(place, false),
        shows: Shows::Mended,
        ..PLAIN
    },
    Scenario {
        name: "check --repair of the catalog",
        leave: spoil_catalog,
        open: |place| repaired(place, false),
        shows: Shows::Mended,
        ..PLAIN
    },
    Scenario {
        name: "check --repair with an older catalog",
        leave: |place| {
            spoil_catalog(place);
            raise_generation(place, 3);
        },
        open: |place| repaired(place, true),
        shows: Shows::Mended,
        ..PLAIN
    },
    Scenario {
        name: "opening a store without a generation",
        leave: |place| lremovexattr(place.join("store/images"), GENERATION).unwrap(),
        shows: Shows::Nothing,
        ..PLAIN
    },
    Scenario {
        name: "import of what somebody else makes an object",
        meanwhile: |place, step| {
            // Everything is staged by then.
            if step.file().ends_with("store/objects.rs") {
                make_objects(place, |content| content);
            }
        },
        calls: durable!(|w| w.import("joined", "other", "family")),
        ..PLAIN
    },
    Scenario {
        name: "fold of what somebody else makes an object",
        prepare: scenarios::equal_files,
        meanwhile: |place, _| make_objects(place, |content| content),
        calls: durable!(scenarios::fold),
        shows: Shows::Nothing,
        ..PLAIN
    },
    Scenario {
        name: "fold of what becomes a damaged object",
        prepare: scenarios::equal_files,
        meanwhile: |place, _| {
            make_objects(place, |content| content.iter().map(|byte| !byte).collect());
        },
        calls: durable!(scenarios::fold),
        shows: Shows::Nothing,
        ..PLAIN
    },
];

/// Opens a store and repairs it; nothing may be left.
fn repaired(place: &Path, older_catalog: bool) -> Opened {
    let options = repair::Options {
        content: true,
        older_catalog,
        ..repair::Options::default()
    };
    repair::catalog(&place.join("store"), &options).map_err(said)?;
    let world = World::open(place)?;
    let left = repair::apply(&world.context, &options, &Silent).map_err(said)?;
    match left.findings.is_empty() {
        true => Ok(world),
        false => Err(format!("{:#?}", left.findings)),
    }
}

/// One damage of each kind that is mended.
fn damage(place: &Path) {
    let store = place.join("store");
    let opened = Store::open(&store, Access::Read).unwrap();
    let [one, two] = ["one", "two"].map(|name| {
        let image = opened.catalog().image_by_name(name).unwrap().unwrap();
        store.join(format!("images/{}", image.id))
    });
    let unused = opened.catalog().next_number().unwrap() + 5;
    drop(opened);
    let object = |content: &str| object(place, &Digest::of(content.as_bytes()));
    // Mended with own/known.
    fs::write(object("content of opt/z"), "damaged").unwrap();
    let bare = object("content of over/target");
    fs::set_permissions(&bare, fs::Permissions::from_mode(0o644)).unwrap();
    std::os::unix::fs::chown(&bare, Some(5), Some(6)).unwrap();
    fs::hard_link(object("content of usr/deep/a/b"), place.join("linked")).unwrap();
    for path in ["private/foreign", "index/foreign"] {
        fs::write(one.join(path), path).unwrap();
    }
    fs::write(store.join("images/foreign"), "in images").unwrap();
    fs::create_dir(two.join("private/own/foreign")).unwrap();
    fs::write(two.join("private/own/foreign/file"), "in a directory").unwrap();
    // A whiteout takes its place again.
    fs::remove_file(one.join("private/gone")).unwrap();
    fs::write(one.join("private/gone"), "instead of a whiteout").unwrap();
    for part in ["redirects", "orphans"] {
        fs::remove_dir_all(two.join(part)).unwrap();
    }
    for entry in fs::read_dir(one.join("index")).unwrap() {
        let entry = entry.unwrap();
        let is_token = entry.path().extension().is_some_and(|end| end == "names");
        if is_token && entry.metadata().unwrap().nlink() == 3 {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    let set_mark = |path: &str, value: &[u8]| {
        lsetxattr(one.join(path), mark::NAME, value, XattrFlags::REPLACE).unwrap();
    };
    set_mark("private/own/file", b"garbage");
    let mark = Mark::new(Number::new(unused).unwrap(), Role::File);
    set_mark("private/own/setgid", &mark.encode());
}

fn object(place: &Path, digest: &Digest) -> PathBuf {
    let name = digest.to_string();
    place
        .join("store/objects")
        .join(&name[..2])
        .join(&name[2..])
}

fn spoil_catalog(place: &Path) {
    let catalog = place.join("store/catalog.db");
    for suffix in ["-wal", "-shm"] {
        let _gone = fs::remove_file(catalog.with_file_name(format!("catalog.db{suffix}")));
    }
    fs::write(catalog, "garbage").unwrap();
}

/// As if so many changes of shared layers had come since the last backup.
fn raise_generation(place: &Path, by: u64) {
    let images = place.join("store/images");
    let mut value = [0; 8];
    assert_eq!(lgetxattr(&images, GENERATION, &mut value).unwrap(), 8);
    let raised = u64::from_le_bytes(value) + by;
    lsetxattr(
        &images,
        GENERATION,
        &raised.to_le_bytes(),
        XattrFlags::REPLACE,
    )
    .unwrap();
}

/// Makes an object of this name, with what `altered` gives, of everything that is about to become one.
fn make_objects(place: &Path, altered: fn(Vec<u8>) -> Vec<u8>) {
    for (above, below) in [("store/images", "work"), ("store/staging", "objects")] {
        for entry in fs::read_dir(place.join(above)).unwrap() {
            let Ok(entries) = fs::read_dir(entry.unwrap().path().join(below)) else {
                continue;
            };
            for becoming in entries {
                make_object(place, &becoming.unwrap().path(), altered);
            }
        }
    }
}

fn make_object(place: &Path, becoming: &Path, altered: fn(Vec<u8>) -> Vec<u8>) {
    let name = becoming.file_name().unwrap().to_str().unwrap();
    let Ok(digest) = name.parse::<Digest>() else {
        return;
    };
    let object = object(place, &digest);
    // A private file whose stub is not in place yet may stay one.
    if becoming.metadata().unwrap().nlink() != 1 || object.exists() {
        return;
    }
    let (new, directory) = (place.join("new-object"), object.parent().unwrap());
    fs::create_dir_all(directory).unwrap();
    fs::write(&new, altered(fs::read(becoming).unwrap())).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o400)).unwrap();
    fs::File::open(&new).unwrap().sync_all().unwrap();
    fs::rename(&new, &object).unwrap();
    fs::File::open(directory).unwrap().sync_all().unwrap();
}
