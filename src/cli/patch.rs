//! patch: its arguments, and its report as a person reads it.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Outcome;
use super::apply::Apply;
use super::diff;
use super::session::Session;
use super::units::{bytes, counted};
use crate::archive::patch::SecretKey;
use crate::error::{Context as _, Result};
use crate::ops::patch::{self, CreateOptions, ShowOptions};
use crate::ops::report::{PatchReport, Report};
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
/// OLD and NEW are what `diff` takes: images, families (their base), FAMILY@CHANGE (what that was after a
/// change), or directories of the host. A
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
