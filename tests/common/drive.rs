//! Drives the model and real systems through one list of operations and compares them.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngSeed, TestRunner};
use rustix::time::{ClockId, clock_gettime};

use super::directory::{Scan, System};
use super::model::{Id, Model, Modified, Outcome};
use super::op::{Invisible, Op};
use super::snapshot::{Depth, Entry, Fields, Snapshot, Time, show};

/// How often contents and xattrs are compared.
const FULL_EVERY: usize = 12;

/// What is compared in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watch {
    /// Attributes of everything, after each operation.
    Closely,
    /// Nothing: the kernel's caches stay as the operations leave them.
    Seldom,
}

/// What a real system showed of an inode when it was last looked at.
#[derive(Debug, Clone, Copy)]
struct Seen {
    ino: u64,
    mtime: Time,
    ctime: Time,
}

/// What is known of one real system.
#[derive(Debug, Default)]
struct Tracker {
    seen: BTreeMap<Id, Seen>,
    gone: BTreeSet<u64>,
    checked: u64,
    since: Time,
}

/// Carries out the operations on the model and on all systems. The error says at which operation
/// what differed.
pub fn run(
    ops: &[Op],
    watch: Watch,
    model: &mut Model,
    systems: &mut [&mut dyn System],
) -> Result<usize, String> {
    let mut trackers: Vec<Tracker> = systems.iter().map(|_| Tracker::default()).collect();
    let mut performed = 0;
    let trace = std::env::var_os("FOLDFS_TEST_TRACE").is_some();
    check(model, systems, &mut trackers, Depth::Full).map_err(|e| format!("at the start: {e}"))?;
    for (index, op) in ops.iter().enumerate() {
        let Some(step) = model.prepare(op) else {
            continue;
        };
        if trace {
            eprintln!("{index}: {}", describe(&step));
        }
        performed += 1;
        let context = |error: String| format!("operation {index}, {}: {error}", describe(&step));
        if let Op::Invisible(what) = step {
            invisible(what, model, systems).map_err(context)?;
            model.perform(&step);
            check(model, systems, &mut trackers, Depth::Full).map_err(context)?;
            continue;
        }
        wait_for_tick();
        perform(&step, model, systems).map_err(context)?;
        if performed % FULL_EVERY == 0 {
            check(model, systems, &mut trackers, Depth::Full).map_err(context)?;
        } else if watch == Watch::Closely {
            check(model, systems, &mut trackers, Depth::Attributes).map_err(context)?;
        }
    }
    check(model, systems, &mut trackers, Depth::Full).map_err(|e| format!("at the end: {e}"))?;
    for system in systems {
        system.check_others()?;
    }
    Ok(performed)
}

fn perform(
    step: &Op<Vec<u8>>,
    model: &mut Model,
    systems: &mut [&mut dyn System],
) -> Result<(), String> {
    let expected = model.perform(step);
    for system in systems {
        let mut found = system.perform(step);
        if let (Op::MapLoad { .. }, Outcome::Bytes(found), Outcome::Bytes(expected)) =
            (step, &mut found, &expected)
        {
            // The last page goes on after the end of the file.
            found.truncate(expected.len());
        }
        if !expected.agrees(&found) {
            let (name, expected, found) = (system.name(), shorten(&expected), shorten(&found));
            return Err(format!("{name} gave {found}, expected {expected}"));
        }
    }
    Ok(())
}

