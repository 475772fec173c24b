//! One step fails, and the program goes on.

use std::collections::BTreeSet;
use std::panic::Location;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use foldfs::store::catalog::Reads;
use foldfs::store::metadata::Time;
use foldfs::sys::durable;
use parking_lot::Mutex;
use rustix::io::Errno;
use tempfile::TempDir;

use super::report::{Report, site};
use super::scenarios::{Scenario, Shows};
use super::states::{differences, normal, place_of, seen, without_ctime};
use super::world::{Done, State, World};

/// The steps of a run: counted, but for those of looking.
#[derive(Default)]
struct Counter {
    steps: AtomicUsize,
    paused: AtomicBool,
}

/// In memory where it can be: what it would wait for are syncs.
pub fn scratch() -> TempDir {
    TempDir::new_in("/dev/shm").unwrap_or_else(|_| super::common::scratch())
}

/// A copy of a world.
pub fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(status.unwrap().success());
}

/// Has each step of a scenario fail in its turn, with one of these errors.
pub fn sweep(scenario: &Scenario, base: &Path, errors: &[Errno], report: &mut Report) {
    let directory = scratch();
    let prepared = directory.path().join("prepared");
    copy(base, &prepared);
    let world = World::open(&prepared).unwrap();
    (scenario.prepare)(&world).unwrap();
    let first = world.context.store.catalog().next_number().unwrap();
    let before = world.state();
    drop(world);
    (scenario.leave)(&prepared);
    // The host's clock of inode times goes in ticks.
    std::thread::sleep(Duration::from_millis(20));
    let start = Time::now();
    let (reference, steps) = states(scenario, &prepared, directory.path());
    assert_mended(scenario, &before, &reference[0]);
    let mut run = Run {
        scenario,
        error: Errno::IO,
        start,
        first,
        reference: Vec::new(),
    };
    run.reference = reference.iter().map(|state| run.normal(state)).collect();
    for step in sample(&steps, report) {
        let place = directory.path().join("place");
        copy(&prepared, &place);
        run.error = errors[step % errors.len()];
        report.points += usize::from(run.fail(step, &place, report));
        std::fs::remove_dir_all(&place).unwrap();
    }
}

/// The state before the first call, and that after each; the steps on the way.
fn states(scenario: &Scenario, prepared: &Path, directory: &Path) -> (Vec<State>, Vec<Step>) {
    let place = directory.join("reference");
    copy(prepared, &place);
    let steps = Arc::new(Mutex::new(Vec::new()));
    let (taken, there, meanwhile) = (steps.clone(), place.clone(), scenario.meanwhile);
    let watch: durable::Hook = Arc::new(move |_, site| {
        meanwhile(&there, site);
        taken.lock().push(site);
        Ok(())
    });
    durable::set_hook(Some(watch.clone()));
    let world = (scenario.open)(&place).unwrap();
    durable::set_hook(None);
    let mut states = vec![world.state()];
    for call in scenario.calls {
        durable::set_hook(Some(watch.clone()));
        (call.run)(&world).unwrap_or_else(|error| panic!("{}: {error}", scenario.name));
        durable::set_hook(None);
        states.push(world.state());
    }
    drop(world);
    std::fs::remove_dir_all(&place).unwrap();
    let steps = steps.lock().clone();
    (states, steps)
}

/// Expects a repair to have brought back what was there before the damage.
pub fn assert_mended(scenario: &Scenario, before: &State, mended: &State) {
    if scenario.shows == Shows::Mended {
        // What was moved aside is new.
        let before = State {
            exported: mended.exported.clone(),
            ..before.clone()
        };
        let allowed = std::slice::from_ref(&before);
        let found = place_of(mended, allowed, Shows::Mended, Time::default(), false);
        found.unwrap_or_else(|wrong| panic!("{}: {wrong}", scenario.name));
    }
}

/// The place of a step in the source.
pub type Step = &'static Location<'static>;

/// Which steps to disturb, unless the whole sweep is asked for: all of a few. Of many the first and
/// the last at each place, and others at random.
fn sample(steps: &[Step], report: &mut Report) -> BTreeSet<usize> {
    if report.is_whole || steps.len() <= FEW {
        return (0..steps.len()).collect();
    }
    let ends = |steps: &mut dyn Iterator<Item = (usize, &Step)>| -> Vec<usize> {
        let mut places = BTreeSet::new();
        let first = steps.filter(|(_, step)| places.insert(site(step)));
        first.map(|(number, _)| number).collect()
    };
    let mut chosen = BTreeSet::from_iter(ends(&mut steps.iter().enumerate()));
    chosen.extend(ends(&mut steps.iter().enumerate().rev()));
    for _ in 0..FEW / 2 {
        chosen.insert(report.random.below(steps.len()));
    }
    chosen
}

