//! Everything that changes a store.

use std::fs;
use std::panic::Location;
use std::path::Path;

use foldfs::archive::import_directory;
use foldfs::fold::placement;
use foldfs::ops::export::{self, Format};
use foldfs::ops::{clone, collect, rename};
use foldfs::progress::Silent;
use foldfs::store::Store;
use foldfs::store::catalog::Share;

use super::family::commands;
use super::world::{Done, Opened, World, refused, said};
use super::{changing, guests, holding, mending};

/// One operation: it has happened wholly or not at all.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    pub run: fn(&World) -> Done,
    /// What has happened by its end is durable then.
    pub durable: bool,
}

/// What may be seen of operations that end too early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shows {
    /// Nothing, whatever becomes of them.
    Nothing,
    /// The state before or the one after; the ctime of a file may be new before.
    Whole,
    /// Likewise, but content and times of a file reach the disk apart from each other.
    Data,
    /// What was to be seen before the damage: all but numbers, ctimes and the times of directories.
    Mended,
    /// Something in between, as the operation's documentation says; the store is sound all the same.
    Between,
}

/// Operations to be swept, one after the other.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    pub name: &'static str,
    /// Done before, by another process.
    pub prepare: fn(&World) -> Done,
    /// What is done to the closed store then, in its directory.
    pub leave: fn(&Path),
    /// How it is opened after that, as often as it is.
    pub open: fn(&Path) -> Opened,
    /// What somebody else does in its directory before a step is done here.
    pub meanwhile: fn(&Path, &Location<'_>),
    pub calls: &'static [Call],
    pub shows: Shows,
}

/// What there is nothing to prepare for.
pub const PLAIN: Scenario = Scenario {
    name: "",
    prepare: |_| Ok(()),
    leave: |_| (),
    open: World::open,
    meanwhile: |_, _| (),
    calls: &[],
    shows: Shows::Whole,
};

/// Operations that are durable when they end.
macro_rules! durable {
    ($($run:expr),*) => { &[$(Call { run: $run, durable: true }),*] };
}
pub(super) use durable;

