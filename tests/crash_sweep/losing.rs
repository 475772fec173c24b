//! The process, or the power, goes at a step: what the disk holds then is kept, mounted as after a
//! restart, and looked at.

use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use foldfs::store::metadata::Time;
use foldfs::sys::durable;
use parking_lot::Mutex;
use tempfile::TempDir;

use super::common::device::Kind;
use super::common::store::tool;
use super::disk::{Backing, Disk, Held, Image, Pages};
use super::failing::{self, Step};
use super::report::{Random, Report, Site, site};
use super::scenarios::Scenario;
use super::states::place_of;
use super::world::{State, World};

/// What is on the disk when it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Everything: only the process is gone.
    Killed,
    /// What was synced.
    Unsynced,
    /// What was synced, and all names and metadata, but no other content: the journal was written
    /// just before.
    Content,
}

/// A moment, and what the disk held.
struct Moment {
    /// The step that was to be done next; none at the end.
    step: Option<Step>,
    /// It was to commit a transaction of the catalog.
    commits: bool,
    /// How many calls had returned.
    calls: usize,
    pages: Arc<Pages>,
}

/// Where it has happened, and where in the opening that follows it happened again.
type Twice = Arc<Mutex<HashSet<(Option<Site>, Site)>>>;

/// Before which steps to keep what the disk holds.
enum Wanted {
    All,
    /// At each place once, after it has happened here.
    Places(Option<Site>, Twice),
    /// One, whichever: of so many by now.
    One(Mutex<(Random, usize)>),
    None,
}

impl Wanted {
    fn is(&self, step: Step) -> bool {
        match self {
            Wanted::All => true,
            Wanted::Places(first, twice) => twice.lock().insert((first.clone(), site(step))),
            Wanted::One(chance) => {
                let (random, count) = &mut *chance.lock();
                *count += 1;
                random.below(*count) == 0
            }
            Wanted::None => false,
        }
    }
}

/// Keeps what a disk holds before steps.
struct Recorder {
    loss: Loss,
    wanted: Wanted,
    disk: Backing,
    base: Arc<Image>,
    /// A file on that disk that nobody needs.
    bystander: File,
    calls: AtomicUsize,
    paused: AtomicBool,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    moments: Vec<Moment>,
    last: Option<Held>,
}

impl Recorder {
    fn new(loss: Loss, wanted: Wanted, disk: &Disk, base: Arc<Image>) -> Arc<Self> {
        Arc::new(Self {
            loss,
            wanted,
            disk: disk.backing.clone(),
            base,
            bystander: File::open(disk.path.join("bystander")).unwrap(),
            calls: AtomicUsize::new(0),
            paused: AtomicBool::new(false),
            kept: Mutex::default(),
        })
    }

    /// Has somebody else act before each step.
    fn hook(
        recorder: &Arc<Self>,
        meanwhile: impl Fn(Step) + Send + Sync + 'static,
    ) -> durable::Hook {
        let recorder = recorder.clone();
        Arc::new(move |kind, step| {
            if !recorder.paused.load(Ordering::SeqCst) {
                meanwhile(step);
                if recorder.wanted.is(step) {
                    recorder.keep(Some((kind, step)));
                }
            }
            Ok(())
        })
    }

    fn keep(&self, next: Option<(durable::Step, Step)>) {
        let mut kept = self.kept.lock();
        if let Wanted::One(_) = self.wanted {
            kept.moments.clear();
        }
        match self.loss {
            Loss::Killed => rustix::fs::syncfs(&self.bystander).unwrap(),
            Loss::Unsynced => {}
            Loss::Content => {
                let mode = self.bystander.metadata().unwrap().permissions().mode();
                let mode = std::fs::Permissions::from_mode(mode ^ 0o100);
                self.bystander.set_permissions(mode).unwrap();
                self.bystander.sync_all().unwrap();
            }
        }
        let held = self.disk.held(&self.base, kept.last.as_ref());
        kept.moments.push(Moment {
            step: next.map(|(_, step)| step),
            commits: next.is_some_and(|(kind, _)| kind == durable::Step::Commit),
            calls: self.calls.load(Ordering::SeqCst),
            pages: held.pages.clone(),
        });
        kept.last = Some(held);
    }

    fn moments(&self) -> Vec<Moment> {
        std::mem::take(&mut self.kept.lock().moments)
    }
}

/// One scenario on one kind of file system.
struct Run<'a> {
    scenario: &'a Scenario,
    kind: Kind,
    loss: Loss,
    directory: TempDir,
    base: Arc<Image>,
    /// Where the catalog's log lies on the device.
    log: Vec<Range<u64>>,
    states: Vec<State>,
    start: Time,
    /// What was looked at: a digest of the pages, and which states could be found.
    looked: HashSet<(u64, usize, usize)>,
    twice: Twice,
}

