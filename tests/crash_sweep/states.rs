//! Which states a store may be in after an operation that ended too early.

use std::collections::{BTreeMap, BTreeSet};

use foldfs::store::metadata::Time;

use super::family::{self, Seen, Snapshot};
use super::scenarios::Shows;
use super::world::State;

/// Says which of the states, one after the other, this is; else what is wrong with it.
/// What is later than `start` is of the operation. Where writes may be `torn`, what was written and not
/// synced may read as zeros: an ext4 commits the size of a file that ends in a block it had without
/// the content.
pub fn place_of(
    found: &State,
    allowed: &[State],
    shows: Shows,
    start: Time,
    torn: bool,
) -> Result<usize, String> {
    if shows == Shows::Between {
        return Ok(0);
    }
    let reduced = |state: &State| match shows {
        Shows::Nothing | Shows::Between => state.clone(),
        // One of several steps may have another time than the last one.
        Shows::Whole => without(state, &|seen| {
            seen.ctime = Time::default();
            if start > Time::default() && seen.mtime >= start {
                seen.mtime = start;
            }
        }),
        Shows::Mended => without(state, &|seen| {
            seen.number = 0;
            seen.ctime = Time::default();
            if seen.file_type == "Directory" {
                seen.mtime = Time::default();
            }
        }),
        Shows::Data => without(state, &|seen| {
            seen.ctime = Time::default();
            seen.mtime = Time::default();
            seen.mode = 0;
            seen.size = 0;
            seen.content = Vec::new();
        }),
    };
    let bare = reduced(found);
    let Some(place) = allowed.iter().position(|state| reduced(state) == bare) else {
        let nearest = allowed
            .iter()
            .map(|state| differences(&reduced(state), &bare));
        let nearest: Vec<_> = nearest.collect();
        return Err(format!(
            "it is in no state there was:\n{}",
            nearest.join("\nor\n")
        ));
    };
    match shows {
        Shows::Nothing | Shows::Between | Shows::Mended => {}
        Shows::Whole => mixed(found, allowed, &|seen, other| {
            seen.ctime == other.ctime || seen.ctime >= start
        })?,
        Shows::Data => {
            let size = seen_size(found);
            mixed(found, allowed, &|seen, other| {
                seen.ctime == other.ctime || seen.ctime >= start
            })?;
            mixed(found, allowed, &|seen, other| seen.mtime == other.mtime)?;
            mixed(found, allowed, &|seen, other| seen.mode == other.mode)?;
            match torn {
                true => only_zeros_are_new(found, allowed)?,
                false => mixed(found, allowed, &|seen, other| seen.content == other.content)?,
            }
            size?;
        }
    }
    Ok(place)
}

fn seen_size(found: &State) -> Result<(), String> {
    for (path, seen) in found.images.values().flatten() {
        if seen.file_type == "Regular" && seen.size != seen.content.len() as u64 {
            return Err(format!(
                "{path}: {} bytes, but {}",
                seen.content.len(),
                seen.size
            ));
        }
    }
    Ok(())
}

/// The state but for the time of each inode's last change.
pub fn without_ctime(state: &State) -> State {
    without(state, &|seen| seen.ctime = Time::default())
}

fn without(state: &State, reduce: &dyn Fn(&mut Seen)) -> State {
    let mut state = state.clone();
    let views = state.images.values_mut();
    views.flat_map(BTreeMap::values_mut).for_each(reduce);
    state
}

/// Expects of every inode that it is in one respect as in one of the states.
fn mixed(
    found: &State,
    allowed: &[State],
    alike: &dyn Fn(&Seen, &Seen) -> bool,
) -> Result<(), String> {
    for (image, view) in &found.images {
        for (path, seen) in view {
            let views = allowed.iter().filter_map(|state| state.images.get(image));
            let mut others = views
                .flat_map(BTreeMap::values)
                .filter(|other| other.number == seen.number);
            if !others.any(|other| alike(seen, other)) {
                let was: Vec<_> = allowed
                    .iter()
                    .filter_map(|state| state.images.get(image)?.get(path))
                    .collect();
                let was: Vec<String> = was.into_iter().map(Seen::short).collect();
                return Err(format!("{image}/{path}: {}\n  was {was:#?}", seen.short()));
            }
        }
    }
    Ok(())
}

/// Expects of every file that it is as long as in one of the states, and every byte to be as in one of
/// them, or zero where they differ.
fn only_zeros_are_new(found: &State, allowed: &[State]) -> Result<(), String> {
    for (image, view) in &found.images {
        for (path, seen) in view {
            let views = allowed.iter().filter_map(|state| state.images.get(image));
            let others: Vec<&Vec<u8>> = views
                .flat_map(BTreeMap::values)
                .filter(|other| other.number == seen.number)
                .map(|other| &other.content)
                .collect();
            let has_length = others.iter().any(|other| other.len() == seen.content.len());
            let is_known = |(at, byte): (usize, &u8)| {
                let mut bytes = others.iter().map(|other| other.get(at));
                let first = bytes.clone().next().flatten();
                let agree = bytes.clone().all(|other| other == first);
                bytes.any(|other| other == Some(byte)) || *byte == 0 && !agree
            };
            if !has_length || !seen.content.iter().enumerate().all(is_known) {
                return Err(format!("{image}/{path}: {}", seen.short()));
            }
        }
    }
    Ok(())
}

/// The state with all that differs from run to run replaced: times since `start`, and numbers from
/// `first` on.
pub fn normal(state: &State, start: Time, first: u64) -> State {
    let mut state = state.clone();
    let mut numbers = BTreeMap::new();
    for seen in state.images.values_mut().flat_map(Snapshot::values_mut) {
        for time in [&mut seen.ctime, &mut seen.mtime] {
            if *time >= start {
                *time = Time {
                    seconds: i64::MAX,
                    nanoseconds: 0,
                };
            }
        }
        if seen.number >= first {
            let next = first + numbers.len() as u64;
            seen.number = *numbers.entry(seen.number).or_insert(next);
        }
    }
    // Archives and layers tell times and numbers.
    for (name, (_, content)) in &mut state.exported {
        if name == "export-tar" || name.ends_with("numbers") {
            content.clear();
        }
    }
    state
}

/// What two states differ in.
pub fn differences(left: &State, right: &State) -> String {
    let mut text = seen(left, right);
    for held in left.holds.symmetric_difference(&right.holds) {
        text += &format!("only one holds {held}\n");
    }
    text
}

/// What two states differ in that is to be seen.
pub fn seen(left: &State, right: &State) -> String {
    let mut text = String::new();
    let names: BTreeSet<_> = left.images.keys().chain(right.images.keys()).collect();
    for name in names {
        match (left.images.get(name), right.images.get(name)) {
            (Some(left), Some(right)) => {
                let differences = family::seen::differences(left, right);
                if !differences.is_empty() {
                    text += &format!("{name}:{differences}\n");
                }
            }
            _ => text += &format!("only one has image {name}\n"),
        }
    }
    let names: BTreeSet<_> = left.exported.keys().chain(right.exported.keys()).collect();
    for name in names {
        if left.exported.get(name) != right.exported.get(name) {
            text += &format!("{name}: exported otherwise\n");
        }
    }
    text
}