/// So many steps are all tried.
const FEW: usize = 24;

struct Run<'a> {
    scenario: &'a Scenario,
    error: Errno,
    start: Time,
    first: u64,
    reference: Vec<State>,
}

impl Run<'_> {
    /// Has one step fail; whether there is such a step.
    fn fail(&self, step: usize, place: &Path, report: &mut Report) -> bool {
        let counter = Arc::new(Counter::default());
        let sites = report.sites.clone();
        let (counted, error) = (counter.clone(), self.error);
        let (there, meanwhile) = (place.to_owned(), self.scenario.meanwhile);
        durable::set_hook(Some(Arc::new(move |_, site| {
            if counted.paused.load(Ordering::SeqCst) {
                return Ok(());
            }
            meanwhile(&there, site);
            sites.reached(site);
            match counted.steps.fetch_add(1, Ordering::SeqCst) == step {
                true => {
                    sites.at(site);
                    Err(error)
                }
                false => Ok(()),
            }
        })));
        let what = |report: &Report| {
            let site = report.sites.last();
            format!(
                "{}: step {step} ({site}) fails with {error}",
                self.scenario.name
            )
        };
        let world = match (self.scenario.open)(place) {
            Ok(world) => world,
            Err(error) => {
                durable::set_hook(None);
                let what = format!("{} ({error})", what(report));
                let world = (self.scenario.open)(place);
                let world = world.unwrap_or_else(|error| panic!("{what}: {error}"));
                self.assert_allowed(&world.state(), 0, &Ok(()), &what);
                self.assert_goes_on(world, 0, &what);
                return true;
            }
        };
        counter.paused.store(true, Ordering::SeqCst);
        let before = world.state();
        counter.paused.store(false, Ordering::SeqCst);
        let mut ended: Done = Ok(());
        let mut done = 0;
        for call in self.scenario.calls {
            ended = (call.run)(&world);
            if ended.is_err() {
                break;
            }
            done += 1;
        }
        durable::set_hook(None);
        let reached = counter.steps.load(Ordering::SeqCst) > step;
        let what = format!("{}, {ended:?}", what(report));
        assert!(reached || ended.is_ok(), "{what}");
        let live = world.state();
        let at = self.assert_allowed(&live, done, &ended, &what);
        let now = match self.scenario.shows {
            Shows::Nothing => seen(&before, &live),
            // A write that fails changes times and clears set-id bits, on ext4 as well.
            Shows::Data => String::new(),
            _ if at == 0 => differences(&without_ctime(&before), &without_ctime(&live)),
            _ => String::new(),
        };
        assert!(now.is_empty(), "{what}, it shows:\n{now}");
        drop(world);
        let world = (self.scenario.open)(place);
        let world = world.unwrap_or_else(|error| panic!("{what}: {error}"));
        let reopened = world.state();
        let now = match self.scenario.shows == Shows::Nothing {
            true => differences(&live, &reopened),
            false => differences(&without_ctime(&live), &without_ctime(&reopened)),
        };
        assert!(now.is_empty(), "{what}, opened again:\n{now}");
        self.assert_goes_on(world, at, &what);
        reached
    }

    /// What does not differ from run to run. When an operation has happened but could not note its
    /// time, that is no failure of it.
    fn normal(&self, state: &State) -> State {
        without_ctime(&normal(state, self.start, self.first))
    }

    /// Which state this is.
    fn assert_allowed(&self, state: &State, done: usize, ended: &Done, what: &str) -> usize {
        if self.scenario.shows == Shows::Between {
            return self.scenario.calls.len();
        }
        let state = self.normal(state);
        let allowed = &self.reference[done..=done + usize::from(ended.is_err())];
        let found = place_of(&state, allowed, self.scenario.shows, Time::default(), false);
        done + found.unwrap_or_else(|wrong| panic!("{what}: {wrong}"))
    }

    /// What was not done can be done, and all is well at the end.
    fn assert_goes_on(&self, world: World, at: usize, what: &str) {
        assert_eq!(world.findings(), [""; 0], "{what}");
        if at == self.scenario.calls.len() {
            return;
        }
        for call in &self.scenario.calls[at..] {
            let again = (call.run)(&world);
            assert_eq!(again, Ok(()), "{what}, tried again");
        }
        let state = self.normal(&world.state());
        let end = self.reference.last().unwrap();
        let now = differences(end, &state);
        assert!(now.is_empty(), "{what}, tried again:\n{now}");
    }
}
