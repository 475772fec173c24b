//! Everything that changes a store.

use std::fs;
use std::path::Path;

use foldfs::archive::import_directory;
use foldfs::fold::placement;
use foldfs::ops::export::{self, Format};
use foldfs::ops::{collect, fold, rename};
use foldfs::progress::Silent;
use foldfs::store::Store;
use foldfs::store::catalog::{Reads, Share};

use super::guests;
use super::world::{Done, World, said};

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
    pub calls: &'static [Call],
    pub shows: Shows,
}

/// What there is nothing to prepare for.
pub const PLAIN: Scenario = Scenario {
    name: "",
    prepare: |_| Ok(()),
    leave: |_| (),
    calls: &[],
    shows: Shows::Whole,
};

macro_rules! durable {
    ($($run:expr),*) => { &[$(Call { run: $run, durable: true }),*] };
}

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
        name: "clone while files are open for writing",
        calls: durable!(|w| {
            let hands = super::operations::Hands::on(w, "one")?;
            hands.while_open("own/large", || {
                hands.while_open("own/one", || w.clone("one", "copy"))
            })
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
        prepare: |w| super::operations::Hands::on(w, "one")?.put("own/linked", b"linked"),
        leave: |place| {
            for image in fs::read_dir(place.join("store/images")).unwrap() {
                let file = image.unwrap().path().join("private/own/linked");
                if file.exists() {
                    fs::hard_link(&file, place.join("linked")).unwrap();
                }
            }
        },
        calls: durable!(fold),
        shows: Shows::Nothing,
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
    },
    Scenario {
        name: "collect beside an import that needs the objects",
        prepare: |w| {
            w.import("brief", "other", "short")?;
            w.remove("brief")?;
            w.remove("short")
        },
        calls: durable!(|w| {
            let plan = collect::plan(&w.context, &Silent).map_err(said)?;
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
        guests::METADATA,
        guests::WRITES,
        guests::SEQUENCES,
    ]
    .concat()
}

fn equal_files(world: &World) -> Done {
    let content = super::common::op::pattern(3, 20_000);
    for image in ["one", "two"] {
        let hands = super::operations::Hands::on(world, image)?;
        hands.put("own/equal", &content)?;
        hands.write("own/two", 0, b"two names, equal")?;
        hands.write("etc/passwd", 0, b"changed in both images")?;
    }
    Ok(())
}

fn fold(world: &World) -> Done {
    let options = fold::Options { family: None };
    let fold = || {
        let plan = fold::plan(&world.context, &options, &Silent).map_err(said)?;
        fold::apply(&world.context, &plan, &Silent).map_err(said)
    };
    // The next one finishes what this one left.
    fold().or_else(|error| fold().and(Err(error))).map(drop)
}

fn share(world: &World, share: Share) -> Done {
    let catalog = world.context.store.catalog();
    let family = catalog.family_by_name("family").map_err(said)?;
    let transaction = catalog.transaction().map_err(said)?;
    let id = family.ok_or("no family")?.id;
    transaction.set_share(id, share).map_err(said)?;
    transaction.commit().map_err(said)
}

fn place(world: &World) -> Done {
    let catalog = world.context.store.catalog();
    let family = catalog.family_by_name("family").map_err(said)?;
    let id = family.ok_or("no family")?.id;
    for _ in 0..3 {
        placement::place(&world.context.images, id).map_err(said)?;
    }
    Ok(())
}

fn collect(world: &World) -> Done {
    let plan = collect::plan(&world.context, &Silent).map_err(said)?;
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
    };
    let options = export::Options {
        image: "one".into(),
        destination: world.place.join(name),
        format,
    };
    export::export(&world.context, &options, &Silent).map_err(said)?;
    Ok(())
}
