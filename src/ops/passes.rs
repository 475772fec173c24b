//! Passes: what a daemon folds by itself. A pass does what `fold` does, in small steps between which
//! commands get their turn, and leaves alone what was altered a moment ago.

use std::num::NonZeroU64;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Context;
use super::history::Begun;
use super::report::{FoldingStatus, PassReport};
use super::{damaged, place};
use crate::error::{ErrorKind, Result};
use crate::filesystem::altered::Altered;
use crate::fold::content::{self, Counts, Group, Ledger};
use crate::fold::effort::Effort;
use crate::fold::examined::Subject;
use crate::fold::folding;
use crate::fold::settle::{Left, settle};
use crate::progress::Silent;
use crate::store::catalog::Reads;
use crate::store::metadata::Time;
use crate::store::number::ImageId;

/// A step ends with the group in which it reaches so many files, or
const STEP_FILES: usize = 1024;

/// so many bytes.
const STEP_BYTES: u64 = 64 << 20;

/// Versions move into the shared layer and out of it when so many files were folded since they did:
/// a stub costs one inode, comparing all images of a family much more.
const BATCH: u64 = 100;

/// When a daemon folds by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// From the end of a pass to the next; `None`: never.
    pub interval: Option<Duration>,
    /// How long a file is left alone after it was altered.
    pub quiet: Duration,
    /// Threads that a pass uses; 0: one.
    pub threads: usize,
    /// Bytes that a pass reads in a second; `None`: as fast as it goes.
    pub rate: Option<NonZeroU64>,
}

#[derive(Default)]
struct State {
    /// Files folded since the last placement.
    unplaced: u64,
    status: FoldingStatus,
}

/// What the passes of this process did.
#[derive(Default)]
pub struct Passes {
    state: Mutex<State>,
    /// What earlier passes have seen; held while one is made.
    ledger: Mutex<Ledger>,
}

impl Passes {
    /// What is to be told of them; `None` where nobody makes any.
    pub fn status(&self) -> Option<FoldingStatus> {
        let state = self.state.lock();
        state.status.interval_seconds?;
        Some(state.status.clone())
    }

    /// Whether a pass only left out what an earlier one did.
    fn says_nothing_new(&self, report: &PassReport) -> bool {
        let only = PassReport {
            whole_images: report.whole_images,
            damaged_files: report.damaged_files,
            left_out: report.left_out.clone(),
            ..PassReport::default()
        };
        let state = self.state.lock();
        let last = state.status.last.as_ref();
        let told = |report: &PassReport| (report.damaged_files, report.left_out.clone());
        *report == only && last.is_some_and(|last| told(last) == told(report))
    }

    /// How many passes found nothing altered.
    pub fn idle(&self) -> u64 {
        self.state.lock().status.passes_with_nothing_new
    }

    /// Notes when passes are made, and that the next one comes after `pause`.
    pub fn plan_next(&self, schedule: &Schedule, pause: Duration) {
        let status = &mut self.state.lock().status;
        status.quiet_seconds = schedule.quiet.as_secs();
        status.interval_seconds = schedule.interval.map(|interval| interval.as_secs());
        status.next = Some(Time::now().seconds.saturating_add(seconds(pause)));
    }

    /// Notes how a pass ended.
    fn note(&self, outcome: &Result<Option<PassReport>>, took: Duration) {
        let status = &mut self.state.lock().status;
        status.passes += 1;
        match outcome {
            Ok(None) => {
                status.passes_with_nothing_new += 1;
                let microseconds = u64::try_from(took.as_micros());
                status.nothing_new_microseconds = microseconds.unwrap_or(u64::MAX);
            }
            Ok(Some(report)) => {
                status.folded_files += report.folded_files;
                status.folded_bytes += report.folded_bytes;
                status.last = Some(report.clone());
                status.last_error = None;
            }
            Err(error) => status.last_error = Some(error.to_string()),
        }
    }
}

