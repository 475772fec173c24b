//! Working trees whose changes reach the family as they are made (`mount --shared --live`): each is looked at a
//! few times a second, and committed when names, metadata or closed files have changed.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

use super::stop::Stop;
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::ops::patch::{OnConflict, Source, Worked};
use crate::ops::report::Report;
use crate::ops::request::{Call, Request};
use crate::ops::{self, Context};
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
}

/// A tree that has been unmounted may be in use for a moment; one that the base does not take stays.
const ENDING: u32 = 40;

impl LiveTrees {
    /// Commits what is done in a working tree from now on, until it is unmounted.
    pub(super) fn add(&self, image: ImageId, family: String) {
        let tree = Tree {
            family,
            committed: None,
            ending: 0,
        };
        self.0.lock().insert(image, tree);
    }

    /// Commits what was done since the last look.
    fn look(&self, context: &Context) {
        let trees: Vec<ImageId> = self.0.lock().keys().copied().collect();
        for image in trees {
            // What was done before it was unmounted is committed, too, and the tree goes with that.
            let is_mounted = !context.mounted_on(image).is_empty();
            let now = context.images.alterations(image);
            let family = {
                let trees = self.0.lock();
                let is_due = |it: &&Tree| it.committed != Some(now) || !is_mounted;
                let changed = trees.get(&image).filter(is_due);
                changed.map(|tree| tree.family.clone())
            };
            let ended = family.map_or(Ended::Done, |family| commit(context, &family));
            let is_gone = matches!(context.store.catalog().image(image), Ok(None));
            let mut trees = self.0.lock();
            let Some(tree) = trees.get_mut(&image) else {
                continue;
            };
            tree.ending += u32::from(!is_mounted);
            if ended != Ended::Busy {
                tree.committed = Some(now);
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
    /// Again at the next look.
    Busy,
    /// Again when something else is done in it.
    Failed,
}

/// Commits a working tree.
fn commit(context: &Context, family: &str) -> Ended {
    let call = Call {
        request: Request::Apply {
            source: Source::Working {
                family: family.to_owned(),
                worked: Worked::Live,
            },
            family: None,
            images: Vec::new(),
            on_conflict: OnConflict::Keep,
            who: String::from("root"),
            why: String::from("live"),
        },
        dry_run: false,
    };
    let report = match ops::perform(context, &call, &Silent) {
        Ok(Report::Apply(report)) => report,
        Ok(_) => return Ended::Done,
        Err(error) if error.kind == ErrorKind::Busy => return Ended::Busy,
        Err(error) => {
            log::error!("the working tree of family {family} is not committed: {error}");
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