const STORE: &[Scenario] = &[
    Scenario {
        name: "init",
        calls: durable!(|w| {
            drop(Store::init(&w.place.join("fresh")).map_err(said)?);
            Ok(())
        }),
        ..PLAIN
    },
    Scenario {
        name: "import founds a family",
        calls: durable!(|w| w.import("founded", "other", "second")),
        ..PLAIN
    },
    Scenario {
        name: "import joins a family",
        calls: durable!(|w| w.import("joined", "other", "family")),
        ..PLAIN
    },
    Scenario {
        name: "import of less",
        calls: durable!(|w| w.import("joined", "less", "family")),
        ..PLAIN
    },
    Scenario {
        name: "import of an archive",
        calls: durable!(|w| w.import("joined", "tree.tar", "family")),
        ..PLAIN
    },
    Scenario {
        name: "import of an archive with replaced members",
        calls: durable!(|w| w.import("joined", "twice.tar", "family")),
        ..PLAIN
    },
    Scenario {
        name: "clone",
        calls: durable!(|w| w.clone("one", "copy")),
        ..PLAIN
    },
    Scenario {
        name: "clone with an identity of its own",
        prepare: identity,
        calls: durable!(reset_identity),
        ..PLAIN
    },
    Scenario {
        name: "clone while files are open for writing",
        calls: durable!(|w| {
            let guest = w.guest("one")?;
            let cloned = guest.while_open("own/large", || {
                guest.while_open("own/one", || w.clone("one", "copy"))
            });
            cloned.map_err(refused)?.map_err(refused)?
        }),
        ..PLAIN
    },
    Scenario {
        name: "remove",
        calls: durable!(|w| w.remove("three")),
        ..PLAIN
    },
    Scenario {
        name: "remove of a family",
        prepare: |w| {
            w.import("last", "other", "second")?;
            w.remove("last")
        },
        calls: durable!(|w| w.remove("second")),
        ..PLAIN
    },
    Scenario {
        name: "rename of an image",
        calls: durable!(|w| {
            let plan = rename::plan(&w.context, "one", "uno").map_err(said)?;
            rename::apply(&w.context, &plan).map_err(said)
        }),
        ..PLAIN
    },
    Scenario {
        name: "fold",
        prepare: equal_files,
        calls: durable!(fold),
        shows: Shows::Nothing,
        ..PLAIN
    },
    Scenario {
        name: "fold of a file that has a name outside the store",
        prepare: |w| {
            for image in ["one", "two"] {
                let put = w.guest(image)?.put("own/linked", b"linked");
                put.map_err(refused)?;
            }
            Ok(())
        },
        leave: |place| {
            for image in fs::read_dir(place.join("store/images")).unwrap() {
                let image = image.unwrap();
                let file = image.path().join("private/own/linked");
                if file.exists() {
                    fs::hard_link(&file, place.join(image.file_name())).unwrap();
                }
            }
        },
        calls: durable!(fold),
        shows: Shows::Nothing,
        ..PLAIN
    },
    Scenario {
        name: "placement shares less",
        prepare: |w| share(w, Share::All),
        calls: durable!(place),
        shows: Shows::Nothing,
        ..PLAIN
    },
    Scenario {
        name: "placement shares more",
        prepare: |w| {
            share(w, Share::All)?;
            place(w)?;
            share(w, Share::Majority)
        },
        calls: durable!(place),
        shows: Shows::Nothing,
        ..PLAIN
    },
    Scenario {
        name: "placement where a guest has been",
        prepare: |w| {
            guests::busy_where_it_places(w)?;
            share(w, Share::All)
        },
        calls: durable!(place, |w| {
            share(w, Share::Majority)?;
            place(w)
        }),
        shows: Shows::Nothing,
        ..PLAIN
    },
    Scenario {
        name: "unlink in a directory that placement is about to merge with a shared one",
        prepare: |w| {
            w.clone("one", "copy")?;
            w.clone("one", "another")
        },
        calls: durable!(|w| {
            let images = &w.context.images;
            let family = commands::family(&w.context, "family").map_err(said)?;
            let work = placement::plan(images, family).map_err(said)?;
            work.cover(images).map_err(said)?;
            work.commit(images).map_err(said)?;
            w.guest("copy")?.unlink("own/file").map_err(refused)?;
            work.uncover(images).map_err(said)?;
            Ok(())
        }),
        ..PLAIN
    },
    Scenario {
        name: "collect",
        prepare: |w| {
            w.import("brief", "other", "short")?;
            w.remove("brief")?;
            w.remove("short")?;
            w.remove("three")
        },
        leave: |place| {
            // As if an import had died that made new objects.
            let objects = place.join("store/objects");
            let digest = "ab".to_owned() + &"cd".repeat(31);
            fs::create_dir_all(objects.join(&digest[..2])).unwrap();
        },
        calls: durable!(collect),
        shows: Shows::Nothing,
        ..PLAIN
    },
    Scenario {
        name: "collect beside an import that needs the objects",
        prepare: |w| {
            w.import("brief", "other", "short")?;
            w.remove("brief")?;
            w.remove("short")
        },
        calls: durable!(|w| {
            let plan = collect::plan(&w.context, 10, &Silent).map_err(said)?;
            let tree = import_directory(&w.context.store, &w.source("other"), &Silent);
            let tree = tree.map_err(said)?;
            collect::apply(&w.context, &plan).map_err(said)?;
            drop(tree);
            Ok(())
        }),
        shows: Shows::Nothing,
        ..PLAIN
    },
    Scenario {
        name: "backup of the catalog",
        calls: durable!(backup, backup, backup),
        shows: Shows::Nothing,
        ..PLAIN
    },
    Scenario {
        name: "export as a directory",
        calls: durable!(|w| export(w, Format::Dir)),
        ..PLAIN
    },
    Scenario {
        name: "export as an archive",
        calls: durable!(|w| export(w, Format::Tar)),
        ..PLAIN
    },
    Scenario {
        name: "export as layers",
        calls: durable!(|w| export(w, Format::Overlay)),
        ..PLAIN
    },
];

