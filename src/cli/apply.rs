//! patch apply and revert: changes of a family, and what became of them as a person reads it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueEnum};

use super::Outcome;
use super::arguments::DryRun;
use super::interrupt::Interrupt;
use super::session::Session;
use super::units::{count, counted};
use crate::archive::{self, Purpose, StagedImport};
use crate::error::{Context as _, Result};
use crate::ops::patch::{OnConflict, Source};
use crate::ops::report::{ApplyReport, RunningProcess};
use crate::ops::request::Request;
use crate::path_bytes::PathBytes;
use crate::progress::Progress;
use crate::store::{Access, Store};
use crate::sys::process;

/// Bring a patch into a family: its base, and each image that has what the patch says was there
///
/// Mounted images see it at once. What an image has changed itself, or is writing to, it keeps, which is
/// reported; the command exits with 3 then.
#[derive(Debug, Args)]
pub struct Apply {
    /// The patch; or a directory of the host: what the family's base is to become; or a tar archive, also
    /// compressed: a layer with OCI whiteouts, to be put over the base (`-`: standard input)
    #[arg(value_name = "SOURCE")]
    source: PathBuf,
    /// The family
    #[arg(long, value_name = "FAMILY", required_unless_present = "images")]
    family: Option<String>,
    #[command(flatten)]
    how: How,
}

/// Take a change of a family back, in the images in which it was made and their clones
///
/// It becomes a change of its own. A path on which an image has built since keeps what it has, which is
/// reported; the command exits with 3 then.
#[derive(Debug, Args)]
pub struct Revert {
    /// The change's number: `foldfs log FAMILY` shows it
    #[arg(value_name = "CHANGE")]
    change: i64,
    #[command(flatten)]
    how: How,
}

/// What is the same for all changes.
#[derive(Debug, Args)]
pub struct How {
    /// Only this image; may be given several times [default: all of the family, and its base]
    #[arg(long = "image", value_name = "IMAGE")]
    images: Vec<String>,
    /// What becomes of it where an image has a version of its own
    #[arg(long, value_enum, default_value_t = Conflicts::Keep)]
    on_conflict: Conflicts,
    /// What it is for; the store keeps it
    #[arg(long, short = 'm', value_name = "WHY", default_value = "")]
    message: String,
    #[command(flatten)]
    dry: DryRun,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Conflicts {
    /// The image keeps it, and the rest is applied
    Keep,
    /// The image gives it up for what the change brings
    Replace,
    /// The image gets both, where they differ in other lines of a text, or in other metadata; else it keeps it
    Merge,
    /// Nothing is applied to any image
    Fail,
}

impl How {
    /// Has the change say what it is for, if nobody has said it.
    pub fn say(&mut self, why: impl FnOnce() -> String) {
        if self.message.is_empty() {
            self.message = why();
        }
    }

    /// `--dry-run` was given.
    pub fn is_dry_run(&self) -> bool {
        self.dry.dry_run
    }

    /// Makes the change, and shows what became of it.
    ///
    /// # Errors
    /// Those of the request.
    pub fn run(self, session: &Session, source: Source, family: Option<String>) -> Result<Outcome> {
        // Where no daemon runs: some for each image.
        process::raise_descriptor_limit().about("the limit of open files")?;
        let request = Request::Apply {
            source,
            family,
            images: self.images,
            on_conflict: match self.on_conflict {
                Conflicts::Keep => OnConflict::Keep,
                Conflicts::Replace => OnConflict::Replace,
                Conflicts::Merge => OnConflict::Merge,
                Conflicts::Fail => OnConflict::Fail,
            },
            who: std::env::var("SUDO_USER").unwrap_or_else(|_| String::from("root")),
            why: self.message,
        };
        session.run(request, self.dry.dry_run)
    }
}

impl Apply {
    /// Runs the command. A directory is read, hashed and staged in this process.
    pub fn run(self, session: &Session) -> Result<Outcome> {
        let path = std::path::absolute(&self.source).about(self.source.display())?;
        let is_directory = path.is_dir();
        let is_layer =
            !is_directory && (self.source.as_os_str() == "-" || archive::is_archive(&path)?);
        if !is_directory && !is_layer {
            let keys = session.config.patch_keys.iter();
            let source = Source::Patch {
                file: path.into(),
                keys: keys.map(ToString::to_string).collect(),
            };
            return self.how.run(session, source, self.family);
        }
        let path = if is_layer { self.source.clone() } else { path };
        let origin = match self.source.as_os_str() == "-" {
            true => String::from("standard input"),
            false => PathBytes::from(&*path).to_string(),
        };
        let store = Arc::new(Store::open(session.store(), Access::Read)?);
        let interrupt = Interrupt::watch(&store, &format!("apply {origin}"), session.json)?;
        let staged = stage(&store, &path, is_layer, &*session.progress());
        interrupt.past_the_point();
        let staged = staged?;
        for warning in staged.warnings() {
            log::warn!("{origin}: {warning}");
        }
        let source = Source::Staged {
            staged: staged.name().as_bytes().into(),
            origin,
            is_layer,
        };
        self.how.run(session, source, self.family)
    }
}

fn stage(
    store: &Store,
    path: &Path,
    is_layer: bool,
    progress: &dyn Progress,
) -> Result<StagedImport> {
    progress.message(&format!("reading {}", path.display()));
    match is_layer {
        true => archive::stage_tar(store, path, Purpose::Commit, progress),
        false => archive::stage_directory(store, path, Purpose::Commit, progress),
    }
}

impl Revert {
    /// Runs the command.
    pub fn run(self, session: &Session) -> Result<Outcome> {
        let source = Source::Change {
            change: self.change,
        };
        self.how.run(session, source, None)
    }
}

/// What was, or would be, applied, for standard output.
pub fn render(report: &ApplyReport, dry_run: bool) -> String {
    let verb = match (report.applied, dry_run, report.change) {
        (false, ..) => String::from("not applied"),
        (true, true, _) => String::from("would be applied"),
        (true, false, Some(change)) => format!("applied as change {change}"),
        (true, false, None) => String::from("changes nothing"),
    };
    let paths = counted(report.paths, "path");
    let mut out = format!(
        "{}, {paths}, to family {}: {verb}\n",
        report.source, report.family
    );
    for image in &report.images {
        out.push_str(&format!(
            "{}: {} follow, {} had it, {} kept\n",
            image.image,
            count(image.changed),
            count(image.unchanged),
            count(image.conflicts.len() as u64),
        ));
        for path in &image.replaced {
            out.push_str(&format!("  gives up its own {path}\n"));
        }
        for path in &image.merged {
            out.push_str(&format!("  merges {path} with its own\n"));
        }
        for conflict in &image.conflicts {
            out.push_str(&format!("  keeps {}: {}\n", conflict.path, conflict.reason));
        }
        for process in &image.processes {
            let RunningProcess { pid, command, path } = process;
            out.push_str(&format!(
                "  process {pid} ({command}) goes on with the old {path}\n"
            ));
        }
    }
    out
}