/// Has the process or the power go at each step of a scenario. `image` is a file system with a world.
pub fn sweep(scenario: &Scenario, kind: Kind, loss: Loss, image: &Path, report: &mut Report) {
    let directory = failing::scratch();
    let file = directory.path().join("image");
    Image::read(image).write(&Pages::new(), &file);
    let disk = Disk::mount(kind, &file, &directory.path().join("mnt"));
    let place = disk.path.join("world");
    let world = World::open(&place).unwrap();
    (scenario.prepare)(&world).unwrap();
    let before = world.state();
    drop(world);
    (scenario.leave)(&place);
    let bystander = File::create(disk.path.join("bystander")).unwrap();
    rustix::fs::syncfs(&bystander).unwrap();
    drop(bystander);
    std::thread::sleep(Duration::from_millis(20));
    let mut run = Run {
        scenario,
        kind,
        loss,
        directory,
        base: Arc::new(Image::read(&file)),
        log: Vec::new(),
        states: Vec::new(),
        start: Time::now(),
        looked: HashSet::new(),
        twice: Twice::default(),
    };
    let moments = run.record(&disk, &place);
    disk.unmount();
    failing::assert_mended(scenario, &before, &run.states[0]);
    let steps: Vec<Step> = moments.iter().filter_map(|moment| moment.step).collect();
    for step in &steps {
        report.sites.reached(step);
    }
    if loss == Loss::Unsynced {
        for (number, moment) in run.only_committed(&moments).iter().enumerate() {
            report.points += 1;
            let what = format!("{}: only commit {number} reached the disk", scenario.name);
            run.look(moment, 0, &what, report);
        }
    }
    let mut chosen = sample(&steps, loss, report);
    chosen.insert(moments.len() - 1);
    for number in chosen {
        let moment = &moments[number];
        report.points += 1;
        let step = moment
            .step
            .map_or("the end".into(), |step| step.to_string());
        let what = format!("{}: {loss:?} at {number} ({step})", scenario.name);
        run.look(moment, 0, &what, report);
    }
}

/// Which moments to look at, unless the whole sweep is asked for: those between two steps between
/// which it has not happened yet, and a few others.
fn sample(steps: &[Step], loss: Loss, report: &mut Report) -> BTreeSet<usize> {
    if report.is_whole {
        return (0..steps.len()).collect();
    }
    let mut chosen = BTreeSet::new();
    let mut before = String::new();
    for (number, step) in steps.iter().enumerate() {
        let (file, line) = site(step);
        if report.dark.insert((format!("{before} {file}"), line)) {
            chosen.insert(number);
        }
        before = format!("{file}:{line}");
    }
    let more = match loss {
        Loss::Killed => 6,
        Loss::Unsynced | Loss::Content => 3,
    };
    for _ in 0..more.min(steps.len()) {
        chosen.insert(report.random.below(steps.len()));
    }
    chosen
}

/// Has the catalog write the next transactions over what is in its log, so that a commit need not
/// sync more than the log's data; where they lie on the device.
fn reuse_log(world: &World) -> Vec<Range<u64>> {
    let catalog = world.context.store.catalog();
    for _ in 0..40 {
        catalog.reserve_numbers(1).unwrap();
    }
    let path = world.place.join("store/catalog.db");
    let connection = rusqlite::Connection::open(path).unwrap();
    let (busy, pages): (i64, i64) = connection
        .query_row("PRAGMA wal_checkpoint(RESTART)", [], |row| {
            Ok((row.get(0)?, row.get(2)?))
        })
        .unwrap();
    assert!(busy == 0 && pages > 0, "{busy} {pages}");
    let log = world.place.join("store/catalog.db-wal");
    let listed = tool("filefrag", &["-v".as_ref(), log.as_os_str()]).text();
    let extents = listed.lines().filter_map(|line| {
        let fields: Vec<_> = line.split(':').collect();
        let (first, last) = fields.get(2)?.split_once("..")?;
        let block = |text: &str| text.trim().parse::<u64>().unwrap();
        Some(block(first) * 4096..(block(last) + 1) * 4096)
    });
    let extents: Vec<_> = extents.collect();
    assert!(!extents.is_empty(), "{listed}");
    extents
}