fn invisible(
    what: Invisible,
    model: &mut Model,
    systems: &mut [&mut dyn System],
) -> Result<(), String> {
    if what == Invisible::Remount {
        for slot in 0..model.mappings.len() as u8 {
            if model.mappings[usize::from(slot)].is_some() {
                perform(&Op::Unmap { map: slot }, model, systems)?;
            }
        }
        for slot in 0..model.handles.len() as u8 {
            if model.handles[usize::from(slot)].is_some() {
                perform(&Op::Close { handle: slot }, model, systems)?;
            }
        }
    }
    let before: Vec<Scan> = scan_all(systems);
    for system in systems.iter_mut() {
        system.invisible(what);
    }
    let after = scan_all(systems);
    for (system, (before, after)) in systems.iter_mut().zip(before.iter().zip(&after)) {
        let lines = scan_differences(before, after);
        if !lines.is_empty() {
            return Err(format!(
                "visible in {}:\n{}",
                system.name(),
                lines.join("\n")
            ));
        }
        system.check_others()?;
    }
    Ok(())
}

fn scan_all(systems: &mut [&mut dyn System]) -> Vec<Scan> {
    systems
        .iter_mut()
        .map(|system| system.scan(Depth::Full))
        .collect()
}

fn scan_differences(before: &Scan, after: &Scan) -> Vec<String> {
    let mut lines = before.tree.differences(&after.tree, Fields::ALL);
    for (slot, (before, after)) in before.handles.iter().zip(&after.handles).enumerate() {
        if let (Some((old, old_content)), Some((new, new_content))) = (before, after) {
            lines.extend(compare_entry(
                &format!("handle {slot}"),
                old,
                new,
                Fields::ALL,
            ));
            if old_content != new_content {
                lines.push(format!("handle {slot}: content changed"));
            }
        }
    }
    if before.mappings != after.mappings {
        lines.push("a mapping's content changed".into());
    }
    lines
}

fn check(
    model: &mut Model,
    systems: &mut [&mut dyn System],
    trackers: &mut [Tracker],
    depth: Depth,
) -> Result<(), String> {
    let expected = model.snapshot(depth);
    for (system, tracker) in systems.iter_mut().zip(trackers) {
        let scan = system.scan(depth);
        let fields = Fields::NLINK;
        let mut lines = expected.differences(&scan.tree, fields);
        if lines.is_empty() {
            lines = check_handles(model, &scan, depth);
        }
        if lines.is_empty() {
            lines = tracker.follow(model, &scan, system.never_reuses_numbers());
        }
        if !lines.is_empty() {
            return Err(format!("{} differs:\n{}", system.name(), lines.join("\n")));
        }
    }
    Ok(())
}

fn check_handles(model: &Model, scan: &Scan, depth: Depth) -> Vec<String> {
    let mut lines = Vec::new();
    for (slot, handle) in model.handles.iter().enumerate() {
        let (Some(handle), Some((entry, content))) = (handle, &scan.handles[slot]) else {
            continue;
        };
        let name = format!("handle {slot}");
        let expected = model.entry(handle.id, Depth::Attributes);
        lines.extend(compare_entry(&name, &expected, entry, Fields::NLINK));
        if let Some(content) = content
            && content != model.content(handle.id)
        {
            lines.push(format!(
                "{name}: {}",
                content_fault(content, model.content(handle.id))
            ));
        }
    }
    for (slot, mapping) in model.mappings.iter().enumerate() {
        let (Some(mapping), Some(found)) = (mapping, &scan.mappings[slot]) else {
            continue;
        };
        let expected = model.content(mapping.id);
        let length = mapping.length.min(expected.len());
        if depth == Depth::Full && !found.starts_with(&expected[..length]) {
            lines.push(format!(
                "mapping {slot}: {}",
                content_fault(found, &expected[..length])
            ));
        }
    }
    lines
}

fn content_fault(found: &[u8], expected: &[u8]) -> String {
    let at = found.iter().zip(expected).position(|(a, b)| a != b);
    let at = at.map_or("nowhere".into(), |at| at.to_string());
    format!(
        "{} bytes, expected {}; first other byte at {at}",
        found.len(),
        expected.len()
    )
}

fn compare_entry(name: &str, expected: &Entry, found: &Entry, fields: Fields) -> Vec<String> {
    let single = |entry: &Entry| Snapshot {
        entries: [(name.as_bytes().to_vec(), entry.clone())].into(),
    };
    single(expected).differences(&single(found), fields.without(Fields::LINKS))
}

