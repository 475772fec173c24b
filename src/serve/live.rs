//! Working trees whose changes reach the family as they are made (`mount --shared --live`): each is looked at a
//! few times a second, and committed when names, metadata or closed files have changed.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::stop::Stop;
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::ops::patch::{OnConflict, Source, Worked};
use crate::ops::report::{ApplyReport, Report};
use crate::ops::request::{Call, Request};
use crate::ops::{self, Context};
use crate::path_bytes::PathBytes;
use crate::progress::Silent;
use crate::store::catalog::Reads;
use crate::store::number::ImageId;

/// How often they are looked at. What changes in between becomes one change.
const LOOK: Duration = Duration::from_millis(50);

/// The working trees that are mounted so, each with its family and what it was like when it was last committed.
#[derive(Default)]
pub(super) struct LiveTrees(Mutex<HashMap<ImageId, Tree>>);

struct Tree {
    family: String,
    /// [`crate::filesystem::images::Images::alterations`]; `None`: nothing was committed yet.
    committed: Option<(u64, u64)>,
    /// How often it was looked at since it was unmounted.
    ending: u32,
    /// When what failed is tried again.
    again: Option<Instant>,
    /// Paths at which it has kept a version of its own against another change.
    kept: BTreeSet<PathBytes>,
}

/// What failed is tried again so much later.
const AGAIN: Duration = Duration::from_secs(10);

/// A tree that has been unmounted may be in use for a moment; one that the base does not take stays.
const ENDING: u32 = 40;

impl LiveTrees {
    /// Commits what is done in a working tree from now on, until it is unmounted.
    pub(super) fn add(&self, image: ImageId, family: String) {
        let tree = Tree {
            family,
            committed: None,
            ending: 0,
            again: None,
            kept: BTreeSet::new(),
        };
        self.0.lock().insert(image, tree);
    }

    /// Nobody commits it any more but by hand.
    pub(super) fn forget(&self, image: ImageId) {
        self.0.lock().remove(&image);
    }

    /// Notes what a change has come to in the trees: what one keeps of its own is not committed before somebody
    /// says so, by a commit of the tree.
    pub(super) fn note(&self, context: &Context, request: &Request, report: &ApplyReport) {
        let Request::Apply { source, .. } = request else {
            return;
        };
        for (&image, tree) in self.0.lock().iter_mut() {
            if tree.family != report.family {
                continue;
            }
            if matches!(source, Source::Working { .. }) && report.applied {
                tree.kept.clear();
                continue;
            }
            let Ok(Some(row)) = context.store.catalog().image(image) else {
                continue;
            };
            let mut images = report.images.iter();
            let Some(found) = images.find(|found| found.image == row.name) else {
                continue;
            };
            for conflict in &found.conflicts {
                log::warn!(image = row.name.as_str(), path:% = conflict.path; "it stands against a change, and is not committed before `foldfs commit` is");
                tree.kept.insert(conflict.path.clone());
            }
        }
    }

    /// Commits what was done since the last look.
    fn look(&self, context: &Context) {
        let trees: Vec<ImageId> = self.0.lock().keys().copied().collect();
        for image in trees {
            // What was done before it was unmounted is committed, too, and the tree goes with that.
            let is_mounted = !context.mounted_on(image).is_empty();
            let now = context.images.alterations(image);
            let due = {
                let trees = self.0.lock();
                let is_late = |it: &Tree| it.again.is_some_and(|again| again <= Instant::now());
                let is_due = |it: &&Tree| it.committed != Some(now) || !is_mounted || is_late(it);
                let changed = trees.get(&image).filter(is_due);
                changed.map(|tree| (tree.family.clone(), tree.kept.iter().cloned().collect()))
            };
            let ended = match due {
                Some((family, kept)) => commit(context, family, kept),
                None => Ended::Nothing,
            };
            let is_gone = matches!(context.store.catalog().image(image), Ok(None));
            let mut trees = self.0.lock();
            let Some(tree) = trees.get_mut(&image) else {
                continue;
            };
            tree.ending += u32::from(!is_mounted);
            match ended {
                Ended::Done => (tree.committed, tree.again) = (Some(now), None),
                Ended::Failed => {
                    (tree.committed, tree.again) = (Some(now), Some(Instant::now() + AGAIN));
                }
                Ended::Busy | Ended::Nothing => {}
            }
            let is_left = !is_mounted && (ended == Ended::Failed || tree.ending > ENDING);
            if is_gone || is_left {
                trees.remove(&image);
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Done,
    /// There was nothing to do.
    Nothing,
    /// Again at the next look.
    Busy,
    /// Again when something else is done in it, or later.
    Failed,
}

/// Commits a working tree.
fn commit(context: &Context, family: String, but_for: Vec<PathBytes>) -> Ended {
    let about = format!("the working tree of family {family}");
    let call = Call {
        request: Request::Apply {
            source: Source::Working {
                family,
                worked: Worked::Live { but_for },
            },
            family: None,
            images: Vec::new(),
            on_conflict: OnConflict::Keep,
            who: String::from("root"),
            why: String::new(),
        },
        dry_run: false,
    };
    let report = match ops::perform(context, &call, &Silent) {
        Ok(Report::Apply(report)) => report,
        Ok(_) => return Ended::Done,
        Err(error) if error.kind == ErrorKind::Busy => return Ended::Busy,
        Err(error) => {
            log::error!("{about} is not committed: {error}");
            return Ended::Failed;
        }
    };
    for image in report.images {
        for conflict in image.conflicts {
            log::warn!(image = image.image.as_str(), path:% = conflict.path; "it keeps its own: {}", conflict.reason);
        }
    }
    Ended::Done
}

/// The thread that commits them, until it is dropped.
pub(super) struct Committing {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

impl Committing {
    /// Starts it.
    ///
    /// # Errors
    /// The system has no threads left.
    pub(super) fn start(context: Arc<Context>, trees: Arc<LiveTrees>) -> Result<Self> {
        let stop = Arc::new(Stop::default());
        let stopped = stop.clone();
        let work = move || {
            while stopped.wait(LOOK) {
                trees.look(&context);
            }
            trees.look(&context);
        };
        let thread = std::thread::Builder::new()
            .name("live".into())
            .spawn(work)
            .about("a thread")?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Committing {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            let error = Error::failed("the thread that commits working trees", "it panicked");
            log::error!("{error}");
        }
    }
}