/// Makes one pass over what was altered since the last one, in the first one over everything; `None`
/// if nothing was. Ends between two files when `stop` is set.
///
/// # Errors
/// The host's and the catalog's; what is done by then stays done, and no view has changed.
pub fn pass(
    context: &Context,
    schedule: &Schedule,
    stop: &AtomicBool,
) -> Result<Option<PassReport>> {
    let begun = Begun::now();
    let started = Instant::now();
    let outcome = try_pass(context, schedule, stop);
    context.passes.note(&outcome, started.elapsed());
    begun.pass(context, &outcome);
    outcome
}

fn try_pass(
    context: &Context,
    schedule: &Schedule,
    stop: &AtomicBool,
) -> Result<Option<PassReport>> {
    let begun = Instant::now();
    let now = Time::now();
    let images = context.store.catalog().images()?;
    let ids: Vec<ImageId> = images.iter().map(|image| image.id).collect();
    let mut ledger = context.passes.ledger.lock();
    ledger.residents.keep(&ids.iter().copied().collect());
    if ledger.residents.is_overgrown() {
        look_at_all(context, &ids);
    }
    let subjects = images.into_iter().map(|image| Subject {
        altered: context.images.take_altered(image.id),
        image,
        // Any image may be mounted before the pass has ended.
        mounted: true,
    });
    let mut pass = Pass {
        context,
        effort: Effort::background(schedule.threads, schedule.rate, stop, context.waiting()),
        report: PassReport::default(),
    };
    let outcome = pass.run(
        subjects.collect(),
        &mut ledger,
        earlier(now, schedule.quiet),
    );
    if outcome.is_err() || pass.report.interrupted {
        look_at_all(context, &ids);
    }
    outcome?;
    let mut report = pass.report;
    if report == PassReport::default() || context.passes.says_nothing_new(&report) {
        return Ok(None);
    }
    report.started = now.seconds;
    report.milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(Some(report))
}

fn look_at_all(context: &Context, images: &[ImageId]) {
    for &image in images {
        context.images.note_altered(image, &Altered::All);
    }
}

struct Pass<'a> {
    context: &'a Context,
    effort: Effort<'a>,
    report: PassReport,
}

impl Pass<'_> {
    fn run(&mut self, subjects: Vec<Subject>, ledger: &mut Ledger, before: Time) -> Result<()> {
        let whole = subjects
            .iter()
            .filter(|subject| subject.altered == Altered::All);
        self.report.whole_images = whole.count() as u64;
        let images = &self.context.images;
        let plan = content::plan(
            images,
            subjects,
            ledger,
            Some(before),
            &self.effort,
            &Silent,
        )?;
        let mut left_out = plan.left_out.clone();
        for image in &plan.images {
            self.report.examined += image.candidates.files.len() as u64;
            self.report.recent_files += image.candidates.recent.len() as u64;
            self.report.held_files += image.candidates.held;
            self.report.busy_files += image.busy;
            self.report.damaged_files += image.damage.files;
        }
        let mut reasons = plan.damaged();
        let mut left = Left::default();
        let mut synced = None;
        for step in steps(&plan.groups, |group| bytes_of(&plan, group)) {
            if self.effort.is_over() {
                break;
            }
            // While nobody waits for anything.
            self.effort
                .pay(step.iter().map(|group| bytes_of(&plan, group)).sum());
            let synced = match synced {
                Some(synced) => synced,
                None => *synced.insert(folding::sync(images.store())?),
            };
            let _alone = self.context.alone();
            let effort = &self.effort;
            let applied = folding::apply_some(images, &plan, step, synced, effort, &Silent)?;
            left.busy.extend(applied.left);
            left.damaged.extend(applied.damaged);
            for (image, reason) in applied.reasons {
                reasons.entry(image).or_insert(reason);
            }
            left_out.extend(applied.left_out);
            for counts in &applied.counts {
                add(&mut self.report, counts);
            }
        }
        settle(images, ledger, plan, &left);
        // Until it is mended.
        let ids: Vec<ImageId> = left_out.keys().copied().collect();
        look_at_all(self.context, &ids);
        reasons.extend(left_out);
        self.report.left_out = damaged::sentences(self.context, &reasons);
        place_if_enough(self.context, &self.effort, &mut self.report)?;
        self.report.interrupted = self.effort.is_over();
        Ok(())
    }
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

