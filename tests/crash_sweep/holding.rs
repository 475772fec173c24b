//! Paths that are held, and what moves everything but them.

use foldfs::ops::hold;
use foldfs::path_bytes::PathBytes;
use foldfs::progress::Silent;
use foldfs::store::catalog::Share;

use super::scenarios::{self, Call, PLAIN, Scenario, Shows, durable};
use super::world::{Done, World, said};

/// Of every kind: a shared directory, files of several names and of none in it, stubs, a renamed
/// directory, what is private already, what is hidden, what does not exist.
const HELD: [&str; 9] = [
    "etc",
    "usr/bin/sh",
    "usr/lib/a",
    "several/first",
    "stub",
    "own",
    "var/large",
    "gone",
    "none/such",
];

/// `hold` and `release`, and what goes on beside them.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "hold",
        calls: durable!(hold),
        shows: Shows::Nothing,
        ..PLAIN
    },
    Scenario {
        name: "hold of an image",
        calls: durable!(|w| hold_at(w, "one", &["/"])),
        shows: Shows::Nothing,
        ..PLAIN
    },
    Scenario {
        name: "release, and a fold of what was held",
        prepare: |w| {
            scenarios::equal_files(w)?;
            hold(w)
        },
        calls: durable!(release, scenarios::fold),
        shows: Shows::Nothing,
        ..PLAIN
    },
    Scenario {
        name: "fold of what is held",
        prepare: |w| {
            scenarios::equal_files(w)?;
            hold(w)
        },
        calls: durable!(scenarios::fold),
        shows: Shows::Nothing,
        ..PLAIN
    },
    Scenario {
        name: "placement of what is held",
        prepare: |w| {
            hold(w)?;
            scenarios::share(w, Share::All)
        },
        calls: durable!(scenarios::place, |w| {
            scenarios::share(w, Share::Majority)?;
            scenarios::place(w)
        }),
        shows: Shows::Nothing,
        ..PLAIN
    },
    Scenario {
        name: "clone of what is held",
        prepare: hold,
        calls: durable!(|w| w.clone("one", "copy")),
        ..PLAIN
    },
];

fn hold(world: &World) -> Done {
    hold_at(world, "one", &HELD)
}

fn paths(paths: &[&str]) -> Vec<PathBytes> {
    let bytes = paths.iter().map(|path| path.as_bytes());
    bytes.map(PathBytes::from).collect()
}

fn hold_at(world: &World, image: &str, held: &[&str]) -> Done {
    let plan = hold::plan(&world.context, image, &paths(held)).map_err(said)?;
    hold::apply(&world.context, &plan, &Silent).map_err(said)?;
    Ok(())
}

fn release(world: &World) -> Done {
    let plan = hold::plan_release(&world.context, "one", &paths(&HELD)).map_err(said)?;
    hold::release(&world.context, &plan).map_err(said)
}