impl Tracker {
    /// Compares identities and times with what was seen before.
    fn follow(&mut self, model: &Model, scan: &Scan, never_reuses: bool) -> Vec<String> {
        let mut lines = Vec::new();
        let mut shown: Vec<(String, Id, &Entry)> = Vec::new();
        for (path, id) in model.paths() {
            shown.push((show(&path), id, &scan.tree.entries[&path]));
        }
        for (slot, handle) in model.handles.iter().enumerate() {
            if let (Some(handle), Some((entry, _))) = (handle, &scan.handles[slot]) {
                shown.push((format!("handle {slot}"), handle.id, entry));
            }
        }
        let now = coarse_now();
        let mut fresh: BTreeMap<Id, Seen> = BTreeMap::new();
        let mut owners: BTreeMap<u64, Id> = BTreeMap::new();
        for (name, id, entry) in shown {
            let Entry {
                ino, mtime, ctime, ..
            } = *entry;
            let seen = Seen { ino, mtime, ctime };
            if *owners.entry(ino).or_insert(id) != id {
                lines.push(format!("{name}: inode {ino} is another file's too"));
            }
            if let Some(first) = fresh.insert(id, seen)
                && (first.ino, first.mtime, first.ctime) != (ino, mtime, ctime)
            {
                lines.push(format!(
                    "{name}: {seen:?}, another name or handle shows {first:?}"
                ));
            }
            let known = self.seen.get(&id);
            if known.is_some_and(|known| known.ino != ino) {
                lines.push(format!("{name}: inode was {known:?}, is now {ino}"));
            }
            if known.is_none() && never_reuses && self.gone.contains(&ino) {
                lines.push(format!(
                    "{name}: inode {ino} belonged to a file that is gone"
                ));
            }
            let node = &model.nodes[&id];
            let mut fault = |what: &str, text: String| lines.push(format!("{name}: {what} {text}"));
            match node.mtime {
                Modified::At(time) if time != mtime => {
                    fault("mtime", format!("is {mtime:?}, was set to {time:?}"));
                }
                Modified::At(_) => {}
                Modified::By(tick) => {
                    let known = known.map(|known| known.mtime);
                    if let Some(text) = self.time_fault(tick, known, mtime, now) {
                        fault("mtime", text);
                    }
                }
            }
            let maybe = node.ctime_maybe > self.checked && node.ctime <= self.checked;
            if !maybe
                && let Some(text) =
                    self.time_fault(node.ctime, known.map(|known| known.ctime), ctime, now)
            {
                fault("ctime", text);
            }
        }
        for seen in self.seen.values() {
            self.gone.insert(seen.ino);
        }
        for seen in fresh.values() {
            self.gone.remove(&seen.ino);
        }
        self.seen = fresh;
        self.checked = model.tick;
        self.since = now;
        lines
    }

    fn time_fault(&self, tick: u64, known: Option<Time>, found: Time, now: Time) -> Option<String> {
        if tick > self.checked {
            let in_time = (self.since..=after(now)).contains(&found);
            return (!in_time || known == Some(found)).then(|| {
                format!(
                    "is {found:?} and was {known:?}, must be of {:?} to {now:?}",
                    self.since
                )
            });
        }
        let known = known?;
        (known != found).then(|| format!("changed from {known:?} to {found:?}, must not"))
    }
}

/// Fine-grained timestamps run ahead of the coarse clock by up to a tick.
fn after((seconds, nanoseconds): Time) -> Time {
    (seconds + 1, nanoseconds)
}

fn coarse_now() -> Time {
    let now = clock_gettime(ClockId::RealtimeCoarse);
    (now.tv_sec, now.tv_nsec as u64)
}