fn earlier(time: Time, by: Duration) -> Time {
    let borrows = time.nanoseconds < by.subsec_nanos();
    let nanoseconds = time.nanoseconds + if borrows { 1_000_000_000 } else { 0 };
    Time {
        seconds: time.seconds.saturating_sub(seconds(by)) - i64::from(borrows),
        nanoseconds: nanoseconds - by.subsec_nanos(),
    }
}

fn add(report: &mut PassReport, counts: &Counts) {
    report.folded_files += counts.files;
    report.folded_bytes += counts.bytes;
    report.freed_bytes += counts.freed;
    report.busy_files += counts.busy;
    report.damaged_files += counts.damaged;
}

fn bytes_of(plan: &content::Plan, group: &Group) -> u64 {
    let sizes = group.files.iter().map(|&id| plan.file(id).size);
    sizes.sum()
}

/// Pieces of a plan, each of at least one group.
fn steps(groups: &[Group], bytes: impl Fn(&Group) -> u64) -> impl Iterator<Item = &[Group]> {
    let mut rest = groups;
    std::iter::from_fn(move || {
        let (mut files, mut total) = (0, 0);
        let enough = rest.iter().position(|group| {
            files += group.files.len();
            total += bytes(group);
            files >= STEP_FILES || total >= STEP_BYTES
        });
        let (step, later) = rest.split_at(enough.map_or(rest.len(), |last| last + 1));
        rest = later;
        (!step.is_empty()).then_some(step)
    })
}

fn place_if_enough(context: &Context, effort: &Effort<'_>, report: &mut PassReport) -> Result<()> {
    let is_enough = {
        let mut state = context.passes.state.lock();
        state.unplaced += report.folded_files;
        state.unplaced >= BATCH
    };
    if !is_enough || effort.is_over() {
        return Ok(());
    }
    for family in context.store.catalog().families()? {
        let _alone = context.alone();
        let placed = place::run_if_sound(
            context,
            &family,
            false,
            effort,
            &mut report.left_out,
            &Silent,
        );
        let placed = match placed {
            // Somebody exports or checks: another pass does it. What is folded is folded.
            Err(error) if error.kind == ErrorKind::Busy => {
                log::debug!(family = family.name.as_str(); "a pass left placement out: {error}");
                return Ok(());
            }
            placed => placed?,
        };
        report.shared_paths += placed.shared;
        report.unshared_paths += placed.replaced + placed.withdrawn;
    }
    context.passes.state.lock().unplaced = 0;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::digest::Digest;

    #[test]
    fn a_time_before_another() {
        let time = |seconds, nanoseconds| Time {
            seconds,
            nanoseconds,
        };
        let half = Duration::from_millis(1500);
        assert_eq!(earlier(time(10, 600_000_000), half), time(9, 100_000_000));
        assert_eq!(earlier(time(10, 400_000_000), half), time(8, 900_000_000));
        assert_eq!(earlier(time(10, 4), Duration::ZERO), time(10, 4));
    }

    #[test]
    fn steps_are_bounded_and_leave_nothing_out() {
        let group = |number: u8, files: u32| Group {
            digest: Digest::of(&[number]),
            is_object: false,
            files: (0..files).map(|file| (0, file)).collect(),
        };
        let groups = [
            group(0, 1000),
            group(1, 24),
            group(2, 5000),
            group(3, 2),
            group(4, 2),
        ];
        let lengths =
            |bytes: u64| -> Vec<usize> { steps(&groups, |_| bytes).map(<[_]>::len).collect() };
        assert_eq!(lengths(1), [2, 1, 2]);
        assert_eq!(lengths(STEP_BYTES), [1; 5]);
        assert_eq!(steps(&[], |_| 1).count(), 0);
    }
}