/// All of them.
pub fn all() -> Vec<Scenario> {
    [
        STORE,
        guests::NAMES,
        guests::TWO_STEPS,
        guests::AT_ONCE,
        guests::METADATA,
        guests::WRITES,
        guests::SEQUENCES,
        changing::SCENARIOS,
        holding::SCENARIOS,
        mending::SCENARIOS,
    ]
    .concat()
}

/// Makes an image a machine.
fn identity(world: &World) -> Done {
    // What the clone is to lose is the image's own, and what others have, too.
    for image in ["one", "two", "three"] {
        let guest = world.guest(image)?;
        let work = || {
            guest.mkdir("etc/ssh")?;
            guest.put("etc/ssh/ssh_host_rsa_key", b"a key of all")?;
            guest.put("etc/machine-id", b"0123456789abcdef0123456789abcdef")?;
            guest.put("etc/hostname", b"one")?;
            guest.write("etc/hosts", b"127.0.1.1 one")
        };
        work().map_err(refused)?;
    }
    fold(world)?;
    place(world)?;
    let guest = world.guest("one")?;
    let work = || {
        guest.put("etc/ssh/ssh_host_dsa_key", b"its own key")?;
        guest.link("etc/hostname", "etc/mailname")?;
        guest.link("etc/ssh/ssh_host_dsa_key", "own/key")
    };
    work().map_err(refused)
}

fn reset_identity(world: &World) -> Done {
    let options = clone::Options {
        from: "one".into(),
        to: "copy".into(),
        frozen: false,
        reset: Some(Default::default()),
    };
    let plan = clone::plan(&world.context, &options).map_err(said)?;
    clone::apply(&world.context, &plan, &Silent).map_err(said)?;
    Ok(())
}

/// Gives two images equal files of every kind.
pub fn equal_files(world: &World) -> Done {
    let content = super::common::op::pattern(3, 20_000);
    for image in ["one", "two"] {
        let guest = world.guest(image)?;
        let work = || {
            guest.put("own/equal", &content)?;
            guest.write("own/two", b"two names, equal")?;
            guest.write("etc/passwd", b"changed in both images")
        };
        work().map_err(refused)?;
    }
    Ok(())
}

pub fn fold(world: &World) -> Done {
    let fold = || commands::fold(&world.context).map_err(said);
    // The next one finishes what this one left.
    fold().or_else(|error| fold().and(Err(error)))
}

pub fn share(world: &World, share: Share) -> Done {
    let family = commands::family(&world.context, "family").map_err(said)?;
    commands::set_share(&world.context, family, share).map_err(said)
}

pub fn place(world: &World) -> Done {
    let family = commands::family(&world.context, "family").map_err(said)?;
    for _ in 0..3 {
        placement::place(&world.context.images, family).map_err(said)?;
    }
    Ok(())
}

fn collect(world: &World) -> Done {
    let plan = collect::plan(&world.context, 10, &Silent).map_err(said)?;
    collect::apply(&world.context, &plan).map_err(said)?;
    Ok(())
}

fn backup(world: &World) -> Done {
    world.context.store.back_up_catalog().map_err(said)
}

fn export(world: &World, format: Format) -> Done {
    let name = match format {
        Format::Dir => "export-dir",
        Format::Tar => "export-tar",
        Format::Overlay => "export-overlay",
        Format::Store => unreachable!("tests/root_export_store.rs sweeps it"),
    };
    let options = export::Options {
        image: "one".into(),
        destination: world.place.join(name),
        format,
    };
    export::export(&world.context, &options, &Silent).map_err(said)?;
    Ok(())
}
