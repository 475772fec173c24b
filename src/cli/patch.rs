//! patch: its arguments, and its report as a person reads it.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use tempfile::NamedTempFile;

use super::Outcome;
use super::arguments::DryRun;
use super::diff;
use super::session::Session;
use super::units::{bytes, count, counted};
use crate::archive::patch::SecretKey;
use crate::error::{Context as _, Result};
use crate::ops::patch::{self, CreateOptions, OnConflict, ShowOptions};
use crate::ops::report::{ApplyReport, PatchReport, Report};
use crate::ops::request::Request;
use crate::sys::process;

/// Write in what two images or directories differ to a file that another host can read
#[derive(Debug, Args)]
pub struct Patch {
    #[command(subcommand)]
    command: PatchCommand,
}

#[derive(Debug, Subcommand)]
enum PatchCommand {
    Create(Create),
    Show(Show),
    Apply(Apply),
}

/// Make the patch that turns OLD into NEW
///
/// OLD and NEW are what `diff` takes: images, families (their base), or directories of the host. A
/// content travels as its difference from the old one where that is smaller. Where a guest is at work
/// in an image, clone it and take the clone.
#[derive(Debug, Args)]
struct Create {
    /// The old tree
    #[arg(value_name = "OLD")]
    old: PathBuf,
    /// The new tree
    #[arg(value_name = "NEW")]
    new: PathBuf,
    /// The patch; a file that is there is replaced
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// Sign it with the key in this file (`openssl genpkey -algorithm ed25519`)
    #[arg(long, value_name = "KEY")]
    sign: Option<PathBuf>,
}

/// Prove that a patch is whole, and show what it changes
///
/// Exits with 3 if the configuration's `patch_keys` demands a signature that it has not.
#[derive(Debug, Args)]
struct Show {
    /// The patch
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print only how many paths differ, and their bytes
    #[arg(long)]
    stat: bool,
}

/// Bring a patch into a family: its base, and each image that has what the patch says was there
///
/// Mounted images see it at once. What an image has changed itself, or is writing to, it keeps, which is
/// reported; the command exits with 3 then.
#[derive(Debug, Args)]
struct Apply {
    /// The patch, or a directory of the host: what the family's base is to become
    #[arg(value_name = "SOURCE")]
    source: PathBuf,
    /// The family
    #[arg(long, value_name = "FAMILY")]
    family: String,
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
    /// Nothing is applied to any image
    Fail,
}

impl Apply {
    fn run(self, session: &Session) -> Result<Outcome> {
        // Where no daemon runs: some for each image.
        process::raise_descriptor_limit().about("the limit of open files")?;
        let source = std::path::absolute(&self.source).about(self.source.display())?;
        let mut keys = session.config.patch_keys.clone();
        let made = match source.is_dir() {
            true => Some(patch_of(session, &self.family, &source)?),
            false => None,
        };
        let file = match &made {
            // Nobody else has made it.
            Some(made) => {
                keys.clear();
                made.path().to_owned()
            }
            None => source,
        };
        let request = Request::ApplyPatch {
            file: file.into(),
            keys: keys.iter().map(ToString::to_string).collect(),
            family: self.family,
            on_conflict: match self.on_conflict {
                Conflicts::Keep => OnConflict::Keep,
                Conflicts::Fail => OnConflict::Fail,
            },
            who: std::env::var("SUDO_USER").unwrap_or_else(|_| String::from("root")),
            why: self.message,
        };
        session.run(request, self.dry.dry_run)
    }
}

/// The patch that turns a family's base into a directory; it goes when it is dropped.
fn patch_of(session: &Session, family: &str, directory: &Path) -> Result<NamedTempFile> {
    let below = std::env::var_os("TMPDIR").unwrap_or_else(|| "/var/tmp".into());
    let shown = Path::new(&below).display();
    let made = tempfile::Builder::new()
        .prefix("foldfs-")
        .tempfile_in(&below);
    let made = made.about(shown)?;
    let options = CreateOptions {
        old: family.into(),
        new: directory.to_owned(),
        file: made.path().to_owned(),
        signer: None,
    };
    let progress = session.progress();
    patch::create(Some(&session.open(false)?), &options, &*progress)?;
    Ok(made)
}

impl Patch {
    /// Runs the subcommand.
    pub fn run(self, session: &Session) -> Result<Outcome> {
        match self.command {
            PatchCommand::Create(create) => create.run(session),
            PatchCommand::Show(show) => show.run(session),
            PatchCommand::Apply(apply) => apply.run(session),
        }
    }
}

impl Create {
    fn run(self, session: &Session) -> Result<Outcome> {
        let options = CreateOptions {
            old: self.old,
            new: self.new,
            file: self.output,
            signer: self.sign.as_deref().map(SecretKey::read).transpose()?,
        };
        let context = match options.needs_store() {
            true => Some(session.open(false)?),
            false => None,
        };
        // One for each private level of the depth.
        process::raise_descriptor_limit().about("the limit of open files")?;
        let progress = session.progress();
        let report = patch::create(context.as_ref(), &options, &*progress)?;
        drop(progress);
        session.show(&Report::Patch(report), false)
    }
}

impl Show {
    fn run(self, session: &Session) -> Result<Outcome> {
        let options = ShowOptions {
            file: self.file,
            keys: session.config.patch_keys.clone(),
            stat: self.stat,
        };
        let report = patch::show(&options)?;
        session.show(&Report::Patch(report), false)
    }
}

/// The text for standard output.
pub fn render(report: &PatchReport) -> String {
    let signature = match (&report.signed_by, report.accepted) {
        (None, true) => String::from("not signed"),
        (None, false) => String::from("not signed, which patch_keys demands"),
        (Some(key), true) => format!("signed by {key}"),
        (Some(key), false) => format!("signed by {key}, which is none of patch_keys"),
    };
    let contents = &report.contents;
    let mut out = format!(
        "patch {}: {}, format {}, {signature}\n\
         from {} to {}; {} ({}) in {}, {} of them as differences\n",
        report.file,
        bytes(report.bytes),
        report.format,
        report.changes.old,
        report.changes.new,
        counted(contents.count, "content"),
        bytes(contents.bytes),
        bytes(contents.stored_bytes),
        contents.deltas,
    );
    if !report.changes.counts_only {
        out.push('\n');
    }
    out.push_str(&diff::render(&report.changes));
    out
}

/// What was, or would be, applied, for standard output.
pub fn render_applied(report: &ApplyReport, dry_run: bool) -> String {
    let verb = match (report.applied, dry_run, report.change) {
        (false, ..) => String::from("not applied"),
        (true, true, _) => String::from("would be applied"),
        (true, false, Some(change)) => format!("applied as change {change}"),
        (true, false, None) => String::from("changes nothing"),
    };
    let paths = counted(report.paths, "path");
    let mut out = format!(
        "{}, {paths}, to family {}: {verb}\n",
        report.file, report.family
    );
    for image in &report.images {
        out.push_str(&format!(
            "{}: {} follow, {} had it, {} kept\n",
            image.image,
            count(image.changed),
            count(image.unchanged),
            count(image.conflicts.len() as u64),
        ));
        for conflict in &image.conflicts {
            out.push_str(&format!("  keeps {}: {}\n", conflict.path, conflict.reason));
        }
    }
    out
}
