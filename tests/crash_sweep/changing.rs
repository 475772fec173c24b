//! Changes of a family: made of a patch, taken back, committed in a working tree.

use foldfs::ops::patch::{self, ApplyOptions, CreateOptions, OnConflict, Source, Worked};
use foldfs::ops::{collect, working};
use foldfs::progress::Silent;

use super::scenarios::{Call, PLAIN, Scenario, Shows, durable};
use super::world::{Done, World, refused, said};

/// What a change brings is new wherever it comes: its numbers are others each time it is made.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "a change is made of a patch",
        prepare: make_patch,
        calls: durable!(apply),
        shows: Shows::Mended,
        ..PLAIN
    },
    Scenario {
        name: "a change is taken back",
        prepare: |w| {
            make_patch(w)?;
            apply(w)
        },
        calls: durable!(|w| change(w, Source::Change { change: 1 })),
        shows: Shows::Mended,
        ..PLAIN
    },
    Scenario {
        name: "a working tree is made",
        calls: durable!(make_tree),
        ..PLAIN
    },
    Scenario {
        name: "a change is committed in a working tree",
        prepare: |w| {
            make_tree(w)?;
            work(w, "family.work")
        },
        calls: durable!(commit),
        shows: Shows::Mended,
        ..PLAIN
    },
    Scenario {
        name: "collect that gives up a change",
        prepare: |w| {
            make_patch(w)?;
            apply(w)
        },
        calls: durable!(|w| {
            let plan = collect::plan(&w.context, 0, &Silent).map_err(said)?;
            collect::apply(&w.context, &plan).map_err(said)?;
            Ok(())
        }),
        shows: Shows::Nothing,
        ..PLAIN
    },
];

fn make_patch(world: &World) -> Done {
    world.clone("family", "worked")?;
    work(world, "worked")?;
    let options = CreateOptions {
        old: "family".into(),
        new: "worked".into(),
        file: world.place.join("patch"),
        signer: None,
    };
    patch::create(Some(&world.context), &options, &Silent).map_err(said)?;
    world.remove("worked")
}

fn change(world: &World, source: Source) -> Done {
    let options = ApplyOptions {
        source,
        family: Some("family".into()),
        images: Vec::new(),
        on_conflict: OnConflict::Keep,
        who: "somebody".into(),
        why: "a test".into(),
    };
    let plan = patch::plan(&world.context, &options, &Silent).map_err(said)?;
    let made = patch::apply(&world.context, plan, &Silent);
    if made.is_err() {
        // The next command that alters the store does what is left of it.
        patch::finish_left(&world.context);
    }
    made.map(drop).map_err(said)
}

fn apply(world: &World) -> Done {
    let file = world.place.join("patch").into();
    let keys = Vec::new();
    change(world, Source::Patch { file, keys })
}

fn make_tree(world: &World) -> Done {
    let plan = working::plan(&world.context, "family", false).map_err(said)?;
    working::apply(&world.context, &plan, &Silent).map_err(said)?;
    Ok(())
}

fn commit(world: &World) -> Done {
    let family = "family".into();
    let worked = Worked::ByHand;
    change(world, Source::Working { family, worked })
}

/// One of everything that a change can be.
fn work(world: &World, image: &str) -> Done {
    let guest = world.guest(image)?;
    let work = || {
        guest.write("etc/passwd", b"changed for all")?;
        guest.mkdir("etc/made")?;
        guest.put("etc/made/file", b"for all")?;
        guest.link("etc/made/file", "etc/linked")?;
        guest.symlink("made/file", "etc/made/link")?;
        guest.chmod("etc", 0o751)
    };
    work().map_err(refused)
}
