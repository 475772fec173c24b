//! The process, or the power, goes at a step: what the disk holds then is kept, mounted as after a
//! restart, and looked at.

use std::collections::BTreeSet;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use foldfs::store::metadata::Time;
use foldfs::sys::durable;
use parking_lot::Mutex;
use tempfile::TempDir;

use super::common::device::Kind;
use super::common::store::tool;
use super::disk::{Disk, Image, Pages};
use super::failing::Step;
use super::report::{Report, site};
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

/// Keeps what a disk holds before each step.
struct Recorder {
    loss: Loss,
    file: PathBuf,
    base: Arc<Image>,
    /// A file on that disk that nobody needs.
    bystander: File,
    calls: AtomicUsize,
    paused: AtomicBool,
    moments: Mutex<Vec<Moment>>,
}

impl Recorder {
    fn new(loss: Loss, disk: &Disk, base: Arc<Image>) -> Arc<Self> {
        Arc::new(Self {
            loss,
            file: disk.file.clone(),
            base,
            bystander: File::open(disk.path.join("bystander")).unwrap(),
            calls: AtomicUsize::new(0),
            paused: AtomicBool::new(false),
            moments: Mutex::default(),
        })
    }

    fn hook(recorder: &Arc<Self>) -> durable::Hook {
        let recorder = recorder.clone();
        Arc::new(move |kind, step| {
            recorder.keep(Some((kind, step)));
            Ok(())
        })
    }

    fn keep(&self, next: Option<(durable::Step, Step)>) {
        if self.paused.load(Ordering::SeqCst) {
            return;
        }
        let mut moments = self.moments.lock();
        match self.loss {
            Loss::Killed => rustix::fs::syncfs(&self.bystander).unwrap(),
            Loss::Unsynced => {}
            Loss::Content => {
                let mode = 0o600 + moments.len() as u32 % 2 * 0o100;
                let mode = std::fs::Permissions::from_mode(mode);
                self.bystander.set_permissions(mode).unwrap();
                self.bystander.sync_all().unwrap();
            }
        }
        let pages = self.base.settled_difference(&self.file);
        let pages = match moments.last() {
            Some(last) if *last.pages == pages => last.pages.clone(),
            _ => Arc::new(pages),
        };
        moments.push(Moment {
            step: next.map(|(_, step)| step),
            commits: next.is_some_and(|(kind, _)| kind == durable::Step::Commit),
            calls: self.calls.load(Ordering::SeqCst),
            pages,
        });
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
}

/// Has the process or the power go at each step of a scenario. `image` is a file system with a world.
pub fn sweep(scenario: &Scenario, kind: Kind, loss: Loss, image: &Path, report: &mut Report) {
    let directory = super::failing::scratch();
    let file = directory.path().join("image");
    Image::read(image).write(&Pages::new(), &file);
    let disk = Disk::mount(kind, &file, &directory.path().join("mnt"));
    let place = disk.path.join("world");
    let world = World::open(&place).unwrap();
    (scenario.prepare)(&world).unwrap();
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
    };
    let moments = run.record(&disk, &place);
    disk.unmount();
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
    let mut looked: Option<(Arc<Pages>, usize)> = None;
    for number in chosen {
        let moment = &moments[number];
        report.points += 1;
        let seen = looked.as_ref().is_some_and(|(pages, calls)| {
            Arc::ptr_eq(pages, &moment.pages) && *calls == moment.calls
        });
        if !seen {
            let step = moment
                .step
                .map_or("the end".into(), |step| step.to_string());
            let what = format!("{}: {loss:?} at {number} ({step})", scenario.name);
            run.look(moment, 0, &what, report);
            looked = Some((moment.pages.clone(), moment.calls));
        }
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
        chosen.insert(report.random(steps.len()));
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
        let recorder = Recorder::new(self.loss, disk, self.base.clone());
        durable::set_hook(Some(Recorder::hook(&recorder)));
        let world = World::open(place).unwrap();
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
        std::mem::take(&mut *recorder.moments.lock())
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

    /// Mounts what the disk held, and has a store opened on it. Opening it is disturbed, too.
    fn look(&self, moment: &Moment, depth: usize, what: &str, report: &mut Report) {
        report.looks += 1;
        let name = format!("again{depth}");
        let file = self.directory.path().join(&name);
        self.base.write(&moment.pages, &file);
        let disk = Disk::mount(self.kind, &file, &self.directory.path().join(name + "-mnt"));
        let place = disk.path.join("world");
        let recorder = Recorder::new(self.loss, &disk, self.base.clone());
        recorder.paused.store(depth > 0, Ordering::SeqCst);
        durable::set_hook(Some(Recorder::hook(&recorder)));
        let world = World::open(&place).unwrap_or_else(|error| panic!("{what}: {error}"));
        let state = world.state();
        durable::set_hook(None);
        let allowed = self.allowed(moment);
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
        let moments = std::mem::take(&mut *recorder.moments.lock());
        drop(recorder);
        disk.unmount();
        if moments.is_empty() {
            return;
        }
        for step in moments.iter().filter_map(|moment| moment.step) {
            report.sites.reached(step);
        }
        let mut chosen: Vec<_> = (0..moments.len()).collect();
        if !report.is_whole {
            chosen = vec![report.random(moments.len())];
        }
        for number in chosen {
            let again = Moment {
                calls: moment.calls,
                commits: false,
                step: moment.step,
                pages: moments[number].pages.clone(),
            };
            report.points += 1;
            let step = moments[number].step.map(|step| step.to_string());
            let what = format!("{what}, then at {number} of opening ({step:?})");
            self.look(&again, depth + 1, &what, report);
        }
    }
}