/// Waits until the clock that file systems stamp with has moved on, so that a change shows; past
/// the fine-grained stamps that there may be already.
fn wait_for_tick() {
    let start = clock_gettime(ClockId::Realtime);
    while coarse_now() <= (start.tv_sec, start.tv_nsec as u64) {
        std::thread::sleep(Duration::from_micros(500));
    }
}

fn describe(step: &Op<Vec<u8>>) -> String {
    format!("{:?}", step.clone().map(|path| show(&path)))
}

fn shorten(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Bytes(bytes) if bytes.len() > 60 => {
            format!("{} bytes, {}...", bytes.len(), bytes[..60].escape_ascii())
        }
        Outcome::Seek {
            content,
            from,
            data,
        } => {
            format!(
                "a seek for data ({data}) from {from} of {} bytes",
                content.len()
            )
        }
        other => format!("{other:?}"),
    }
}

/// How many operations a run has: `FOLDFS_TEST_OPS`, else `default`.
pub fn operations(default: usize) -> usize {
    let given = std::env::var("FOLDFS_TEST_OPS").ok();
    given.map_or(default, |value| {
        value.parse().expect("FOLDFS_TEST_OPS is a number")
    })
}

/// Runs lists of random operations, `length` in each, about `total` in all. What fails is shortened
/// and printed in a form that a `regression_*` test can take over. FOLDFS_TEST_SEED chooses others.
pub fn explore<T: Clone + std::fmt::Debug>(
    strategy: impl Strategy<Value = T>,
    length: usize,
    total: usize,
    case: impl FnMut(&[T]) -> Result<usize, String>,
) {
    explore_from(0, strategy, length, total, case);
}

/// The same; `offset` is added to the seed.
pub fn explore_from<T: Clone + std::fmt::Debug>(
    offset: u64,
    strategy: impl Strategy<Value = T>,
    length: usize,
    total: usize,
    mut case: impl FnMut(&[T]) -> Result<usize, String>,
) {
    let seed = std::env::var("FOLDFS_TEST_SEED").ok();
    let seed = seed.map_or(1_u64, |value| {
        value.parse().expect("FOLDFS_TEST_SEED is a number")
    });
    let config = Config {
        rng_seed: RngSeed::Fixed(seed + offset),
        ..Config::default()
    };
    let mut runner = TestRunner::new(config);
    let lists = proptest::collection::vec(strategy, length);
    let mut performed = 0;
    for _ in 0..total.div_ceil(length) {
        let ops = lists
            .new_tree(&mut runner)
            .expect("lists can be made")
            .current();
        match caught(&mut case, &ops) {
            Ok(count) => performed += count,
            Err(error) => {
                eprintln!("seed {seed}: {error}\nshortening the list");
                let (ops, error) = shorten_list(ops, error, &mut case);
                panic!("seed {seed}: {error}\n{ops:?}");
            }
        }
    }
    eprintln!("{performed} operations performed, seed {seed}");
}

fn caught<T>(
    case: &mut impl FnMut(&[T]) -> Result<usize, String>,
    ops: &[T],
) -> Result<usize, String> {
    catch_unwind(AssertUnwindSafe(|| case(ops))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(text.unwrap_or_else(|| "a panic".into()))
    })
}

/// Leaves out what is not needed for a failure, in ever smaller pieces, for three minutes at most.
fn shorten_list<T: Clone>(
    mut ops: Vec<T>,
    mut error: String,
    case: &mut impl FnMut(&[T]) -> Result<usize, String>,
) -> (Vec<T>, String) {
    let start = Instant::now();
    let mut piece = ops.len() / 2;
    while piece > 0 {
        let mut at = 0;
        while at < ops.len() && start.elapsed() < Duration::from_secs(180) {
            let mut fewer = ops.clone();
            fewer.drain(at..(at + piece).min(ops.len()));
            match caught(case, &fewer) {
                Ok(_) => at += piece,
                Err(new) => (ops, error) = (fewer, new),
            }
        }
        piece /= 2;
    }
    (ops, error)
}