impl Run<'_> {
    /// A commit syncs the catalog's log. That ext4 and xfs write their own journals with it is not
    /// promised: the moments when all commits were just done, and nothing else was synced.
    fn only_committed(&self, moments: &[Moment]) -> Vec<Moment> {
        let pairs = moments.iter().zip(&moments[1..]);
        let commits = pairs.filter(|(moment, _)| moment.commits);
        commits
            .map(|(before, after)| {
                let mut pages = (*before.pages).clone();
                for range in &self.log {
                    pages.retain(|offset, _| !range.contains(offset));
                    let log = after.pages.range(range.clone());
                    pages.extend(log.map(|(offset, page)| (*offset, page.clone())));
                }
                Moment {
                    step: before.step,
                    commits: false,
                    calls: before.calls,
                    pages: Arc::new(pages),
                }
            })
            .collect()
    }

    fn record(&mut self, disk: &Disk, place: &Path) -> Vec<Moment> {
        let recorder = Recorder::new(self.loss, Wanted::All, disk, self.base.clone());
        let (there, meanwhile) = (place.to_owned(), self.scenario.meanwhile);
        let hook = Recorder::hook(&recorder, move |step| meanwhile(&there, step));
        durable::set_hook(Some(hook));
        let world = (self.scenario.open)(place).unwrap();
        if self.loss != Loss::Killed {
            recorder.paused.store(true, Ordering::SeqCst);
            self.log = reuse_log(&world);
            recorder.paused.store(false, Ordering::SeqCst);
        }
        let look = |states: &mut Vec<State>| {
            recorder.paused.store(true, Ordering::SeqCst);
            states.push(world.state());
            recorder.paused.store(false, Ordering::SeqCst);
        };
        look(&mut self.states);
        for call in self.scenario.calls {
            let done = (call.run)(&world);
            done.unwrap_or_else(|error| panic!("{}: {error}", self.scenario.name));
            recorder.calls.fetch_add(1, Ordering::SeqCst);
            look(&mut self.states);
        }
        recorder.keep(None);
        durable::set_hook(None);
        drop(world);
        recorder.moments()
    }

    /// Which states may be found.
    fn allowed(&self, moment: &Moment) -> std::ops::RangeInclusive<usize> {
        let last = match moment.step {
            Some(_) => (moment.calls + 1).min(self.scenario.calls.len()),
            None => moment.calls,
        };
        let lasting = |call: usize| match self.loss {
            Loss::Killed => true,
            Loss::Unsynced | Loss::Content => self.scenario.calls[call].durable,
        };
        let first = (0..moment.calls).rev().find(|call| lasting(*call));
        first.map_or(0, |call| call + 1)..=last
    }

    /// Mounts what the disk held, and has a store opened on it. Opening it is disturbed, too: in the
    /// whole sweep once at each place for each place of the first disturbance.
    fn look(&mut self, moment: &Moment, depth: usize, what: &str, report: &mut Report) {
        let allowed = self.allowed(moment);
        let mut digest = DefaultHasher::new();
        moment.pages.hash(&mut digest);
        let point = (digest.finish(), *allowed.start(), *allowed.end());
        if !self.looked.insert(point) {
            return;
        }
        report.looks += 1;
        let name = format!("again{depth}");
        let file = self.directory.path().join(&name);
        self.base.write(&moment.pages, &file);
        let disk = Disk::mount(self.kind, &file, &self.directory.path().join(name + "-mnt"));
        let place = disk.path.join("world");
        let wanted = match (depth, report.is_whole) {
            (0, true) => Wanted::Places(moment.step.map(site), self.twice.clone()),
            (0, false) => {
                let seed = report.random.below(usize::MAX) as u64;
                Wanted::One(Mutex::new((Random(seed), 0)))
            }
            _ => Wanted::None,
        };
        let recorder = Recorder::new(self.loss, wanted, &disk, self.base.clone());
        let sites = report.sites.clone();
        let hook = Recorder::hook(&recorder, move |step| sites.reached(step));
        durable::set_hook(Some(hook));
        let world = (self.scenario.open)(&place).unwrap_or_else(|error| panic!("{what}: {error}"));
        let state = world.state();
        durable::set_hook(None);
        let allowed = &self.states[allowed];
        let found = place_of(
            &state,
            allowed,
            self.scenario.shows,
            self.start,
            self.loss != Loss::Killed,
        );
        found.unwrap_or_else(|wrong| panic!("{what}: {wrong}"));
        assert_eq!(world.findings(), [""; 0], "{what}");
        drop(world);
        let moments = recorder.moments();
        drop(recorder);
        disk.unmount();
        for next in moments {
            report.points += 1;
            let step = next.step.map(|step| step.to_string());
            let what = format!("{what}, then in opening it ({step:?})");
            let again = Moment {
                calls: moment.calls,
                commits: false,
                step: moment.step,
                pages: next.pages,
            };
            self.look(&again, depth + 1, &what, report);
        }
    }
}
